package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"calico.internal/felix/internal/desired"
)

// packet is a packet on its way through this host.
type packet struct {
	in, out        string // "" for a packet from, or to, the host itself
	src, dst       string
	proto          desired.Protocol
	sport, dport   uint16
	icmp, icmpCode uint8
	conn           ConnState // New when 0
	rpfFails       bool
	// dnat says that other rules than felix's rewrote the destination.
	dnat bool
	// noSocket says that no program of the host waits for it.
	noSocket bool
	mark     uint32 // set by another program before felix sees the packet
}

// fate is what became of a packet.
type fate struct {
	verdict    Verb // Accept, Drop or Reject
	by         string
	masquerade bool
	notrack    bool
	logs       []string
	mark       uint32
	// src and dst are the addresses with which it left, or ended.
	src, dst netip.Addr
}

// tracer walks packets through chains as the kernel does.
type tracer struct {
	t       testing.TB
	family  Family
	chains  map[ChainID]Chain
	hooks   []Hook
	sets    map[string][]desired.Member
	locals  []netip.Addr
	forward Verb // the policy of the FORWARD chain
	steps   int
}

// run is one packet's state in the tracer.
type run struct {
	packet
	fate
	trail []string
}

func newTracer(t testing.TB, f Family, hooks []Hook) *tracer {
	return &tracer{t: t, family: f, chains: map[ChainID]Chain{}, hooks: hooks, sets: map[string][]desired.Member{}, forward: Drop}
}

// apply takes over what a Tracker gave.
func (tr *tracer) apply(c ChainChanges) {
	for _, chain := range c.Set {
		if len(chain.Name) > MaxChainName {
			tr.t.Errorf("chain name %q is too long", chain.Name)
		}
		tr.checkRules(chain)
		tr.chains[chain.ChainID] = chain
	}
	for _, id := range c.Delete {
		delete(tr.chains, id)
	}
}

// checkRules checks that a dataplane can take the rules as they are.
func (tr *tracer) checkRules(c Chain) {
	for _, r := range c.Rules {
		m := r.Match
		for _, n := range []Net{m.Source, m.Destination} {
			if n.IsValid() && !tr.family.Of(n.Prefix) {
				tr.t.Errorf("chain %s: rule %s: has a network of the other family", c.Name, r)
			}
		}
		for _, p := range m.Ports {
			slots := 0
			for _, x := range p.Ranges {
				slots++
				if x.First != x.Last {
					slots++
				}
			}
			if slots == 0 || slots > MaxPorts || !m.Protocol.HasPorts() {
				tr.t.Errorf("chain %s: rule %s: has %d slots of ports for protocol %s", c.Name, r, slots, m.Protocol)
			}
		}
		if m.Protocol != 0 && m.NotProtocol != 0 {
			tr.t.Errorf("chain %s: rule %s: has a protocol and a negated one", c.Name, r)
		}
		if icmp, _ := echoRequest(tr.family); len(m.ICMP) > 0 && m.Protocol != icmp {
			tr.t.Errorf("chain %s: rule %s: has ICMP types for protocol %s", c.Name, r, m.Protocol)
		}
		if r.Action.Verb == Reject && c.Table != Filter {
			tr.t.Errorf("chain %s: rule %s: rejects in table %s", c.Name, r, c.Table)
		}
	}
}

func (tr *tracer) setMembers(id desired.SetID, members ...string) {
	var list []desired.Member
	for _, m := range members {
		list = append(list, parseMember(tr.t, m))
	}
	tr.sets[SetName(tr.family, id)] = list
}

// parseMember reads "10.0.0.1", "10.0.0.0/8" or "10.0.0.1,tcp:80".
func parseMember(t testing.TB, s string) desired.Member {
	t.Helper()
	addr, rest, _ := strings.Cut(s, ",")
	var m desired.Member
	if p, err := netip.ParsePrefix(addr); err == nil {
		m.Net = p
	} else {
		a := netip.MustParseAddr(addr)
		m.Net = netip.PrefixFrom(a, a.BitLen())
	}
	if rest != "" {
		var proto string
		if _, err := fmt.Sscanf(strings.Replace(rest, ":", " ", 1), "%s %d", &proto, &m.Port); err != nil {
			t.Fatalf("member %q: %v", s, err)
		}
		m.Protocol = map[string]desired.Protocol{"tcp": desired.TCP, "udp": desired.UDP}[proto]
	}
	return m
}

// trace walks a packet from its entry to its exit.
func (tr *tracer) trace(p packet) (fate, []string) {
	tr.t.Helper()
	if p.conn == 0 {
		p.conn = New
	}
	r := &run{packet: p, fate: fate{src: netip.MustParseAddr(p.src), dst: netip.MustParseAddr(p.dst)}}
	r.fate.mark = p.mark
	type stop struct {
		table Table
		hook  string
	}
	var way []stop
	if p.in != "" {
		way = append(way, stop{Raw, "PREROUTING"}, stop{Mangle, "PREROUTING"}, stop{NAT, "PREROUTING"})
	} else {
		way = append(way, stop{Raw, "OUTPUT"}, stop{NAT, "OUTPUT"}, stop{Filter, "OUTPUT"})
	}
	switch {
	case p.in != "" && p.out == "":
		way = append(way, stop{Filter, "INPUT"})
	case p.in != "" && p.out != "":
		way = append(way, stop{Filter, "FORWARD"})
	}
	if p.out != "" {
		way = append(way, stop{Mangle, "POSTROUTING"}, stop{NAT, "POSTROUTING"})
	}
	for _, s := range way {
		if s.table == NAT && r.conn != New {
			continue // the kernel asks the nat table for the first packet only
		}
		if !tr.hook(r, s.table, s.hook) {
			return r.fate, r.trail
		}
	}
	r.fate.verdict = Accept
	return r.fate, r.trail
}

// hook runs a chain of the kernel's: hooks that stand first, others' rules (none), hooks
// that stand last, the chain's policy. False when the packet ends here.
func (tr *tracer) hook(r *run, table Table, name string) bool {
	for _, pos := range []Position{First, Last} {
		for _, h := range tr.hooks {
			if h.Table != table || h.Name != name || h.Position != pos {
				continue
			}
			switch tr.rule(r, h.ChainID, h.Rule) {
			case ended:
				return false
			case accepted:
				return true
			case proceed, returned:
			}
		}
	}
	if table == Filter && name == "FORWARD" && tr.forward != Accept {
		r.fate.verdict, r.fate.by = tr.forward, "policy of FORWARD"
		return false
	}
	return true
}

// outcome is how the walk goes on behind a rule or chain.
type outcome int

const (
	proceed outcome = iota
	returned
	accepted
	ended
)

func (tr *tracer) chain(r *run, id ChainID) outcome {
	tr.t.Helper()
	c, ok := tr.chains[id]
	if !ok {
		tr.t.Fatalf("chain %v: does not exist", id)
	}
	tr.steps++
	if tr.steps > 10000 {
		tr.t.Fatalf("chain %v: endless walk", id)
	}
	for _, rule := range c.Rules {
		switch o := tr.rule(r, id, rule); o {
		case proceed:
		case returned:
			return proceed
		case accepted, ended:
			return o
		}
	}
	return proceed
}

func (tr *tracer) rule(r *run, id ChainID, rule Rule) outcome {
	tr.t.Helper()
	if !tr.matches(r, rule.Match) {
		return proceed
	}
	r.trail = append(r.trail, fmt.Sprintf("%s %s: %s", id.Table, id.Name, rule))
	switch a := rule.Action; a.Verb {
	case Accept:
		return accepted
	case Drop, Reject:
		r.fate.verdict, r.fate.by = a.Verb, rule.Comment
		if rule.Origin != nil {
			r.fate.by = rule.Origin.String()
		}
		return ended
	case Return:
		return returned
	case Jump:
		return tr.chain(r, ChainID{id.Table, a.Chain})
	case Goto:
		if o := tr.chain(r, ChainID{id.Table, a.Chain}); o != proceed {
			return o
		}
		return returned
	case SetMark:
		r.fate.mark |= a.Mark
	case ClearMark:
		r.fate.mark &^= a.Mark
	case Log:
		r.fate.logs = append(r.fate.logs, a.Prefix)
	case NoTrack:
		r.fate.notrack = true
	case Masquerade:
		r.fate.masquerade = true
		return accepted
	case DNAT:
		r.fate.dst = a.To
		return accepted
	case SNAT:
		r.fate.src = a.To
		return accepted
	}
	return proceed
}

func (tr *tracer) matches(r *run, m Match) bool {
	ok := matchInterface(m.In, r.in) && matchInterface(m.Out, r.out) &&
		(m.Protocol == 0 || m.Protocol == r.proto) && (m.NotProtocol == 0 || m.NotProtocol != r.proto) &&
		matchNet(m.Source, r.fate.src) && matchNet(m.Destination, r.fate.dst) &&
		(m.Conn == 0 || m.Conn&r.conn != 0) && r.fate.mark&m.Mark.Mask == m.Mark.Value &&
		(!m.RPFilterFails || r.rpfFails) && (!m.Socket || !r.noSocket) && (m.DNAT == DontCare || (m.DNAT == Yes) == (r.dnat || r.fate.dst != netip.MustParseAddr(r.packet.dst))) &&
		tr.matchLocal(m.SourceLocal, r.fate.src) && tr.matchLocal(m.DestinationLocal, r.fate.dst)
	for _, p := range m.Ports {
		ok = ok && m.Protocol.HasPorts() && matchPorts(p, r)
	}
	for _, i := range m.ICMP {
		hit := i.Type == r.icmp && (i.Code == nil || *i.Code == r.icmpCode)
		ok = ok && (r.proto == desired.ICMPv4 || r.proto == desired.ICMPv6) && hit != i.Not
	}
	for _, s := range m.Sets {
		ok = ok && tr.inSet(s, r) != s.Not
	}
	return ok
}

func matchInterface(i Interface, name string) bool {
	switch {
	case i.Name == "":
		return true
	case i.Prefix:
		return strings.HasPrefix(name, i.Name) != i.Not
	}
	return (name == i.Name) != i.Not
}

func matchNet(n Net, a netip.Addr) bool { return !n.IsValid() || n.Contains(a) != n.Not }

func (tr *tracer) matchLocal(want Tristate, a netip.Addr) bool {
	if slices.Contains(tr.locals, a) {
		return want != No
	}
	return want != Yes
}

func matchPorts(p Ports, r *run) bool {
	port := r.sport
	if p.Side == Dst {
		port = r.dport
	}
	for _, x := range p.Ranges {
		if x.First <= port && port <= x.Last {
			return !p.Not
		}
	}
	return p.Not
}

func (tr *tracer) inSet(s Set, r *run) bool {
	tr.t.Helper()
	if len(s.Name) > MaxSetName {
		tr.t.Errorf("set name %q is too long", s.Name)
	}
	members, ok := tr.sets[s.Name]
	if !ok {
		tr.t.Fatalf("set %s: does not exist", s.Name)
	}
	addr, port := r.fate.src, r.sport
	if s.Side == Dst {
		addr, port = r.fate.dst, r.dport
	}
	for _, m := range members {
		if m.Net.Contains(addr) && (!s.WithPort || m.Protocol == r.proto && m.Port == port) {
			return true
		}
	}
	return false
}
