package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
)

// work brings the kernel to the present desired state, if it may be touched, and posts
// what came of it.
func (l *loop) work(ctx context.Context) error {
	if !l.mayTouch() {
		if l.news() {
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
		l.waiting.end()
		l.stale = l.stale || len(l.waiting.problems) > 0
		for _, s := range dp.order.Status() {
			l.metrics.table(s.Name)
		}
		l.state.Dataplane = dp.backend.String()
		l.dp.setControlPlane(*l.control)
		if err := l.adoptMasquerading(ctx); err != nil {
			return err
		}
	}
	if !l.locked() {
		l.flush()
	}
	if l.wantPass || l.failures > 0 && !time.Now().Before(l.retryAt) {
		l.pass(ctx)
		return nil
	}
	if l.news() {
		if l.failures == 0 { // nothing of it concerns this host
			l.state.Revision = l.flushed
		}
		l.post()
	}
	return nil
}

// mayTouch says whether the kernel may be touched: not before the whole store, all
// interfaces and the place of the control plane are known. What is wanted since then is kept
// up whatever becomes of the store.
func (l *loop) mayTouch() bool {
	return l.view.InSync() && l.haveLinks && l.control != nil && (l.dp != nil || !l.locked())
}

// news reports whether there is anything to tell of the store.
func (l *loop) news() bool {
	hold, held := l.hold()
	return l.view.Revision() != l.state.Seen || l.view.Connected() != l.state.Connected ||
		hold != l.state.Hold || held != l.state.Held
}

func (l *loop) pass(ctx context.Context) {
	start := time.Now()
	l.wantPass = false
	// A change does not wait for the next try of what failed as a whole, but it does not
	// bring that forward either.
	early := l.failures > 0 && start.Before(l.retryAt)
	l.dp.held.hold = early
	err := l.dp.pass(ctx)
	took := time.Since(start)
	l.metrics.pass(took, err)
	if ctx.Err() != nil {
		return
	}
	if fresh, changed := l.dp.chains.news(); changed {
		for _, p := range fresh {
			l.log.Warn("a table of iptables is not as it should be", "table", p.Object, "why", p.Reason)
		}
		l.stale, l.lookAtAll = true, true
	}
	whole := err != nil && !reconcile.IsPartial(err)
	if !whole { // otherwise tables would tell of their last pass
		if l.logPass(ctx, took) >= manyObjects {
			l.trimSoon()
		}
	}
	known := err != nil && err.Error() == l.state.Fault // of which the status goes on to tell
	quiet := whole && (early || known || l.lockedBriefly(err))
	if err != nil && !quiet {
		l.log.Error("not all could be programmed", logattr.Err, err)
		l.stale, l.lookAtAll = true, true
	}
	switch {
	case whole && early:
	case whole:
		l.putOff(ctx, err)
	default:
		l.lookAtAll = l.lookAtAll || l.state.Fault != ""
		l.failures, l.state.Fault = 0, ""
		l.state.Revision = l.flushed
		if !l.passedOnce {
			l.passedOnce, l.state.InSync = true, true
			l.trimSoon()
			l.log.Info("in sync", logattr.Rev, l.state.Revision, logattr.Took, took, logattr.Endpoints, len(l.dp.workloads.byKey))
			l.listen(ctx)
		}
		l.sweep(ctx)
	}
	l.post()
}

// putOff notes a pass that failed as a whole and when the next one is due.
func (l *loop) putOff(ctx context.Context, err error) {
	limit := maxFailureDelay
	if iptables.IsBusy(err) || l.dp.held.fault == nil {
		limit = maxBusyDelay
	}
	delay := min(failureDelay<<min(l.failures, 16), limit)
	if !l.lockedBriefly(err) {
		l.state.Fault = err.Error()
	}
	if l.failures == 0 {
		l.failing = time.Now()
	}
	l.failures++
	l.retryAt = time.Now().Add(delay)
	if iptables.IsLocked(err) && !l.awaiting {
		l.awaiting = true
		go func() {
			iptables.AwaitLock(ctx)
			l.unlocked <- struct{}{} // there is room for the one that waits
		}()
	}
}

// lockedBriefly says of the error of a pass that it is only about the lock of iptables, which
// other programs hold for some milliseconds now and then.
func (l *loop) lockedBriefly(err error) bool {
	return iptables.IsLocked(err) && (l.failures == 0 || time.Since(l.failing) < maxBusyDelay)
}

// trimSoon has memory given back a while from now. More large passes until then do not put
// that off.
func (l *loop) trimSoon() {
	if l.trimAt.IsZero() {
		l.trimAt = time.Now().Add(trimDelay)
	}
}

// listen has writes of others to nf_tables be repaired at once; where it cannot, or in the
// legacy variant, the audit finds them.
func (l *loop) listen(ctx context.Context) {
	var err error
	if l.writes, err = l.dp.iptables.Writes(ctx); err != nil {
		l.log.Warn("what others write to nf_tables is found a little later", logattr.Err, err)
	}
}

// sweep removes left-overs in the other variant of iptables and of families that are not
// handled any more, beside the loop. What is left there of a family stays until the family is
// filtered here.
func (l *loop) sweep(ctx context.Context) {
	if len(l.swept) == len(l.dp.families)+len(l.dp.dropped) {
		return
	}
	say := func(format string, args ...any) { l.log.Info("swept", "what", fmt.Sprintf(format, args...)) }
	var families []rules.Family
	for _, f := range l.dp.families {
		if !l.swept[f] && l.dp.chains.blocked(f) == nil {
			families = append(families, f)
		}
	}
	inUse, dropped := l.dp.backend.Variant, l.dp.dropped
	l.sweepUp(ctx, families, func() error { return sweepOtherVariant(ctx, inUse, families, say) })
	if len(dropped) > 0 && !l.swept[dropped[0]] {
		l.sweepUp(ctx, dropped, func() error { return sweepFamilies(ctx, dropped, say) })
	}
}

func (l *loop) sweepUp(ctx context.Context, families []rules.Family, sweep func() error) {
	if len(families) == 0 {
		return
	}
	for _, f := range families {
		l.swept[f] = true
	}
	s := &sweeper{}
	l.sweepers = append(l.sweepers, s)
	go s.run(ctx, sweep, func(err error) {
		l.log.Warn("left-overs of an earlier felix in iptables; felix goes on trying to remove them", logattr.Err, err)
	})
}

// left says what could not be removed yet of what an earlier felix left; empty when nothing is
// known to be there.
func (l *loop) left() string {
	var all []string
	for _, s := range l.sweepers {
		if why := s.left(); why != "" {
			all = append(all, why)
		}
	}
	return strings.Join(all, "; ")
}

// logPass writes one line about what a pass changed. A pass that only changed members of
// sets, of which there can be very many, is worth no line. It returns the number of objects
// that changed.
func (l *loop) logPass(ctx context.Context, took time.Duration) (changes int) {
	level := slog.LevelDebug
	args := []any{logattr.Took, took.Round(10 * time.Microsecond)}
	for _, s := range l.dp.order.Status() {
		var done []any
		changes += s.Pass.Set + s.Pass.Deleted
		l.metrics.changed(s.Name, s.Pass.Set, s.Pass.Deleted)
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
		l.log.Log(ctx, level, "applied", args...)
	}
	return changes
}

// post publishes the present state. Problems are collected by the ticker, because to
// look at all objects takes long where there are many.
func (l *loop) post() {
	l.state.Connected, l.state.Seen = l.view.Connected(), l.view.Revision()
	l.state.Hold, l.state.Held = l.hold()
	l.state.Degraded = l.degraded()
	if l.dp != nil {
		tables := l.dp.statuses()
		l.stale = l.stale || failures(tables) != failures(l.state.Tables)
		l.state.Tables = tables
		l.lookAtEndpoints()
		l.state.NotInForce = len(l.dp.workloads.dirty)
		l.state.Policies, l.state.Profiles = len(l.dp.policies), len(l.dp.profiles)
	}
	if l.lookAtRefused {
		l.lookAtRefused = false
		l.state.Refused = l.refused(l.engine.Problems())
	}
	next := l.state
	l.board.Post(&next)
}

// degraded says what keeps felix from doing all of its work: policies that are not in force
// and families that cannot be filtered. It is empty when nothing does.
func (l *loop) degraded() string {
	policies := l.notInForce()
	if l.dp == nil {
		return policies
	}
	families := l.dp.chains.unfiltered()
	if policies == "" || families == "" {
		return policies + families
	}
	return policies + "; " + families
}

// refused says of the endpoints of this host that are not as written in the store why: their
// values cannot be used, though an older one may be in force, or another endpoint has what
// they claim.
func (l *loop) refused(problems []desired.Problem) map[model.WorkloadEndpointKey]string {
	unusable := map[model.Key]bool{}
	for _, q := range l.view.Quarantined() {
		unusable[q.Key] = true
	}
	out := map[model.WorkloadEndpointKey]string{}
	for _, p := range problems {
		k, ok := p.Key.(model.WorkloadEndpointKey)
		if !ok || k.Node != l.node || !unusable[k] && l.dp != nil && l.dp.workloads.byKey[k] != nil {
			continue
		}
		if out[k] != "" {
			out[k] += "; "
		}
		out[k] += p.Reason
	}
	return out
}

// failures counts the objects that are at fault.
func failures(tables []reconcile.Status) (n int) {
	for _, t := range tables {
		n += len(t.Failed)
	}
	return n
}

// lookAtEndpoints renews the states of the endpoints that may have changed.
func (l *loop) lookAtEndpoints() {
	w := l.dp.workloads
	faults := l.dp.filterFaults()
	all := l.lookAtAll || !faults.equal(l.faults)
	l.lookAtAll, l.faults = false, faults
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
	if l.writeFault != "" {
		out = append(out, statusapi.Problem{Object: "etcd", Reason: "the status of this host cannot be written: " + l.writeFault})
	}
	if l.placeFault != "" {
		out = append(out, statusapi.Problem{
			Object: "control plane",
			Reason: "not all of it can be located, and workloads may reach what is missing; felix goes on trying: " + l.placeFault,
		})
	}
	out = append(out, keptProblems(l.view)...)
	calculated := l.engine.Problems()
	l.state.Refused = l.refused(calculated)
	for _, p := range calculated {
		out = append(out, statusapi.Problem{Object: p.Key.String(), Reason: p.Reason})
	}
	for _, q := range l.view.Quarantined() {
		if q.Key == nil {
			out = append(out, statusapi.Problem{Object: q.Path, Reason: q.Err.Error()})
		}
	}
	if l.dp == nil {
		return append(out, l.waiting.problems...)
	}
	for k, err := range l.dp.filters.unprintable {
		out = append(out, statusapi.Problem{Object: "chain " + k.Name, Reason: err.Error() + "; until that is mended " + instead(k.Table)})
	}
	for k, set := range l.dp.filters.closed {
		out = append(out, statusapi.Problem{Object: "chain " + k.Name, Reason: instead(k.Table) + ", because set " + set + " is not as wanted: " + l.dp.filters.broken[set]})
	}
	for _, t := range l.state.Tables {
		for _, f := range t.Failed {
			out = append(out, statusapi.Problem{Object: t.Name + ": " + f.Key, Reason: f.Err.Error()})
		}
	}
	out = append(out, l.dp.chains.problems()...)
	if l.leftovers != "" {
		out = append(out, statusapi.Problem{
			Object: "rules of an earlier felix",
			Reason: "they are still in force in the other variant of iptables, or for IPv6, which is not handled any more, and drop packets of containers that they do not know; " +
				"felix goes on trying to remove them: " + l.leftovers,
		})
	}
	out = append(out, l.dp.unboundHosts()...)
	out = append(out, l.dp.handover.problems()...)
	return append(out, l.dp.host.problems...)
}

// instead says what the stand-in of a chain does.
func instead(t rules.Table) string {
	if t == rules.NAT {
		return "it translates nothing"
	}
	return "it drops"
}
