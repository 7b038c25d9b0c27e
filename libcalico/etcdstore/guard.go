package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
	"calico.internal/libcalico/trust"
)

// Guard watches for programs that must not take away what is in force because etcd has
// lost it: its watches stop at a store that was emptied, or that is another cluster's
// (package trust), until somebody says that it is right. It may be used by several
// goroutines.
type Guard struct {
	client *Client
	log    *slog.Logger

	mu      sync.Mutex
	judge   *trust.Judge
	verdict trust.Verdict
	// lost is why the watch of the judge's keys does not reach etcd.
	lost error
	// changed is closed when the verdict or lost changes.
	changed chan struct{}
	// listeners counts those for whom the judge's keys are watched, unless one of the guard's
	// own watches brings them; stop, when not nil, ends that.
	listeners, bringers int
	stop                context.CancelFunc
}

// Guard makes a guard for this host. known is the GUID of the cluster that the host has
// been part of before, or empty. Each change of the verdict is logged once.
func (c *Client) Guard(known string, log *slog.Logger) *Guard {
	return &Guard{
		client: c, log: log, judge: trust.NewJudge(strings.Join(c.Endpoints(), ","), known),
		changed: make(chan struct{}),
	}
}

// Verdict is what the guard thinks of the store at present.
func (g *Guard) Verdict() trust.Verdict {
	v, _, _ := g.state()
	return v
}

// Follows reports whether the store is this host's cluster, so that what the host tells of
// itself may be written there.
func (g *Guard) Follows() bool {
	state := g.Verdict().State
	return state == trust.Trusted || state == trust.Locked
}

func (g *Guard) state() (v trust.Verdict, changed <-chan struct{}, lost error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.verdict, g.changed, g.lost
}

// look judges what was seen of the keys.
func (g *Guard) look(s trust.Stored) trust.Verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.judge.Look(s)
	if v == g.verdict {
		return v
	}
	switch {
	case v.Why != "":
		g.log.Warn("the datastore is not followed", logattr.Why, v.Why)
	case g.verdict.Why != "":
		g.log.Info("the datastore is followed again")
	}
	g.verdict = v
	g.wake()
	return v
}

func (g *Guard) setLost(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if (err == nil) != (g.lost == nil) {
		g.lost = err
		g.wake()
	}
}

// wake tells whoever waits that something changed.
func (g *Guard) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// listen has the judge's keys watched until done is called.
func (g *Guard) listen(ctx context.Context) (done func()) { return g.count(ctx, &g.listeners) }

// bring says that a watch of the guard brings the judge's keys until done is called.
func (g *Guard) bring(ctx context.Context) (done func()) { return g.count(ctx, &g.bringers) }

func (g *Guard) count(ctx context.Context, n *int) (done func()) {
	add := func(by int) {
		g.mu.Lock()
		defer g.mu.Unlock()
		*n += by
		needed := g.listeners > 0 && g.bringers == 0
		switch {
		case needed && g.stop == nil:
			ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // whoever listens last ends it
			g.stop, g.lost = cancel, nil
			go g.watchKeys(ctx)
		case !needed && g.stop != nil:
			g.stop()
			g.stop = nil
		}
	}
	add(1)
	return func() { add(-1) }
}

// keysLook is how often the judge's keys are read where they cannot be watched.
const keysLook = 3 * time.Second

// watchKeys follows the judge's keys. A user that may read no more than these must not watch
// them, since what is watched is all that lies between them: they are read again and again.
func (g *Guard) watchKeys(ctx context.Context) {
	if !g.followKeys(ctx) {
		return
	}
	for first := true; first || pause(ctx, keysLook); first = false {
		_, err := g.fence(ctx)
		if ctx.Err() != nil {
			return
		}
		g.setLost(err)
	}
}

// followKeys watches the judge's keys until ctx ends, or, with refused, etcd refuses that.
func (g *Guard) followKeys(ctx context.Context) (refused bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stored trust.Stored
	for b := range g.client.Watch(ctx, trust.Paths(), WatchOptions{}) {
		switch {
		case ctx.Err() != nil:
			return false
		case errors.Is(b.Err, ErrUnauthorized):
			return true
		}
		g.setLost(b.Err)
		if b.Err == nil && stored.Apply(b) {
			g.look(stored)
		}
	}
	return false
}

// fence judges the keys as they are now.
func (g *Guard) fence(ctx context.Context) (trust.Verdict, error) {
	objects, err := g.client.fetch(ctx, model.ReadyKey{}, model.FelixConfigKey{Name: model.ClusterGUID}, model.AcceptedGUIDKey{})
	if errors.Is(err, ErrUnauthorized) {
		err = fmt.Errorf("%w, which must allow reading %s: they tell whether this is the cluster's own store", err, strings.Join(trust.Paths(), ", "))
	}
	if err != nil {
		return trust.Verdict{}, err
	}
	now := store.Batch{Snapshot: true}
	for _, o := range objects {
		for _, kv := range o.parts {
			now.Puts = append(now.Puts, kv)
		}
	}
	slices.SortFunc(now.Puts, func(a, b store.KV) int { return strings.Compare(a.Path, b.Path) })
	var stored trust.Stored
	stored.Apply(now)
	return g.look(stored), nil
}

// Watch is [Client.Watch] of a store that is followed. Of one that is not, a batch with
// Held says why, and a snapshot follows when it is followed again, which is that of a
// restored store: nobody saw what it lacks deleted. A batch that takes
// anything away is only passed on when the store, as of that batch or later, is right.
func (g *Guard) Watch(ctx context.Context, prefixes []string, opts WatchOptions) <-chan Batch {
	if len(prefixes) == 0 {
		return watchNothing(ctx)
	}
	w := &guardedWatch{
		guard: g, prefixes: prefixes, opts: opts, out: make(chan Batch),
		inside: !slices.ContainsFunc(trust.Paths(), func(path string) bool { return !newRanges(prefixes).hold(path) }),
	}
	go func() {
		defer close(w.out)
		w.run(ctx)
	}()
	return w.out
}

// guardedWatch is one watch of a guard. Its state belongs to the goroutine of run.
type guardedWatch struct {
	guard    *Guard
	prefixes []string
	opts     WatchOptions
	out      chan Batch
	// inside says that the watch itself brings the judge's keys, in order with all else.
	// Where it does not, they are read again before anything is taken away.
	inside bool
	stored trust.Stored
	// passed says that a snapshot was passed on, interrupted that the store was held since.
	passed, interrupted bool
}

func (w *guardedWatch) run(ctx context.Context) {
	if !w.inside {
		defer w.guard.listen(ctx)()
	}
	for ctx.Err() == nil {
		w.follow(ctx)
		w.interrupted = w.passed
		w.hold(ctx)
	}
}

// follow passes on what a watch brings, a snapshot first, until the store is held.
func (w *guardedWatch) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w.inside {
		defer w.guard.bring(ctx)()
	}
	batches := w.guard.client.Watch(ctx, w.prefixes, w.opts)
	for {
		v, changed, _ := w.guard.state()
		if v.State == trust.Held {
			return
		}
		select {
		case b, ok := <-batches:
			if !ok || !w.pass(ctx, b) {
				return
			}
		case <-changed:
		}
	}
}

// pass passes a batch on; ok is false when the watch has to stop.
func (w *guardedWatch) pass(ctx context.Context, b Batch) (ok bool) {
	if b.Err == nil {
		v, known := w.look(ctx, b)
		if !known || v.State == trust.Held {
			return false
		}
	}
	if b.Snapshot {
		b.Restored = b.Restored || w.interrupted
		w.passed, w.interrupted = true, false
	}
	return w.send(ctx, b)
}

// look judges the store as of a batch or later; ok is false at the end of ctx.
func (w *guardedWatch) look(ctx context.Context, b Batch) (v trust.Verdict, ok bool) {
	switch {
	case w.inside && w.stored.Apply(b):
		return w.guard.look(w.stored), true
	case w.inside || !b.Snapshot && len(b.Deletes) == 0:
		return w.guard.Verdict(), true
	}
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		v, err := w.guard.fence(ctx)
		if err == nil {
			return v, true
		}
		if !w.send(ctx, Batch{Err: err}) || !pause(ctx, backoff) {
			return trust.Verdict{}, false
		}
	}
}

// hold tells why the store is not followed until it is again.
func (w *guardedWatch) hold(ctx context.Context) {
	if w.inside {
		defer w.guard.listen(ctx)()
	}
	told := ""
	for {
		v, changed, lost := w.guard.state()
		if v.State != trust.Held {
			return
		}
		text, b := v.Why, Batch{Held: errors.New(v.Why)}
		if lost != nil {
			text, b = lost.Error(), Batch{Err: lost}
		}
		if text != told && !w.send(ctx, b) {
			return
		}
		told = text
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (w *guardedWatch) send(ctx context.Context, b Batch) bool {
	select {
	case w.out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}
