package daemon

import (
	"context"
	"time"
)

// An engine that is shut down closes its API first, and then ends all containers at once: this
// plugin's, if it is in one, and those whose calls are still to come. A call that finds nobody
// is tried for 15 s, one after the other, and what it would have removed is waited for at the next
// start, before the engine answers.
const (
	// leavingLimit is how long such calls are waited for, so that the last of them are answered
	// within drainLimit; the engine is asked before.
	leavingLimit = drainLimit - engineIDTimeout - time.Second
	// leavingPause is between two looks whether endpoints are left; of the last one calls follow.
	leavingPause = 500 * time.Millisecond
)

// lastCalls waits, where the sockets go with this process and its engine is going too, until no
// endpoint has been left for a while.
func (d *daemon) lastCalls(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	// Engines such as 20.10 close their listener alone, and go on answering on connections that
	// stand: what says whether this one is going is a new one.
	d.engine.Close()
	if d.socketsStay || !d.engineAway.Load() && d.engineID(ctx) != "" {
		return
	}
	d.log.Info("Docker's engine is away: its last calls are waited for")
	ctx, cancel := context.WithTimeout(ctx, leavingLimit)
	defer cancel()
	tick := time.NewTicker(leavingPause)
	defer tick.Stop()
	for none := 0; none < 2; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		// Without an answer of etcd there may be some.
		if left, err := d.book.Endpoints(ctx); err == nil && len(left) == 0 {
			none++
		} else {
			none = 0
		}
	}
}
