package resource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// deletePool deletes a pool. First it is marked as being deleted, so that no new address
// comes from it; then the nodes' claims on its empty blocks go, then the pool itself. Blocks
// with addresses in use stay their nodes', so that running containers keep their routes.
//
// When the pool is not deleted in the end, as when an address came into use before or
// whoever deletes it leaves, the mark is taken away again. One that a killed deletion left
// is found by the next, which goes on.
func (s *Store) deletePool(ctx context.Context, t target, force bool) error {
	k, _ := t.object.Key.(model.IPPoolKey)
	revision := t.stored.revision
	pool, readable := t.stored.value.(*model.IPPool)
	var mark time.Time
	var err error
	if readable {
		if mark = pool.Deleting; mark.IsZero() {
			mark = time.Now().UTC().Truncate(time.Second)
			revision, err = s.markPool(ctx, k, *pool, revision, mark)
		}
		if etcdstore.IsRefusal(err) {
			return fmt.Errorf("delete %s: %w", k, err)
		}
	}
	if err == nil {
		err = s.deleteMarked(ctx, t, revision, force)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("delete %s: %w", k, err)
	if readable {
		err = errors.Join(err, s.keepPool(ctx, k, mark))
	}
	return err
}

// deleteMarked deletes a pool that gives out no addresses any more.
func (s *Store) deleteMarked(ctx context.Context, t target, revision int64, force bool) error {
	k, _ := t.object.Key.(model.IPPoolKey)
	if !force {
		n, err := s.ipam.InUse(ctx, k.CIDR)
		switch {
		case err != nil:
			return err
		case n > 0:
			return useOfPool(n, t.stored.value).refusal(k)
		}
	}
	err := s.whileUnlocked(ctx, nil, func(open ...etcdstore.Write) error { return s.ipam.ReleasePool(ctx, k.CIDR, open...) })
	if err != nil {
		return err
	}
	w, err := etcdstore.DeleteWrite(k, revision)
	if err != nil {
		return err
	}
	return s.write(ctx, append([]etcdstore.Write{w}, t.still...)...)
}

// markPool marks a pool, also when ctx ends: what is given up half-way may have been done all
// the same.
func (s *Store) markPool(ctx context.Context, k model.IPPoolKey, pool model.IPPool, revision int64, mark time.Time) (int64, error) {
	pool.Deleting = mark
	w, err := etcdstore.UpdateWrite(k, &pool, revision)
	if err != nil {
		return 0, err
	}
	return s.writeAt(context.WithoutCancel(ctx), w)
}

// keepTries is how often it is tried to take a mark away. Once more than once: of a write
// whose answer was lost only another look tells whether it was done.
const keepTries = 2

// keepPool takes a mark from a pool that was not deleted, if it is still there: it may never
// have been written, the pool may be gone, or somebody else may have made it another.
func (s *Store) keepPool(ctx context.Context, k model.IPPoolKey, mark time.Time) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	for range keepTries {
		if err = s.unmarkPool(ctx, k, mark); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the pool may be left marked as being deleted, and then gives out no addresses; delete it again, or apply it to keep it: %w", err)
}

func (s *Store) unmarkPool(ctx context.Context, k model.IPPoolKey, mark time.Time) error {
	e, err := s.etcd.Get(ctx, k)
	if errors.Is(err, etcdstore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	pool, ok := e.Value.(*model.IPPool)
	if !ok || !pool.Deleting.Equal(mark) {
		return nil
	}
	kept := *pool
	kept.Deleting = time.Time{}
	w, err := etcdstore.UpdateWrite(k, &kept, e.Revision)
	if err != nil {
		return err
	}
	return s.write(ctx, w)
}
