package ipam

import (
	"context"
	"errors"
	"sync/atomic"

	"calico.internal/libcalico/etcdstore"
)

// countingStore counts transactions and can hold them up or make them fail.
type countingStore struct {
	store
	commits, conflicts atomic.Int64
	// hold, when not nil, holds the first transaction until it is closed; holding tells
	// that it is there.
	hold, holding chan struct{}
	// fail, when not nil, may return an error in place of a commit (before it), or
	// after it when late is set.
	fail func(n int64) error
	late bool
}

func (c *countingStore) commit(ctx context.Context, writes []etcdstore.Write) (int64, error) {
	n := c.commits.Add(1)
	if c.hold != nil && n == 1 {
		c.holding <- struct{}{}
		<-c.hold
	}
	if c.fail != nil && !c.late {
		if err := c.fail(n); err != nil {
			return 0, err
		}
	}
	rev, err := c.store.commit(ctx, writes)
	if errors.Is(err, etcdstore.ErrConflict) {
		c.conflicts.Add(1)
	}
	if c.fail != nil && c.late && err == nil {
		err = c.fail(n)
	}
	return rev, err
}
