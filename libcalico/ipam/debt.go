package ipam

import (
	"errors"
	"net/netip"
	"time"

	"calico.internal/libcalico/etcdstore"
)

// The pauses between two tries to settle a debt, and the one after a refusal that only an
// operator can do something about.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = 5 * time.Second
	refusedPause = 30 * time.Second
)

// Owed is a debt that etcd refuses to have settled, because the client's user has not the
// right, or for the want of room: addresses that stay in use although nobody has them. It is
// tried again, seldom, until it is settled.
type Owed struct {
	Addrs []netip.Addr
	// Err says what to do; nil when the addresses are free by now.
	Err error
}

// debt makes a call one that the queue itself has to do, and goes on trying until the store
// gives a definite answer: to take back addresses that were given out, or may have been,
// and that nobody has; or to end a release that may have been done or not.
type debt struct {
	since time.Time
	pause time.Duration
	// late says that the write in question may still be done: not to find all that it does
	// means little before the queue's lateness is over.
	late bool
	// addrs are what it is about. refused says that it is known as [Owed].
	addrs   []netip.Addr
	refused bool
	// waiter, when not nil, is the call whose caller wants to know.
	waiter *call
}

// takeBack frees addresses that nobody waits for any more.
func (q *queue) takeBack(r result) { q.owe(r, &debt{}) }

// doubt deals with a call of whose transaction nobody knows whether it was done.
func (q *queue) doubt(c *call, err error) {
	switch {
	case c.debt == nil && len(c.tried.addrs) > 0:
		q.owe(c.tried, &debt{late: true})
	case c.debt == nil && len(c.tried.freed) > 0 && repeatable(c.also):
		c.parked = true
		c.trouble.Store(&err)
		q.enqueue(&call{
			op: &endRelease{c.tried}, also: c.also,
			debt: &debt{since: time.Now(), waiter: c, addrs: addrsOf(c.tried.freed)},
		})
		return
	}
	q.answer(c, result{}, err)
}

// owe has addresses taken back, but for those that have another owner by then: each call
// stamps its own on what it gives out.
func (q *queue) owe(r result, d *debt) {
	if len(r.addrs) == 0 {
		return
	}
	d.since, d.addrs = time.Now(), r.addrs
	q.enqueue(&call{op: &release{addrs: r.addrs, only: &r.owner}, debt: d})
}

// repeatable says that it does no harm to do writes twice.
func repeatable(writes []etcdstore.Write) bool {
	for _, w := range writes {
		if !w.Unconditional() {
			return false
		}
	}
	return true
}

// paid takes note of how a try to settle a debt ended.
func (q *queue) paid(c *call, r result, err error) {
	d := c.debt
	early := q.lateness - time.Since(d.since)
	switch {
	case err == nil && d.late && len(r.notAssigned) > 0 && early > 0:
		q.later(c, early)
	case err == nil, isFinal(err):
		d.tell(q, r, err)
		c.answered.Store(true)
		if d.refused {
			q.owing(Owed{Addrs: d.addrs})
		}
	case isForOperator(err):
		d.tell(q, result{}, err)
		if !d.refused {
			d.refused = true
			q.owing(Owed{Addrs: d.addrs, Err: err})
		}
		q.later(c, q.refusedPause)
	default:
		if d.waiter != nil {
			d.waiter.trouble.Store(&err)
		}
		if time.Since(d.since) > q.patience {
			d.tell(q, result{}, err)
		}
		d.pause = min(max(2*d.pause, firstPause), longestPause)
		q.later(c, d.pause)
	}
}

// tell gives the caller, if there is one, the answer.
func (d *debt) tell(q *queue, r result, err error) {
	if d.waiter != nil {
		q.answer(d.waiter, r, err)
		d.waiter = nil
	}
}

// isFinal says that it is of no use to try again: the block is damaged, as a check tells, or
// what the caller wants done together with the release cannot be done.
func isFinal(err error) bool {
	return !isForOperator(err) && (etcdstore.IsRefusal(err) || errors.Is(err, ErrDamaged))
}

// isForOperator says that etcd refuses what it will do when somebody has seen to its users'
// roles, or to its room. A debt waits for that: given up, the addresses would be lost.
func isForOperator(err error) bool {
	return errors.Is(err, etcdstore.ErrNoSpace) || errors.Is(err, etcdstore.ErrUnauthorized)
}

// later lets a call wait again after a time.
func (q *queue) later(c *call, after time.Duration) {
	c.parked, c.fresh, c.losses = true, false, 0
	time.AfterFunc(after, func() { q.enqueue(c) })
}

// endRelease does, or finds done, what a release did whose transaction may have been done.
// An address with another owner than the one that it was taken from is free for others
// already.
type endRelease struct{ tried result }

func (e *endRelease) run(w *work) *stop {
	blocks, s := w.locateAll(addrsOf(e.tried.freed))
	if s != nil {
		return s
	}
	gone := false
	for i, h := range e.tried.freed {
		freed, s := w.freeOne(blocks[i], h.Addr, &h.Owner)
		if s != nil {
			return s
		}
		gone = gone || !freed
	}
	if w.result = e.tried; gone {
		return w.surely()
	}
	return nil
}

func addrsOf(held []Holding) []netip.Addr {
	addrs := make([]netip.Addr, len(held))
	for i, h := range held {
		addrs[i] = h.Addr
	}
	return addrs
}
