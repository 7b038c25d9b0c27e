package transfer

import (
	"context"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// resources is what is asked which resources must not be together.
func (im Import) resources() *resource.Store {
	if im.Resources != nil {
		return im.Resources
	}
	return resource.New(im.Store)
}

// arrival is a resource that is to be written, as far as it is (ok).
func (im Import) arrival(it item, state State, stored etcdstore.Stored) (a resource.Arrival, ok bool) {
	if state != New && (state != Different || !im.Overwrite) {
		return a, false
	}
	a = resource.Arrival{Key: it.key, Value: it.value, New: state == New}
	if state == Different {
		if old, err := model.Decode(it.key, stored.Parts); err == nil {
			a.Old = old
		}
	}
	return a, true
}

// plainOnes counts the states of some resources of the plain kinds, but for those that are to
// be written: these wait for all the others of them.
func (l *look) plainOnes(ctx context.Context, some []item) error {
	stored, err := l.read(ctx, some)
	if err != nil {
		return err
	}
	for i, it := range some {
		state := l.judge(it, stored[i])
		if a, ok := l.im.arrival(it, state, stored[i]); ok {
			l.arriving = append(l.arriving, a)
		} else {
			l.plan.count(it.key, state)
		}
	}
	return nil
}

// together counts those that are to be written, and names those of them that cannot be: they
// must not be together.
func (l *look) together(ctx context.Context) error {
	t, err := l.im.resources().Together(ctx, l.arriving, l.plan.blocks)
	if err != nil {
		return err
	}
	for _, a := range l.arriving {
		state := Different
		if a.New {
			state = New
		}
		if why := t.Refused[a.Key]; why != "" {
			l.plan.Refused = append(l.plan.Refused, Problem{model.Paths(a.Key)[0], why})
		} else {
			l.plan.count(a.Key, state)
		}
	}
	l.arriving = nil
	return nil
}

// check finds out again, under the lock, what must not be together. What the look did not
// refuse is to be said.
func (r *run) check(ctx context.Context) error {
	var arriving []resource.Arrival
	err := r.each(r.held, func(some []item) error {
		stored, err := r.read(ctx, some)
		for i, it := range some {
			if err != nil {
				break
			}
			if a, ok := r.arrival(it, r.judge(it, stored[i]), stored[i]); ok {
				arriving = append(arriving, a)
			}
		}
		return err
	})
	if err == nil {
		r.beside, err = r.resources().Together(ctx, arriving, r.plan.blocks)
	}
	for k, why := range r.beside.Refused {
		path := model.Paths(k)[0]
		if !r.said[path] {
			r.said[path] = true
			r.result.Refused = append(r.result.Refused, Problem{path, why})
		}
	}
	return err
}

// refuses says whether a resource must not be written, because of others.
func (r *run) refuses(k model.Key) bool {
	return r.beside.Refused[k] != "" || r.plan.twofold[k] != ""
}

// commit writes some resources while the import holds the lock, if what was found out about
// them still holds.
func (r *run) commit(ctx context.Context, writes []etcdstore.Write) error {
	keys := make([]model.Key, len(writes))
	for i, w := range writes {
		keys[i] = w.Key()
	}
	return r.beside.Commit(keys, func(conditions []etcdstore.Write) (int64, error) {
		return r.lock.commitAt(ctx, append(writes[:len(writes):len(writes)], conditions...)...)
	})
}
