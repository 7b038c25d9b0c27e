package rules

import (
	"strings"

	"calico.internal/felix/internal/desired"
)

// StandIn is what takes the place of a chain that cannot be printed, that must not be used
// because of a set that it names, or that the kernel refuses. It closes what the chain was
// to decide about, and never cuts off the host:
//
//   - A chain of an endpoint, a policy or a profile drops. That of a host endpoint lets the
//     failsafe ports pass before.
//   - Of the frame, which packets of the host pass too, it drops those of workloads. In the
//     mangle table, which decides nothing about these, it is empty.
//   - In the nat table, which must not drop, it is empty; packets go on untranslated.
func (r *Renderer) StandIn(id ChainID) Chain {
	c := Chain{ChainID: id}
	closed := Rule{Action: do(Drop), Comment: "stands in for a chain that is at fault"}
	switch {
	case id.Table == NAT, id.Table == Mangle && id.OfFrame():
	case id.OfFrame():
		c.add(r.fromWorkloads(closed)...)
		c.add(r.toWorkloads(closed)...)
	case strings.HasPrefix(id.Name, "cali-fh-"):
		c.add(Rule{Action: jump(chainFailsafeIn)}, closed)
	case strings.HasPrefix(id.Name, "cali-th-"):
		c.add(Rule{Action: jump(chainFailsafeOut)}, closed)
	default:
		c.add(closed)
	}
	return c
}

// Closing are the chains of the frame that close workloads off where their rules were taken
// away and nobody knows which are wanted: connections that are known go on, new ones are
// dropped, and so is what workloads send to the host. Neighbour discovery goes on, without
// which no connection does, and so do the questions for names, on which no policy is asked. The host's own packets, and all others, pass.
func (r *Renderer) Closing(f Family) []Chain {
	known := Rule{Match: Match{Conn: Established | Related}, Action: do(Accept)}
	closed := Rule{Action: do(Drop), Comment: "the rules were taken away"}
	forward, input := Chain{ChainID: ChainID{Filter, chainForward}}, Chain{ChainID: ChainID{Filter, chainInput}}
	forward.add(r.fromWorkloads(known)...)
	forward.add(r.toWorkloads(known)...)
	forward.add(r.fromWorkloads(closed)...)
	forward.add(r.toWorkloads(closed)...)
	if f == V6 {
		for _, t := range icmpv6ForHost {
			input.add(r.fromWorkloads(Rule{Match: Match{Protocol: desired.ICMPv6, ICMP: []ICMP{{Type: t}}}, Action: do(Accept)})...)
		}
	}
	input.add(r.fromWorkloads(known)...)
	input.add(r.dnsOfWorkloads(f)...)
	input.add(r.fromWorkloads(closed)...)
	return []Chain{forward, input}
}
