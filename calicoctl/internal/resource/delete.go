package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Deletion says how objects are deleted.
type Deletion struct {
	// SkipMissing passes over what does not exist.
	SkipMissing bool
	// Force deletes also what is in use.
	Force bool
}

// Delete removes objects, those that refer to others first. What is in use is refused,
// unless it is forced. It returns the outcomes of those that were done, in the order of the
// objects, also when it fails.
func (s *Store) Delete(ctx context.Context, objects []manifest.Object, how Deletion) ([]Outcome, error) {
	p := newProgress(objects)
	var others contest
	for {
		left, at := p.left()
		if len(left) == 0 {
			return p.outcomes(), nil
		}
		todo, err := s.deletable(ctx, left, how)
		if err == nil {
			err = s.CheckUnlocked(ctx)
		}
		if err != nil {
			return p.outcomes(), err
		}
		n, err := s.deleteAll(ctx, todo)
		for _, t := range todo.targets[:n] {
			p.objects[at[t.at]], p.did[at[t.at]] = t.object, t.did()
		}
		if n > 0 {
			others.progress()
		}
		if err = others.lost(ctx, err); err != nil { // somebody may use it by now
			return p.outcomes(), err
		}
	}
}

// deletions are objects to be deleted, in the order in which that is done.
type deletions struct {
	targets []target
	force   bool
}

// target is an object that is to be deleted.
type target struct {
	object manifest.Object
	// at is where the object stands among those of the call.
	at int
	// stored is what is stored of it, if it exists.
	stored stored
	exists bool
	// still are the conditions under which it may go.
	still []etcdstore.Write
}

// did is what becomes of the object.
func (t target) did() Did {
	if t.exists {
		return Deleted
	}
	return Skipped
}

// revision is the one that the object must still have: what it holds is a part of what was
// decided from. A forced deletion asks nothing.
func (t target) revision(force bool) int64 {
	if force {
		return 0
	}
	return t.stored.revision
}

// deletable reads what is to be deleted, or says what stands against it.
func (s *Store) deletable(ctx context.Context, objects []manifest.Object, how Deletion) (todo deletions, err error) {
	objects, there, err := s.resolve(ctx, objects)
	if err != nil {
		return todo, err
	}
	known := make([]manifest.Object, 0, len(objects))
	for i, o := range objects {
		if there[i] {
			known = append(known, o)
		}
	}
	found, err := s.read(ctx, known)
	if err != nil {
		return todo, err
	}
	users, err := s.users(ctx, known, found)
	if err != nil {
		return todo, err
	}
	todo.force = how.Force
	var faults []error
	for i, o := range objects {
		t := target{object: o, at: i}
		if there[i] {
			t.stored = found[o.Key]
			t.exists = t.stored.exists()
		}
		switch {
		case o.Kind != nil && o.Kind.ReadOnly != "":
			faults = append(faults, fmt.Errorf("%s: %s", o.Key, o.Kind.ReadOnly))
		case !t.exists && !how.SkipMissing:
			faults = append(faults, Missing(o.Key))
		case t.exists && !how.Force:
			t.still = users.still[o.Key]
		}
		todo.targets = append(todo.targets, t)
	}
	slices.SortStableFunc(todo.targets, compareTargets)
	return todo, errors.Join(append(faults, users.judge(known, how.Force)...)...)
}

// compareTargets puts last what does not exist: there is nothing to do about it.
func compareTargets(a, b target) int {
	switch {
	case a.exists && b.exists:
		return CompareKeys(b.object.Key, a.object.Key)
	case a.exists:
		return -1
	case b.exists:
		return 1
	}
	return 0
}

// deleteAll deletes targets, and returns how many were done.
func (s *Store) deleteAll(ctx context.Context, todo deletions) (int, error) {
	done := 0
	for done < len(todo.targets) {
		n, err := s.deleteNext(ctx, deletions{todo.targets[done:], todo.force})
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// deleteNext deletes the first of the targets, and as many after it as fit into the same
// transaction. It returns how many that were.
func (s *Store) deleteNext(ctx context.Context, todo deletions) (int, error) {
	first := todo.targets[0]
	if first.exists && special(first.object.Key) {
		if err := s.deleteSpecial(ctx, first, todo.force); err != nil {
			return 0, err
		}
		return 1, nil
	}
	var writes []etcdstore.Write
	ops, n := 0, 0
	for _, t := range todo.targets {
		if t.exists {
			if ops += len(model.Paths(t.object.Key)) + len(t.still); n > 0 && ops > maxOps || special(t.object.Key) {
				break
			}
			w, err := etcdstore.DeleteWrite(t.object.Key, t.revision(todo.force))
			if err != nil {
				return 0, err
			}
			writes = append(append(writes, w), t.still...)
		}
		n++
	}
	if err := s.write(ctx, writes...); err != nil {
		return 0, err
	}
	return n, nil
}

// special is true for kinds whose deletion takes more than a delete.
func special(k model.Key) bool {
	switch k.Kind() {
	case model.KindIPPool, model.KindNode, model.KindWorkloadEndpoint:
		return true
	default:
		return isSettings(k.Kind())
	}
}

func (s *Store) deleteSpecial(ctx context.Context, t target, force bool) error {
	switch k := t.object.Key.(type) {
	case model.IPPoolKey:
		return s.deletePool(ctx, t, force)
	case model.NodeKey:
		return s.deleteNode(ctx, t, force)
	case model.WorkloadEndpointKey:
		return s.deleteEndpoint(ctx, etcdstore.Entry{Key: k, Value: t.stored.value, Revision: t.revision(force)}, t.still...)
	}
	return s.deleteSettings(ctx, t.object, t.stored)
}

// whileUnlocked calls do with conditions, to which it adds that the datastore is not locked;
// do makes them part of each of its transactions. It may be called again.
func (s *Store) whileUnlocked(ctx context.Context, with []etcdstore.Write, do func(with ...etcdstore.Write) error) error {
	_, err := s.etcd.WhileUnlocked(ctx, func(open etcdstore.Write) (int64, error) {
		return 0, do(append(slices.Clone(with), open)...)
	})
	return err
}
