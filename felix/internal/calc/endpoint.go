package calc

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// endpoint is an endpoint of this host.
type endpoint struct {
	key    model.Key
	res    model.Resource // nil once deleted
	rev    int64
	given  *desired.Endpoint // as of the last flush
	faults []string
	// closed says that res stands in for a host endpoint that is not usable; anywhere that
	// nobody knows on which interface that is, and unlabelled that nobody knows its labels.
	closed, anywhere, unlabelled bool
}

// setEndpoint takes over an endpoint: as a source of addresses, and, when it is this
// host's, as one to guard.
func (e *Engine) setEndpoint(k model.Key, node string, ev store.Event) {
	e.setItem(k, ev.Value)
	if node != e.node {
		return
	}
	e.guard(endpoint{key: k, res: ev.Value, rev: ev.Revision})
}

// guard takes over an endpoint of this host; res is nil when there is none.
func (e *Engine) guard(now endpoint) {
	ep := e.endpoints[now.key]
	switch {
	case now.res == nil && ep == nil:
		return
	case ep == nil:
		ep = &endpoint{key: now.key}
		e.endpoints[now.key] = ep
	}
	e.claim(ep, false)
	ep.res, ep.rev = now.res, now.rev
	ep.closed, ep.anywhere, ep.unlabelled = now.closed, now.anywhere, now.unlabelled
	if ep.unlabelled {
		e.unlabelled[ep] = struct{}{}
	} else {
		delete(e.unlabelled, ep)
	}
	if ep.res == nil {
		e.local.deleteItem(ep.key)
	} else {
		e.claim(ep, true)
		e.local.setItem(ep.key, ep.res)
	}
	e.dirtyEndpoints[ep] = struct{}{}
}

// flushEndpoints recomputes the marked endpoints and adds those that came out different
// to the changes.
func (e *Engine) flushEndpoints(c *desired.Changes) {
	for ep := range e.dirtyEndpoints {
		e.flushEndpoint(c, ep)
	}
	clear(e.dirtyEndpoints)
}

func (e *Engine) flushEndpoint(c *desired.Changes, ep *endpoint) {
	old := ep.given
	ep.given = e.resolve(ep)
	if ep.res == nil {
		delete(e.endpoints, ep.key)
	}
	switch {
	case ep.given == nil && old == nil:
		return
	case ep.given == nil:
		c.EndpointsDeleted = append(c.EndpointsDeleted, ep.key)
	case reflect.DeepEqual(old, ep.given):
		return
	default:
		c.Endpoints = append(c.Endpoints, ep.given)
	}
	e.countUses(ep.given, +1)
	e.countUses(old, -1)
}

// countUses counts an endpoint's uses of policies and profiles up or down, and marks those
// whose first use that is, or last. To count up before down spares those that stay.
func (e *Engine) countUses(d *desired.Endpoint, by int) {
	if d == nil {
		return
	}
	for _, name := range d.Profiles {
		p := e.profile(name)
		if count(&p.refs, by) {
			e.dirtyProfiles[p] = struct{}{}
		}
	}
	used := map[model.PolicyKey]struct{}{}
	for _, stage := range [][]desired.Tier{d.Tiers, d.Untracked, d.PreDNAT, d.Forward} {
		for _, t := range stage {
			for _, k := range slices.Concat(t.Ingress, t.Egress) {
				used[k] = struct{}{}
			}
		}
	}
	for k := range used {
		p := e.policy(k)
		if count(&p.refs, by) {
			e.dirtyPolicies[p] = struct{}{}
		}
	}
}

// count adds to a number of uses and reports whether that is its first one, or the end of
// its last.
func count(refs *int, by int) bool {
	before := *refs
	*refs += by
	return before == 0 || *refs == 0
}

// resolve computes the desired endpoint; nil when there must be none.
func (e *Engine) resolve(ep *endpoint) *desired.Endpoint {
	ep.faults = nil
	switch r := ep.res.(type) {
	case *model.WorkloadEndpoint:
		return e.resolveWorkload(ep, r)
	case *model.HostEndpoint:
		return e.resolveHost(ep, r)
	}
	return nil
}

func (e *Engine) resolveWorkload(ep *endpoint, r *model.WorkloadEndpoint) *desired.Endpoint {
	if !e.isWorkloadInterface(r.Interface) {
		ep.fault("interface %q: the name of a workload's interface must begin with one of %s; the endpoint is not in force",
			r.Interface, strings.Join(e.prefixes, ", "))
		return nil
	}
	if w := e.interfaces.winner(interfaceClaim{workload: true, name: r.Interface}); w != ep {
		ep.fault("interface %s belongs to %s; the endpoint is not in force", r.Interface, w.key)
		return nil
	}
	d := &desired.Endpoint{
		Key: ep.key, Interface: r.Interface, Up: r.State == "active",
		Profiles: unique(r.Profiles), Nets: e.ownNets(ep),
	}
	d.NATs = floating(r, d.Nets)
	if r.MAC != "" {
		mac, err := net.ParseMAC(r.MAC)
		if err != nil {
			ep.fault("mac %q: %v; it gets no fixed neighbour entry", r.MAC, err)
		}
		d.MAC = mac
	}
	d.Tiers = e.tiersOf(ep, func(p *policy) bool { return p.stage() == desired.Normal })
	return d
}

func (e *Engine) resolveHost(ep *endpoint, r *model.HostEndpoint) *desired.Endpoint {
	if r.Interface != "" {
		if w := e.interfaces.winner(interfaceClaim{name: r.Interface}); w != ep {
			ep.fault("interface %s belongs to %s; the endpoint is not in force", r.Interface, w.key)
			return nil
		}
	}
	d := &desired.Endpoint{Key: ep.key, Interface: r.Interface, Up: true}
	d.ExpectedAddrs = slices.Concat(r.ExpectedIPv4Addrs, r.ExpectedIPv6Addrs)
	slices.SortFunc(d.ExpectedAddrs, netip.Addr.Compare)
	of := func(stage desired.Stage, forward bool) []desired.Tier {
		return e.tiersOf(ep, func(p *policy) bool {
			return p.stage() == stage && !p.key.Namespaced() && (!forward || p.res.ApplyOnForward)
		})
	}
	if ep.unlabelled {
		d.Forward, d.WorkloadsOnly = e.anyForward()
		return d
	}
	d.Forward = of(desired.Normal, true)
	if !ep.closed {
		d.Tiers, d.Profiles = of(desired.Normal, false), unique(r.Profiles)
	}
	d.Untracked, d.PreDNAT = of(desired.Untracked, false), of(desired.PreDNAT, false)
	return d
}

// anyForward are the policies for forwarded packets that a host endpoint with some labels
// might have, and the directions in which such packets might meet one, of any stage. What
// untracked policy says of packets that go out concerns the host's own alone.
func (e *Engine) anyForward() (forward []desired.Tier, met []desired.Direction) {
	var list []*policy
	var in, out bool
	for _, p := range e.policies {
		if p.res == nil || p.key.Namespaced() {
			continue
		}
		switch {
		case p.stage() != desired.Normal:
			in = in || p.applies(desired.Ingress)
		case p.res.ApplyOnForward:
			in, out = in || p.applies(desired.Ingress), out || p.applies(desired.Egress)
			list = append(list, p)
		}
	}
	if in {
		met = append(met, desired.Ingress)
	}
	if out {
		met = append(met, desired.Egress)
	}
	return e.byTier(list), met
}

// ownNets lists the addresses of an endpoint that is in force that no other one has.
func (e *Engine) ownNets(ep *endpoint) []netip.Prefix {
	var own []netip.Prefix
	for n := range routedNets(ep.res) {
		if w := e.holder(n, ep); w != ep {
			ep.fault("address %s belongs to %s; it is not routed to this endpoint", n, w.key)
			continue
		}
		own = append(own, n)
	}
	slices.SortFunc(own, netip.Prefix.Compare)
	return slices.Compact(own)
}

// floating lists the floating addresses whose both ends are among the endpoint's own nets.
func floating(r *model.WorkloadEndpoint, own []netip.Prefix) []desired.NAT {
	has := func(a netip.Addr) bool {
		return slices.ContainsFunc(own, func(n netip.Prefix) bool { return n.Contains(a) })
	}
	var list []desired.NAT
	for _, n := range slices.Concat(r.IPv4NAT, r.IPv6NAT) {
		if has(n.External) && has(n.Internal) {
			list = append(list, desired.NAT{External: n.External, Internal: n.Internal})
		}
	}
	slices.SortFunc(list, desired.NAT.Compare)
	return slices.Compact(list)
}

// tiersOf lists the policies that apply to the endpoint and that want accepts, by tier.
func (e *Engine) tiersOf(ep *endpoint, want func(*policy) bool) []desired.Tier {
	var list []*policy
	for _, s := range e.local.items[ep.key].matched {
		for k := range s.users {
			if p := e.policies[k]; want(p) {
				list = append(list, p)
			}
		}
	}
	return e.byTier(list)
}

// byTier puts policies into their tiers, in the order in which they are asked.
func (e *Engine) byTier(list []*policy) []desired.Tier {
	slices.SortFunc(list, e.comparePolicies)
	var tiers []desired.Tier
	for _, p := range list {
		if len(tiers) == 0 || tiers[len(tiers)-1].Name != p.key.Tier {
			tiers = append(tiers, desired.Tier{Name: p.key.Tier, PassByDefault: e.passes(p.key.Tier)})
		}
		t := &tiers[len(tiers)-1]
		if p.applies(desired.Ingress) {
			t.Ingress = append(t.Ingress, p.key)
		}
		if p.applies(desired.Egress) {
			t.Egress = append(t.Egress, p.key)
		}
	}
	return tiers
}

// passes reports whether a tier without a decision goes on to the next. One that is not
// usable does not.
func (e *Engine) passes(tier string) bool {
	t := e.tiers[tier]
	return t != nil && t.DefaultAction == model.TierPass
}

// comparePolicies orders policies as they are asked: by tier (its order, then its name),
// then by order, then by name.
func (e *Engine) comparePolicies(a, b *policy) int {
	if a.key.Tier != b.key.Tier {
		return cmp.Or(cmp.Compare(e.tierOrder(a.key.Tier), e.tierOrder(b.key.Tier)), strings.Compare(a.key.Tier, b.key.Tier))
	}
	return cmp.Or(compareOrders(a.res.Order, b.res.Order), strings.Compare(a.key.Name, b.key.Name))
}

// tierOrder is the rank of a tier.
func (e *Engine) tierOrder(name string) float64 {
	if r, unusable := e.rejectedTier(name); unusable {
		return rejectedOrder(name, r)
	}
	return orderOf(name, e.tiers[name])
}

// orderOf is the rank that a tier has by what is stored; t may be nil.
func orderOf(name string, t *model.Tier) float64 {
	switch {
	case t != nil && t.Order != nil:
		return *t.Order
	case name == model.DefaultTier:
		return model.DefaultTierOrder
	}
	return math.Inf(1)
}

// compareOrders compares the ranks of policies; nil comes last.
func compareOrders(a, b *float64) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return cmp.Compare(*a, *b)
}

func (e *Engine) isWorkloadInterface(name string) bool {
	return len(e.prefixes) == 0 ||
		slices.ContainsFunc(e.prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (ep *endpoint) fault(format string, args ...any) {
	ep.faults = append(ep.faults, fmt.Sprintf(format, args...))
}

// touchMatches marks the endpoints that a policy's selector matches, or may match.
func (e *Engine) touchMatches(s *subscription) {
	if s == nil {
		return
	}
	maps.Copy(e.dirtyEndpoints, e.unlabelled)
	for it := range s.matches {
		e.dirtyEndpoints[e.endpoints[it.key]] = struct{}{}
	}
}

// unique returns the names without repetition, in their order.
func unique(names []string) []string {
	var list []string
	for _, n := range names {
		if !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return list
}
