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

// Write stores objects. It returns the outcomes of those that were done, in the order of
// the objects, also when it fails.
func (s *Store) Write(ctx context.Context, mode Mode, objects []manifest.Object) ([]Outcome, error) {
	p := newProgress(objects)
	s.tally.begin(len(objects))
	var others contest
	for {
		left, at := p.left()
		if len(left) == 0 {
			return p.outcomes(), nil
		}
		todo, err := s.plan(ctx, mode, left)
		if err != nil {
			return p.outcomes(), err
		}
		s.review(ctx, todo.steps)
		n, err := s.commit(ctx, todo)
		for _, st := range todo.steps[:n] {
			p.objects[at[st.at]], p.did[at[st.at]] = st.object, st.did
		}
		if n > 0 {
			others.progress()
		}
		if err = others.lost(ctx, err); err != nil {
			return p.outcomes(), err
		}
	}
}

// WriteAtomically is like [Store.Write], but does everything in one transaction: what
// is too much for one is refused before anything is written.
func (s *Store) WriteAtomically(ctx context.Context, mode Mode, objects []manifest.Object) ([]Outcome, error) {
	var others contest
	for {
		todo, err := s.plan(ctx, mode, objects)
		if err != nil {
			return nil, err
		}
		s.review(ctx, todo.steps)
		lost := s.commitAtomically(ctx, todo)
		if err := others.lost(ctx, lost); err != nil {
			return nil, err
		}
		if lost != nil {
			continue
		}
		done := make([]Outcome, len(objects))
		for _, st := range todo.steps {
			done[st.at] = Outcome{st.object, st.did, st.at}
		}
		return done, nil
	}
}

// plan is what is to be done for some objects.
type plan struct {
	// steps are in the order in which they are carried out.
	steps []step
	rests rests
}

// step is what is to be done for one object.
type step struct {
	object manifest.Object
	// at is where the object stands among those that were planned for.
	at  int
	did Did
	// old is what is stored; nil when that is nothing, or cannot be read.
	old model.Resource
	// writes is empty when nothing is to be written.
	writes []etcdstore.Write
	// needs must exist for that; nil stands for nothing.
	needs model.Key
	// ops and size are what the writes add to a transaction.
	ops, size int
	// warnings are about what is stored as it was, to no effect.
	warnings []string
	// lost is what is stored and finds no place in what is to be.
	lost []string
}

// plan compares objects with what is stored and decides what to do, or says all that
// stands against it.
func (s *Store) plan(ctx context.Context, mode Mode, objects []manifest.Object) (plan, error) {
	found, err := s.read(ctx, objects)
	if err != nil {
		return plan{}, err
	}
	return s.compare(ctx, mode, objects, found)
}

func (s *Store) compare(ctx context.Context, mode Mode, objects []manifest.Object, found map[model.Key]stored) (plan, error) {
	var faults []error
	steps := make([]step, 0, len(objects))
	for i, o := range objects {
		old := found[o.Key]
		st, err := decide(mode, o, old, old.exists())
		if err == nil {
			err = s.refuseLoss(&st)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		st.at = i
		steps = append(steps, st)
	}
	slices.SortStableFunc(steps, func(a, b step) int { return CompareKeys(a.object.Key, b.object.Key) })
	rests, wrong := s.check(ctx, steps)
	if faults = append(faults, wrong...); len(faults) > 0 {
		return plan{}, errors.Join(faults...)
	}
	return plan{steps, rests}, nil
}

// The limits of a transaction, below those of etcd ([etcdstore.MaxTxnOps], 1.5 MiB), with
// room for the conditions.
const (
	maxOps  = 100
	maxSize = 1 << 20
)

// commit carries out a plan in as few transactions as etcd's limits allow, and returns
// how many of its steps were done.
func (s *Store) commit(ctx context.Context, p plan) (int, error) {
	done := 0
	for done < len(p.steps) {
		batch := batch(p.steps[done:])
		if err := s.commitSteps(ctx, batch, p.rests); err != nil {
			return done, tooLarge(batch, err)
		}
		done += len(batch)
		s.tally.advance(len(batch))
	}
	return done, nil
}

// commitSteps does steps in one transaction, if what they need and rest on is still so.
func (s *Store) commitSteps(ctx context.Context, steps []step, rests rests) error {
	writes := writesOf(steps)
	if len(writes) == 0 {
		return nil
	}
	needs, err := needsOf(steps)
	if err != nil {
		return err
	}
	return rests.while(steps, func(conditions []etcdstore.Write) (int64, error) {
		return s.writeAt(ctx, slices.Concat(writes, needs, conditions)...)
	})
}

// writeAt is write with the revision that the transaction has.
func (s *Store) writeAt(ctx context.Context, writes ...etcdstore.Write) (revision int64, err error) {
	err = s.writeBy(ctx, func(ctx context.Context, writes ...etcdstore.Write) (int64, error) {
		revision, err = s.etcd.Commit(ctx, writes...)
		return revision, err
	}, writes...)
	return revision, err
}

// batch is the first of the steps, with as many after it as fit into one transaction.
func batch(steps []step) []step {
	ops, size := 0, 0
	needs := map[model.Key]bool{}
	for n, st := range steps {
		ops, size = ops+st.ops, size+st.size
		if st.needs != nil && !needs[st.needs] {
			needs[st.needs] = true
			ops++
		}
		if n > 0 && (ops > maxOps || size > maxSize) {
			return steps[:n]
		}
	}
	return steps
}

// writesOf is the writes of steps.
func writesOf(steps []step) []etcdstore.Write {
	var writes []etcdstore.Write
	for _, st := range steps {
		writes = append(writes, st.writes...)
	}
	return writes
}

// needsOf is the conditions that what steps need exists. What is written in the same
// transaction will.
func needsOf(steps []step) ([]etcdstore.Write, error) {
	known := map[model.Key]bool{nil: true}
	for _, st := range steps {
		if len(st.writes) > 0 {
			known[st.object.Key] = true
		}
	}
	var out []etcdstore.Write
	for _, st := range steps {
		if known[st.needs] || len(st.writes) == 0 {
			continue
		}
		known[st.needs] = true
		w, err := etcdstore.ExistsWrite(st.needs)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// tooLarge names the object that made a transaction too large for etcd.
func tooLarge(steps []step, err error) error {
	if !errors.Is(err, etcdstore.ErrTooLarge) || len(steps) == 0 {
		return err
	}
	largest := slices.MaxFunc(steps, func(a, b step) int { return a.size - b.size })
	return fmt.Errorf("%s takes %d KiB, and that is more than etcd takes in one request (1.5 MiB, if it was not started with another --max-request-bytes): "+
		"divide it into several: %w", largest.object.Shown(), kib(largest.size), err)
}

func kib(bytes int) int { return (bytes + 1<<10 - 1) >> 10 }

// maxAtomicSize is etcd's limit for a transaction less room for what frames the values.
const maxAtomicSize = 3<<19 - 64<<10

func (s *Store) commitAtomically(ctx context.Context, p plan) error {
	if err := fitsOne(p); err != nil {
		return err
	}
	return s.commitSteps(ctx, p.steps, p.rests)
}

// fitsOne refuses a plan that is too much for one transaction.
func fitsOne(p plan) error {
	conditions, err := needsOf(p.steps)
	if err != nil {
		return err
	}
	ops, size := 1+len(conditions)+len(p.rests.under(p.steps)), 0 // one for the lock
	for _, st := range p.steps {
		ops, size = ops+st.ops, size+st.size
	}
	if ops > etcdstore.MaxTxnOps || size > maxAtomicSize {
		return fmt.Errorf("%d changes need a transaction of %d keys and %d KiB, and etcd allows %d keys and %d KiB; "+
			"nothing was written: split the file, or do without --atomic",
			changes(p.steps), ops, size>>10, etcdstore.MaxTxnOps, maxAtomicSize>>10)
	}
	return nil
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
