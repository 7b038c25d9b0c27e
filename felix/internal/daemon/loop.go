package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"calico.internal/felix/internal/calc"
	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/felix/internal/sysctls"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/store"
	"calico.internal/libcalico/version"
)

// How often the loop looks after what nobody tells it about.
const (
	// auditInterval is for the fingerprints of tables of chains, which cost microseconds.
	auditInterval = 250 * time.Millisecond
	// setAuditEvery is the number of audits after which the headers of sets are compared.
	setAuditEvery = 3
	// drainBatches bounds the batches that are taken in before the kernel is written.
	drainBatches = 256
	// failureDelay is the wait after a pass that failed as a whole, and maxFailureDelay
	// what it grows to.
	failureDelay    = 100 * time.Millisecond
	maxFailureDelay = 10 * time.Second
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

	cfg     *config.Config
	sources config.Sources
	view    *store.View
	engine  *calc.Engine
	// fed is set once the engine has been given anything.
	fed   bool
	links *ifmonitor.Links
	// haveLinks is set once the interfaces have been listed.
	haveLinks bool
	dp        *dataplane

	state statusapi.State
	// configFault says why the configuration of the datastore is not in force.
	configFault string
	quarantined bool
	// stale is set when problems have to be collected again.
	stale bool
	// owners are addresses of other hosts' endpoints that the dataplane has not been told.
	owners     map[netip.Addr]struct{}
	gateways   gateways
	lookAtAll  bool
	failures   int
	retryAt    time.Time
	audits     int
	refreshed  map[string]time.Time
	wantPass   bool
	passedOnce bool
}

func newLoop(d *Daemon, cfg *config.Config) *loop {
	l := &loop{
		log: d.log, board: d.board, metrics: d.metrics, node: d.cfg.Node, level: d.cfg.Level, beat: d.beat, live: d.live,
		cfg: cfg, sources: config.Sources{Environment: d.cfg.Environment, File: d.cfg.File},
		view:      store.New(store.Options{Filter: wanted(d.cfg.Node), KeepLastGood: true}),
		engine:    calc.New(d.cfg.Node, cfg.InterfacePrefix...),
		links:     ifmonitor.NewLinks(),
		refreshed: map[string]time.Time{}, owners: map[netip.Addr]struct{}{},
		gateways: gateways{byKey: map[model.WorkloadEndpointKey]netip.Addr{}},
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
	ticker := time.NewTicker(auditInterval)
	defer ticker.Stop()
	defer func() {
		if l.dp != nil {
			l.dp.close()
		}
	}()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case b, ok := <-batches:
			if !ok {
				return nil
			}
			err = l.takeBatches(b, batches)
		case e := <-events:
			l.takeEvent(e)
		case now := <-ticker.C:
			l.tick(now)
		}
		if err == nil {
			err = l.work(ctx)
		}
		if err != nil {
			return err
		}
		l.beat.tick()
	}
}

// takeBatches takes over a batch of the store, and those that wait behind it.
func (l *loop) takeBatches(b store.Batch, more <-chan store.Batch) error {
	for range drainBatches {
		if err := l.takeBatch(b); err != nil {
			return err
		}
		select {
		case next, ok := <-more:
			if !ok {
				return nil
			}
			b = next
		default:
			return nil
		}
	}
	return nil
}

func (l *loop) takeBatch(b store.Batch) error {
	if b.Err != nil {
		l.log.Warn("etcd cannot be reached; what is in force stays so, and the connection is tried again", logattr.Err, b.Err)
	}
	events := l.view.Apply(b)
	if reconnected := l.view.Connected() && !l.state.Connected; reconnected {
		l.log.Info("etcd answers", logattr.Rev, l.view.Revision())
	}
	if l.sources.Apply(l.node, events) {
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
	if l.dp != nil {
		maps.Copy(l.dp.handover.suspect, l.owners)
		clear(l.owners)
		if l.gateways.takeChanged() {
			l.dp.setGateways(l.gateways.byKey)
			l.wantPass = true
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
		l.quarantined = len(list) > 0
	}
}

// reconfigure follows the parameters of the datastore.
func (l *loop) reconfigure() error {
	result, err := config.Resolve(l.sources)
	if err != nil {
		l.configFault = err.Error()
		l.log.Error("the configuration in the datastore is not usable; the last usable one stays in force", logattr.Err, err)
		if l.dp != nil {
			return nil
		}
	} else {
		l.configFault = ""
	}
	next := result.Config
	next.FelixHostname = l.cfg.FelixHostname
	changed := config.Diff(l.cfg, &next)
	if len(changed) == 0 {
		return nil
	}
	for _, w := range result.Warnings {
		l.log.Warn("configuration: " + w)
	}
	if name := needsRestart(changed); name != "" && l.fed {
		l.log.Info("a parameter changed that is read at start only; starting again, while everything stays in force", "parameter", name)
		return errRestart
	}
	l.log.Info("configuration changed", "parameters", strings.Join(changed, ","))
	l.cfg = &next
	l.live.set(&next)
	setLevel(l.level, next.LogSeverityScreen)
	if !l.fed {
		l.engine = calc.New(l.node, next.InterfacePrefix...)
	}
	if l.dp == nil {
		return nil
	}
	l.wantPass = true
	if err := l.dp.configure(&next); err != nil {
		l.configFault = err.Error()
		l.log.Error("the configuration in the datastore is not usable; the last usable one stays in force", logattr.Err, err)
	}
	return nil
}

// takeEvent follows the host's interfaces, and has repaired what others changed on them.
func (l *loop) takeEvent(e ifmonitor.Event) {
	changed := l.links.Apply(e)
	l.haveLinks = l.haveLinks || e.Snapshot
	if l.dp == nil {
		return
	}
	if l.dp.interfacesChanged(e, changed) {
		l.wantPass = true
	}
}

// tick does what is due by time.
func (l *loop) tick(now time.Time) {
	if l.dp == nil {
		return
	}
	l.dp.handover.sweep()
	l.audits++
	drifted, err := l.dp.audit(l.audits%setAuditEvery == 0)
	if err != nil {
		l.log.Error("audit", logattr.Err, err)
	}
	if len(drifted) > 0 {
		l.log.Info("changed by another program; reading again", "tables", strings.Join(drifted, ", "))
	}
	l.wantPass = l.wantPass || len(drifted) > 0 || l.refresh(now)
	if at, ok := l.dp.order.NextRetry(); ok && !now.Before(at) {
		l.wantPass = true
	}
	if l.failures > 0 && !now.Before(l.retryAt) {
		l.wantPass = true
	}
	if l.stale {
		l.stale = false
		l.state.Problems = l.problems()
		l.post()
	}
}

// refresh has everything of one kind read again when its interval is over.
func (l *loop) refresh(now time.Time) (due bool) {
	for _, r := range []struct {
		name     string
		interval time.Duration
		resync   func()
	}{
		{"chains", l.cfg.IptablesRefreshInterval, l.dp.chains.Resync},
		{"sets", l.cfg.IpsetsRefreshInterval, func() { l.dp.sets.Resync(); l.dp.members.Resync() }},
		{"routes", l.cfg.RouteRefreshInterval, l.dp.resyncRoutes},
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

// work brings the kernel to the present desired state, if it may be touched, and posts
// what came of it.
func (l *loop) work(ctx context.Context) error {
	if !l.mayTouch() {
		if l.view.Connected() != l.state.Connected || l.view.Revision() != l.state.Seen {
			l.post()
		}
		return nil
	}
	if l.dp == nil {
		dp, err := newDataplane(ctx, l.log, l.cfg, l.links)
		if err != nil {
			return err
		}
		l.dp, l.wantPass = dp, true
		l.state.Dataplane = dp.backend.String()
		l.takeAddresses(nil)
	}
	changes := l.engine.Flush()
	if !changes.IsEmpty() {
		l.dp.update(changes)
		l.wantPass, l.stale = true, true
	}
	if !l.wantPass && l.failures == 0 {
		if l.view.Revision() != l.state.Seen || l.view.Connected() != l.state.Connected {
			// Nothing of it concerns this host.
			l.state.Revision = l.view.Revision()
			l.post()
		}
		return nil
	}
	if l.failures > 0 && time.Now().Before(l.retryAt) {
		return nil
	}
	l.pass(ctx)
	return nil
}

// mayTouch says whether the kernel may be touched: not before the whole store and all
// interfaces are known, and not while the store says that it is not set up.
func (l *loop) mayTouch() bool {
	if !l.view.InSync() || !l.haveLinks {
		return false
	}
	ready, known := l.view.Get(model.ReadyKey{})
	if r, ok := ready.(*model.Ready); known && ok && !bool(*r) {
		l.log.Warn("the datastore says that it is not ready (/calico/v1/Ready is false); waiting")
		return false
	}
	return true
}

func (l *loop) pass(ctx context.Context) {
	start := time.Now()
	l.wantPass = false
	err := l.dp.pass(ctx)
	took := time.Since(start)
	l.metrics.pass(took, err)
	if ctx.Err() != nil {
		return
	}
	l.logPass(took)
	whole := err != nil && !reconcile.IsPartial(err)
	if err != nil {
		l.log.Error("not all could be programmed", logattr.Err, err)
		l.stale, l.lookAtAll = true, true
	}
	if whole {
		delay := min(failureDelay<<min(l.failures, 16), maxFailureDelay)
		l.failures++
		l.retryAt = time.Now().Add(delay)
		l.state.Fault = err.Error()
	} else {
		l.lookAtAll = l.lookAtAll || l.state.Fault != ""
		l.failures, l.state.Fault = 0, ""
		l.state.Revision = l.view.Revision()
		if !l.passedOnce {
			l.passedOnce, l.state.InSync = true, true
			l.log.Info("in sync", logattr.Rev, l.state.Revision, logattr.Took, took, logattr.Endpoints, len(l.dp.workloads.byKey))
			// The start needs much more memory than what follows.
			debug.FreeOSMemory()
			l.sweep(ctx)
		}
	}
	l.post()
}

// sweep removes left-overs in the other variant of iptables, once, beside the loop.
func (l *loop) sweep(ctx context.Context) {
	inUse, families := l.dp.backend.Variant, l.dp.families
	go func() {
		err := sweepOtherVariant(ctx, inUse, families, func(format string, args ...any) {
			l.log.Info("swept", "what", fmt.Sprintf(format, args...))
		})
		if err != nil && ctx.Err() == nil {
			l.log.Warn("left-overs in the other variant of iptables", logattr.Err, err)
		}
	}()
}

// logPass writes one line about what a pass changed. A pass that only changed members of
// sets, of which there can be very many, is worth no line.
func (l *loop) logPass(took time.Duration) {
	level := slog.LevelDebug
	args := []any{logattr.Took, took.Round(10 * time.Microsecond)}
	for _, s := range l.dp.order.Status() {
		var done []any
		if s.Pass.Set > 0 {
			done = append(done, logattr.Set, s.Pass.Set)
		}
		if s.Pass.Deleted > 0 {
			done = append(done, logattr.Deleted, s.Pass.Deleted)
		}
		if len(done) == 0 {
			continue
		}
		if s.Name != l.dp.members.Name() {
			level = slog.LevelInfo
		}
		args = append(args, slog.Group(s.Name, done...))
	}
	if len(args) > 2 {
		l.log.Log(context.Background(), level, "applied", args...)
	}
}

// post publishes the present state. Problems are collected by the ticker, because to
// look at all objects takes long where there are many.
func (l *loop) post() {
	l.state.Connected, l.state.Seen = l.view.Connected(), l.view.Revision()
	if l.dp != nil {
		l.state.Tables = l.dp.statuses()
		l.lookAtEndpoints()
	}
	next := l.state
	l.board.Post(&next)
	l.metrics.state(&next, l.dp)
}

// lookAtEndpoints renews the states of the endpoints that may have changed.
func (l *loop) lookAtEndpoints() {
	w := l.dp.workloads
	faults := l.dp.filterFaults()
	all := faults != nil || l.lookAtAll
	l.lookAtAll = faults != nil
	if !all && len(w.dirty) == 0 {
		return
	}
	endpoints := maps.Clone(l.state.Endpoints)
	if all {
		for key := range w.byKey {
			w.dirty[key] = struct{}{}
		}
	}
	for key := range w.dirty {
		one := w.byKey[key]
		if one == nil {
			delete(endpoints, key)
			delete(w.dirty, key)
			continue
		}
		now := w.state(one, faults)
		if old, known := endpoints[key]; (!known || old.Why != now.Why) && now.Why == "" {
			l.log.Info("endpoint in force", logattr.Endpoint, key.String(), logattr.Iface, now.Interface)
		}
		endpoints[key] = now
		if now.InForce() {
			delete(w.dirty, key)
		}
	}
	l.state.Endpoints = endpoints
}

// problems lists what is not as written in the store, or not in the kernel.
func (l *loop) problems() []statusapi.Problem {
	var out []statusapi.Problem
	if l.configFault != "" {
		out = append(out, statusapi.Problem{Object: "configuration", Reason: l.configFault})
	}
	for _, p := range l.engine.Problems() {
		out = append(out, statusapi.Problem{Object: p.Key.String(), Reason: p.Reason})
	}
	for _, q := range l.view.Quarantined() {
		if q.Key == nil {
			out = append(out, statusapi.Problem{Object: q.Path, Reason: q.Err.Error()})
		}
	}
	if l.dp == nil {
		return out
	}
	for k, err := range l.dp.filters.unprintable {
		out = append(out, statusapi.Problem{Object: "chain " + k.Name, Reason: err.Error() + "; it drops"})
	}
	for k, set := range l.dp.filters.closedBySet() {
		out = append(out, statusapi.Problem{Object: "chain " + k.Name, Reason: "it drops, because set " + set + " is not as wanted: " + l.dp.filters.broken[set]})
	}
	for _, t := range l.state.Tables {
		for _, f := range t.Failed {
			out = append(out, statusapi.Problem{Object: t.Name + ": " + f.Key, Reason: f.Err.Error()})
		}
	}
	if value, err := l.dp.settings.Read(sysctls.RPFilterAll); err == nil && value != "0" {
		out = append(out, statusapi.Problem{
			Object: "setting " + string(sysctls.RPFilterAll),
			Reason: "is " + value + ": the kernel checks sources on all interfaces by its own routes too, which drops packets of containers with several networks; 0 is enough where felix runs",
		})
	}
	return out
}

// errRestart asks for a new start within the process.
var errRestart = errors.New("restart")

// needsRestart names a changed parameter that is read only at start; empty when there is
// none.
func needsRestart(changed []string) string {
	live := map[string]bool{
		"ChainInsertMode": true, "DefaultEndpointToHostAction": true, "IptablesFilterAllowAction": true,
		"IptablesMangleAllowAction": true, "IptablesFilterDenyAction": true, "IptablesMarkMask": true,
		"DisableConntrackInvalidCheck": true, "IptablesRefreshInterval": true, "IptablesPostWriteCheckIntervalSecs": true,
		"IpsetsRefreshInterval": true, "RouteRefreshInterval": true, "MaxIpsetSize": true, "DeviceRouteProtocol": true,
		"RemoveExternalRoutes": true, "FailsafeInboundHostPorts": true, "FailsafeOutboundHostPorts": true,
		"LogPrefix": true, "LogSeverityScreen": true, "NetlinkTimeoutSecs": true,
		"ReportingIntervalSecs": true, "ReportingTTLSecs": true, "EndpointReportingEnabled": true, "EndpointReportingDelaySecs": true,
		"HealthEnabled": true, "HealthHost": true, "HealthPort": true,
		"PrometheusMetricsEnabled": true, "PrometheusMetricsHost": true, "PrometheusMetricsPort": true,
	}
	for _, name := range changed {
		if !live[name] {
			return name
		}
	}
	return ""
}

// setLevel sets the log's level; an empty name lets only errors pass.
func setLevel(level *slog.LevelVar, name string) {
	if level == nil {
		return
	}
	if name == "" {
		name = "none"
	}
	if parsed, err := logattr.ParseLevel(name); err == nil {
		level.Set(parsed)
	}
}
