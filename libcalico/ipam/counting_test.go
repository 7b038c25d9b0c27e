package ipam

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"

	"calico.internal/libcalico/etcdstore"
)

// countingStore counts transactions and can hold them up or make them fail.
type countingStore struct {
	store
	commits, conflicts atomic.Int64
	// rooms counts the blocks that searches have asked for.
	rooms atomic.Int64
	// hold, when not nil, holds the first transaction until it is closed; holding tells
	// that it is there.
	hold, holding chan struct{}
	// fail, when not nil, may return an error in place of a commit. With late, the first
	// commit that fails is done all the same.
	fail func(n int64) error
	late bool
	done atomic.Bool // the late one
}

func (c *countingStore) commit(ctx context.Context, writes []etcdstore.Write) (int64, error) {
	n := c.commits.Add(1)
	if c.hold != nil && n == 1 {
		c.holding <- struct{}{}
		<-c.hold
	}
	var failed error
	if c.fail != nil {
		failed = c.fail(n)
	}
	if failed != nil && (!c.late || c.done.Swap(true)) {
		return 0, failed
	}
	rev, err := c.store.commit(ctx, writes)
	if errors.Is(err, etcdstore.ErrConflict) {
		c.conflicts.Add(1)
	}
	return rev, errors.Join(err, failed)
}

func (c *countingStore) room(ctx context.Context, blocks []netip.Prefix) (known, error) {
	c.rooms.Add(int64(len(blocks)))
	return c.store.room(ctx, blocks)
}
