package rules

import (
	"fmt"
	"testing"

	"calico.internal/felix/internal/desired"
)

// The parties of the matrix, by family: the endpoint under test, and peers on this host
// and elsewhere, of which the rules select the first and not the second.
var parties = map[Family]struct{ self, localPeer, localOther, remotePeer, remoteOther, peers, all string }{
	V4: {"10.0.0.1", "10.0.1.2", "10.0.1.3", "10.9.1.2", "10.9.1.3", "10.0.0.0/8", "0.0.0.0/0"},
	V6: {"fd00::1", "fd00::1:2", "fd00::1:3", "fd00:9::1:2", "fd00:9::1:3", "fd00::/16", "::/0"},
}

// ends are a rule's two ends as the endpoint under test sees them.
type ends struct{ self, peer *desired.Match }

// scene is what a case may refer to.
type scene struct {
	family            Family
	self, peer, other string
	elsewhere         []string // networks in which nobody lives
}

// matrixCase is one kind of match: rule makes it so that hit's packets match and miss's
// do not. Both start from a TCP packet from port 1000 to port 80 between self and peer.
type matrixCase struct {
	name string
	rule func(r *desired.Rule, e ends, s scene)
	hit  func(p *probe)
	miss func(p *probe)
}

// probe is a packet of the matrix before it is known which way it goes.
type probe struct {
	proto          desired.Protocol
	sport, dport   uint16
	icmp, icmpCode uint8
	other          bool // from or to the peer that the rule does not select
}

func toOther(p *probe) { p.other = true }
func nothing(*probe)   {}

func protocol(n desired.Protocol) func(*probe) { return func(p *probe) { p.proto = n } }
func dport(n uint16) func(*probe)              { return func(p *probe) { p.dport = n } }
func sport(n uint16) func(*probe)              { return func(p *probe) { p.sport = n } }

func single(addr string) string {
	if parties[V4].self[:3] == addr[:3] {
		return addr + "/32"
	}
	return addr + "/128"
}

func manyPorts(first uint16, n int) []desired.PortRange {
	var list []desired.PortRange
	for i := range n {
		p := first + uint16(3*i)
		list = append(list, desired.PortRange{First: p, Last: p + uint16(i%2)})
	}
	return list
}

func icmpOf(f Family) desired.Protocol {
	p, _ := echoRequest(f)
	return p
}

const (
	setPeer  desired.SetID = "s:peer"
	setHTTP  desired.SetID = "n:tcp:http"
	setOther desired.SetID = "s:other"
)

var matrixCases = []matrixCase{
	{name: "everything", rule: func(*desired.Rule, ends, scene) {}, hit: nothing},
	{
		name: "protocol", hit: nothing, miss: protocol(desired.UDP),
		rule: func(r *desired.Rule, _ ends, _ scene) { r.Protocol = desired.TCP },
	},
	{
		name: "protocol by number", hit: protocol(89), miss: nothing,
		rule: func(r *desired.Rule, _ ends, _ scene) { r.Protocol = 89 },
	},
	{
		name: "not protocol", hit: protocol(desired.UDP), miss: nothing,
		rule: func(r *desired.Rule, _ ends, _ scene) { r.NotProtocol = desired.TCP },
	},
	{
		name: "protocol and another not protocol", hit: nothing, miss: protocol(desired.UDP),
		rule: func(r *desired.Rule, _ ends, _ scene) { r.Protocol, r.NotProtocol = desired.TCP, desired.UDP },
	},
	{
		name: "protocol and the same not protocol", hit: nil, miss: nothing,
		rule: func(r *desired.Rule, _ ends, _ scene) { r.Protocol, r.NotProtocol = desired.TCP, desired.TCP },
	},
	{
		name: "IP version", hit: nothing,
		rule: func(r *desired.Rule, _ ends, s scene) { r.IPVersion = int(s.family) },
	},
	{
		name: "the other IP version", miss: nothing,
		rule: func(r *desired.Rule, _ ends, s scene) { r.IPVersion = 10 - int(s.family) },
	},
	{
		name: "net", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, s scene) { e.peer.Nets = nets(single(s.peer)) },
	},
	{
		name: "all addresses", hit: nothing,
		rule: func(_ *desired.Rule, e ends, s scene) { e.peer.Nets = nets(parties[s.family].all) },
	},
	{
		name: "nets", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, s scene) {
			e.peer.Nets = nets(s.elsewhere[0], single(s.peer), s.elsewhere[1])
		},
	},
	{
		name: "nets at both ends", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, s scene) {
			e.peer.Nets = nets(s.elsewhere[0], single(s.peer))
			e.self.Nets = nets(single(s.self), s.elsewhere[1])
		},
	},
	{
		name: "nets at both ends, of which one is wrong", miss: nothing,
		rule: func(_ *desired.Rule, e ends, s scene) {
			e.peer.Nets = nets(s.elsewhere[0], single(s.peer))
			e.self.Nets = nets(s.elsewhere...)
		},
	},
	{
		name: "net of the other family", miss: nothing,
		rule: func(_ *desired.Rule, e ends, s scene) { e.peer.Nets = nets(parties[10-s.family].all) },
	},
	{
		name: "nets of both families", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, s scene) {
			e.peer.Nets = nets(parties[10-s.family].all, single(s.peer))
		},
	},
	{
		name: "not net", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, s scene) { e.peer.NotNets = nets(single(s.other)) },
	},
	{
		name: "not nets", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, s scene) { e.peer.NotNets = nets(s.elsewhere[0], single(s.other)) },
	},
	{
		name: "net without a part", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, s scene) {
			e.peer.Nets = nets(parties[s.family].peers)
			e.peer.NotNets = nets(single(s.other))
		},
	},
	{
		name: "net of others without a part", miss: nothing,
		rule: func(_ *desired.Rule, e ends, s scene) {
			e.peer.Nets = nets(s.elsewhere[0])
			e.peer.NotNets = nets(single(s.other))
		},
	},
	{
		name: "nets without parts at both ends", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, s scene) {
			e.peer.Nets = nets(s.elsewhere[0], parties[s.family].peers)
			e.peer.NotNets = nets(s.elsewhere[1], single(s.other))
			e.self.Nets = nets(s.elsewhere[0], parties[s.family].peers)
			e.self.NotNets = nets(s.elsewhere...)
		},
	},
	{
		name: "selector", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, _ scene) { e.peer.Sets = []desired.SetID{setPeer} },
	},
	{
		name: "not selector", hit: nothing, miss: toOther,
		rule: func(_ *desired.Rule, e ends, _ scene) { e.peer.NotSets = []desired.SetID{setOther} },
	},
	{
		name: "two selectors", miss: nothing,
		rule: func(_ *desired.Rule, e ends, _ scene) { e.peer.Sets = []desired.SetID{setPeer, setOther} },
	},
	{
		name: "destination port", hit: nothing, miss: dport(81),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.Ports = desired.TCP, ports(22, 80)
		},
	},
	{
		name: "source port", hit: nothing, miss: sport(1001),
		rule: func(r *desired.Rule, _ ends, _ scene) { r.Protocol, r.Source.Ports = desired.TCP, ports(1000) },
	},
	{
		name: "port of another protocol", hit: nothing, miss: protocol(desired.UDP),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.Ports = desired.TCP, ports(80)
		},
	},
	{
		name: "port range", hit: dport(90), miss: dport(91),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.Ports = desired.TCP, []desired.PortRange{{First: 80, Last: 90}}
		},
	},
	{
		name: "more ports than one rule takes", hit: dport(8000 + 3*39), miss: dport(8000 + 3*39 + 2),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.Ports = desired.TCP, manyPorts(8000, 40)
		},
	},
	{
		name: "more ports than one rule takes at both ends", hit: func(p *probe) { p.sport, p.dport = 7000, 8060 }, miss: dport(8060),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Source.Ports, r.Destination.Ports = desired.TCP, manyPorts(7000, 40), manyPorts(8000, 40)
		},
	},
	{
		name: "not ports", hit: nothing, miss: dport(81),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.NotPorts = desired.TCP, ports(81, 82)
		},
	},
	{
		name: "more negated ports than one rule takes", hit: nothing, miss: dport(8000 + 3*39),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.NotPorts = desired.TCP, manyPorts(8000, 40)
		},
	},
	{
		name: "ports without some", hit: dport(85), miss: dport(86),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol = desired.TCP
			r.Destination.Ports = []desired.PortRange{{First: 80, Last: 90}}
			r.Destination.NotPorts = ports(86)
		},
	},
	{
		name: "named port", hit: dport(8080), miss: nothing,
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.NamedPorts = desired.TCP, []desired.SetID{setHTTP}
		},
	},
	{
		name: "named or numbered port, by name", hit: dport(8080), miss: dport(81),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.NamedPorts, r.Destination.Ports = desired.TCP, []desired.SetID{setHTTP}, ports(80)
		},
	},
	{
		name: "named or numbered port, by number", hit: nothing, miss: dport(81),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.NamedPorts, r.Destination.Ports = desired.TCP, []desired.SetID{setHTTP}, ports(80)
		},
	},
	{
		name: "not named port", hit: nothing, miss: dport(8080),
		rule: func(r *desired.Rule, _ ends, _ scene) {
			r.Protocol, r.Destination.NotNamedPorts = desired.TCP, []desired.SetID{setHTTP}
		},
	},
	{
		name: "nets, ports and exclusions together", hit: dport(8060), miss: func(p *probe) { p.other, p.dport = true, 8060 },
		rule: func(r *desired.Rule, e ends, s scene) {
			r.Protocol, r.Destination.Ports = desired.TCP, manyPorts(8000, 40)
			e.peer.Nets = nets(s.elsewhere[0], parties[s.family].peers)
			e.peer.NotNets = nets(s.elsewhere[1], single(s.other))
		},
	},
	{
		name: "ICMP type", hit: func(p *probe) { p.icmp = 3 }, miss: func(p *probe) { p.icmp = 4 },
		rule: func(r *desired.Rule, _ ends, s scene) {
			r.Protocol, r.ICMP = icmpOf(s.family), &desired.ICMP{Type: 3}
		},
	},
	{
		name: "ICMP type and code", hit: func(p *probe) { p.icmp, p.icmpCode = 3, 1 }, miss: func(p *probe) { p.icmp, p.icmpCode = 3, 2 },
		rule: func(r *desired.Rule, _ ends, s scene) {
			r.Protocol, r.ICMP = icmpOf(s.family), &desired.ICMP{Type: 3, Code: new(uint8(1))}
		},
	},
	{
		name: "not ICMP type", hit: func(p *probe) { p.icmp = 4 }, miss: func(p *probe) { p.icmp = 3 },
		rule: func(r *desired.Rule, _ ends, s scene) {
			r.Protocol, r.NotICMP = icmpOf(s.family), &desired.ICMP{Type: 3}
		},
	},
	{
		name: "ICMP type without protocol", hit: func(p *probe) { p.icmp = 3 }, miss: nothing,
		rule: func(r *desired.Rule, _ ends, _ scene) { r.ICMP = &desired.ICMP{Type: 3} },
	},
	{
		name: "ICMP type of the other family", miss: func(p *probe) { p.icmp = 3 },
		rule: func(r *desired.Rule, _ ends, s scene) {
			r.Protocol, r.ICMP = icmpOf(10-s.family), &desired.ICMP{Type: 3}
		},
	},
}

// TestPolicyMatrix sends packets that a rule matches, and packets that it does not, for
// every action, match, direction and place of the peer, in both families.
func TestPolicyMatrix(t *testing.T) {
	for _, f := range Families {
		for _, c := range matrixCases {
			for _, d := range []desired.Direction{desired.Ingress, desired.Egress} {
				for _, local := range []bool{true, false} {
					t.Run(fmt.Sprintf("IPv%d/%s/%s/local=%v", f, c.name, d, local), func(t *testing.T) {
						runMatrixCase(t, f, c, d, local)
					})
				}
			}
		}
	}
}

func runMatrixCase(t *testing.T, f Family, c matrixCase, d desired.Direction, local bool) {
	who := parties[f]
	s := scene{family: f, self: who.self, peer: who.remotePeer, other: who.remoteOther}
	s.elsewhere = []string{"192.0.2.0/24", "198.51.100.0/24"}
	if f == V6 {
		s.elsewhere = []string{"2001:db8:1::/48", "2001:db8:2::/48"}
	}
	if local {
		s.peer, s.other = who.localPeer, who.localOther
	}
	for _, action := range []desired.Action{desired.Allow, desired.Deny, desired.Pass, desired.Log} {
		rule := desired.Rule{Action: action}
		e := ends{self: &rule.Destination, peer: &rule.Source}
		if d == desired.Egress {
			e = ends{self: &rule.Source, peer: &rule.Destination}
		}
		c.rule(&rule, e, s)

		w := newWorld(t)
		w.sets[setPeer] = []string{s.peer}
		w.sets[setOther] = []string{s.other}
		w.sets[setHTTP] = []string{s.self + ",tcp:8080", s.peer + ",tcp:8080"}
		w.profile("open", allowAll(), allowAll())
		w.endpoint("cali1", "open").Tiers = []desired.Tier{tier("default", w.policy("default", "p", rule))}
		w.endpoint("cali2", "open")
		w.endpoint("cali3", "open")

		if c.hit != nil {
			checkMatrix(t, w, s, d, local, action, true, c.hit)
		}
		if c.miss != nil {
			checkMatrix(t, w, s, d, local, action, false, c.miss)
		}
	}
}

func checkMatrix(t *testing.T, w *world, s scene, d desired.Direction, local bool, action desired.Action, hit bool, change func(*probe)) {
	t.Helper()
	p := probe{proto: desired.TCP, sport: 1000, dport: 80}
	change(&p)
	if p.icmp != 0 {
		p.proto, p.sport, p.dport = icmpOf(s.family), 0, 0
	}
	peer, peerIface := s.peer, "cali2"
	if p.other {
		peer, peerIface = s.other, "cali3"
	}
	if !local {
		peerIface = "eth0"
	}
	pkt := packet{
		in: peerIface, out: "cali1", src: peer, dst: s.self,
		proto: p.proto, sport: p.sport, dport: p.dport, icmp: p.icmp, icmpCode: p.icmpCode,
	}
	if d == desired.Egress {
		pkt.in, pkt.out, pkt.src, pkt.dst = "cali1", peerIface, s.self, peer
	}
	got := w.send(pkt)

	want, by := Drop, "No policy of tier default decided"
	switch {
	case hit && (action == desired.Allow || action == desired.Pass):
		want, by = Accept, ""
	case hit && action == desired.Deny:
		by = "policy default/p " + d.String() + " 0"
	}
	if got.verdict != want || got.by != by {
		t.Errorf("%s rule, hit=%v: packet %+v: got %s by %q, want %s by %q", action, hit, pkt, got.verdict, got.by, want, by)
	}
	if logged := len(got.logs) > 0; logged != (hit && action == desired.Log) {
		t.Errorf("%s rule, hit=%v: packet %+v: logged = %v", action, hit, pkt, logged)
	}
}
