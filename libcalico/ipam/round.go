package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"calico.internal/libcalico/model"
)

const (
	// maxLosses is how often a call may lose against other writers.
	maxLosses = 100
	// sharedLosses is how often together with others: after that it is tried alone, since what
	// is fought over may concern one of them only.
	sharedLosses = 20
)

// serve runs the calls of a batch until each has an outcome, or waits for something.
func (q *queue) serve(batch []*call) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	defer q.forgetLooks()
	q.start = time.Now()
	clear(q.alone)
	q.prune()
	batch = q.resume(batch)
	if len(batch) == 0 {
		return
	}
	if q.environmentIsOld() {
		if err := q.readEnvironment(ctx); err != nil {
			q.answerAll(batch, err)
			return
		}
	}
	for conflicts := 0; ; {
		batch = slices.DeleteFunc(batch, (*call).over)
		if len(batch) == 0 {
			return
		}
		conflict, err := q.round(ctx, batch)
		if conflict {
			conflicts++
			yield(batch)
			err = errors.Join(err, q.pause(ctx, conflicts))
		}
		if err != nil {
			q.answerAll(batch, err)
			return
		}
	}
}

// yield has those calls come first that have lost the least.
func yield(batch []*call) {
	slices.SortStableFunc(batch, func(a, b *call) int { return a.losses - b.losses })
}

// lose counts a lost race about some keys. A call that always loses is told so; the others go
// on.
func (q *queue) lose(calls []*call, keys []model.Key) {
	for _, c := range calls {
		c.losses++
		c.solo = c.solo || c.losses >= sharedLosses
		if c.losses > maxLosses {
			q.answer(c, result{}, &BusyError{Keys: keys, Losses: c.losses})
		}
	}
}

// pause waits after a lost race, longer each time and for a random time, so that
// writers who met do not meet again.
func (q *queue) pause(ctx context.Context, conflicts int) error {
	if conflicts < 2 {
		return nil
	}
	longest := min(time.Millisecond<<min(conflicts, 6), 50*time.Millisecond)
	timer := time.NewTimer(rand.N(longest) + 1)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w for %v; nothing was changed: ask again: %w", ErrBusy, batchTimeout, ctx.Err())
	case <-timer.C:
		return nil
	}
}

// round runs all calls once. Those that are complete are committed; if there are
// none, what the others need is read. conflict says that another writer was faster.
func (q *queue) round(ctx context.Context, batch []*call) (conflict bool, err error) {
	start := time.Now()
	all := newWork(q.node, q.env, q.known)
	var ready, claiming []*call
	var stuck []stuckCall
	also := 0
	for _, c := range batch {
		w := all.fork(c.fresh, q.findsFor(c))
		s := c.op.run(w)
		switch {
		case s.is(refused):
			q.answer(c, result{}, s.err)
			continue
		case s != nil:
			stuck = append(stuck, stuckCall{c, w, s})
			continue
		case !c.fits(all.size()+w.size()+also, len(ready)):
			continue // in a later round
		}
		if len(q.claims(w)) > 0 {
			claiming = append(claiming, c)
		}
		all.merge(w)
		also += c.alsoSteps()
		c.tried = w.result
		ready = append(ready, c)
		if c.solo {
			break
		}
	}
	switch hindered, err := q.hindered(ctx, all); {
	case err != nil:
		q.answerAll(claiming, err) // the others go on without
		return false, nil
	case hindered:
		return true, q.withoutClaims(ctx, ready, claiming, time.Since(start))
	case len(ready) > 0:
		return q.commit(ctx, all, ready)
	}
	return false, q.unstick(ctx, stuck)
}

// withoutClaims goes on without the calls that cannot claim what they were about to: they
// search again, within the time that a search may take, and keep nobody else waiting.
func (q *queue) withoutClaims(ctx context.Context, ready, claiming []*call, took time.Duration) error {
	for _, c := range claiming {
		c.search.again()
		c.search.spent += took
	}
	q.lose(claiming, nil)
	others := slices.DeleteFunc(ready, func(c *call) bool { return slices.Contains(claiming, c) })
	if len(others) == 0 {
		return nil
	}
	_, err := q.round(ctx, others)
	return err
}

// fits says whether a call can join others whose transaction would then have that
// many steps.
func (c *call) fits(steps, others int) bool {
	return others == 0 || !c.solo && steps+c.alsoSteps() <= maxSteps
}

// hindered says whether a block that is about to be claimed cannot be: hosts have come to
// take a part of it for themselves, it is a node's by the routes, or a block of another size
// is in its range.
func (q *queue) hindered(ctx context.Context, w *work) (bool, error) {
	claimed := q.claims(w)
	if len(claimed) == 0 {
		return false, nil
	}
	if err := q.findTaken(ctx, q.places.atClaim); err != nil {
		return false, err
	}
	live, err := q.live(ctx, slices.Collect(maps.Keys(w.chosen)))
	if err != nil {
		return false, err
	}
	for block := range live {
		q.dropVacant(block)
	}
	overlap, err := q.findOverlaps(ctx, claimed)
	if err != nil {
		return false, err
	}
	return overlap || len(live) > 0 || slices.ContainsFunc(claimed, func(p netip.Prefix) bool { return !q.env.leaves(p) }), nil
}

// live says which of the blocks that are about to be claimed are a node's by the routes.
func (q *queue) live(ctx context.Context, blocks []netip.Prefix) (map[netip.Prefix]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return q.places.live(ctx, blocks)
}

// claims lists the blocks that do not exist and that work makes.
func (q *queue) claims(w *work) []netip.Prefix {
	var out []netip.Prefix
	for k, value := range w.writes {
		if b, isBlock := k.(model.BlockKey); isBlock && value != nil && q.known[k].rev == 0 {
			out = append(out, b.CIDR)
		}
	}
	return out
}

// findOverlaps looks for blocks of other sizes beside those that are about to be claimed.
// Nobody makes one as long as the pool and the flag of the lock, on whose revisions the claim
// depends, are as they are.
func (q *queue) findOverlaps(ctx context.Context, claimed []netip.Prefix) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for _, cidr := range claimed {
		p, _ := q.env.poolOf(cidr.Addr())
		now := q.env.momentOf(p)
		if q.alone[cidr] == now {
			continue
		}
		others, err := q.backend.overlapping(ctx, cidr)
		if err != nil {
			return false, err
		}
		if len(others) > 0 {
			q.setOverlapped(cidr, others[0])
			found = true
		} else {
			q.alone[cidr] = now
		}
	}
	return found, nil
}

// stuckCall is a call that cannot go on, and why.
type stuckCall struct {
	*call
	work *work
	stop *stop
}

// unstick reads what the calls need to go on.
func (q *queue) unstick(ctx context.Context, stuck []stuckCall) error {
	keys := map[model.Key]bool{}
	again := false      // read the environment too
	var needing []*call // the host's containers
	for _, s := range stuck {
		switch s.stop.why {
		case unread:
			maps.Copy(keys, s.work.needs)
			if s.work.needsHere {
				needing = append(needing, s.call)
			}
		case stale:
			maps.Copy(keys, s.work.reads)
			s.fresh, again = true, true
		case tooFew:
			if s.search.level == searchOwn {
				s.fresh, s.search.level, again = true, searchVacant, true
				maps.Copy(keys, s.work.reads)
			} else {
				q.seek(s.call, s.stop.short) //nolint:contextcheck // a search outlives the batch, and may serve several callers
			}
		case refused: // they were answered
		}
	}
	if again && q.envAt.Before(q.start) {
		if err := q.readEnvironment(ctx); err != nil {
			return err
		}
	}
	if len(needing) > 0 {
		if err := q.findHere(ctx); err != nil {
			q.answerAll(needing, err)
		}
	}
	return q.read(ctx, slices.Collect(maps.Keys(keys)))
}
