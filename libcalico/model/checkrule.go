package model

import (
	"net/netip"
	"strconv"
)

func (f *faults) rules(field string, rules []Rule) {
	for i := range rules {
		f.rule(indexed(field, i), &rules[i])
	}
}

func (f *faults) rule(field string, r *Rule) {
	switch r.Action {
	case ActionAllow, ActionDeny, ActionLog, ActionPass:
	default:
		f.add(field+".action", r.Action, "must be allow, deny, log or pass")
	}
	switch r.IPVersion {
	case 0, 4, 6:
	default:
		f.add(field+".ipVersion", r.IPVersion, "must be 4 or 6")
	}
	f.protocol(field+".protocol", r.Protocol)
	f.protocol(field+".notProtocol", r.NotProtocol)
	f.icmp(field+".icmp", r.ICMP, r)
	f.icmp(field+".notICMP", r.NotICMP, r)
	f.match(field+".source", &r.Source, r)
	f.match(field+".destination", &r.Destination, r)
	f.ruleFamily(field, r)
	f.unless(isLogPrefix(r.LogPrefix), field+".logPrefix", r.LogPrefix, logPrefixRule)
	for _, name := range sortedKeys(r.Annotations) {
		f.unless(isAnnotationName(name), field+".metadata.annotations", name, annotationNameRule)
	}
}

func (f *faults) protocol(field string, p Protocol) {
	if p == "" {
		return
	}
	_, ok := p.Number()
	f.unless(ok && canonicalNumber(string(p)) == string(p), field, p,
		"must be tcp, udp, icmp, icmpv6, sctp, udplite or a number from 1 to 255")
}

// icmp asks for the protocol: the kernel refuses an ICMP match without it.
func (f *faults) icmp(field string, i *ICMP, r *Rule) {
	if i == nil {
		return
	}
	f.unless(i.Type >= 0 && i.Type <= 254, field+".type", i.Type, "must be 0 to 254")
	if i.Code != nil {
		f.unless(*i.Code >= 0 && *i.Code <= 255, field+".code", *i.Code, "must be 0 to 255")
	}
	f.unless(r.Protocol.Is(ProtocolICMP) || r.Protocol.Is(ProtocolICMPv6), field, r.Protocol,
		"protocol must be icmp or icmpv6 to match ICMP types")
}

func (f *faults) match(field string, m *Match, r *Rule) {
	if m.Tag != "" {
		f.name(field+".tag", m.Tag)
	}
	if m.NotTag != "" {
		f.name(field+".notTag", m.NotTag)
	}
	f.selector(field+".selector", m.Selector)
	f.selector(field+".notSelector", m.NotSelector)
	f.rulePorts(field+".ports", m.Ports, r)
	f.rulePorts(field+".notPorts", m.NotPorts, r)
	for i, p := range m.Nets {
		f.cidr(indexed(field+".nets", i), p)
	}
	for i, p := range m.NotNets {
		if f.cidr(indexed(field+".notNets", i), p) {
			// iptables drops the negation of a match on every address.
			f.unless(p.Bits() > 0, indexed(field+".notNets", i), p, "no address is outside of it")
		}
	}
}

func (f *faults) rulePorts(field string, ports []Port, r *Rule) {
	if len(ports) == 0 {
		return
	}
	f.unless(r.Protocol.HasPorts(), field, ports, "ports need protocol tcp, udp or sctp")
	for i, p := range ports {
		switch {
		case p.Name != "":
			f.unless(isPortName(p.Name) && p.First == 0 && p.Last == 0, indexed(field, i), p, "not the name of a port")
		case p.First > p.Last:
			f.add(indexed(field, i), p, "the range ends before it begins")
		case p.Last == 0:
			f.add(indexed(field, i), p, "must be 1 to 65535")
		}
	}
}

// ruleFamily checks that all that fixes the rule's address family agrees.
func (f *faults) ruleFamily(field string, r *Rule) {
	seen := map[int]bool{}
	for _, list := range [][]netip.Prefix{r.Source.Nets, r.Source.NotNets, r.Destination.Nets, r.Destination.NotNets} {
		for _, p := range list {
			if p.IsValid() {
				seen[familyNumber(p.Addr())] = true
			}
		}
	}
	if seen[4] && seen[6] {
		f.add(field, "nets", "rule contains both IPv4 and IPv6 CIDRs")
		return
	}
	var family int
	switch {
	case r.Protocol.Is(ProtocolICMP):
		family = 4
	case r.Protocol.Is(ProtocolICMPv6):
		family = 6
	}
	if r.IPVersion != 0 {
		f.unless(family == 0 || family == r.IPVersion, field+".protocol", r.Protocol,
			"is not a protocol of IPv"+strconv.Itoa(r.IPVersion))
		family = r.IPVersion
	}
	if family != 0 {
		f.unless(!seen[10-family], field, "nets", "rule for IPv"+strconv.Itoa(family)+" contains a CIDR of the other family")
	}
}
