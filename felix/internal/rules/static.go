package rules

import (
	"net/netip"

	"calico.internal/felix/internal/desired"
)

// loopback is the network that no packet of a workload may come from or go to.
var loopback = netip.MustParsePrefix("127.0.0.0/8")

// vxlanPort is where VXLAN packets go; workloads must not send any.
const vxlanPort = 4789

// bgpPort is where nodes tell each other their routes.
const bgpPort = 179

// Static are the chains of the frame: all but the dispatch chains of workloads and
// [Renderer.OfBridges]. Those of host endpoints are as they are without any.
func (r *Renderer) Static(f Family) []Chain {
	list := []Chain{
		r.rawPrerouting(f), r.rawOutput(),
		r.manglePrerouting(), r.workloadGuard(f, Mangle), r.manglePostrouting(),
		{ChainID: ChainID{NAT, chainPrerouting}, Rules: []Rule{{Action: jump(chainDNAT)}}},
		{ChainID: ChainID{NAT, chainOutput}, Rules: []Rule{{Action: jump(chainDNAT)}}},
		{ChainID: ChainID{NAT, chainPostrouting}, Rules: []Rule{{Action: jump(chainSNAT)}, {Action: jump(chainNATOutgoing)}}},
		r.natOutgoing(f),
		r.filterForward(), r.toDocker(), r.filterInput(f), r.workloadToHost(f), r.workloadGuard(f, Filter), r.filterOutput(f),
	}
	list = append(list, r.decisions()...)
	list = append(list, r.floating(f, nil)...)
	return append(list, r.hostEndpoints(f, nil)...)
}

// Hooks are the rules that lead from chains that are not ours to ours.
//
// An allowed packet leaves the FORWARD chain by an accept inside cali-FORWARD, which
// stands first, so that the policy DROP that Docker gives that chain does not meet it.
// Where the allow action is Return, host rules behind the hook have a look at the packet
// too, and a second hook at the end of FORWARD accepts what felix allowed.
//
// Docker puts its own jumps before everything when it starts, and accepts there what its
// bridges send. Until the hook stands first again, the one in DOCKER-USER, the first
// chain that Docker asks, keeps policy in force.
func (r *Renderer) Hooks() []Hook {
	hook := func(t Table, chain, to string) Hook {
		return Hook{ChainID: ChainID{t, chain}, Rule: Rule{Action: jump(to)}, Position: r.cfg.HookPosition}
	}
	hooks := []Hook{
		hook(Raw, "PREROUTING", chainPrerouting), hook(Raw, "OUTPUT", chainOutput),
		hook(Mangle, "PREROUTING", chainPrerouting), hook(Mangle, "POSTROUTING", chainPostrouting),
		hook(NAT, "PREROUTING", chainPrerouting), hook(NAT, "OUTPUT", chainOutput), hook(NAT, "POSTROUTING", chainPostrouting),
		hook(Filter, "INPUT", chainInput), hook(Filter, "FORWARD", chainForward), hook(Filter, "OUTPUT", chainOutput),
	}
	if r.cfg.FilterAllow == Return {
		accept := Rule{Match: isSet(r.marks.accept), Action: do(Accept), Comment: "Allowed by policy"}
		hooks = append(hooks, Hook{ChainID: ChainID{Filter, "FORWARD"}, Rule: accept, Position: Last})
	}
	if r.cfg.HookPosition == First {
		docker := hook(Filter, "DOCKER-USER", chainForward)
		docker.IfExists = true
		hooks = append(hooks, docker)
	}
	return hooks
}

// fromWorkloads and toWorkloads make one rule per workload prefix.
func (r *Renderer) fromWorkloads(rule Rule) []Rule {
	return r.perPrefix(rule, func(m *Match, i Interface) { m.In = i })
}

func (r *Renderer) toWorkloads(rule Rule) []Rule {
	return r.perPrefix(rule, func(m *Match, i Interface) { m.Out = i })
}

func (r *Renderer) perPrefix(rule Rule, set func(*Match, Interface)) []Rule {
	var list []Rule
	for _, p := range r.cfg.WorkloadPrefixes {
		set(&rule.Match, Interface{Name: p, Prefix: true})
		list = append(list, rule)
	}
	return list
}

// rawPrerouting is the first chain that a packet meets: bits that another program may
// have set are cleared, and a workload's packet must come from where its source lives.
func (r *Renderer) rawPrerouting(f Family) Chain {
	c := Chain{ChainID: ChainID{Raw, chainPrerouting}}
	c.add(Rule{Action: clearMark(r.marks.all())})
	c.add(r.fromWorkloads(Rule{Action: setMark(r.marks.scratch0)})...)
	fromWorkload := func(with func(*Match), comment string) {
		rule := Rule{Match: isSet(r.marks.scratch0), Action: do(Drop), Comment: comment}
		with(&rule.Match)
		c.add(rule)
	}
	if f == V4 {
		fromWorkload(func(m *Match) { m.Destination = Net{Prefix: loopback} }, "Workloads must not reach the host's loopback")
		fromWorkload(func(m *Match) { m.Source = Net{Prefix: loopback} }, "Workloads must not reach the host's loopback")
	}
	fromWorkload(func(m *Match) { m.RPFilterFails = true }, "The source is not this workload's")
	c.add(Rule{Match: isClear(r.marks.scratch0), Action: jump(chainFromHost)})
	c.add(Rule{Match: isSet(r.marks.accept), Action: goTo(chainUntrackedIn)})
	return c
}

func (r *Renderer) rawOutput() Chain {
	c := Chain{ChainID: ChainID{Raw, chainOutput}}
	c.add(
		Rule{Action: clearMark(r.marks.all())},
		Rule{Action: jump(chainToHost)},
		Rule{Match: isSet(r.marks.accept), Action: goTo(chainUntrackedOut)},
	)
	return c
}

// manglePrerouting asks the host endpoints' policies before DNAT. A workload's packet is
// not subject to them; what no workload may send is dropped here, where a new packet still
// has the destination that the workload gave it, and one of a known connection has left.
func (r *Renderer) manglePrerouting() Chain {
	c := Chain{ChainID: ChainID{Mangle, chainPrerouting}}
	c.add(Rule{Match: Match{Conn: Established | Related}, Action: do(r.cfg.MangleAllow)})
	c.add(Rule{Match: isSet(r.marks.accept), Action: do(r.cfg.MangleAllow)})
	c.add(r.fromWorkloads(Rule{Action: jump(chainWorkloadGuard)})...)
	c.add(r.fromWorkloads(Rule{Action: do(r.cfg.MangleAllow)})...)
	c.add(Rule{Action: jump(chainFromHost)})
	c.add(Rule{Match: isSet(r.marks.accept), Action: do(r.cfg.MangleAllow), Comment: "Allowed by preDNAT policy"})
	return c
}

// workloadGuard drops what no workload may send, whatever its policy says: encapsulated
// packets, whose inner packet no policy would see, and connections to etcd and to the
// nodes' BGP port, by which it could write policy and routes. Masquerading would make them
// look like the host's own. It is asked twice, before and behind DNAT: a published port may
// lead there. What is rejected elsewhere is dropped before DNAT.
func (r *Renderer) workloadGuard(f Family, t Table) Chain {
	r = r.in(t)
	c := Chain{ChainID: ChainID{t, chainWorkloadGuard}}
	port := func(ports ...uint16) []Ports {
		dst := Ports{Side: Dst}
		for _, p := range ports {
			dst.Ranges = append(dst.Ranges, desired.PortRange{First: p, Last: p})
		}
		return []Ports{dst}
	}
	drop := func(m Match, comment string) {
		c.add(Rule{Match: m, Action: do(r.cfg.FilterDeny), Comment: comment})
	}
	if t == Filter {
		drop(Match{Protocol: desired.UDP, Ports: port(vxlanPort)}, "VXLAN from a workload")
		drop(Match{Protocol: desired.IPIP}, "IP in IP from a workload")
	}
	if r.cfg.ReachControlPlane {
		return c
	}
	etcd := Set{Name: SetName(f, desired.SetEtcd), Side: Dst, WithPort: true}
	nodes := Set{Name: SetName(f, desired.SetNodes), Side: Dst}
	drop(Match{Protocol: desired.TCP, Sets: []Set{etcd}}, "Workloads must not reach etcd")
	drop(Match{Protocol: desired.TCP, Ports: port(bgpPort), Sets: []Set{nodes}}, "Workloads must not reach a node's BGP")
	// Whatever listens on all addresses of this host is there at the gateway's too.
	drop(Match{Protocol: desired.TCP, Ports: port(bgpPort), DestinationLocal: Yes}, "Workloads must not reach a node's BGP")
	for _, p := range r.cfg.EtcdPorts {
		drop(Match{Protocol: desired.TCP, Ports: port(p), DestinationLocal: Yes}, "Workloads must not reach etcd")
	}
	return c
}

// manglePostrouting asks the host endpoints' policies about what the host itself sends
// with a rewritten destination, such as to a published port. Filter OUTPUT does not: until
// here, the kernel shows the interface by which the packet would have left unrewritten.
func (r *Renderer) manglePostrouting() Chain {
	c := Chain{ChainID: ChainID{Mangle, chainPostrouting}}
	c.add(Rule{Match: Match{DNAT: Yes, SourceLocal: Yes}, Action: jump(chainToHost)})
	return c
}

// floating are the chains of floating addresses: what is sent to one goes to the
// workload's own address instead. A workload that calls its own floating address would
// see its own address as the caller's, and answer itself; so the caller becomes the
// floating address.
func (r *Renderer) floating(f Family, nats []desired.NAT) []Chain {
	dnat, snat := Chain{ChainID: ChainID{NAT, chainDNAT}}, Chain{ChainID: ChainID{NAT, chainSNAT}}
	for _, n := range nats {
		if n.External.Is4() != (f == V4) {
			continue
		}
		external, internal := Net{Prefix: hostNet(n.External)}, Net{Prefix: hostNet(n.Internal)}
		dnat.add(Rule{Match: Match{Destination: external}, Action: Action{Verb: DNAT, To: n.Internal}})
		snat.add(Rule{Match: Match{Source: internal, Destination: internal}, Action: Action{Verb: SNAT, To: n.External}})
	}
	return []Chain{dnat, snat}
}

func hostNet(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// natOutgoing hides the addresses of pools that ask for it from the rest of the world.
func (r *Renderer) natOutgoing(f Family) Chain {
	c := Chain{ChainID: ChainID{NAT, chainNATOutgoing}}
	c.add(Rule{
		Match: Match{Sets: []Set{
			{Name: SetName(f, desired.SetMasqPools), Side: Src},
			{Name: SetName(f, desired.SetAllPools), Side: Dst, Not: true},
		}},
		Action: do(Masquerade),
	})
	return c
}

// filterForward polices forwarded packets: those of workloads by both ends' policies.
func (r *Renderer) filterForward() Chain {
	c := Chain{ChainID: ChainID{Filter, chainForward}}
	c.add(Rule{Action: clearMark(r.marks.pass | r.marks.scratch0 | r.marks.scratch1)})
	c.add(Rule{Match: isClear(r.marks.accept), Action: jump(chainFromHostForward)})
	c.add(r.fromWorkloads(Rule{Action: jump(chainFromWorkload)})...)
	c.add(r.toWorkloads(Rule{Action: jump(chainToWorkload)})...)
	c.add(Rule{Action: jump(chainToHostForward)})
	c.add(r.fromWorkloads(Rule{Action: goTo(chainForwardWorkload)})...)
	c.add(r.toWorkloads(Rule{Action: goTo(chainForwardWorkload)})...)
	if r.cfg.FilterAllow == Accept {
		c.add(Rule{Match: isSet(r.marks.accept), Action: do(Accept), Comment: "Allowed by policy"})
	}
	return c
}

// filterInput polices what goes to the host. Names of the gateway come first: before egress
// policy, and before what untracked policy allowed.
func (r *Renderer) filterInput(f Family) Chain {
	c := Chain{ChainID: ChainID{Filter, chainInput}}
	c.add(r.askDNS(f, Dst, chainDNSIn)...)
	c.add(Rule{Match: isSet(r.marks.accept), Action: do(r.cfg.FilterAllow)})
	c.add(r.fromWorkloads(Rule{Action: goTo(chainWorkloadToHost)})...)
	c.add(Rule{Action: clearMark(r.marks.all())})
	c.add(Rule{Action: jump(chainFromHost)})
	c.add(Rule{Match: isSet(r.marks.accept), Action: do(r.cfg.FilterAllow), Comment: "Allowed by policy"})
	return c
}

// icmpv6ForHost are the ICMPv6 messages without which IPv6 does not work between a
// workload and its router: multicast listener query, report and done, router and
// neighbour solicitation, neighbour advertisement, and version 2 of the report.
var icmpv6ForHost = []uint8{130, 131, 132, 133, 135, 136, 143}

// echoRequest is the ICMP type of a ping.
func echoRequest(f Family) (desired.Protocol, uint8) {
	if f == V6 {
		return desired.ICMPv6, 128
	}
	return desired.ICMPv4, 8
}

// workloadToHost decides on packets from a workload to its own host: its egress policy
// first; then ping of its gateway is allowed (and DNS, unless that was let in before), and
// the rest gets the configured action.
func (r *Renderer) workloadToHost(f Family) Chain {
	c := Chain{ChainID: ChainID{Filter, chainWorkloadToHost}}
	if f == V6 {
		for _, t := range icmpv6ForHost {
			c.add(Rule{Match: Match{Protocol: desired.ICMPv6, ICMP: []ICMP{{Type: t}}}, Action: do(Accept)})
		}
	}
	c.add(Rule{Action: jump(chainFromWorkload)})
	if r.cfg.FilterAllow == Return {
		// Otherwise the workload's chain has accepted what belongs to a connection, such as
		// the answer to a call of the host's own.
		c.add(Rule{Match: Match{Conn: Established | Related}, Action: do(Return)})
	}
	for _, gw := range r.cfg.Gateways {
		if !f.Of(gw) {
			continue
		}
		to := Net{Prefix: gw}
		echo, echoType := echoRequest(f)
		c.add(Rule{Match: Match{Protocol: echo, Destination: to, ICMP: []ICMP{{Type: echoType}}}, Action: do(Accept), Comment: "Ping of the gateway"})
	}
	if !r.cfg.WorkloadDNS { // else it was asked before
		for _, m := range r.atGateway(f, Dst) {
			c.add(Rule{Match: m, Action: do(Accept), Comment: "DNS of the gateway"})
		}
	}
	c.add(Rule{Action: do(r.cfg.EndpointToHost), Comment: "Endpoint to host"})
	return c
}

func (r *Renderer) filterOutput(f Family) Chain {
	c := Chain{ChainID: ChainID{Filter, chainOutput}}
	c.add(r.askDNS(f, Src, chainDNSOut)...)
	c.add(Rule{Match: isSet(r.marks.accept), Action: do(r.cfg.FilterAllow)})
	c.add(r.toWorkloads(Rule{Action: do(Return), Comment: "The host reaches its workloads"})...)
	c.add(Rule{Action: clearMark(r.marks.all())})
	c.add(Rule{Match: Match{DNAT: No}, Action: jump(chainToHost)})
	c.add(Rule{Match: isSet(r.marks.accept), Action: do(r.cfg.FilterAllow), Comment: "Allowed by policy"})
	return c
}

// add appends rules.
func (c *Chain) add(rules ...Rule) { c.Rules = append(c.Rules, rules...) }
