package rules

import (
	"net/netip"

	"calico.internal/felix/internal/desired"
)

// ruleList renders the rules of a policy or profile for a table of a family. Each becomes
// one or more rules; a rule that cannot match a packet of the family becomes none.
func (r *Renderer) ruleList(f Family, t Table, list []desired.Rule) []Rule {
	var out []Rule
	for i := range list {
		out = append(out, r.policyRule(f, t, &list[i])...)
	}
	return out
}

// policyRule renders one rule. What one rule of the dataplane can match (one network and
// one list of ports an end) is matched in it; each list of more than that becomes a
// block of rules before it, which leaves its answer in scratch mark 0.
func (r *Renderer) policyRule(f Family, t Table, d *desired.Rule) []Rule {
	if d.IPVersion != 0 && d.IPVersion != int(f) {
		return nil
	}
	m, ok := baseMatch(f, d)
	if !ok {
		return nil
	}
	b := blocks{marks: r.marks}
	for _, side := range []Side{Src, Dst} {
		end := &d.Source
		if side == Dst {
			end = &d.Destination
		}
		if !b.addNets(f, &m, side, end) {
			return nil
		}
		b.addPorts(f, &m, side, end)
		for _, id := range end.Sets {
			m.Sets = append(m.Sets, Set{Name: SetName(f, id), Side: side})
		}
		for _, id := range end.NotSets {
			m.Sets = append(m.Sets, Set{Name: SetName(f, id), Side: side, Not: true})
		}
	}
	if len(b.rules) > 0 {
		m.Mark = isSet(r.marks.scratch0).Mark
	}
	out := append(b.rules, Rule{Match: m, Action: r.verdict(t, d)})
	for i := range out {
		out[i].Origin = &d.Origin
	}
	return out
}

// verdict is what the policy rule says about a packet that it matches.
func (r *Renderer) verdict(t Table, d *desired.Rule) Action {
	switch d.Action {
	case desired.Allow:
		return goTo(chainAllow)
	case desired.Pass:
		return goTo(chainPass)
	case desired.Log:
		prefix := d.LogPrefix
		if prefix == "" {
			prefix = r.cfg.LogPrefix
		}
		return Action{Verb: Log, Prefix: logPrefix(prefix)}
	case desired.Deny:
	}
	return do(r.in(t).cfg.FilterDeny)
}

// decisions are the chains to which the rules of policies go with what they allow or pass.
// A goto leaves no way back behind: at the end of such a chain the packet returns to the
// chain that asked the policy. So one rule does what would take two otherwise, one that
// marks and one that returns what is marked.
func (r *Renderer) decisions() (list []Chain) {
	for _, t := range []Table{Raw, Mangle, Filter} {
		list = append(list,
			Chain{ChainID: ChainID{t, chainAllow}, Rules: []Rule{{Action: setMark(r.marks.accept)}}},
			Chain{ChainID: ChainID{t, chainPass}, Rules: []Rule{{Action: setMark(r.marks.pass)}}})
	}
	return list
}

// maxLogPrefix is the longest prefix that the kernel takes.
const maxLogPrefix = 29

// logPrefix is what stands before a logged packet: the prefix and ": ".
func logPrefix(prefix string) string {
	prefix = prefix[:min(len(prefix), maxLogPrefix-2)]
	return prefix + ": "
}

// baseMatch renders what a rule asks of a packet besides its two ends. ok is false when
// no packet of the family can match.
func baseMatch(f Family, d *desired.Rule) (m Match, ok bool) {
	m.Protocol, m.NotProtocol = d.Protocol, d.NotProtocol
	if m.Protocol != 0 && m.NotProtocol != 0 {
		if m.Protocol == m.NotProtocol {
			return m, false
		}
		m.NotProtocol = 0
	}
	if d.ICMP == nil && d.NotICMP == nil {
		return m, true
	}
	icmp, _ := echoRequest(f)
	switch {
	case m.Protocol != 0 && m.Protocol != icmp, m.NotProtocol == icmp:
		return m, false
	default:
		m.Protocol, m.NotProtocol = icmp, 0
	}
	if d.ICMP != nil {
		m.ICMP = append(m.ICMP, ICMP{Type: d.ICMP.Type, Code: d.ICMP.Code})
	}
	if d.NotICMP != nil {
		m.ICMP = append(m.ICMP, ICMP{Type: d.NotICMP.Type, Code: d.NotICMP.Code, Not: true})
	}
	return m, true
}

// blocks collects the rules that match lists too long for one rule. After them, scratch
// mark 0 is set if the packet fulfils every block:
//
//	first block of alternatives     clear 0; each alternative sets 0
//	another block of alternatives   clear 1; each alternative sets 1; not 1 → clear 0
//	block of exclusions             each exclusion clears 0
type blocks struct {
	marks marks
	rules []Rule
}

// anyOf adds a block of which at least one match must hold.
func (b *blocks) anyOf(alternatives []Match) {
	mark := b.marks.scratch0
	if len(b.rules) == 0 {
		b.rules = append(b.rules, Rule{Action: clearMark(b.marks.scratch0 | b.marks.scratch1)})
	} else {
		mark = b.marks.scratch1
		b.rules = append(b.rules, Rule{Action: clearMark(mark)})
	}
	for _, m := range alternatives {
		b.rules = append(b.rules, Rule{Match: m, Action: setMark(mark)})
	}
	if mark == b.marks.scratch1 {
		b.rules = append(b.rules, Rule{Match: isClear(mark), Action: clearMark(b.marks.scratch0)})
	}
}

// noneOf adds a block of which no match may hold.
func (b *blocks) noneOf(exclusions []Match) {
	if len(b.rules) == 0 {
		b.rules = append(b.rules, Rule{Action: setMark(b.marks.scratch0)})
	}
	for _, m := range exclusions {
		b.rules = append(b.rules, Rule{Match: m, Action: clearMark(b.marks.scratch0)})
	}
}

// addNets matches the networks of one end, in m as far as they fit. ok is false when no
// packet of the family can match: a list that names networks, but none of the family,
// is one for the other family only.
func (b *blocks) addNets(f Family, m *Match, side Side, end *desired.Match) (ok bool) {
	nets, notNets := ofFamily(f, end.Nets), ofFamily(f, end.NotNets)
	if len(nets) == 0 && len(end.Nets) > 0 || len(notNets) == 0 && len(end.NotNets) > 0 {
		return false
	}
	slot := &m.Source
	if side == Dst {
		slot = &m.Destination
	}
	switch {
	case len(nets) == 1:
		*slot = Net{Prefix: nets[0]}
	case len(nets) > 1:
		b.anyOf(netMatches(side, nets))
	}
	switch {
	case len(notNets) == 1 && !slot.IsValid():
		*slot = Net{Prefix: notNets[0], Not: true}
	case len(notNets) > 0:
		b.noneOf(netMatches(side, notNets))
	}
	return true
}

func netMatches(side Side, nets []netip.Prefix) []Match {
	var list []Match
	for _, n := range nets {
		if side == Src {
			list = append(list, Match{Source: Net{Prefix: n}})
		} else {
			list = append(list, Match{Destination: Net{Prefix: n}})
		}
	}
	return list
}

// addPorts matches the ports of one end, in m as far as they fit. The protocol of m is
// known by then.
func (b *blocks) addPorts(f Family, m *Match, side Side, end *desired.Match) {
	var alternatives []Match
	for _, ranges := range portLists(end.Ports) {
		alternatives = append(alternatives, Match{Protocol: m.Protocol, Ports: []Ports{{Side: side, Ranges: ranges}}})
	}
	for _, id := range end.NamedPorts {
		alternatives = append(alternatives, Match{Protocol: m.Protocol, Sets: []Set{{Name: SetName(f, id), Side: side, WithPort: true}}})
	}
	switch {
	case len(alternatives) == 1:
		m.Ports = append(m.Ports, alternatives[0].Ports...)
		m.Sets = append(m.Sets, alternatives[0].Sets...)
	case len(alternatives) > 1:
		b.anyOf(alternatives)
	}
	for _, ranges := range portLists(end.NotPorts) {
		m.Ports = append(m.Ports, Ports{Side: side, Ranges: ranges, Not: true})
	}
	for _, id := range end.NotNamedPorts {
		m.Sets = append(m.Sets, Set{Name: SetName(f, id), Side: side, WithPort: true, Not: true})
	}
}

// portLists splits ports into lists that fit into one match.
func portLists(ports []desired.PortRange) [][]desired.PortRange {
	var lists [][]desired.PortRange
	slots := MaxPorts
	for _, p := range ports {
		need := 1
		if p.First != p.Last {
			need = 2
		}
		if slots+need > MaxPorts {
			lists = append(lists, nil)
			slots = 0
		}
		last := len(lists) - 1
		lists[last] = append(lists[last], p)
		slots += need
	}
	return lists
}

func ofFamily(f Family, nets []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, n := range nets {
		if f.Of(n) {
			list = append(list, n)
		}
	}
	return list
}
