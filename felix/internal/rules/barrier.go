package rules

import (
	"net/netip"
	"slices"

	"calico.internal/felix/internal/desired"
)

// The chains of a barrier. It has one only for what it stops.
const (
	BarrierInput   = "input"
	BarrierForward = "forward"
	BarrierOutput  = "output"
)

// Barrier are the rules, in a place of their own, that stop packets while they do not meet
// those in the raw or the filter table, which unmet are. Known connections go on; of workloads
// all else but questions for names is stopped, as nobody asks their policies. The interface of a host endpoint is
// closed where its policies are not asked, but for failsafe ports and for etcd, whose
// addresses are given, since there is no address set in that place.
//
// Where preDNAT policies stand, the host does not filter, and workloads pass with what
// theirs say: for these there is none.
func (t *Tracker) Barrier(unmet []Table, etcd []netip.AddrPort) []Chain {
	bound, _ := bindHosts(t.endpoints, t.addrs)
	b := barrier{r: t.r, f: t.f, bound: bound, unmet: unmet, etcd: etcd}
	return b.chains()
}

// Barrier is that of a host of which no host endpoint is known.
func (r *Renderer) Barrier(f Family) []Chain { return barrier{r: r, f: f}.chains() }

type barrier struct {
	r     *Renderer
	f     Family
	bound []boundHost
	unmet []Table
	etcd  []netip.AddrPort
}

func (b barrier) chains() []Chain {
	input, forward := b.chain(BarrierInput), b.chain(BarrierForward)
	closed := Rule{Action: do(Drop)}
	input.add(b.r.dnsOfWorkloads(b.f)...)
	input.add(b.r.fromWorkloads(closed)...)
	forward.add(b.r.fromWorkloads(closed)...)
	forward.add(b.r.toWorkloads(closed)...)
	forward.add(b.hosts(desired.Ingress, true)...)
	forward.add(b.hosts(desired.Egress, true)...)
	if hosts := b.hosts(desired.Ingress, false); len(hosts) > 0 {
		input.add(b.failsafe(desired.Ingress)...)
		input.add(hosts...)
	}
	list := []Chain{input, forward}
	if hosts := b.hosts(desired.Egress, false); len(hosts) > 0 {
		output := b.chain(BarrierOutput)
		output.add(b.r.toWorkloads(Rule{Action: do(Accept)})...)
		output.add(b.failsafe(desired.Egress)...)
		output.add(hosts...)
		list = append(list, output)
	}
	return list
}

// chain begins with what goes on. Discovery of neighbours, without which IPv6 has none, is
// not tracked.
func (b barrier) chain(name string) Chain {
	states := Established | Related
	if b.f == V6 {
		states |= UntrackedState
	}
	return Chain{ChainID: ChainID{Filter, name}, Rules: []Rule{{Match: Match{Conn: states}, Action: do(Accept)}}}
}

// hosts are the rules for the interfaces of host endpoints. None falls to the endpoint for all
// interfaces that has one of its own.
func (b barrier) hosts(d desired.Direction, forward bool) []Rule {
	var list []Rule
	n := len(b.bound)
	every := n > 0 && b.bound[n-1].iface == "*" && b.closes(b.bound[n-1].endpoint, d, forward)
	for _, h := range b.bound {
		if h.iface == "*" {
			continue
		}
		on := onHostInterface(d, Interface{Name: h.iface})
		switch {
		case b.closes(h.endpoint, d, forward):
			list = append(list, Rule{Match: on, Action: do(Drop)})
		case every:
			list = append(list, Rule{Match: on, Action: do(Accept)})
		}
	}
	if !every {
		return list
	}
	spared := func(i Interface) { list = append(list, Rule{Match: onHostInterface(d, i), Action: do(Accept)}) }
	spared(Interface{Name: "lo"})
	for _, p := range b.r.cfg.WorkloadPrefixes { // what is to be stopped of these was before
		spared(Interface{Name: p, Prefix: true})
	}
	return append(list, Rule{Action: do(Drop)})
}

// closes reports whether policies of an endpoint are not asked that had a say. Untracked ones
// have it also about what is forwarded, where a packet comes in.
func (b barrier) closes(e *desired.Endpoint, d desired.Direction, forward bool) bool {
	return slices.ContainsFunc(hostStages(), func(s hostStage) bool {
		here := s.forward == forward || s.table == Raw && d == desired.Ingress
		return s.direction == d && here && slices.Contains(b.unmet, s.table) && s.asked(e)
	})
}

// failsafe are the rules of the failsafe ports and of etcd.
func (b barrier) failsafe(d desired.Direction) []Rule {
	list := b.r.failsafePorts(b.f, hostStage{table: Filter, direction: d})
	if d == desired.Ingress {
		return list
	}
	for _, at := range b.etcd {
		if at.Addr().Is4() != (b.f == V4) {
			continue
		}
		port := Ports{Side: Dst, Ranges: []desired.PortRange{{First: at.Port(), Last: at.Port()}}}
		list = append(list, Rule{
			Match:  Match{Protocol: desired.TCP, Destination: Net{Prefix: hostNet(at.Addr())}, Ports: []Ports{port}},
			Action: do(Accept),
		})
	}
	return list
}
