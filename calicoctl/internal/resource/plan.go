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
// write would.
func (s *Store) Plan(ctx context.Context, mode Mode, objects []manifest.Object) ([]Change, error) {
	steps, err := s.plan(ctx, mode, objects)
	if err != nil {
		return nil, err
	}
	s.review(ctx, steps)
	out := make([]Change, len(steps))
	for i, st := range steps {
		if meta := model.MetadataOf(st.object.Value); meta != nil && st.did == Created {
			// What a new resource gets is made when it is written.
			meta.UID, meta.CreationTimestamp = "", time.Time{}
		}
		out[i] = Change{Outcome{st.object, st.did}, st.old}
	}
	return out, nil
}

// PlanDelete says what [Store.Delete] would do now, and deletes nothing. It fails as a
// deletion would.
func (s *Store) PlanDelete(ctx context.Context, objects []manifest.Object, how Deletion) ([]Change, error) {
	todo, done, err := s.deletable(ctx, objects, how)
	if err != nil {
		return nil, err
	}
	out := make([]Change, 0, len(todo.objects)+len(done))
	for _, o := range done {
		out = append(out, Change{Outcome: o})
	}
	for _, o := range todo.objects {
		e, exists := todo.found[o.Key]
		did := Deleted
		if !exists {
			did = Skipped
		}
		out = append(out, Change{Outcome{o, did}, e.value})
	}
	return out, nil
}

// maxAtomicSize is etcd's limit for a transaction less room for what frames the values.
const maxAtomicSize = 3<<19 - 64<<10

// WriteAtomically is like [Store.Write], but does everything in one transaction: what
// is too much for one is refused before anything is written.
func (s *Store) WriteAtomically(ctx context.Context, mode Mode, objects []manifest.Object) ([]Outcome, error) {
	for retries := 0; ; retries++ {
		steps, err := s.plan(ctx, mode, objects)
		if err != nil {
			return nil, err
		}
		s.review(ctx, steps)
		err = s.commitAtomically(ctx, steps)
		if errors.Is(err, etcdstore.ErrConflict) && retries < maxRetries {
			continue
		}
		if err != nil {
			return nil, err
		}
		done := make([]Outcome, len(steps))
		for i, st := range steps {
			done[i] = Outcome{st.object, st.did}
		}
		return done, nil
	}
}

func (s *Store) commitAtomically(ctx context.Context, steps []step) error {
	ops, size := 1, 0 // one for the lock
	for _, st := range steps {
		ops, size = ops+st.ops, size+st.size
	}
	if ops > etcdstore.MaxTxnOps || size > maxAtomicSize {
		return fmt.Errorf("%d changes need a transaction of %d keys and %d KiB, and etcd allows %d keys and %d KiB; "+
			"nothing was written: split the file, or do without --atomic",
			changes(steps), ops, size>>10, etcdstore.MaxTxnOps, maxAtomicSize>>10)
	}
	return s.write(ctx, writesOf(steps)...)
}

func changes(steps []step) int {
	n := 0
	for _, st := range steps {
		if len(st.writes) > 0 {
			n++
		}
	}
	return n
}

// Modify changes one object that exists. change is given its key and what is stored, must leave
// that as it is, and returns the whole new value; it is called again when someone else
// wrote in between. With dryRun nothing is written. What the object's dialect cannot
// say is kept when carry is set.
func (s *Store) Modify(ctx context.Context, o manifest.Object, carry, dryRun bool,
	change func(k model.Key, old model.Resource) (model.Resource, error),
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
	for retries := 0; ; retries++ {
		found, err := s.read(ctx, []manifest.Object{o})
		if err != nil {
			return Change{}, err
		}
		old, exists := found[o.Key]
		switch {
		case !exists:
			return Change{}, Missing(o.Key)
		case old.value == nil:
			return Change{}, Unreadable(o.Key, old.err)
		}
		if o.Value, err = change(o.Key, old.value); err != nil {
			return Change{}, err
		}
		steps, err := s.compare(ctx, mode, []manifest.Object{o}, found)
		if err != nil {
			return Change{}, err
		}
		s.review(ctx, steps)
		if !dryRun {
			_, err = s.commit(ctx, steps)
		}
		if errors.Is(err, etcdstore.ErrConflict) && retries < maxRetries {
			continue
		}
		return Change{Outcome{o, steps[0].did}, old.value}, err
	}
}
