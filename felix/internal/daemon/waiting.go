package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/iptables"
	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/reconcile"
)

// waiting looks after the host while felix does not know what is wanted there, because the
// store has been away, locked or another one since felix started. What is in force is kept as
// it is. Where the rules were taken away though packets are routed to workloads, which then
// nothing filters, it closes workloads off ([rules.Renderer.Closing]). The first pass puts the
// rules that are wanted in that place. Where packets do not meet the rules, as another program
// has made the chain or table of that name, it stops them as a pass does ([iptables.Targets.Shut]).
//
// The rules may stand in either variant of iptables: which one is configured is known no
// sooner than the store is.
type waiting struct {
	log      *slog.Logger
	renderer *rules.Renderer
	families []rules.Family
	opened   []*iptables.Targets
	frames   []*frame
	// moved is set when interfaces, or routes to them, may be others than at the last look.
	moved bool
	// workloads says that there are interfaces of workloads.
	workloads bool
	// problems are those of the last look.
	problems []statusapi.Problem
	// failures counts the looks in a row that failed, and retryAt is when the next is due.
	failures int
	retryAt  time.Time
}

// frame are felix's chains of the filter table that the packets of workloads meet first, in
// one variant of iptables.
type frame struct {
	variant string
	family  rules.Family
	targets *iptables.Targets
	target  *iptables.Target
	// raw is the other table that filters. Of it only matters whether packets meet it.
	raw    *iptables.Target
	parts  []part
	listed bool
	// missing is what has to be written so that packets are filtered; empty when they are.
	missing []reconcile.Item[string, iptables.Chain]
	// closed says that workloads are closed off.
	closed bool
	// unhooked says why packets do not meet the rules, whatever these are.
	unhooked error
	// shut says that packets are stopped therefore, and reopened that nothing stops them.
	shut, reopened bool
}

// whole reports whether packets are filtered.
func (f *frame) whole() bool { return len(f.missing) == 0 && f.unhooked == nil }

// part is one chain of the frame, as it closes, and felix's rules in the kernel's chain from
// which one, known by its hash, leads to it.
type part struct {
	closing, hooks reconcile.Item[string, iptables.Chain]
	leads          string
}

// wait has what nobody filters closed while the kernel may not be touched otherwise.
func (l *loop) wait(ctx context.Context, now time.Time) {
	if l.haveLinks && !l.mayTouch() && l.waiting.look(ctx, now, l.cfg, l.links) {
		l.state.Problems = l.problems()
		l.post()
	}
}

// look closes off the workloads of families whose rules are gone, and reports whether the
// problems are others now. While nothing changes it costs a system call for each table.
func (w *waiting) look(ctx context.Context, now time.Time, cfg *config.Config, links *ifmonitor.Links) (changed bool) {
	if now.Before(w.retryAt) || !w.haveWorkloads(cfg, links) {
		return false
	}
	due, err := w.read(ctx, cfg)
	if due || w.moved || w.failures > 0 {
		err = errors.Join(err, w.close(ctx, cfg, links), w.reopen())
	}
	if ctx.Err() != nil {
		return false
	}
	w.moved = false
	w.putOff(now, err)
	problems := w.state(err)
	if slices.Equal(problems, w.problems) {
		return false
	}
	for _, p := range problems {
		if !slices.Contains(w.problems, p) {
			w.log.Warn("workloads without rules", "of", p.Object, "why", p.Reason)
		}
	}
	w.problems = problems
	return true
}

// haveWorkloads reports whether there are interfaces of workloads.
func (w *waiting) haveWorkloads(cfg *config.Config, links *ifmonitor.Links) bool {
	if w.moved {
		w.workloads = len(links.Names(func(name string) bool {
			return slices.ContainsFunc(cfg.InterfacePrefix, func(p string) bool { return strings.HasPrefix(name, p) })
		})) > 0
	}
	w.moved = w.moved && w.workloads
	return w.workloads
}

// putOff makes looks that fail rarer.
func (w *waiting) putOff(now time.Time, err error) {
	w.retryAt = time.Time{}
	if err == nil {
		w.failures = 0
		return
	}
	limit := maxFailureDelay
	if iptables.IsBusy(err) {
		limit = maxBusyDelay
	}
	w.retryAt = now.Add(min(failureDelay<<min(w.failures, 16), limit))
	w.failures++
}

// state says what of the host is closed, and what could not be.
func (w *waiting) state(err error) []statusapi.Problem {
	var out []statusapi.Problem
	for _, f := range w.families {
		if slices.ContainsFunc(w.frames, func(fr *frame) bool { return fr.family == f && fr.closed }) {
			out = append(out, statusapi.Problem{Object: fmt.Sprintf("IPv%d", f), Reason: "the rules were taken away while the datastore could not be followed: " +
				"workloads' new connections are dropped until it can be"})
		}
	}
	for _, fr := range w.frames {
		if fr.shut && fr.unhooked != nil {
			out = append(out, statusapi.Problem{Object: fmt.Sprintf("IPv%d", fr.family), Reason: fr.unhooked.Error() + untilThen})
		}
	}
	if err != nil {
		out = append(out, statusapi.Problem{Object: "workloads", Reason: "it is not known that their packets are filtered, and the datastore, which says how, cannot be followed: " + err.Error()})
	}
	return out
}

// read finds out what has become of the frames since the last look, and whether anything has.
func (w *waiting) read(ctx context.Context, cfg *config.Config) (changed bool, err error) {
	if w.frames == nil {
		if err := w.open(ctx, cfg); err != nil {
			w.end()
			return false, err
		}
		w.moved = true
	}
	var errs []error
	for _, f := range w.frames {
		c, err := f.look(ctx)
		changed = changed || c
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// open connects to the tables of the variants that are installed.
func (w *waiting) open(ctx context.Context, cfg *config.Config) (err error) {
	if w.renderer, err = rules.NewRenderer(cfg.Rules()); err != nil {
		return err
	}
	w.families = []rules.Family{rules.V4}
	if _, err := os.Stat(ipv6Settings); err == nil && cfg.IPv6Support {
		w.families = rules.Families[:]
	}
	for _, variant := range []string{iptables.Legacy, iptables.NFT} {
		backend, err := iptables.Detect(ctx, variant)
		if err != nil {
			continue // it is not installed
		}
		targets, err := iptables.Open(backend, w.standIn)
		if err != nil {
			return err
		}
		targets.Woke = wokeIn(w.log)
		w.opened = append(w.opened, targets)
		for _, f := range w.families {
			if err := w.openFrame(&frame{variant: variant, family: f, targets: targets}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *waiting) openFrame(fr *frame) (err error) {
	if fr.target, err = fr.targets.Target(fr.family, rules.Filter); err != nil {
		return err
	}
	w.frames = append(w.frames, fr)
	if fr.variant == iptables.NFT {
		if fr.raw, err = fr.targets.Target(fr.family, rules.Raw); err != nil {
			return err
		}
	}
	if fr.parts, err = w.partsOf(fr.family); err != nil {
		return err
	}
	fr.take(nil)
	return nil
}

func (w *waiting) partsOf(f rules.Family) ([]part, error) {
	var out []part
	for _, c := range w.renderer.Closing(f) {
		closing, err := iptables.NewChain(f, c)
		if err != nil {
			return nil, err
		}
		for _, h := range w.renderer.Hooks() {
			if h.Table != c.Table || h.Rule.Action.Chain != c.Name || h.IfExists {
				continue
			}
			p := part{closing: item(c.Name, closing)}
			if p.leads, p.hooks, err = w.hooksIn(f, h); err != nil {
				return nil, err
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// hooksIn prints a hook, and all hooks in the chain in which it stands.
func (w *waiting) hooksIn(f rules.Family, h rules.Hook) (hash string, all reconcile.Item[string, iptables.Chain], err error) {
	one, err := iptables.NewHooks(f, []rules.Hook{h})
	if err != nil {
		return "", all, err
	}
	others := slices.DeleteFunc(w.renderer.Hooks(), func(o rules.Hook) bool { return o.ChainID != h.ChainID })
	hooks, err := iptables.NewHooks(f, others)
	return one.Rules[0].Hash, item(h.Name, hooks), err
}

func item(name string, c iptables.Chain) reconcile.Item[string, iptables.Chain] {
	return reconcile.Item[string, iptables.Chain]{Key: name, Value: c}
}

// standIn drops without regard to connections where the kernel refuses a chain.
func (w *waiting) standIn(f rules.Family, id rules.ChainID) iptables.Chain {
	c, err := iptables.NewChain(f, w.renderer.StandIn(id))
	if err != nil {
		w.log.Error("a chain that is at fault stays without a stand-in", "chain", id.Name, logattr.Err, err)
	}
	return c
}

// end leaves everything that is in the kernel.
func (w *waiting) end() {
	for _, f := range w.frames {
		f.target.Close()
		if f.raw != nil {
			f.raw.Close()
		}
	}
	for _, t := range w.opened {
		t.Close()
	}
	w.frames, w.opened = nil, nil
}

// close closes off the workloads of families that have routes and no frame.
func (w *waiting) close(ctx context.Context, cfg *config.Config, links *ifmonitor.Links) error {
	var open []rules.Family
	for _, f := range w.families {
		if !slices.ContainsFunc(w.frames, func(fr *frame) bool { return fr.family == f && fr.whole() }) {
			open = append(open, f)
		}
	}
	if len(open) == 0 {
		return nil
	}
	routed, err := routedFamilies(ctx, cfg, links)
	if err != nil {
		return err
	}
	open = slices.DeleteFunc(open, func(f rules.Family) bool { return !routed[f] })
	if len(open) == 0 {
		return nil
	}
	backend, err := iptables.Detect(ctx, cfg.IptablesBackend)
	if err != nil {
		return err
	}
	var errs []error
	for _, fr := range w.frames {
		if fr.variant == backend.Variant && slices.Contains(open, fr.family) {
			errs = append(errs, fr.close(ctx, w.renderer.Barrier(fr.family)))
		}
	}
	return errors.Join(errs...)
}

// reopen lets packets pass again that meet rules now. What stops them may be there from before
// felix's start.
func (w *waiting) reopen() error {
	var errs []error
	for _, fr := range w.frames {
		if fr.reopened || !fr.whole() {
			continue
		}
		err := fr.targets.Reopen(fr.family)
		fr.reopened = err == nil
		fr.shut = fr.shut && err != nil
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// routedFamilies are those of which packets are routed to workloads.
func routedFamilies(ctx context.Context, cfg *config.Config, links *ifmonitor.Links) (map[rules.Family]bool, error) {
	kernel, err := routes.Open(routes.Config{Prefixes: cfg.InterfacePrefix, RemoveExternal: true, IPv6: cfg.IPv6Support, Interfaces: links})
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	list, err := kernel.Routes().List(ctx)
	if err != nil {
		return nil, err
	}
	out := map[rules.Family]bool{}
	for k := range list {
		out[familyOf(k)] = true
	}
	return out, nil
}

// look reads the frame again when somebody has written to its table.
func (f *frame) look(ctx context.Context) (changed bool, err error) {
	if f.variant == iptables.Legacy && !slices.Contains(iptables.LegacyTables(f.family), string(rules.Filter)) {
		return false, nil // to ask would make the table
	}
	if f.listed {
		drifted, err := f.drifted()
		if err != nil || !drifted {
			return false, err
		}
	}
	return true, f.list(ctx)
}

// drifted reports whether somebody has written to the tables.
func (f *frame) drifted() (bool, error) {
	drifted, err := f.target.Drifted()
	if drifted || err != nil || f.raw == nil {
		return drifted, err
	}
	return f.raw.Drifted()
}

// list reads what the tables hold, and whether packets meet it.
func (f *frame) list(ctx context.Context) error {
	f.unhooked = nil
	have, err := f.target.List(ctx)
	if err == nil && f.raw != nil {
		_, err = f.raw.List(ctx)
	}
	if iptables.IsUnhooked(err) {
		f.unhooked, err = err, nil
	}
	f.listed = err == nil
	f.take(have)
	return err
}

// close has the packets of workloads stopped: by rules, or, where they meet none, before these.
func (f *frame) close(ctx context.Context, barrier []rules.Chain) error {
	if f.unhooked == nil {
		return f.write(ctx)
	}
	if err := f.targets.Shut(f.family, barrier); err != nil {
		return fmt.Errorf("%w; and packets of workloads could not be stopped instead: %w", f.unhooked, err)
	}
	f.shut, f.reopened = true, false
	return nil
}

// take compares what the table holds with what has to be there. A chain with any rules is
// one that filters: only the hook to it may have to be put back.
func (f *frame) take(have map[string]iptables.Chain) {
	f.missing, f.closed = nil, false
	for _, p := range f.parts {
		switch own := have[p.closing.Key]; {
		case len(own.Rules) == 0:
			f.missing = append(f.missing, p.closing)
		case iptables.Equal(p.closing.Value, own):
			f.closed = true
		}
		leads := func(r iptables.Rule) bool { return r.Hash == p.leads }
		if !slices.ContainsFunc(have[p.hooks.Key].Rules, leads) {
			f.missing = append(f.missing, p.hooks)
		}
	}
}

// write puts what is missing into the kernel.
func (f *frame) write(ctx context.Context) error {
	set := slices.Clone(f.missing)
	slices.SortFunc(set, func(a, b reconcile.Item[string, iptables.Chain]) int { return strings.Compare(a.Key, b.Key) })
	if err := f.target.Apply(ctx, reconcile.Changes[string, iptables.Chain]{Set: set}); err != nil {
		return err
	}
	return f.list(ctx)
}
