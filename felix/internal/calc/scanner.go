package calc

import (
	"errors"
	"fmt"
	"net/netip"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

// translation is what became of the rules of a policy or profile.
type translation struct {
	rules [2][]desired.Rule // by direction
	used  []desired.SetID
	// fault says why rules that deny stand in the place of those that are stored.
	fault string
}

// translate turns rules into rules with set ids, in the directions asked for. When one
// cannot be translated all is denied; when what one lacks would open something, all of its
// direction.
func (e *Engine) translate(owner model.Key, directions []desired.Direction, inbound, outbound []model.Rule) translation {
	var t translation
	for _, dir := range directions {
		rules := inbound
		if dir == desired.Egress {
			rules = outbound
		}
		sc := scanner{sets: e.sets, owner: owner}
		t.rules[dir] = sc.rules(dir, rules)
		if sc.err != nil {
			e.releaseAll(append(t.used, sc.used...))
			for _, d := range directions {
				t.rules[d] = denyAll(owner, d)
			}
			t.used, t.fault = nil, sc.err.Error()
			return t
		}
		if k := e.opens(t.rules[dir]); k != nil {
			e.releaseAll(sc.used)
			t.rules[dir] = denyAll(owner, dir)
			t.fault = fmt.Sprintf("%s rules may be meant for addresses of %s, which are not known", dir, k)
			continue
		}
		t.used = append(t.used, sc.used...)
	}
	return t
}

// scanner turns the rules of one policy or profile into rules with set ids, and counts
// the sets that they use. The first fault stops it.
type scanner struct {
	sets  *sets
	owner model.Key
	used  []desired.SetID
	err   error
}

func (sc *scanner) rules(dir desired.Direction, rules []model.Rule) []desired.Rule {
	if len(rules) == 0 {
		return nil
	}
	list := make([]desired.Rule, 0, len(rules))
	for i := range rules {
		if sc.err != nil {
			return nil
		}
		r := sc.rule(&rules[i])
		r.Origin = desired.Origin{Owner: sc.owner, Direction: dir, Index: i}
		if sc.err != nil {
			sc.err = fmt.Errorf("%s rule %d: %w", dir, i, sc.err)
		}
		list = append(list, r)
	}
	return list
}

func (sc *scanner) rule(r *model.Rule) desired.Rule {
	d := desired.Rule{
		Action: sc.action(r.Action), LogPrefix: r.LogPrefix, IPVersion: r.IPVersion,
		Protocol: sc.protocol(r.Protocol), NotProtocol: sc.protocol(r.NotProtocol),
		ICMP: sc.icmp(r.ICMP), NotICMP: sc.icmp(r.NotICMP),
	}
	d.Source = sc.match(&r.Source, d.Protocol)
	d.Destination = sc.match(&r.Destination, d.Protocol)
	return d
}

func (sc *scanner) action(name string) desired.Action {
	switch name {
	case model.ActionAllow:
		return desired.Allow
	case model.ActionDeny:
		return desired.Deny
	case model.ActionPass:
		return desired.Pass
	case model.ActionLog:
		return desired.Log
	}
	sc.fail(fmt.Errorf("action %q: not known", name))
	return desired.Deny
}

func (sc *scanner) protocol(p model.Protocol) desired.Protocol {
	n, err := desired.ParseProtocol(p)
	sc.fail(err)
	return n
}

func (sc *scanner) icmp(m *model.ICMP) *desired.ICMP {
	if m == nil {
		return nil
	}
	// 255 means "any type" to the kernel's rule, so it is no type that can be matched.
	if m.Type < 0 || m.Type > 254 || m.Code != nil && (*m.Code < 0 || *m.Code > 255) {
		sc.fail(fmt.Errorf("icmp type %d: out of range", m.Type))
		return nil
	}
	d := &desired.ICMP{Type: uint8(m.Type)}
	if m.Code != nil {
		code := uint8(*m.Code)
		d.Code = &code
	}
	return d
}

func (sc *scanner) match(m *model.Match, proto desired.Protocol) desired.Match {
	var d desired.Match
	d.Nets, d.NotNets = masked(m.Nets), masked(m.NotNets)
	d.Sets = sc.addressSets(m.Selector, m.Tag)
	d.NotSets = sc.addressSets(m.NotSelector, m.NotTag)
	d.Ports, d.NamedPorts = sc.ports(m.Ports, proto)
	d.NotPorts, d.NotNamedPorts = sc.ports(m.NotPorts, proto)
	return d
}

// addressSets lists the sets of a selector and a tag; either may be empty.
func (sc *scanner) addressSets(sel, tag string) []desired.SetID {
	var ids []desired.SetID
	if sel != "" {
		ids = sc.addressSet(ids, sel)
	}
	if tag != "" {
		ids = sc.addressSet(ids, "has("+tag+")")
	}
	return ids
}

func (sc *scanner) addressSet(ids []desired.SetID, text string) []desired.SetID {
	if sc.err != nil {
		return ids
	}
	sel, err := selector.Parse(text)
	if err != nil {
		sc.fail(err)
		return ids
	}
	id := sc.sets.useSelector(sel)
	sc.used = append(sc.used, id)
	return append(ids, id)
}

// ports splits a list of ports into ranges and sets of named ports.
func (sc *scanner) ports(ports []model.Port, proto desired.Protocol) (ranges []desired.PortRange, named []desired.SetID) {
	for _, p := range ports {
		if sc.err != nil {
			return nil, nil
		}
		switch {
		case p.Name == "" && p.First <= p.Last:
			ranges = append(ranges, desired.PortRange{First: p.First, Last: p.Last})
		case p.Name == "":
			sc.fail(fmt.Errorf("ports %d:%d: ends before it begins", p.First, p.Last))
		case proto.HasPorts():
			id := sc.sets.usePort(namedPort{p.Name, proto})
			sc.used = append(sc.used, id)
			named = append(named, id)
		}
	}
	switch {
	case len(ports) == 0 || proto.HasPorts():
	case proto == 0:
		sc.fail(errors.New("ports: need a protocol that has ports"))
	default:
		sc.fail(fmt.Errorf("protocol %s: has no ports", proto))
	}
	return ranges, named
}

// fail keeps the first fault.
func (sc *scanner) fail(err error) {
	if sc.err == nil && err != nil {
		sc.err = err
	}
}

func masked(nets []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, n := range nets {
		list = append(list, n.Masked())
	}
	return list
}
