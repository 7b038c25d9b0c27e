package reconcile

import (
	"context"
	"math/rand/v2"
	"time"
)

// Loop says how [Run] repeats its passes.
type Loop struct {
	// Kick asks for a pass; give it a capacity of 1 and send to it without waiting
	// ([Kick]), so that many requests make one pass.
	Kick <-chan struct{}
	// Resync is how often everything is listed again; 0 means never.
	Resync time.Duration
	// MinGap is the least time between the starts of two passes.
	MinGap time.Duration
	// MaxBackoff bounds the wait after a pass that failed as a whole; it starts at
	// MinGap or 100 ms. 0 means 30 s. A kick ends the wait.
	MaxBackoff time.Duration
	// Prepare, when not nil, is called before each pass by the goroutine that owns the
	// tables, to bring what is desired up to date.
	Prepare func(ctx context.Context)
	// SetsOnly, when not nil, says that nothing may be deleted yet, because it is not
	// known yet all that is desired.
	SetsOnly func() bool
	// Done, when not nil, is called after each pass with what failed ([IsPartial] when
	// only single objects did).
	Done func(err error)
}

// NewKick makes a channel for [Loop].Kick.
func NewKick() chan struct{} { return make(chan struct{}, 1) }

// Kick asks for a pass without waiting.
func Kick(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	firstBackoff = 100 * time.Millisecond
	// blockedRetry is the wait of an object that could be tried again but for others
	// that must come first.
	blockedRetry = time.Second
)

// Run makes passes over the tables until ctx ends: one at once, then one for each
// kick, for each resync, and for each object that is due to be tried again. The
// tables belong to Run's goroutine meanwhile. It leaves everything as it is when ctx
// ends, and returns nil.
func Run(ctx context.Context, tables Ordered, loop Loop) error {
	r := runner{Loop: loop, tables: tables}
	if r.MaxBackoff <= 0 {
		r.MaxBackoff = defaultMaxBackoff
	}
	r.lastList = time.Now()
	for ctx.Err() == nil {
		r.pass(ctx)
		if !r.wait(ctx) {
			break
		}
	}
	return nil
}

type runner struct {
	Loop
	tables   Ordered
	started  time.Time // of the latest pass
	lastList time.Time
	failures int // passes in a row that failed as a whole
}

func (r *runner) pass(ctx context.Context) {
	r.started = time.Now()
	if r.Prepare != nil {
		r.Prepare(ctx)
	}
	if r.Resync > 0 && r.started.Sub(r.lastList) >= r.Resync {
		r.tables.Resync()
		r.lastList = r.started
	}
	apply := r.tables.Apply
	if r.SetsOnly != nil && r.SetsOnly() {
		apply = r.tables.ApplySets
	}
	err := apply(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil && !IsPartial(err) {
		r.failures++
	} else {
		r.failures = 0
	}
	if r.Done != nil {
		r.Done(err)
	}
}

// wait returns when the next pass is due; false means that ctx has ended.
func (r *runner) wait(ctx context.Context) bool {
	timer := time.NewTimer(time.Until(r.due()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return r.gap(ctx)
	case <-r.Kick:
		return r.gap(ctx)
	}
}

// due is when a pass is needed though nobody asks for one.
func (r *runner) due() time.Time {
	const never = 365 * 24 * time.Hour
	at := time.Now().Add(never)
	earlier := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if r.failures > 0 {
		earlier(time.Now().Add(r.backoff()))
	}
	if r.Resync > 0 {
		earlier(r.lastList.Add(r.Resync))
	}
	if t, ok := r.tables.NextRetry(); ok {
		if !t.After(r.started) { // it was due, but waits for something else
			t = r.started.Add(blockedRetry)
		}
		earlier(t)
	}
	return at
}

// backoff doubles with each failure in a row; up to a quarter of it is taken off at
// random, so that hosts do not retry in step.
func (r *runner) backoff() time.Duration {
	d := r.MaxBackoff
	if r.failures <= 16 {
		d = min(d, max(r.MinGap, firstBackoff)<<(r.failures-1))
	}
	return d - rand.N(d/4+1)
}

// gap waits for the rest of MinGap; kicks meanwhile are part of the coming pass.
func (r *runner) gap(ctx context.Context) bool {
	if rest := time.Until(r.started.Add(r.MinGap)); rest > 0 {
		timer := time.NewTimer(rest)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
	}
	select {
	case <-r.Kick:
	default:
	}
	return ctx.Err() == nil
}
