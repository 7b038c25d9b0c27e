package rules

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

// boundHost is a host endpoint with the interface that it guards, or "*" for all that no
// other host endpoint guards.
type boundHost struct {
	iface    string
	endpoint *desired.Endpoint
}

// bindHosts finds the interface of each host endpoint: by its name, or by an expected
// address. An interface that is named belongs to the endpoint that names it; else the
// endpoint that comes first by name has it. unbound are those for which none is found.
func bindHosts(endpoints map[model.Key]*desired.Endpoint, addrs map[string][]netip.Addr) (bound []boundHost, unbound []model.Key) {
	hosts := map[string]*desired.Endpoint{}
	keys := slices.SortedFunc(maps.Keys(endpoints), model.Compare)
	for _, k := range keys {
		if e := endpoints[k]; !e.IsWorkload() && e.Interface != "" && hosts[e.Interface] == nil {
			hosts[e.Interface] = e
		}
	}
	for _, k := range keys {
		e := endpoints[k]
		if e.IsWorkload() || e.Interface != "" {
			continue
		}
		found := false
		for iface, list := range addrs {
			if hosts[iface] == nil && slices.ContainsFunc(list, func(a netip.Addr) bool { return slices.Contains(e.ExpectedAddrs, a) }) {
				hosts[iface], found = e, true
			}
		}
		if !found {
			unbound = append(unbound, k)
		}
	}
	for iface, e := range hosts {
		bound = append(bound, boundHost{iface, e})
	}
	// "*" comes last.
	slices.SortFunc(bound, func(a, b boundHost) int {
		switch {
		case a.iface == "*":
			return 1
		case b.iface == "*":
			return -1
		}
		return strings.Compare(a.iface, b.iface)
	})
	return bound, unbound
}

// hostStage is one place in a packet's way where host endpoints' policies are asked.
type hostStage struct {
	table     Table
	direction desired.Direction
	forward   bool
	dispatch  string
	// tiers picks the tiers that are asked here. Where there are none the packet passes
	// unseen, unless closed is set: then it is dropped.
	tiers  func(*desired.Endpoint) []desired.Tier
	closed bool
}

// hostStages lists the places, in the order in which packets meet them.
func hostStages() []hostStage {
	untracked := func(e *desired.Endpoint) []desired.Tier { return e.Untracked }
	preDNAT := func(e *desired.Endpoint) []desired.Tier { return e.PreDNAT }
	forward := func(e *desired.Endpoint) []desired.Tier { return e.Forward }
	normal := func(e *desired.Endpoint) []desired.Tier { return e.Tiers }
	return []hostStage{
		{table: Raw, direction: desired.Ingress, dispatch: chainFromHost, tiers: untracked},
		{table: Raw, direction: desired.Egress, dispatch: chainToHost, tiers: untracked},
		{table: Mangle, direction: desired.Ingress, dispatch: chainFromHost, tiers: preDNAT},
		{table: Filter, direction: desired.Ingress, forward: true, dispatch: chainFromHostForward, tiers: forward},
		{table: Filter, direction: desired.Egress, forward: true, dispatch: chainToHostForward, tiers: forward},
		{table: Filter, direction: desired.Ingress, dispatch: chainFromHost, tiers: normal, closed: true},
		{table: Filter, direction: desired.Egress, dispatch: chainToHost, tiers: normal, closed: true},
		{table: Mangle, direction: desired.Egress, dispatch: chainToHost, tiers: normal, closed: true},
	}
}

// tracked reports whether the stage knows connections, and drops what no policy of a tier
// decided on.
func (s hostStage) tracked() bool { return s.closed || s.forward }

// asked reports whether the stage has something to say about an endpoint's packets.
func (s hostStage) asked(e *desired.Endpoint) bool {
	return s.closed || s.workloadsOnly(e) ||
		slices.ContainsFunc(s.tiers(e), func(t desired.Tier) bool { return len(t.Policies(s.direction)) > 0 })
}

// workloadsOnly reports whether the stage lets nothing pass but packets of workloads.
func (s hostStage) workloadsOnly(e *desired.Endpoint) bool {
	return s.forward && slices.Contains(e.WorkloadsOnly, s.direction)
}

// hostEndpoints renders all chains of host endpoints. The dispatch chains are always
// there; the failsafe chains where a chain leads to them.
func (r *Renderer) hostEndpoints(f Family, bound []boundHost) []Chain {
	var list []Chain
	failsafe := map[ChainID]Chain{}
	for _, s := range hostStages() {
		list = append(list, r.hostDispatch(f, s, bound))
		for _, b := range bound {
			if !s.asked(b.endpoint) {
				continue
			}
			list = append(list, r.hostEndpoint(s, b))
			if !s.forward {
				for _, c := range []Chain{r.failsafe(f, s), r.etcd(f, s)} {
					failsafe[c.ChainID] = c
				}
			}
		}
	}
	list = append(list, r.untracked(bound)...)
	return slices.AppendSeq(list, maps.Values(failsafe))
}

// untracked are the chains in which what untracked policy allows ends. Their rules need
// parts of the kernel that nothing else needs, and are there only when there is such policy.
//
// The answer to a masqueraded packet of a workload goes to the host's own address. Without
// connection tracking it would never get back to the workload. So what goes to the host is
// only untracked when a program of the host waits for it; the rest is allowed all the same.
func (r *Renderer) untracked(bound []boundHost) []Chain {
	in, out := Chain{ChainID: ChainID{Raw, chainUntrackedIn}}, Chain{ChainID: ChainID{Raw, chainUntrackedOut}}
	if slices.ContainsFunc(bound, func(b boundHost) bool { return len(b.endpoint.Untracked) > 0 }) {
		in.add(
			Rule{Match: Match{DestinationLocal: No}, Action: do(NoTrack)},
			Rule{Match: Match{Socket: true}, Action: do(NoTrack)},
			Rule{Action: do(Accept), Comment: "Allowed by untracked policy"},
		)
		out.add(Rule{Action: do(NoTrack)}, Rule{Action: do(Accept), Comment: "Allowed by untracked policy"})
	}
	return []Chain{in, out}
}

// hostDispatch finds the endpoint of a packet's interface. The endpoint for all
// interfaces gets what is left, but not packets of workloads or within the host. An
// interface that has an endpoint of its own never falls to it.
func (r *Renderer) hostDispatch(f Family, s hostStage, bound []boundHost) Chain {
	c := Chain{ChainID: ChainID{s.table, s.dispatch}}
	if s.table == Raw && slices.ContainsFunc(bound, func(b boundHost) bool { return s.asked(b.endpoint) }) {
		// Untracked policy is for the host's own traffic: that of workloads, here and
		// elsewhere, needs its connections to be known.
		for _, side := range []Side{Src, Dst} {
			pools := Set{Name: SetName(f, desired.SetAllPools), Side: side}
			c.add(Rule{Match: Match{Sets: []Set{pools}}, Action: do(Return), Comment: "Of a workload"})
		}
	}
	every := len(bound) > 0 && bound[len(bound)-1].iface == "*" && s.asked(bound[len(bound)-1].endpoint)
	for _, b := range bound {
		if b.iface == "*" {
			continue
		}
		on := onHostInterface(s.direction, Interface{Name: b.iface})
		switch {
		case s.asked(b.endpoint):
			c.add(Rule{Match: on, Action: goTo(hostChain(s.direction, s.forward, b.iface))})
		case every:
			c.add(Rule{Match: on, Action: do(Return)})
		}
	}
	if !every {
		return c
	}
	c.add(Rule{Match: onHostInterface(s.direction, Interface{Name: "lo"}), Action: do(Return)})
	for _, p := range r.cfg.WorkloadPrefixes {
		c.add(Rule{Match: onHostInterface(s.direction, Interface{Name: p, Prefix: true}), Action: do(Return)})
	}
	c.add(Rule{Action: goTo(hostChain(s.direction, s.forward, "*"))})
	return c
}

// onHostInterface matches packets that come in by (Ingress), or go out by (Egress), an
// interface of the host.
func onHostInterface(d desired.Direction, i Interface) Match {
	if d == desired.Ingress {
		return Match{In: i}
	}
	return Match{Out: i}
}

// hostEndpoint is what a packet of a host endpoint has to pass at one stage.
func (r *Renderer) hostEndpoint(s hostStage, b boundHost) Chain {
	r = r.in(s.table)
	c := Chain{ChainID: ChainID{s.table, hostChain(s.direction, s.forward, b.iface)}}
	if s.tracked() {
		c.add(r.connections()...)
	}
	if !s.forward {
		c.add(Rule{Action: jump(failsafeChain(s.direction))})
	}
	workloadsOnly := s.workloadsOnly(b.endpoint)
	if workloadsOnly {
		c.add(r.othersDenied(s.direction)...)
	}
	c.add(Rule{Action: clearMark(r.marks.accept | r.marks.pass)})
	r.addTiers(&c, s.tiers(b.endpoint), s.direction, s.tracked() && !workloadsOnly)
	if s.closed {
		c.add(r.profiles(b.endpoint, s.direction)...)
		c.add(r.deny("No policy or profile allowed it"))
	}
	return c
}

// othersDenied drops what a host endpoint forwards though no workload is to get it (Ingress),
// or has sent it (Egress).
func (r *Renderer) othersDenied(d desired.Direction) []Rule {
	of := r.toWorkloads
	if d == desired.Egress {
		of = r.fromWorkloads
	}
	denied := r.deny("Nobody knows which policies select the host endpoint")
	denied.Match = isSet(r.marks.scratch0)
	return slices.Concat(
		[]Rule{{Action: setMark(r.marks.scratch0)}},
		of(Rule{Action: clearMark(r.marks.scratch0)}),
		[]Rule{denied},
	)
}

// afterDNAT renders what the host endpoints' egress policies and profiles say of packets
// whose destination the host itself rewrote. rules are those of one of them.
func (r *Renderer) afterDNAT(f Family, name string, rules []desired.Rule) Chain {
	c := Chain{ChainID: ChainID{Mangle, name}}
	c.add(r.ruleList(f, Mangle, rules)...)
	return c
}

func failsafeChain(d desired.Direction) string {
	if d == desired.Ingress {
		return chainFailsafeIn
	}
	return chainFailsafeOut
}

// icmpv6ForLink are the ICMPv6 messages without which no port of a host can be reached by
// IPv6: that a packet is too big, which routers tell the sender; of multicast listeners
// (143 is the report that Linux sends, on which switches rely), and router and neighbour
// discovery.
var icmpv6ForLink = []uint8{2, 130, 131, 132, 133, 134, 135, 136, 143}

// failsafe accepts packets to the ports of the host that no policy closes. In the raw
// table, where connections are not known, it accepts the answers from such ports of the
// other direction too.
func (r *Renderer) failsafe(f Family, s hostStage) Chain {
	c := Chain{ChainID: ChainID{s.table, failsafeChain(s.direction)}, Rules: r.failsafePorts(f, s)}
	c.add(Rule{Action: jump(etcdChain(s.direction))})
	return c
}

func (r *Renderer) failsafePorts(f Family, s hostStage) (list []Rule) {
	ports, others := r.cfg.FailsafeInbound, r.cfg.FailsafeOutbound
	if s.direction == desired.Egress {
		ports, others = others, ports
	}
	add := func(open []FailsafePort, side Side) {
		for _, p := range open {
			if p.Net.IsValid() && !f.Of(p.Net) {
				continue
			}
			m := Match{Protocol: p.Protocol, Ports: []Ports{{Side: side, Ranges: []desired.PortRange{{First: p.Port, Last: p.Port}}}}}
			peer := &m.Source
			if s.direction == desired.Egress {
				peer = &m.Destination
			}
			peer.Prefix = p.Net
			list = append(list, Rule{Match: m, Action: do(Accept), Comment: "Failsafe"})
		}
	}
	if f == V6 {
		for _, t := range icmpv6ForLink {
			list = append(list, Rule{Match: Match{Protocol: desired.ICMPv6, ICMP: []ICMP{{Type: t}}}, Action: do(Accept), Comment: "Failsafe"})
		}
	}
	add(ports, Dst)
	if s.table == Raw {
		add(others, Src)
	}
	return list
}

// etcd accepts what this host sends to etcd, whatever ports are configured to be open:
// without it, the policy that closed too much could not be taken back. Only where
// connections are not known the answers need a rule of their own. It is a chain of its own,
// so that a fault of its set closes no failsafe port.
func (r *Renderer) etcd(f Family, s hostStage) Chain {
	c := Chain{ChainID: ChainID{s.table, etcdChain(s.direction)}}
	etcd := Set{Name: SetName(f, desired.SetEtcd), Side: Dst, WithPort: true}
	if s.direction == desired.Ingress {
		etcd.Side = Src
	}
	if s.direction == desired.Egress || s.table == Raw {
		c.add(Rule{Match: Match{Protocol: desired.TCP, Sets: []Set{etcd}}, Action: do(Accept), Comment: "Failsafe: etcd"})
	}
	return c
}

func etcdChain(d desired.Direction) string {
	if d == desired.Ingress {
		return chainEtcdIn
	}
	return chainEtcdOut
}
