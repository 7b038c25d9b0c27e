package resource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Change is what a write would do to an object, or did.
type Change struct {
	Outcome

	// Old is what was stored before: nil when that is nothing, or cannot be read.
	Old model.Resource
}

// Plan says what [Store.Write] would do now, and writes nothing. It fails and warns as a
// write would, but for what stands against all writes to the datastore ([Store.Try]).
func (s *Store) Plan(ctx context.Context, mode Mode, objects []manifest.Object) ([]Change, error) {
	todo, err := s.plan(ctx, mode, objects)
	if err != nil {
		return nil, err
	}
	s.review(ctx, todo.steps)
	return todo.changes(objects), nil
}

// Try is [Store.Write], or with atomic [Store.WriteAtomically], that writes nothing: it fails
// and warns as that would now.
func (s *Store) Try(ctx context.Context, mode Mode, objects []manifest.Object, atomic bool) ([]Change, error) {
	todo, err := s.plan(ctx, mode, objects)
	if err != nil {
		return nil, err
	}
	s.review(ctx, todo.steps)
	if atomic {
		if err := fitsOne(todo); err != nil {
			return nil, err
		}
	}
	if err := s.tried(ctx, todo); err != nil {
		return nil, err
	}
	return todo.changes(objects), nil
}

// tried fails if the writes of a plan would, because of the datastore.
func (s *Store) tried(ctx context.Context, todo plan) error {
	if changes(todo.steps) == 0 {
		return nil
	}
	return s.mayWrite(ctx)
}

// changes is what a plan makes of the objects that it was made for.
func (todo plan) changes(objects []manifest.Object) []Change {
	out := make([]Change, len(objects))
	for _, st := range todo.steps {
		was := model.MetadataOf(st.old)
		if meta := model.MetadataOf(st.object.Value); meta != nil && (st.did == Created || was != nil && was.UID == "") {
			// What a resource gets is made when it is written.
			meta.UID, meta.CreationTimestamp = "", time.Time{}
		}
		out[st.at] = Change{Outcome{st.object, st.did, st.at}, st.old}
	}
	return out
}

// TryDelete says what [Store.Delete] would do now, and deletes nothing. It fails as a
// deletion would.
func (s *Store) TryDelete(ctx context.Context, objects []manifest.Object, how Deletion) ([]Change, error) {
	todo, err := s.deletable(ctx, objects, how)
	if err == nil {
		err = s.mayWrite(ctx)
	}
	if err != nil {
		return nil, err
	}
	out := make([]Change, len(objects))
	for _, t := range todo.targets {
		out[t.at] = Change{Outcome{t.object, t.did(), t.at}, t.stored.value}
	}
	return out, nil
}

// Modify changes one object that exists. change is given it with its key, and what is stored,
// which it must leave as it is; it returns the object with the whole new value, and maybe the
// revision that this is for. It is called again when someone else wrote in between. With
// dryRun nothing is written. What the object's dialect cannot
// say is kept when carry is set.
func (s *Store) Modify(ctx context.Context, o manifest.Object, carry, dryRun bool,
	change func(o manifest.Object, old model.Resource) (manifest.Object, error),
) (Change, error) {
	mode := overwrite
	if carry {
		mode = Replace
	}
	known, _, err := s.Resolve(ctx, []manifest.Object{o})
	switch {
	case err != nil:
		return Change{}, err
	case len(known) == 0:
		return Change{}, Missing(o.Key)
	}
	o = known[0]
	if o.Kind.ReadOnly != "" {
		return Change{}, fmt.Errorf("%s: %s", o.Key, o.Kind.ReadOnly)
	}
	var others contest
	for {
		found, err := s.read(ctx, []manifest.Object{o})
		if err != nil {
			return Change{}, err
		}
		old := found[o.Key]
		switch {
		case !old.exists():
			return Change{}, Missing(o.Key)
		case old.value == nil:
			return Change{}, Unreadable(o.Key, old.err)
		}
		next, err := change(o, old.value)
		if err != nil {
			return Change{}, err
		}
		todo, err := s.compare(ctx, mode, []manifest.Object{next}, found)
		if err != nil {
			return Change{}, err
		}
		s.review(ctx, todo.steps)
		if dryRun {
			err = s.tried(ctx, todo)
		} else {
			_, err = s.commit(ctx, todo)
		}
		conflict := errors.Is(err, etcdstore.ErrConflict)
		if err = others.lost(ctx, err); err == nil && conflict {
			continue
		}
		return Change{Outcome{todo.steps[0].object, todo.steps[0].did, 0}, old.value}, err
	}
}
