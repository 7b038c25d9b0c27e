package loop

import (
	"context"
	"time"
)

// Coalesce passes signals on, several as one: it waits until none came for quiet, but no longer than limit after the
// first. A burst of changes then makes one new file, and a steady stream cannot put it off for ever.
func Coalesce(ctx context.Context, in <-chan struct{}, quiet, limit time.Duration) <-chan struct{} {
	out := make(chan struct{}, 1)
	go func() {
		for await(ctx, in) {
			settle(ctx, in, quiet, limit)
			select {
			case out <- struct{}{}:
			default: // the last one has not been seen yet, and stands for this one too
			}
		}
	}()
	return out
}

func await(ctx context.Context, in <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case _, open := <-in:
		return open
	}
}

func settle(ctx context.Context, in <-chan struct{}, quiet, limit time.Duration) {
	latest := time.NewTimer(limit)
	defer latest.Stop()
	for {
		still := time.NewTimer(quiet)
		select {
		case <-in:
			still.Stop()
			continue
		case <-still.C:
		case <-latest.C:
		case <-ctx.Done():
		}
		still.Stop()
		return
	}
}
