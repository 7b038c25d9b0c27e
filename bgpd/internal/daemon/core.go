package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/bgpd/internal/config"
	"calico.internal/bgpd/internal/gobgp"
	"calico.internal/bgpd/internal/kernel"
	"calico.internal/bgpd/internal/memory"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
)

const (
	// startGrace is how long the first sessions wait for etcd: a session that ends its
	// first word without our blocks makes peers drop them.
	startGrace = 2 * time.Second
	// resolveGap is the least time between two looks at all next hops.
	resolveGap = 100 * time.Millisecond
	// listenRetry is how often an address that cannot be listened on is tried again without
	// being told that it came.
	listenRetry = 2 * time.Second
)

// core holds all state. But for the inbox, all of it belongs to the goroutine of run.
type core struct {
	cfg     Config
	guard   *etcdstore.Guard
	history *history.Counter
	tasks   *errgroup.Group
	started time.Time
	kick    chan struct{}
	timer   *time.Timer
	// end ends run; fatal is why, when it was not told to.
	end   context.CancelFunc
	fatal error
	// ready is what the liveness key and onReady tell.
	ready   atomic.Bool
	onReady func(bool)

	inboxMu sync.Mutex
	inbox   []job
	// waiting are callers that are answered when the pass is over.
	waiting []job

	sources []*source
	owners  map[string]*owner
	// idle says since when what is kept has been without containers.
	idle   map[model.Key]time.Time
	inSync bool
	engine *calc.Engine

	// doc is the configuration in force; its Hash is empty before the first one.
	// docErr says why the document on disk is another.
	doc    config.Config
	docErr error
	// text is that of doc; docRecalled says that it is the remembered one.
	text        []byte
	docRecalled bool
	// docAt is when the first configuration came.
	docAt time.Time

	// before is what this host remembers of an earlier start, nil when that is of no use.
	// recalledAt is when it was taken up in the place of etcd; zero is never.
	before     *memory.Record
	recalledAt time.Time
	keeper     *memory.Keeper

	fib      *kernel.FIB
	speaker  *gobgp.Families
	pipeline *pipeline
	// resolveDue asks for a look at all next hops and at what is around this host;
	// resolvedAt was the last.
	resolveDue bool
	resolvedAt time.Time
	// missing are the addresses of the configuration that this host does not have, and
	// deaf why BGP cannot be had on others.
	missing []netip.Addr
	deaf    []error
	// spoke says that BGP ran since the start.
	spoke bool
	// said is what was logged of things that go on.
	said map[string]string
}

// job is something to do in the one goroutine.
type job struct {
	do   func(context.Context)
	done chan struct{}
	// after says that done means that the following pass is over as well.
	after bool
}

func newCore(cfg Config, guard *etcdstore.Guard, account *history.Counter, tasks *errgroup.Group) *core {
	before := recordBefore(cfg)
	c := &core{
		cfg:      cfg,
		guard:    guard,
		history:  account,
		tasks:    tasks,
		owners:   map[string]*owner{},
		idle:     map[model.Key]time.Time{},
		started:  time.Now(),
		kick:     reconcile.NewKick(),
		engine:   calc.New(),
		pipeline: &pipeline{},
		said:     map[string]string{},
		onReady:  func(bool) {},
		before:   before,
		keeper:   memory.NewKeeper(cfg.StateDir, before, cfg.Log),
	}
	for _, p := range prefixesOf(cfg.Node) {
		c.sources = append(c.sources, newSource(p))
	}
	return c
}

// call has f done in the one goroutine, and waits.
func (c *core) call(ctx context.Context, f func(context.Context)) error { return c.post(ctx, f, false) }

// callAndApply also waits for what follows from f to be in force.
func (c *core) callAndApply(ctx context.Context, f func(context.Context)) error {
	return c.post(ctx, f, true)
}

func (c *core) post(ctx context.Context, f func(context.Context), after bool) error {
	j := job{do: f, done: make(chan struct{}), after: after}
	c.inboxMu.Lock()
	c.inbox = append(c.inbox, j)
	c.inboxMu.Unlock()
	reconcile.Kick(c.kick)
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// prepare takes in what happened, works out what is wanted, and gives it to the tables.
func (c *core) prepare(ctx context.Context) {
	c.work(ctx)
	c.recallDocument()
	if c.doc.Hash == "" {
		c.wakeAt(c.recallAt())
		return
	}
	if err := c.open(ctx); err != nil {
		c.abort(err)
		return
	}
	c.recall()
	c.hear()
	c.look()
	c.followOwners(ctx)
	c.resolve(ctx)
	c.giveUp()
	changes := c.engine.Flush(time.Now())
	c.pipeline.take(changes)
	if err := c.speak(ctx); err != nil {
		c.abort(err)
	}
	c.setTimer()
}

// abort ends the program with a reason.
func (c *core) abort(err error) {
	c.fatal = err
	c.end()
}

// work does the jobs in the inbox.
func (c *core) work(ctx context.Context) {
	c.inboxMu.Lock()
	jobs := c.inbox
	c.inbox = nil
	c.inboxMu.Unlock()
	for _, j := range jobs {
		j.do(ctx)
		if j.after {
			c.waiting = append(c.waiting, j)
			continue
		}
		close(j.done)
	}
}

// done follows each pass.
func (c *core) done(err error) {
	if err != nil {
		c.cfg.Log.Warn("pass incomplete; it will be repeated", logattr.Err, err)
	}
	c.pipeline.report(c.cfg.Log)
	for _, j := range c.waiting {
		close(j.done)
	}
	c.waiting = nil
	ready := c.isReady()
	if c.ready.Swap(ready) != ready {
		c.onReady(ready)
		c.cfg.Log.Info("readiness changed", logattr.State, map[bool]string{true: "ready", false: "not ready"}[ready])
	}
}

// isReady: a configuration is in force, etcd is heard and followed, BGP runs where it
// should, and the kernel is as wanted.
func (c *core) isReady() bool {
	return len(c.missing)+len(c.deaf) == 0 && c.doc.Hash != "" && !c.docRecalled && c.inSync && c.etcdConnected() && c.held() == "" &&
		c.pipeline.open && c.pipeline.applied
}

// onFile reads the document. It is called by the file's goroutine.
func (c *core) onFile(ctx context.Context) {
	_ = c.call(ctx, func(ctx context.Context) {
		err := c.load()
		if c.doc.Hash == "" && errors.Is(err, fs.ErrNotExist) {
			return
		}
		after := "the last one stays in force"
		if c.doc.Hash == "" {
			after = "waiting for another"
		}
		if c.isNews("configuration", err) {
			c.cfg.Log.Warn("configuration not usable", logattr.File, c.cfg.File, logattr.Err, err, "then", after)
		}
	})
}

// isNews reports whether a fault that is looked at again and again is another one than the
// last time; none is no news.
func (c *core) isNews(what string, err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	before := c.said[what]
	c.said[what] = text
	return text != "" && text != before
}

// load reads the document and puts it in force if it can be.
func (c *core) load() error {
	c.docErr = c.tryLoad()
	return c.docErr
}

func (c *core) tryLoad() error {
	text, err := os.ReadFile(c.cfg.File)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if config.HashOf(text) == c.doc.Hash {
		c.docRecalled = false
		return nil
	}
	doc, warnings, err := config.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", c.cfg.File, err)
	}
	for _, w := range warnings {
		c.cfg.Log.Warn("configuration", logattr.File, c.cfg.File, "warning", w.String())
	}
	if doc.Node != c.cfg.Node {
		return fmt.Errorf("%s is for node %q, but this host is %q; set NODENAME alike for bgpd and confd", c.cfg.File, doc.Node, c.cfg.Node)
	}
	if c.speaker != nil {
		if len(doc.Listen) == 0 && c.speaker.Alive() {
			return errNoAddress
		}
		if err := c.speaker.Refuse(globalOf(doc)); err != nil {
			return err
		}
	}
	c.adopt(doc, text)
	return nil
}

// errNoAddress refuses a document without an address while BGP runs: it comes of a store that
// lacks this node, and would have all others drop their routes to it.
var errNoAddress = errors.New("the configuration would take all addresses of this node away, and with that its sessions; " +
	"the last one stays in force; write the node back (calicoctl node run), or start bgpd anew to end BGP here")

// adopt makes a document the one in force.
func (c *core) adopt(doc config.Config, text []byte) {
	if c.doc.Hash == "" {
		c.docAt = time.Now()
	} else if doc.Protocol != c.doc.Protocol {
		c.cfg.Log.Warn("kernel.protocol changed; it takes effect at the next start", "protocol", doc.Protocol)
	}
	c.doc, c.text, c.docRecalled = doc, text, false
	c.keeper.Changed()
	c.resolveDue = true
	c.engine.SetConfig(doc, time.Now())
	c.setLevel()
	c.cfg.Log.Info("configuration in force", "hash", doc.Hash, "as", doc.ASNumber, "peers", len(doc.Peers), "pools", len(doc.Pools))
}

func (c *core) setLevel() {
	level, err := logattr.ParseLevel(string(c.doc.LogLevel))
	if err == nil && c.cfg.Level != nil {
		c.cfg.Level.Set(level)
	}
}

func globalOf(doc config.Config) gobgp.Global {
	return gobgp.Global{ASNumber: doc.ASNumber, RouterID: doc.RouterID, Listen: doc.Listen, Port: doc.ListenPort}
}

// open makes the edges when the first configuration is there, and takes over what the
// kernel has of an earlier process.
func (c *core) open(ctx context.Context) (err error) {
	if c.fib != nil {
		return nil
	}
	notify := func() { reconcile.Kick(c.kick) }
	c.fib, err = kernel.New(kernel.Options{Table: kernel.TableMain, Protocol: c.doc.Protocol, Notify: notify})
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	fib := c.fib
	c.tasks.Go(func() error { return fib.Run(ctx) })
	have, err := c.fib.List(ctx)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	c.engine.Adopt(have, time.Now().Add(c.doc.Timers.Restart))
	if err := c.lookAround(ctx); err != nil {
		return err
	}
	c.speaker, err = gobgp.NewFamilies(ctx, gobgp.Options{
		Log:        c.cfg.Log,
		Socket:     c.gobgpSockets()[0],
		Restarting: len(have) > 0,
		Notify:     notify,
	}, c.gobgpSockets()[1])
	if err != nil {
		return fmt.Errorf("GoBGP: %w", err)
	}
	c.pipeline.connect(targets{routes: c.fib, adverts: c.speaker.Paths(), peers: c.speaker.Peers(), speaking: c.speaker.Alive})
	if len(have) > 0 {
		c.cfg.Log.Info("took over the kernel's routes", logattr.Count, len(have))
	}
	return nil
}

// gobgpSockets are where GoBGP's own API is served, for IPv4 and for IPv6.
func (c *core) gobgpSockets() [2]string {
	return [2]string{filepath.Join(c.cfg.RunDir, "gobgp.sock"), filepath.Join(c.cfg.RunDir, "gobgp6.sock")}
}

// lookAround tells the engine what others' routes say, and finds out which of its own
// addresses this host does not have.
func (c *core) lookAround(ctx context.Context) error {
	others, err := c.fib.Others(ctx)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	c.engine.SetHostRoutes(others.Hosts)
	c.engine.SetSurroundings(others.Around)
	c.missing = nil
	for _, a := range c.doc.Listen {
		if !c.fib.IsLocal(a) {
			c.missing = append(c.missing, a)
		}
	}
	return nil
}

// hear tells the engine what peers did.
func (c *core) hear() {
	now := time.Now()
	for _, e := range c.speaker.Events() {
		switch e.Kind {
		case gobgp.PeerUp:
			c.engine.PeerUp(e.Peer)
		case gobgp.PeerDown:
			c.engine.PeerDown(e.Peer, e.Notified, now)
		case gobgp.EndOfRIB:
			c.engine.EndOfRIB(e.Peer)
		case gobgp.Paths:
			for _, p := range e.Paths {
				if p.Withdraw {
					c.engine.Withdraw(e.Peer, p.Prefix)
				} else {
					c.engine.Update(e.Peer, p.Prefix, p.Path)
				}
			}
		}
	}
}

// look tells the engine what others did in the kernel.
func (c *core) look() {
	ch := c.fib.Changes()
	if ch.Ours || ch.Lost {
		c.pipeline.routes.Resync()
	}
	c.resolveDue = c.resolveDue || ch.NextHops || ch.Lost || c.lookDue()
	for p, r := range ch.Hosts {
		c.engine.SetHostRoute(p, r.Present, r.Container)
	}
}

// resolve asks the kernel for the way to next hops: to new ones at once, to all when
// something changed there, but not more often than needed.
func (c *core) resolve(ctx context.Context) {
	nexts := c.engine.Unresolved()
	if c.resolveDue && time.Since(c.resolvedAt) >= resolveGap {
		err := c.lookAround(ctx)
		if c.isNews("kernel", err) {
			c.cfg.Log.Warn("kernel not read; it will be tried again", logattr.Err, err)
		}
		nexts = c.engine.NextHops()
		c.resolveDue, c.resolvedAt = err != nil, time.Now()
	}
	for _, next := range nexts {
		r := c.fib.Resolve(next)
		c.engine.SetHop(next, r)
		if r.Why != "" {
			c.cfg.Log.Debug("next hop not usable", logattr.NextHop, next, "why", r.Why)
		}
	}
}

// setTimer wakes the loop when time alone changes something.
func (c *core) setTimer() {
	at := c.engine.Deadline()
	earliest := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if t := c.recallAt(); !t.IsZero() {
		earliest(t)
	}
	if c.keeps() {
		earliest(c.resolvedAt.Add(keptLook))
	}
	if c.resolveDue {
		earliest(c.resolvedAt.Add(resolveGap))
	}
	if !c.pipeline.open {
		earliest(c.docAt.Add(startGrace))
	}
	if len(c.deaf) > 0 {
		earliest(time.Now().Add(listenRetry))
	}
	c.wakeAt(at)
}

// wakeAt asks for a pass at a time, instead of what was asked for before; zero is never.
func (c *core) wakeAt(at time.Time) {
	c.stopTimer()
	if !at.IsZero() {
		c.timer = time.AfterFunc(max(0, time.Until(at)), func() { reconcile.Kick(c.kick) })
	}
}

func (c *core) stopTimer() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

// mustWait reports whether the first start of BGP waits a moment for etcd.
func (c *core) mustWait() bool {
	return !c.pipeline.open && !c.inSync && c.recalledAt.IsZero() && time.Since(c.docAt) < startGrace
}

// speak starts BGP, or starts it anew if this host is somebody else now, for each family
// as far as it can.
func (c *core) speak(ctx context.Context) error {
	if c.mustWait() {
		return nil
	}
	restarted, deaf := c.speaker.Start(ctx, globalOf(c.doc))
	err := errors.Join(deaf...)
	c.deaf, c.spoke = deaf, c.spoke || c.speaker.Alive()
	switch {
	case err != nil && !c.pipeline.open && !c.speaker.Alive() && !slices.ContainsFunc(deaf, gobgp.AddressMissing):
		return err
	case c.isNews("BGP", err):
		c.cfg.Log.Error("BGP not started; it will be tried again", logattr.Err, err)
	}
	if restarted {
		c.pipeline.restarted()
	}
	if err != nil && !c.spoke {
		c.engine.KeepAdopted(time.Now().Add(c.doc.Timers.Restart))
	}
	if !c.pipeline.open {
		c.pipeline.open = true
		c.sayWhatCounts()
	}
	return nil
}

// sayWhatCounts logs from what BGP starts where that is not etcd.
func (c *core) sayWhatCounts() {
	recalled := !c.recalledAt.IsZero()
	switch held := c.held() != ""; {
	case c.inSync:
	case held && recalled:
		c.cfg.Log.Warn("etcd is not followed; going on with what this host remembers")
	case held:
		c.cfg.Log.Warn("etcd is not followed; going on with the blocks that the kernel has")
	case recalled:
		c.cfg.Log.Warn("etcd does not answer; going on with what this host remembers")
	default:
		c.cfg.Log.Warn("etcd does not answer; going on with the blocks that the kernel has")
	}
}

// linksOf names the links of a route, for people.
func linksOf(r calc.Route) string {
	out := ""
	for i, h := range r.Hops {
		name := kernel.LinkName(h.Link)
		if i == 0 {
			out = name
		} else if name != out {
			out += "," + name
		}
	}
	return out
}

// addrsOf is a list of what to show of next hops.
func addrsOf(r calc.Route, nexts []netip.Addr) []netip.Addr {
	if len(nexts) > 0 {
		return nexts
	}
	var out []netip.Addr
	for _, h := range r.Hops {
		out = append(out, h.Gateway)
	}
	return out
}
