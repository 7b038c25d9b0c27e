package calc

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
	"calico.internal/libcalico/store"
)

// plain is the calculation without indexes, marks or counts: everything is asked anew of
// the content of the store. It knows usable values only.
type plain struct {
	node, prefix string
	content      map[model.Key]store.Event
	state        *mirror
}

// newPlain computes the state that a content leads to.
func newPlain(t testing.TB, node, prefix string, content map[model.Key]store.Event) *mirror {
	p := &plain{node: node, prefix: prefix, content: content, state: newMirror(t)}
	p.pools()
	for k, ev := range content {
		switch r := ev.Value.(type) {
		case *model.WorkloadEndpoint:
			if p.inForce(k) {
				p.workload(k, r)
			}
		case *model.HostEndpoint:
			if p.inForce(k) {
				p.host(k, r)
			}
		}
	}
	return p.state
}

// resource is what the content has under a key; the zero value of R when it has nothing.
func resource[R model.Resource](p *plain, k model.Key) R {
	r, _ := p.content[k].Value.(R)
	return r
}

// keys are those of the content that f accepts, sorted.
func (p *plain) keys(f func(model.Key) bool) []model.Key {
	var list []model.Key
	for k := range p.content {
		if f(k) {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, model.Compare)
	return list
}

func (p *plain) pools() {
	set := func(id desired.SetID, kind desired.SetKind) map[desired.Member]bool {
		p.state.sets[id], p.state.kinds[id] = map[desired.Member]bool{}, kind
		return p.state.sets[id]
	}
	all, masq := set(desired.SetAllPools, desired.SetNetworks), set(desired.SetMasqPools, desired.SetNetworks)
	for _, ev := range p.content {
		if pool, ok := ev.Value.(*model.IPPool); ok {
			all[desired.Member{Net: pool.CIDR}] = true
			if pool.Masquerade {
				masq[desired.Member{Net: pool.CIDR}] = true
			}
		}
	}
}

// before reports whether one of two claimants comes first: the one that is up, the newer,
// the one whose name sorts first.
func (p *plain) before(a, b model.Key) bool {
	down := func(k model.Key) int {
		if w := resource[*model.WorkloadEndpoint](p, k); w != nil && w.State != "active" {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(down(a), down(b)), cmp.Compare(p.content[b].Revision, p.content[a].Revision), model.Compare(a, b)) < 0
}

// interfaceOf is the interface that an endpoint of this host claims, with its kind; empty
// when it claims none.
func (p *plain) interfaceOf(k model.Key) string {
	switch k := k.(type) {
	case model.WorkloadEndpointKey:
		if w := resource[*model.WorkloadEndpoint](p, k); w != nil && k.Node == p.node {
			return "workload " + w.Interface
		}
	case model.HostEndpointKey:
		if h := resource[*model.HostEndpoint](p, k); h != nil && k.Node == p.node && h.Interface != "" {
			return "host " + h.Interface
		}
	}
	return ""
}

// inForce reports whether an endpoint is this host's and has an interface that no other
// one takes from it.
func (p *plain) inForce(k model.Key) bool {
	name := p.interfaceOf(k)
	if host, ok := k.(model.HostEndpointKey); ok && name == "" {
		return host.Node == p.node
	}
	if name == "" || strings.HasPrefix(name, "workload ") && !strings.HasPrefix(name, "workload "+p.prefix) {
		return false
	}
	for other := range p.content {
		if other != k && p.interfaceOf(other) == name && p.before(other, k) {
			return false
		}
	}
	return true
}

// wanted are the networks that a workload endpoint wants routed to it.
func wanted(w *model.WorkloadEndpoint) []netip.Prefix {
	var list []netip.Prefix
	for _, n := range slices.Concat(w.IPv4Nets, w.IPv6Nets) {
		list = append(list, n.Masked())
	}
	for _, n := range slices.Concat(w.IPv4NAT, w.IPv6NAT) {
		list = append(list, netip.PrefixFrom(n.External, n.External.BitLen()))
	}
	return list
}

func (p *plain) workload(k model.Key, w *model.WorkloadEndpoint) {
	d := &desired.Endpoint{Key: k, Interface: w.Interface, Up: w.State == "active", Profiles: distinct(w.Profiles)}
	d.MAC, _ = net.ParseMAC(w.MAC)
	for _, n := range wanted(w) {
		if !slices.ContainsFunc(p.keys(p.inForce), func(other model.Key) bool {
			r := resource[*model.WorkloadEndpoint](p, other)
			return r != nil && other != k && slices.Contains(wanted(r), n) && p.before(other, k)
		}) {
			d.Nets = append(d.Nets, n)
		}
	}
	slices.SortFunc(d.Nets, netip.Prefix.Compare)
	d.Nets = slices.Compact(d.Nets)
	for _, n := range slices.Concat(w.IPv4NAT, w.IPv6NAT) {
		inner, outer := netip.PrefixFrom(n.Internal, n.Internal.BitLen()), netip.PrefixFrom(n.External, n.External.BitLen())
		if slices.Contains(d.Nets, inner) && slices.Contains(d.Nets, outer) {
			d.NATs = append(d.NATs, desired.NAT{External: n.External, Internal: n.Internal})
		}
	}
	d.Tiers = p.tiers(k, func(_ model.PolicyKey, q *model.Policy) bool { return !q.DoNotTrack && !q.PreDNAT })
	p.add(d)
}

func (p *plain) host(k model.Key, h *model.HostEndpoint) {
	d := &desired.Endpoint{Key: k, Interface: h.Interface, Up: true, Profiles: distinct(h.Profiles)}
	d.ExpectedAddrs = slices.SortedFunc(slices.Values(slices.Concat(h.ExpectedIPv4Addrs, h.ExpectedIPv6Addrs)), netip.Addr.Compare)
	global := func(want func(*model.Policy) bool) []desired.Tier {
		return p.tiers(k, func(pk model.PolicyKey, q *model.Policy) bool {
			return !strings.HasPrefix(pk.Name, "default/") && want(q)
		})
	}
	d.Tiers = global(func(q *model.Policy) bool { return !q.DoNotTrack && !q.PreDNAT })
	d.Forward = global(func(q *model.Policy) bool { return !q.DoNotTrack && !q.PreDNAT && q.ApplyOnForward })
	d.Untracked = global(func(q *model.Policy) bool { return q.DoNotTrack })
	d.PreDNAT = global(func(q *model.Policy) bool { return q.PreDNAT })
	p.add(d)
}

// tiers lists the policies that want accepts and that select the endpoint, in their order.
func (p *plain) tiers(endpoint model.Key, want func(model.PolicyKey, *model.Policy) bool) []desired.Tier {
	var tiers []desired.Tier
	of := p.keys(func(k model.Key) bool {
		pk, ok := k.(model.PolicyKey)
		q := resource[*model.Policy](p, k)
		if !ok || q == nil || !want(pk, q) {
			return false
		}
		sel, err := selector.Parse(q.Selector)
		return err == nil && sel.Match(p.labels(endpoint))
	})
	slices.SortStableFunc(of, func(a, b model.Key) int {
		k, l := a.(model.PolicyKey), b.(model.PolicyKey)
		return cmp.Or(cmp.Compare(p.tierOrder(k.Tier), p.tierOrder(l.Tier)), cmp.Compare(k.Tier, l.Tier),
			cmp.Compare(orElse(resource[*model.Policy](p, k).Order, math.Inf(1)), orElse(resource[*model.Policy](p, l).Order, math.Inf(1))),
			cmp.Compare(k.Name, l.Name))
	})
	for _, k := range of {
		pk := k.(model.PolicyKey)
		if len(tiers) == 0 || tiers[len(tiers)-1].Name != pk.Tier {
			t := resource[*model.Tier](p, model.TierKey{Name: pk.Tier})
			tiers = append(tiers, desired.Tier{Name: pk.Tier, PassByDefault: t != nil && t.DefaultAction == model.TierPass})
		}
		t := &tiers[len(tiers)-1]
		directions := says(resource[*model.Policy](p, k))
		if slices.Contains(directions, desired.Ingress) {
			t.Ingress = append(t.Ingress, pk)
		}
		if slices.Contains(directions, desired.Egress) {
			t.Egress = append(t.Egress, pk)
		}
	}
	return tiers
}

func (p *plain) tierOrder(name string) float64 {
	missing := math.Inf(1)
	if name == "default" {
		missing = 1_000_000
	}
	if t := resource[*model.Tier](p, model.TierKey{Name: name}); t != nil {
		return orElse(t.Order, missing)
	}
	return missing
}

func orElse(order *float64, missing float64) float64 {
	if order == nil {
		return missing
	}
	return *order
}

// says are the directions in which a policy has a say.
func says(q *model.Policy) []desired.Direction {
	var list []desired.Direction
	if len(q.Types) == 0 || slices.Contains(q.Types, "ingress") {
		list = append(list, desired.Ingress)
	}
	if (len(q.Types) == 0 || slices.Contains(q.Types, "egress")) && !q.PreDNAT {
		list = append(list, desired.Egress)
	}
	return list
}

func distinct(names []string) []string {
	var list []string
	for i, n := range names {
		if slices.Index(names, n) == i {
			list = append(list, n)
		}
	}
	return list
}

// labels are those that selectors see: tags, over them the labels of the profiles, the
// first one's on top, over them the item's own.
func (p *plain) labels(k model.Key) selector.Map {
	labels, res := selector.Map{}, p.content[k].Value
	names := profilesOf(res)
	for _, n := range names {
		if prof := resource[*model.Profile](p, model.ProfileKey{Name: n}); prof != nil {
			for _, tag := range prof.Tags {
				labels[tag] = ""
			}
		}
	}
	for _, n := range slices.Backward(names) {
		if prof := resource[*model.Profile](p, model.ProfileKey{Name: n}); prof != nil {
			maps.Copy(labels, prof.Labels)
		}
	}
	maps.Copy(labels, labelsOf(res))
	delete(labels, selector.NamespaceLabel)
	return labels
}

// add adds an endpoint, and the policies, profiles and sets that it needs.
func (p *plain) add(d *desired.Endpoint) {
	p.state.endpoints[d.Key] = d
	for _, t := range slices.Concat(d.Tiers, d.Untracked, d.PreDNAT, d.Forward) {
		for _, k := range slices.Concat(t.Ingress, t.Egress) {
			p.addPolicy(k)
		}
	}
	for _, name := range d.Profiles {
		k := model.ProfileKey{Name: name}
		prof := resource[*model.Profile](p, k)
		out := &desired.Profile{Name: name, Missing: prof == nil, Ingress: deny(k, desired.Ingress), Egress: deny(k, desired.Egress)}
		if prof != nil {
			rules := p.rules(k, prof.InboundRules, prof.OutboundRules, []desired.Direction{desired.Ingress, desired.Egress})
			out.Ingress, out.Egress = rules[0], rules[1]
		}
		p.state.profiles[name] = out
	}
}

func (p *plain) addPolicy(k model.PolicyKey) {
	q := resource[*model.Policy](p, k)
	out := &desired.Policy{Key: k, Directions: says(q)}
	switch {
	case q.DoNotTrack:
		out.Stage = desired.Untracked
	case q.PreDNAT:
		out.Stage = desired.PreDNAT
	}
	rules := p.rules(k, q.InboundRules, q.OutboundRules, out.Directions)
	out.Ingress, out.Egress = rules[0], rules[1]
	p.state.policies[k] = out
}

func deny(owner model.Key, d desired.Direction) []desired.Rule {
	return []desired.Rule{{Origin: desired.Origin{Owner: owner, Direction: d}}}
}

// rules are the rules of the directions asked for: all of them deny when one has a
// selector that is none.
func (p *plain) rules(owner model.Key, in, out []model.Rule, directions []desired.Direction) [2][]desired.Rule {
	var rules [2][]desired.Rule
	for _, d := range directions {
		for i, r := range [][]model.Rule{in, out}[d] {
			for _, text := range selectorsOf(r) {
				if _, err := selector.Parse(text); err != nil {
					for _, all := range directions {
						rules[all] = deny(owner, all)
					}
					return rules
				}
			}
			rules[d] = append(rules[d], desired.Rule{Origin: desired.Origin{Owner: owner, Direction: d, Index: i}})
		}
	}
	for _, d := range directions {
		for i, r := range [][]model.Rule{in, out}[d] {
			to := &rules[d][i]
			to.Action = map[string]desired.Action{"allow": desired.Allow, "deny": desired.Deny, "next-tier": desired.Pass, "log": desired.Log}[r.Action]
			to.Protocol = map[model.Protocol]desired.Protocol{"tcp": desired.TCP, "udp": desired.UDP}[r.Protocol]
			to.Source, to.Destination = p.match(r.Source, to.Protocol), p.match(r.Destination, to.Protocol)
		}
	}
	return rules
}

func selectorsOf(r model.Rule) (list []string) {
	for _, m := range []model.Match{r.Source, r.Destination} {
		list = append(list, m.Selector, m.NotSelector)
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

func (p *plain) match(m model.Match, proto desired.Protocol) desired.Match {
	var d desired.Match
	for _, n := range m.Nets {
		d.Nets = append(d.Nets, n.Masked())
	}
	for _, n := range m.NotNets {
		d.NotNets = append(d.NotNets, n.Masked())
	}
	d.Sets, d.NotSets = p.selectorSets(m.Selector, m.Tag), p.selectorSets(m.NotSelector, m.NotTag)
	d.Ports, d.NamedPorts = p.ports(m.Ports, proto)
	d.NotPorts, d.NotNamedPorts = p.ports(m.NotPorts, proto)
	return d
}

// selectorSets are the sets of a selector and of a tag, with all that they select.
func (p *plain) selectorSets(text, tag string) (ids []desired.SetID) {
	if tag != "" {
		tag = "has(" + tag + ")"
	}
	for _, text := range slices.DeleteFunc([]string{text, tag}, func(s string) bool { return s == "" }) {
		sel, err := selector.Parse(text)
		if err != nil {
			p.state.t.Fatal(err)
		}
		id, members := desired.SetID(sel.ID()), map[desired.Member]bool{}
		for k, ev := range p.content {
			if sel.Match(p.labels(k)) {
				for n := range netsOf(ev.Value) {
					members[desired.Member{Net: n}] = true
				}
			}
		}
		p.state.sets[id], p.state.kinds[id] = members, desired.SetNetworks
		ids = append(ids, id)
	}
	return ids
}

// ports are ranges, and sets with the named ports of all endpoints.
func (p *plain) ports(ports []model.Port, proto desired.Protocol) (ranges []desired.PortRange, named []desired.SetID) {
	for _, port := range ports {
		if port.Name == "" {
			ranges = append(ranges, desired.PortRange{First: port.First, Last: port.Last})
			continue
		}
		id, members := desired.SetID("n:"+proto.String()+":"+port.Name), map[desired.Member]bool{}
		for _, ev := range p.content {
			for _, has := range portsOf(ev.Value) {
				for n := range netsOf(ev.Value) {
					if has.Name == port.Name && string(has.Protocol) == proto.String() {
						members[desired.Member{Net: n, Protocol: proto, Port: has.Port}] = true
					}
				}
			}
		}
		p.state.sets[id], p.state.kinds[id] = members, desired.SetAddressPorts
		named = append(named, id)
	}
	return ranges, named
}

// TestAfterEachChangeTheStateIsWhatThePlainCalculationSays compares the engine, which
// looks only at what a change touches, with one that looks at everything.
func TestAfterEachChangeTheStateIsWhatThePlainCalculationSays(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := &generator{Rand: rand.New(rand.NewPCG(seed, 7))}
			content := map[model.Key]store.Event{}
			e, m := New("here", "cali"), newMirror(t)
			for step := range 130 {
				ev := g.event()
				if ev.Err != nil || seed%4 == 3 && ev.Key.Kind() != model.KindWorkloadEndpoint {
					continue // usable values only; at times only those that claim what others have
				}
				before := content[ev.Key]
				if content[ev.Key] = ev; ev.Value == nil {
					delete(content, ev.Key)
				}
				e.Apply([]store.Event{ev})
				if g.maybe(70) {
					continue
				}
				m.apply(e.Flush())
				if diff := gocmp.Diff(newPlain(t, "here", "cali", content).String(), m.String()); diff != "" {
					t.Fatalf("step %d, %s from %+v to %+v (-plain +engine):\n%s", step, ev.Key, before.Value, ev.Value, diff)
				}
			}
			if len(m.endpoints) == 0 {
				t.Error("nothing was in force in the end")
			}
		})
	}
}
