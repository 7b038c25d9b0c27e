package resource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"calico.internal/libcalico/etcdstore"
)

// patience is for how long a write is planned anew because someone else wrote in between,
// without any progress.
const patience = 10 * time.Second

// The pauses before a write is tried again are random, so that of many who write the same
// not all come back at once; the longest grows from the first of these to the last.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 320 * time.Millisecond
)

// contest is a write that others get in the way of. Its zero value is one that has not been
// tried yet.
type contest struct {
	tries int
	since time.Time
	pause time.Duration
}

// progress says that a part is done: what is left is tried as long again.
func (c *contest) progress() { *c = contest{} }

// lost pauses after a try that failed by a conflict (err) before the next one. It returns
// an error when it is given up, and at once when err is no conflict. nil is no error.
func (c *contest) lost(ctx context.Context, err error) error {
	if !errors.Is(err, etcdstore.ErrConflict) {
		return err
	}
	if c.tries++; c.tries == 1 {
		c.since, c.pause = time.Now(), firstPause
	}
	wait := rand.N(c.pause)
	if spent := time.Since(c.since); spent+wait > patience {
		return fmt.Errorf("others wrote it, or what decides about it, each time that it was looked at (%d times in %s); try again when they are done: %w",
			c.tries, spent.Round(100*time.Millisecond), err)
	}
	c.pause = min(2*c.pause, lastPause)
	select {
	case <-ctx.Done():
		return fmt.Errorf("given up while others wrote it, or what decides about it; try again: %w (%w)", err, context.Cause(ctx))
	case <-time.After(wait):
		return nil
	}
}
