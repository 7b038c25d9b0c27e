package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/reconcile"
)

// pipeline is the three tables as one, in the order that their objects need: a block's
// blackhole before its advert, its withdrawal before the blackhole goes, and all adverts
// before a session that would send them. It is no [reconcile.Ordered], because a peer
// that cannot be had must not hold up the removal of routes.
type pipeline struct {
	// open says that BGP was started; before, nothing is written.
	open bool
	// applied says that the latest pass had no failure as a whole.
	applied bool

	routes  *reconcile.Table[netip.Prefix, calc.Route]
	adverts *reconcile.Table[netip.Prefix, calc.Advert]
	peers   *reconcile.Table[netip.Addr, calc.Peer]
	// speaking reports whether there is a BGP server for adverts and peers.
	speaking func() bool
	// wanted are the adverts that are wanted once their blackhole stands.
	wanted map[netip.Prefix]calc.Advert
	// reported is the latest pass of each table that was logged.
	reported map[string]time.Time
}

var _ reconcile.Reconciler = (*pipeline)(nil)

func equal[T comparable](a, b T) bool { return a == b }

// targets are the edges behind the tables.
type targets struct {
	routes   reconcile.Target[netip.Prefix, calc.Route]
	adverts  reconcile.Target[netip.Prefix, calc.Advert]
	peers    reconcile.Target[netip.Addr, calc.Peer]
	speaking func() bool
}

// connect makes the tables.
func (p *pipeline) connect(t targets) {
	p.speaking = t.speaking
	p.wanted = map[netip.Prefix]calc.Advert{}
	p.reported = map[string]time.Time{}
	p.routes = reconcile.NewTable(t.routes, reconcile.Options[netip.Prefix, calc.Route]{
		Name: "routes", Compare: netip.Prefix.Compare, Equal: calc.Route.Equal,
	})
	p.adverts = reconcile.NewTable(t.adverts, reconcile.Options[netip.Prefix, calc.Advert]{
		Name: "adverts", Compare: netip.Prefix.Compare, Equal: equal[calc.Advert],
	})
	p.peers = reconcile.NewTable(t.peers, reconcile.Options[netip.Addr, calc.Peer]{
		Name: "peers", Compare: netip.Addr.Compare, Equal: equal[calc.Peer],
	})
}

// take gives the tables what changed.
func (p *pipeline) take(c calc.Changes) {
	for _, ch := range c.Routes {
		if ch.Delete {
			p.routes.Delete(ch.Key)
		} else {
			p.routes.Set(ch.Key, ch.Value)
		}
	}
	for _, ch := range c.Peers {
		if ch.Delete {
			p.peers.Delete(ch.Key)
		} else {
			p.peers.Set(ch.Key, ch.Value)
		}
	}
	for _, ch := range c.Adverts {
		if ch.Delete {
			delete(p.wanted, ch.Key)
			p.adverts.Delete(ch.Key)
		} else {
			p.wanted[ch.Key] = ch.Value
		}
	}
}

// restarted says that GoBGP has nothing any more.
func (p *pipeline) restarted() {
	p.adverts.Resync()
	p.peers.Resync()
}

// Name implements [reconcile.Reconciler].
func (p *pipeline) Name() string { return "bgpd" }

// Apply makes one pass over all tables.
func (p *pipeline) Apply(ctx context.Context) error {
	if !p.open {
		return nil
	}
	sets := p.routes.ApplySets(ctx)
	p.applied = sets == nil || reconcile.IsPartial(sets)
	if !p.applied {
		return sets
	}
	var bgp error
	if p.speaking() {
		p.permit()
		bgp = p.adverts.Apply(ctx)
	}
	deletes := p.routes.ApplyDeletes(ctx)
	if p.speaking() {
		bgp = errors.Join(bgp, p.peers.Apply(ctx))
	}
	err := errors.Join(sets, bgp, deletes)
	p.applied = err == nil || reconcile.IsPartial(err)
	return err
}

// permit lets those blocks be advertised whose blackholes stand: without one, packets to
// a free address would leave this host again.
func (p *pipeline) permit() {
	for prefix, a := range p.wanted {
		if prefix.IsSingleIP() || p.routes.InForce(prefix) {
			p.adverts.Set(prefix, a)
		} else {
			p.adverts.Delete(prefix)
		}
	}
}

// ApplySets implements [reconcile.Reconciler]; a pass is always a whole one.
func (p *pipeline) ApplySets(ctx context.Context) error { return p.Apply(ctx) }

// ApplyDeletes implements [reconcile.Reconciler].
func (p *pipeline) ApplyDeletes(context.Context) error { return nil }

func (p *pipeline) tables() []reconcile.Reconciler {
	if p.routes == nil {
		return nil
	}
	return []reconcile.Reconciler{p.routes, p.adverts, p.peers}
}

// Resync has all tables listed again.
func (p *pipeline) Resync() {
	for _, t := range p.tables() {
		t.Resync()
	}
}

// Status is that of the table that has most to do with the kernel.
func (p *pipeline) Status() reconcile.Status {
	if p.routes == nil {
		return reconcile.Status{Name: p.Name()}
	}
	return p.routes.Status()
}

// Outstanding implements [reconcile.Reconciler].
func (p *pipeline) Outstanding() bool {
	for _, t := range p.tables() {
		if t.Outstanding() {
			return true
		}
	}
	return false
}

// NextRetry is when the first object that failed is due again.
func (p *pipeline) NextRetry() (at time.Time, ok bool) {
	if !p.open {
		return time.Time{}, false
	}
	for _, t := range p.tables() {
		if a, has := t.NextRetry(); has && (!ok || a.Before(at)) {
			at, ok = a, true
		}
	}
	return at, ok
}

// report logs one line for each table that a pass changed.
func (p *pipeline) report(log *slog.Logger) {
	if !p.open {
		return
	}
	for _, t := range p.tables() {
		pass := t.Status().Pass
		if p.reported[t.Name()].Equal(pass.At) {
			continue
		}
		p.reported[t.Name()] = pass.At
		if pass.Set+pass.Deleted > 0 {
			log.Info("applied", logattr.Table, t.Name(), logattr.Set, pass.Set, logattr.Deleted, pass.Deleted, logattr.Took, pass.Took.Round(10*time.Microsecond))
		}
	}
}
