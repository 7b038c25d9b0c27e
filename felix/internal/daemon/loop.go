package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"calico.internal/felix/internal/calc"
	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
	"calico.internal/libcalico/version"
)

// How often the loop looks after what nobody tells it about.
const (
	// auditInterval is for the fingerprints of tables of chains and the headers of sets. With
	// the repair it stays below a second; shorter, it is what an idle felix is busy with.
	auditInterval = 700 * time.Millisecond
	// writesShare bounds the share of time that goes into reading what others write all the
	// time: one part of so many.
	writesShare = 4
	// soon is for what waits to be told or tried again.
	soon = 250 * time.Millisecond
	// settingsRefresh is the number of refreshes of routes after which the settings of
	// interfaces, which are thousands of files where there are many containers and mostly
	// notify, are read again.
	settingsRefresh = 10
	// drainBatches bounds the batches that are taken in before the kernel is written.
	drainBatches = 256
	// drainEvents does the same for events of the host's interfaces.
	drainEvents = 256
	// failureDelay is the wait after a pass that failed as a whole, and maxFailureDelay
	// what it grows to; maxBusyDelay where iptables was only busy, and where the chains are not
	// at fault, since then no program is started for the next try.
	failureDelay    = 100 * time.Millisecond
	maxFailureDelay = 10 * time.Second
	maxBusyDelay    = time.Second
)

// loop owns everything that is not safe for more than one goroutine.
type loop struct {
	log     *slog.Logger
	board   *statusapi.Board
	metrics *metrics
	node    string
	level   *slog.LevelVar
	beat    *heartbeat
	live    *live
	// unreported is why the status cannot be written, and unlocated what of the control plane is
	// not found; writeFault and placeFault are what of it was told.
	unreported, unlocated  *notice
	writeFault, placeFault string
	// lost is the kind of what keeps etcd from being read, as it was told; empty when it is.
	lost string

	// history is told what becomes of the store, and keeping looks after what a restored one
	// lacks; succession knows what takes the place of that.
	history    *history.Counter
	keeping    *keeping
	succession succession

	cfg     *config.Config
	sources config.Sources
	guard   *etcdstore.Guard
	view    *store.View
	engine  *calc.Engine
	// fed is set once the engine has been given anything.
	fed   bool
	links *ifmonitor.Links
	// haveLinks is set once the interfaces have been listed.
	haveLinks bool
	// found brings where the control plane is, which control is; nil until it is known.
	found   <-chan controlPlane
	control *controlPlane
	dp      *dataplane
	// waiting looks after the host until dp does.
	waiting waiting

	state statusapi.State
	// reconfigureDue says that the configuration in the datastore changed while that is locked.
	reconfigureDue bool
	// flushed is the revision of the store up to which the dataplane knows what is wanted.
	flushed int64
	// writes tells of writes to nf_tables once felix is in sync; drifted is when it was last
	// said that others write.
	writes  *iptables.Writes
	drifted time.Time
	// sweeper removes left-overs of the other variant of iptables and of families that are not
	// handled any more, swept says which families are under way or done, and leftovers what was
	// told.
	sweepers  []*sweeper
	swept     map[rules.Family]bool
	leftovers string
	// warnings are what was told of the configuration.
	warnings []string
	// configFault says why the configuration of the datastore is not in force.
	configFault string
	quarantined bool
	// stale is set when problems have to be collected again.
	stale bool
	// owners are addresses of other hosts' endpoints that the dataplane has not been told.
	owners   map[netip.Addr]struct{}
	gateways gateways
	// faults are what was wrong with chains when endpoints were last looked at; lookAtAll has
	// all of them looked at, not only those that changed.
	faults    filterFaults
	lookAtAll bool
	// lookAtRefused has the endpoints looked for whose values cannot be used.
	lookAtRefused bool
	// failures counts the passes in a row, since failing, that failed as a whole.
	failures int
	failing  time.Time
	retryAt  time.Time
	// unlocked tells that the lock of iptables, for which a goroutine is awaiting, is free.
	unlocked chan struct{}
	awaiting bool
	// setsAudited is when the headers of sets were last compared.
	setsAudited time.Time
	refreshed   map[string]time.Time
	// lookedAtHost is when the host's own settings were last looked at.
	lookedAtHost time.Time
	// hostChanged is set when they may be others since.
	hostChanged bool
	// trimAt is when memory that a large pass took is given back; zero when none is.
	trimAt     time.Time
	wantPass   bool
	passedOnce bool
}

func newLoop(d *Daemon, cfg *config.Config) *loop {
	l := &loop{
		log: d.log, board: d.board, metrics: d.metrics, node: d.cfg.Node, level: d.cfg.Level, beat: d.beat, live: d.live,
		unreported: d.unreported, unlocated: d.unlocated,
		cfg: cfg, sources: config.Sources{Environment: d.cfg.Environment, File: d.cfg.File},
		guard: d.guard, view: d.view,
		history: d.history, keeping: d.keeping, control: d.control,
		engine:    calc.New(d.cfg.Node, cfg.InterfacePrefix...),
		links:     ifmonitor.NewLinks(),
		refreshed: map[string]time.Time{}, owners: map[netip.Addr]struct{}{},
		waiting:  waiting{log: d.log},
		unlocked: make(chan struct{}, 1), swept: map[rules.Family]bool{}, writes: &iptables.Writes{},
		gateways: gateways{byKey: map[model.WorkloadEndpointKey]gatewayPair{}},
	}
	l.state = statusapi.State{
		Node: d.cfg.Node, Version: version.String(), Started: d.started,
		Endpoints: map[model.WorkloadEndpointKey]statusapi.Endpoint{},
	}
	return l
}

// wanted chooses what felix needs of the store.
func wanted(node string) func(model.Key) bool {
	return func(k model.Key) bool {
		switch k := k.(type) {
		case model.WorkloadEndpointKey, model.HostEndpointKey, model.ProfileKey, model.PolicyKey, model.TierKey,
			model.IPPoolKey, model.NetworkSetKey, model.ReadyKey:
			return true
		case model.FelixConfigKey:
			return k.Node == "" || k.Node == node
		}
		return false
	}
}

// run is the loop. It returns when the context ends, or with [errRestart] when a
// parameter changed that it cannot take over while it runs.
func (l *loop) run(ctx context.Context, batches <-chan store.Batch, events <-chan ifmonitor.Event) error {
	timer := time.NewTimer(auditInterval)
	defer timer.Stop()
	hurried := false
	defer func() {
		if l.dp != nil {
			l.dp.close()
		}
		l.waiting.end()
	}()
	if l.view.InSync() { // of a loop before this one
		if err := errors.Join(l.takeEvents(l.view.Events()), l.followSuccession()); err != nil {
			return err
		}
	}
	goesOn := l.view.InSync() && l.control != nil
	for {
		var (
			err  error
			told time.Time
		)
		incoming := batches
		if goesOn && l.dp == nil {
			incoming = nil // what was known is kept up first, whatever becomes of the store by then
		}
		select {
		case <-ctx.Done():
			return nil
		case b, ok := <-incoming:
			if !ok {
				return nil
			}
			err = drain(b, incoming, drainBatches, l.takeBatch)
		case e := <-events:
			err = drain(e, events, drainEvents, l.takeEvent)
			if l.hostChanged {
				l.lookAtHost(time.Now())
			}
		case c := <-l.found:
			l.takeControlPlane(c)
		case answers := <-l.keeping.answers:
			err = l.takeAnswers(answers)
		case <-l.writes.C:
			l.writes.Pause(0)
			if now := time.Now(); l.audit(now, false) {
				told = now
			}
		case <-l.unlocked:
			l.awaiting, l.retryAt = false, time.Time{}
		case now := <-timer.C:
			l.tick(ctx, now)
			if l.view.KeptCount() > 0 && l.view.Connected() && l.keeping.due(now) {
				l.keeping.look(ctx, now, nodesOf(l.view.Kept(), l.node))
			}
			hurried = false
			timer.Reset(auditInterval)
		}
		if err == nil {
			err = l.work(ctx)
		}
		if !told.IsZero() {
			l.writes.Pause(writesShare * time.Since(told))
		}
		if err != nil {
			return err
		}
		l.beat.tick()
		if !hurried && l.hurry() {
			hurried = true
			timer.Reset(soon)
		}
	}
}

// hurry reports whether something is due before the next audit: problems to tell, a pass or
// an object to try again, connections of addresses that left.
func (l *loop) hurry() bool {
	if l.dp == nil {
		return l.waiting.failures > 0
	}
	if l.stale || l.failures > 0 {
		return true
	}
	if at, ok := l.dp.handover.sweepAt(); ok && time.Until(at) < auditInterval {
		return true
	}
	at, ok := l.dp.order.NextRetry()
	return ok && time.Until(at) < auditInterval
}

// drain hands first to take, and what waits behind it, up to so many in all.
func drain[T any](first T, more <-chan T, most int, take func(T) error) error {
	err := take(first)
	for range most - 1 {
		if err != nil {
			break
		}
		select {
		case next, ok := <-more:
			if !ok {
				return nil
			}
			err = take(next)
		default:
			return nil
		}
	}
	return err
}

func (l *loop) takeBatch(b store.Batch) error {
	l.tellLost(b.Err)
	kept := l.view.KeptCount()
	events := l.view.Apply(b)
	if kept != l.view.KeptCount() {
		l.stale = true
		l.keeping.moving(time.Now())
	}
	if reconnected := l.view.Connected() && !l.state.Connected; reconnected {
		l.log.Info("etcd answers", logattr.Rev, l.view.Revision())
	}
	if l.view.KeptCount() > 0 {
		l.keeping.doubt(b.Deletes, time.Now())
	}
	if len(events) > 0 || !b.Snapshot && len(b.Puts)+len(b.Deletes) > 0 {
		l.history.Changed()
	}
	release := func() error { return l.releaseBefore(events) }
	if b.Restored {
		release = l.takeRestored
	}
	if err := release(); err != nil {
		return err
	}
	return l.takeEvents(events)
}

// tellLost says once of each kind of error that etcd cannot be read: the reason changes while
// a server, or what is before it, goes away.
func (l *loop) tellLost(err error) {
	kind := ""
	if err != nil {
		kind = etcdstore.Kind(err)
	}
	if kind != "" && kind != l.lost {
		l.log.Warn("etcd cannot be reached; what is in force stays so, and the connection is tried again", logattr.Err, err)
	}
	l.lost = kind
}

// takeEvents follows what changed in the store.
func (l *loop) takeEvents(events []store.Event) error {
	l.reconfigureDue = l.sources.Apply(l.node, events) || l.reconfigureDue
	if l.reconfigureDue && !l.locked() {
		l.reconfigureDue = false
		if err := l.reconfigure(); err != nil {
			return err
		}
	}
	if len(events) > 0 {
		l.engine.Apply(events)
		l.takeQuarantine(events)
		l.takeAddresses(events)
		l.fed, l.stale = true, true
	}
	return nil
}

// locked reports whether the store says that it is not to be followed for a while: what
// changes in it is taken in, and waits.
func (l *loop) locked() bool {
	r, _ := l.view.Get(model.ReadyKey{})
	ready, ok := r.(*model.Ready)
	return !ok || !bool(*ready)
}

// hold says why the store is not followed, and held that it is not the truth; the text is
// empty when it is followed.
func (l *loop) hold() (why string, held bool) {
	if err := l.view.Held(); err != nil {
		return err.Error(), true
	}
	if l.view.InSync() && l.locked() {
		return l.guard.Verdict().Why, false
	}
	return "", false
}

// takeAddresses notes the addresses of other hosts' endpoints, and the gateways of this
// host's.
func (l *loop) takeAddresses(events []store.Event) {
	for _, e := range events {
		key, ok := e.Key.(model.WorkloadEndpointKey)
		value, _ := e.Value.(*model.WorkloadEndpoint)
		if ok && key.Node == l.node {
			l.gateways.set(key, value)
		}
		if !ok || value == nil || key.Node == l.node {
			continue
		}
		for _, n := range value.IPv4Nets {
			l.owners[n.Addr()] = struct{}{}
		}
		for _, n := range value.IPv6Nets {
			l.owners[n.Addr()] = struct{}{}
		}
	}
}

// flush tells the dataplane what is wanted as of now.
func (l *loop) flush() {
	if len(l.owners) > 0 {
		for a := range l.owners {
			l.dp.handover.owned(a)
		}
		l.owners = map[netip.Addr]struct{}{}
	}
	if l.gateways.takeChanged() {
		l.dp.setGateways(l.gateways.byKey)
		l.wantPass = true
	}
	changes := l.engine.Flush()
	if !changes.IsEmpty() {
		l.dp.update(changes)
		l.wantPass, l.stale = true, true
	}
	l.flushed = l.view.Revision()
}

// addresses yields the addresses of all endpoints of all hosts.
func (l *loop) addresses(yield func(netip.Addr) bool) {
	for _, r := range l.view.All() {
		e, ok := r.(*model.WorkloadEndpoint)
		if !ok {
			continue
		}
		for _, n := range slices.Concat(e.IPv4Nets, e.IPv6Nets) {
			if !yield(n.Addr()) {
				return
			}
		}
	}
}

// takeQuarantine hands over unusable values when there are, or were, any.
func (l *loop) takeQuarantine(events []store.Event) {
	bad := false
	for _, e := range events {
		bad = bad || e.Err != nil
	}
	if bad || l.quarantined {
		list := l.view.Quarantined()
		l.engine.ApplyQuarantine(list)
		l.lookAtRefused = true
		l.quarantined = len(list) > 0
	}
}

// takeControlPlane follows where the control plane is.
func (l *loop) takeControlPlane(c controlPlane) {
	l.control = &c
	if l.dp != nil && l.dp.setControlPlane(c) {
		l.wantPass = true
	}
}

// takeEvent follows the host's interfaces, and has repaired what others changed on them.
func (l *loop) takeEvent(e ifmonitor.Event) error {
	changed := l.links.Apply(e)
	l.haveLinks = l.haveLinks || e.Snapshot
	if err := errors.Join(l.linksGone(e, changed), l.linksCame(changed)); err != nil {
		return err
	}
	l.waiting.moved = true
	if l.dp != nil {
		l.wantPass = l.dp.interfacesChanged(e, changed) || l.wantPass
		l.hostChanged = l.dp.concernsHost(e, changed) || l.hostChanged
	}
	return nil
}

// lookAtHost looks at the host's own settings, and at the endpoints again if these changed.
func (l *loop) lookAtHost(now time.Time) {
	l.lookedAtHost, l.hostChanged = now, false
	if l.dp.lookAtHost() {
		l.stale, l.lookAtAll = true, true
		l.post()
	}
}

// audit has read again what others have written to, if they have. A program that writes often
// is named once a second.
func (l *loop) audit(now time.Time, withSets bool) (drift bool) {
	drifted, err := l.dp.audit(withSets)
	if err != nil {
		l.log.Error("audit", logattr.Err, err)
	}
	if len(drifted) == 0 {
		return false
	}
	if now.Sub(l.drifted) >= time.Second {
		l.log.Info("changed by another program; reading again", "tables", strings.Join(drifted, ", "))
		l.drifted = now
	}
	l.wantPass = true
	if l.dp.chains.unhooked() {
		l.retryAt = time.Time{}
	}
	return true
}

// tick does what is due by time.
func (l *loop) tick(ctx context.Context, now time.Time) {
	if l.dp == nil {
		l.wait(ctx, now)
		return
	}
	l.stale = l.dp.handover.sweep(now) || l.stale
	l.dp.handover.forget(l.addresses)
	withSets := now.Sub(l.setsAudited) > auditInterval/2
	if withSets {
		l.setsAudited = now
	}
	l.audit(now, withSets)
	l.wantPass = l.refresh(now) || l.wantPass
	if now.Sub(l.lookedAtHost) >= hostLook {
		l.lookAtHost(now)
		l.wantPass = l.dp.sampleSettings() || l.wantPass
	}
	if at, ok := l.dp.order.NextRetry(); ok && !now.Before(at) {
		l.wantPass = true
	}
	if l.failures > 0 && !now.Before(l.retryAt) {
		l.wantPass = true
	}
	if !l.trimAt.IsZero() && now.After(l.trimAt) {
		l.trimAt = time.Time{}
		go trim() // a whole collection, for which no change has to wait
	}
	if why := l.left(); why != l.leftovers {
		l.leftovers, l.stale = why, true
	}
	if why := l.unreported.get(); why != l.writeFault {
		l.writeFault, l.stale = why, true
	}
	if why := l.unlocated.get(); why != l.placeFault {
		l.placeFault, l.stale = why, true
	}
	if l.stale {
		l.stale = false
		l.state.Problems = l.problems()
		l.post()
	}
}

// refresh has everything of one kind read again when its interval is over.
func (l *loop) refresh(now time.Time) (due bool) {
	chains := l.cfg.IptablesRefreshInterval
	if l.dp.backend.Variant == iptables.NFT {
		// The generation of nf_tables shows every write; there is nothing to add to that.
		chains = 0
	}
	for _, r := range []struct {
		name     string
		interval time.Duration
		resync   func()
	}{
		{"chains", chains, l.dp.chains.Resync},
		{"sets", l.cfg.IpsetsRefreshInterval, func() { l.dp.sets.Resync(); l.dp.members.Resync() }},
		{"routes", l.cfg.RouteRefreshInterval, l.dp.resyncRoutes},
		{"settings", settingsRefresh * l.cfg.RouteRefreshInterval, l.dp.sysctls.Resync},
	} {
		last, known := l.refreshed[r.name]
		if !known {
			l.refreshed[r.name] = now
			continue
		}
		if r.interval > 0 && now.Sub(last) >= r.interval {
			l.refreshed[r.name] = now
			r.resync()
			due = true
		}
	}
	return due
}
