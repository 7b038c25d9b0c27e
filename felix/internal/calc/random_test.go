package calc

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
	"calico.internal/libcalico/store"
)

// generator makes events about a small world, in which names, labels and addresses meet
// often.
type generator struct {
	*rand.Rand

	revision int64
	// rest is what can be read of the last event's value if that is not usable.
	rest store.Quarantined
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

func (g *generator) maybe(percent int) bool { return g.IntN(100) < percent }

func (g *generator) labels() map[string]string {
	labels := map[string]string{}
	for _, l := range []string{"a", "b", "c", selector.NamespaceLabel} {
		if g.maybe(50) {
			labels[l] = pick(g, "x", "y", "")
		}
	}
	return labels
}

func (g *generator) selector() string {
	return pick(g, "", "all()", "a == 'x'", "a != 'x'", "has(b)", "!has(b)", "a == 'x' && b == 'y'", "b in {'x','y'}",
		"a == 'y' || has(t)", "has(t)", "c not in {'x'}", "!(a == 'x') && has(c)", "a starts with 'x'", "b in {'x'} && b in {'y'}",
		"global()", "global() && has(b)", "projectcalico.org/namespace == 'x'")
}

func (g *generator) profiles() []string {
	var list []string
	for range g.IntN(3) {
		list = append(list, pick(g, "p0", "p1", "p2"))
	}
	return list
}

func (g *generator) addr() netip.Addr {
	if g.maybe(20) {
		return netip.AddrFrom16([16]byte{0xfd, 15: byte(g.IntN(4))})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(g.IntN(8))})
}

func (g *generator) ports() []model.EndpointPort {
	var list []model.EndpointPort
	for range g.IntN(2) {
		list = append(list, model.EndpointPort{Name: pick(g, "http", "dns"), Protocol: pick(g, model.Protocol("tcp"), "udp"), Port: uint16(80 + g.IntN(2))})
	}
	return list
}

func (g *generator) rule() model.Rule {
	r := model.Rule{Action: pick(g, model.ActionAllow, model.ActionDeny, model.ActionPass, model.ActionLog)}
	for _, m := range []*model.Match{&r.Source, &r.Destination} {
		if g.maybe(40) {
			m.Selector = g.selector()
		}
		if g.maybe(20) {
			m.NotSelector = g.selector()
		}
		if g.maybe(20) {
			m.Tag = pick(g, "t", "u")
		}
	}
	if g.maybe(20) {
		r.Protocol = pick(g, model.Protocol("tcp"), "udp")
		r.Destination.Ports = []model.Port{{Name: pick(g, "http", "dns")}, {First: 1, Last: 2}}
		if g.maybe(50) {
			r.Source.NotPorts = []model.Port{{Name: pick(g, "http", "dns")}}
		}
	}
	if g.maybe(10) {
		r.Source.Nets, r.Destination.NotNets = []netip.Prefix{netip.PrefixFrom(g.addr(), 24)}, []netip.Prefix{netip.PrefixFrom(g.addr(), 32)}
	}
	if g.maybe(3) {
		r.Source.Selector = "not a selector ("
	}
	return r
}

func (g *generator) rules() []model.Rule {
	var list []model.Rule
	for range g.IntN(3) {
		list = append(list, g.rule())
	}
	return list
}

func (g *generator) order() *float64 {
	if g.maybe(40) {
		return nil
	}
	o := float64(g.IntN(3))
	return &o
}

// event makes the next event.
func (g *generator) event() store.Event {
	g.revision++
	ev := store.Event{Revision: g.revision}
	switch g.IntN(10) {
	case 0, 1, 2:
		ev.Key, ev.Value = g.workload()
	case 3:
		ev.Key = model.HostEndpointKey{Node: pick(g, "here", "there"), Name: pick(g, "h0", "h1")}
		ev.Value = &model.HostEndpoint{
			Interface: pick(g, "", "eth0", "*"), ExpectedIPv4Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(g.IntN(8))})},
			ExpectedIPv6Addrs: []netip.Addr{netip.AddrFrom16([16]byte{0xfd, 15: byte(g.IntN(4))})},
			Labels:            g.labels(), Profiles: g.profiles(), Ports: g.ports(),
		}
	case 4:
		ev.Key = model.NetworkSetKey{Name: pick(g, "n0", "n1")}
		ev.Value = &model.NetworkSet{Nets: []netip.Prefix{netip.PrefixFrom(g.addr(), 24), netip.PrefixFrom(g.addr(), 32)}, Labels: g.labels()}
	case 5:
		ev.Key = model.ProfileKey{Name: pick(g, "p0", "p1", "p2")}
		p := &model.Profile{InboundRules: g.rules(), OutboundRules: g.rules(), Labels: g.labels()}
		if g.maybe(50) {
			p.Tags = []string{pick(g, "t", "u", "a")}
		}
		ev.Value = p
	case 6, 7:
		ev.Key = model.PolicyKey{Tier: pick(g, "default", "t0", "t1"), Name: pick(g, "q0", "q1", "q2", "default/q")}
		ev.Value = g.policy()
	case 8:
		ev.Key = model.TierKey{Name: pick(g, "default", "t0", "t1")}
		ev.Value = &model.Tier{Order: g.order(), DefaultAction: pick(g, "", model.TierDeny, model.TierPass)}
	case 9:
		k := model.IPPoolKey{CIDR: pick(g, netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/64"))}
		ev.Key, ev.Value = k, &model.IPPool{CIDR: k.CIDR, Masquerade: g.maybe(50)}
	}
	switch {
	case g.maybe(25):
		ev.Value = nil
	case g.maybe(10):
		g.rest = store.Quarantined{Key: ev.Key, Value: ev.Value, Err: errors.New("cannot be read")}
		for _, field := range []string{"order", "selector", "labels", "tags", "name", "masquerade", "types"} {
			if g.maybe(20) {
				g.rest.Unreadable = append(g.rest.Unreadable, field)
			}
		}
		if g.maybe(30) {
			g.rest.Value, g.rest.Unreadable = nil, nil
		}
		ev.Value, ev.Err = nil, g.rest.Err
	case g.maybe(3):
		ev.Err = errors.New("newer version cannot be read")
	}
	return ev
}

func (g *generator) workload() (model.Key, model.Resource) {
	k := model.WorkloadEndpointKey{Node: pick(g, "here", "here", "there"), Orchestrator: "o", Workload: "w", Name: fmt.Sprint(g.IntN(5))}
	e := &model.WorkloadEndpoint{
		State: pick(g, "active", "active", "active", "inactive"), Interface: pick(g, "cali0", "cali1", "cali2", "cali3", "eth0"),
		MAC: pick(g, "", "ee:ee:ee:ee:ee:ee", "bad"), Labels: g.labels(), Profiles: g.profiles(), Ports: g.ports(),
	}
	for range g.IntN(3) {
		a := g.addr()
		n := netip.PrefixFrom(a, a.BitLen())
		if a.Is4() {
			e.IPv4Nets = append(e.IPv4Nets, n)
		} else {
			e.IPv6Nets = append(e.IPv6Nets, n)
		}
	}
	if g.maybe(20) {
		// Its inner end, or its outer one, may be another's, or nobody's.
		inner, outer := g.addr(), g.addr()
		if nat := []model.NAT{{Internal: inner, External: outer}}; inner.Is4() {
			e.IPv4NAT = nat
		} else {
			e.IPv6NAT = nat
		}
	}
	return k, e
}

func (g *generator) policy() *model.Policy {
	p := &model.Policy{Order: g.order(), Selector: g.selector(), InboundRules: g.rules(), OutboundRules: g.rules(), ApplyOnForward: g.maybe(30)}
	p.Types = pick(g, nil, []string{model.PolicyTypeIngress}, []string{model.PolicyTypeEgress}, []string{model.PolicyTypeIngress, model.PolicyTypeEgress})
	switch {
	case g.maybe(10):
		p.DoNotTrack = true
	case g.maybe(10):
		p.PreDNAT = true
	case g.maybe(3):
		p.Selector = "not a selector ("
	}
	return p
}

// TestTheOutcomeDoesNotDependOnTheWay drives the engine through long random histories,
// with flushes here and there, and compares where it ends with a fresh engine that hears
// of the end only, in another order.
func TestTheOutcomeDoesNotDependOnTheWay(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
			last := map[model.Key]store.Event{}
			quarantine := map[model.Key]store.Quarantined{}
			e, m := New("here", "cali"), newMirror(t)
			for range 200 {
				ev := g.event()
				last[ev.Key] = ev
				delete(quarantine, ev.Key)
				if ev.Err != nil {
					quarantine[ev.Key] = store.Quarantined{Key: ev.Key, Err: ev.Err}
					if ev.Value == nil {
						quarantine[ev.Key] = g.rest
					}
				}
				e.Apply([]store.Event{ev})
				e.ApplyQuarantine(slices.Collect(maps.Values(quarantine)))
				if g.maybe(30) {
					m.apply(e.Flush())
					checkSets(t, e, m)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			m.apply(e.Flush())
			checkSets(t, e, m)
			if c := e.Flush(); !c.IsEmpty() {
				t.Errorf("a second flush gives %s", changesText(c))
			}
			checkSameAsFresh(t, g.Rand, e, m, slices.Collect(maps.Values(last)), slices.Collect(maps.Values(quarantine)))
		})
	}
}

// checkSameAsFresh compares an engine and its mirror with an engine that gets events in
// random order, some of them twice.
func checkSameAsFresh(t *testing.T, rnd *rand.Rand, e *Engine, m *mirror, events []store.Event, quarantine []store.Quarantined) {
	t.Helper()
	slices.SortFunc(events, func(a, b store.Event) int { return model.Compare(a.Key, b.Key) })
	rnd.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	fresh, fm := New(e.node, e.prefixes...), newMirror(t)
	fresh.Apply(events)
	fresh.Apply(events[:len(events)/2])
	fresh.ApplyQuarantine(quarantine)
	fm.apply(fresh.Flush())
	if diff := cmp.Diff(fm.String(), m.String()); diff != "" {
		t.Errorf("state differs from a fresh start (-fresh +here):\n%s", diff)
	}
	if diff := cmp.Diff(problemsText(fresh.Problems()), problemsText(e.Problems())); diff != "" {
		t.Errorf("problems differ from a fresh start (-fresh +here):\n%s", diff)
	}
}

func problemsText(list []desired.Problem) (text []string) {
	for _, p := range list {
		text = append(text, p.Key.String()+": "+p.Reason)
	}
	return text
}

// checkSets compares every set with what the selector matches when everything is asked.
func checkSets(t testing.TB, e *Engine, m *mirror) {
	t.Helper()
	for id, set := range e.sets.all {
		want := map[desired.Member]bool{}
		for _, it := range e.sets.index.items {
			switch {
			case set.sub != nil && set.sub.sel.Match(plainLabels(e, it)):
				for n := range netsOf(it.res) {
					want[desired.Member{Net: n}] = true
				}
			case set.kind == desired.SetAddressPorts:
				for p, member := range namedPortsOf(it.res) {
					if p == set.port {
						want[member] = true
					}
				}
			}
		}
		if set.sub != nil || set.kind == desired.SetAddressPorts {
			if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(m.sets[id])); diff != "" {
				t.Errorf("set %s (-all asked +here):\n%s", id, diff)
			}
		}
	}
}

// plainLabels computes an item's labels in the plain way: tags first, then profile
// labels from the last profile to the first, then its own. Of a profile that is not usable
// count those that can be read.
func plainLabels(e *Engine, it *item) selector.Map {
	labels := selector.Map{}
	names := profilesOf(it.res)
	readable := func(name string) *model.Profile {
		if r, ok := e.rejected[model.ProfileKey{Name: name}].value.(*model.Profile); ok {
			return r
		}
		if p := e.profiles[name]; p != nil && p.res != nil {
			return p.res
		}
		return &model.Profile{}
	}
	for _, name := range names {
		for _, t := range readable(name).Tags {
			labels[t] = ""
		}
	}
	for _, name := range slices.Backward(names) {
		maps.Copy(labels, readable(name).Labels)
	}
	maps.Copy(labels, labelsOf(it.res))
	delete(labels, selector.NamespaceLabel) // nobody's to give
	delete(labels, selector.NameLabel)
	return labels
}
