package daemon_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// TestPolicyMatrix sends real packets through every action with every kind of match: to
// and from a container and a host, from and to containers of this and another host and the
// other host itself. Each match is tried in a form that applies and in one that does not.
func TestPolicyMatrix(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		m := newMatrix(t, variant)
		for _, c := range matrixCases() {
			for _, action := range []string{model.ActionAllow, model.ActionDeny, model.ActionPass, model.ActionLog} {
				m.try(c, action, true)
				if c.misses != nil {
					m.try(c, action, false)
				}
			}
		}
	})
}

// matrixCase is a kind of match.
type matrixCase struct {
	name string
	// hits and misses make a rule that applies, and one that does not, to what is sent
	// from peers or to them.
	hits, misses func(r *model.Rule, peer *model.Match)
	ping         bool // what is sent is a ping, else it is TCP
	// workloadOnly is for what host endpoints of the v1 model do not have.
	workloadOnly bool
}

func matrixCases() []matrixCase {
	nets := func(list ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	const nobody, others = "203.0.113.0/24", "198.51.100.0/24"
	peers := []string{"192.168.0.1/32", "192.168.1.1/32", "172.28.8.101/32"}
	tcp := func(r *model.Rule) { r.Protocol = "tcp" }
	ports := func(list ...model.Port) func(*model.Rule, *model.Match) {
		return func(r *model.Rule, _ *model.Match) { tcp(r); r.Destination.Ports = list }
	}
	notPorts := func(list ...model.Port) func(*model.Rule, *model.Match) {
		return func(r *model.Rule, _ *model.Match) { tcp(r); r.Destination.NotPorts = list }
	}
	sources := func(first, last uint16) func(*model.Rule, *model.Match) {
		return func(r *model.Rule, _ *model.Match) { tcp(r); r.Source.Ports = []model.Port{{First: first, Last: last}} }
	}
	peer := func(set func(*model.Match)) func(*model.Rule, *model.Match) {
		return func(_ *model.Rule, p *model.Match) { set(p) }
	}
	rule := func(set func(*model.Rule)) func(*model.Rule, *model.Match) {
		return func(r *model.Rule, _ *model.Match) { set(r) }
	}
	many := func(with uint16) []model.Port {
		list := []model.Port{{First: with, Last: with}}
		for i := range uint16(20) {
			list = append(list, model.Port{First: 100 + 3*i, Last: 101 + 3*i})
		}
		return list
	}
	one := func(p uint16) model.Port { return model.Port{First: p, Last: p} }
	return []matrixCase{
		{name: "nothing", hits: rule(func(*model.Rule) {})},
		{name: "protocol by name", hits: rule(tcp), misses: rule(func(r *model.Rule) { r.Protocol = "udp" })},
		{name: "protocol by number", hits: rule(func(r *model.Rule) { r.Protocol = "6" }), misses: rule(func(r *model.Rule) { r.Protocol = "132" })},
		{name: "not protocol", hits: rule(func(r *model.Rule) { r.NotProtocol = "udp" }), misses: rule(func(r *model.Rule) { r.NotProtocol = "tcp" })},
		{name: "IP version", hits: rule(func(r *model.Rule) { r.IPVersion = 4 }), misses: rule(func(r *model.Rule) { r.IPVersion = 6 })},
		{name: "net", hits: peer(func(p *model.Match) { p.Nets = nets("128.0.0.0/1") }), misses: peer(func(p *model.Match) { p.Nets = nets(nobody) })},
		{name: "nets", hits: peer(func(p *model.Match) { p.Nets = nets(append(peers, nobody)...) }), misses: peer(func(p *model.Match) { p.Nets = nets(nobody, others) })},
		{name: "not nets", hits: peer(func(p *model.Match) { p.NotNets = nets(nobody, others) }), misses: peer(func(p *model.Match) { p.NotNets = nets(append(peers, nobody)...) })},
		{name: "selector", hits: peer(func(p *model.Match) { p.Selector = "peer == 'yes'" }), misses: peer(func(p *model.Match) { p.Selector = "peer == 'no'" })},
		{name: "not selector", hits: peer(func(p *model.Match) { p.NotSelector = "peer == 'no'" }), misses: peer(func(p *model.Match) { p.NotSelector = "peer == 'yes'" })},
		{name: "tag", hits: peer(func(p *model.Match) { p.Tag = "peers" }), misses: peer(func(p *model.Match) { p.Tag = "nobody" })},
		{name: "not tag", hits: peer(func(p *model.Match) { p.NotTag = "nobody" }), misses: peer(func(p *model.Match) { p.NotTag = "peers" })},
		{name: "network set", hits: peer(func(p *model.Match) { p.Selector = "set == 'peers'" }), misses: peer(func(p *model.Match) { p.Selector = "set == 'nobody'" })},
		{name: "port", hits: ports(one(tcpPort)), misses: ports(one(tcpPort + 1))},
		{name: "range of ports", hits: ports(model.Port{First: tcpPort - 1, Last: tcpPort + 1}), misses: ports(model.Port{First: 1, Last: tcpPort - 1})},
		{name: "more ports than fit into a rule", hits: ports(many(tcpPort)...), misses: ports(many(tcpPort + 1)...)},
		{name: "not ports", hits: notPorts(one(tcpPort + 1)), misses: notPorts(one(tcpPort))},
		{name: "not more ports than fit into a rule", hits: notPorts(many(tcpPort + 1)...), misses: notPorts(many(tcpPort)...)},
		{name: "source ports", hits: sources(1024, 65535), misses: sources(1, 1023)},
		{name: "named port", hits: ports(model.Port{Name: "echo"}), misses: ports(model.Port{Name: "absent"}), workloadOnly: true},
		{
			name: "ICMP type", ping: true,
			hits:   rule(func(r *model.Rule) { r.Protocol, r.ICMP = "icmp", &model.ICMP{Type: 8} }),
			misses: rule(func(r *model.Rule) { r.Protocol, r.ICMP = "icmp", &model.ICMP{Type: 13} }),
		},
		{
			name: "ICMP type and code", ping: true,
			hits:   rule(func(r *model.Rule) { r.Protocol, r.ICMP = "icmp", &model.ICMP{Type: 8, Code: new(0)} }),
			misses: rule(func(r *model.Rule) { r.Protocol, r.ICMP = "icmp", &model.ICMP{Type: 8, Code: new(1)} }),
		},
		{
			name: "not ICMP type", ping: true,
			hits:   rule(func(r *model.Rule) { r.Protocol, r.NotICMP = "icmp", &model.ICMP{Type: 13} }),
			misses: rule(func(r *model.Rule) { r.Protocol, r.NotICMP = "icmp", &model.ICMP{Type: 8} }),
		},
		{
			name: "all at once",
			hits: func(r *model.Rule, p *model.Match) {
				tcp(r)
				p.Nets, p.Selector, p.NotNets = nets(append(peers, nobody)...), "peer == 'yes'", nets(nobody, others)
				r.Destination.Ports = many(tcpPort)
			},
			misses: func(r *model.Rule, p *model.Match) { // all but one
				tcp(r)
				p.Nets, p.Selector, p.NotNets = nets(append(peers, nobody)...), "peer == 'no'", nets(nobody, others)
				r.Destination.Ports = many(tcpPort)
			},
		},
	}
}

// matrix are two hosts: one with a container and a host endpoint under policy, and
// another; and peers on both.
type matrix struct {
	*world
	h     *host
	under *endpoint
	paths []matrixPath
}

// matrixPath is a way that packets go.
type matrixPath struct {
	name     string
	from     *nettest.Space
	to       netip.Addr
	workload bool // else the host is under policy
}

func newMatrix(t *testing.T, variant string) *matrix {
	w := newWorld(t, nil)
	h0, h1 := w.addHost(0, variant), w.addHost(1, iptables.NFT)
	open := []model.Rule{{Action: model.ActionAllow}}
	w.put(model.ProfileKey{Name: "peers"}, &model.Profile{Tags: []string{"peers"}, InboundRules: open, OutboundRules: open})
	w.put(model.ProfileKey{Name: "open"}, &model.Profile{InboundRules: open, OutboundRules: open})
	w.put(model.NetworkSetKey{Name: "peers"}, &model.NetworkSet{
		Labels: map[string]string{"set": "peers"},
		Nets:   []netip.Prefix{netip.MustParsePrefix("192.168.0.1/32"), netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("172.28.8.101/32")},
	})
	w.put(model.HostEndpointKey{Node: h0.Name, Name: "eth0"}, &model.HostEndpoint{
		Interface: "eth0", Labels: map[string]string{"under": "host"}, Profiles: []string{"open"},
	})
	w.put(model.HostEndpointKey{Node: h1.Name, Name: "eth0"}, &model.HostEndpoint{
		Interface: "eth0", ExpectedIPv4Addrs: []netip.Addr{h1.Addr(false)}, Labels: map[string]string{"peer": "yes"}, Profiles: []string{"peers"},
	})
	h0.startInSync("LOGSEVERITYSCREEN=WARNING")
	h1.startInSync("LOGSEVERITYSCREEN=WARNING")
	m := &matrix{world: w, h: h0}
	add := func(h *host, name, profile, addr string, labels map[string]string) *endpoint {
		e := h.attach(name, profile, addr)
		e.value.Labels = labels
		e.value.Ports = []model.EndpointPort{{Name: "echo", Protocol: "tcp", Port: tcpPort}}
		w.put(e.key, e.value)
		h.await(e)
		return e
	}
	near := add(h0, "near", "peers", "192.168.0.1", map[string]string{"peer": "yes"})
	far := add(h1, "far", "peers", "192.168.1.1", map[string]string{"peer": "yes"})
	m.under = add(h0, "under", "open", "192.168.0.2", map[string]string{"under": "workload"})
	h0.Run("ip", "route", "add", "192.168.1.0/26", "via", h1.Addr(false).String())
	h1.Run("ip", "route", "add", "192.168.0.0/26", "via", h0.Addr(false).String())
	h0.ServeTCP(tcpPort)
	h1.ServeTCP(tcpPort)
	m.paths = []matrixPath{
		{"from a container of this host", near.Space, m.under.addr, true},
		{"from a container of another host", far.Space, m.under.addr, true},
		{"to a container of this host", m.under.Space, near.addr, true},
		{"to a container of another host", m.under.Space, far.addr, true},
		{"from another host to this one", h1.Space, h0.Addr(false), false},
		{"to another host from this one", h0.Space, h1.Addr(false), false},
	}
	return m
}

// try puts a rule with another behind it in force, and looks what passes.
func (m *matrix) try(c matrixCase, action string, applies bool) {
	m.Helper()
	set := c.hits
	if !applies {
		set = c.misses
	}
	in, out := model.Rule{Action: action}, model.Rule{Action: action}
	set(&in, &in.Source)
	set(&out, &out.Destination)
	last, passes := model.ActionDeny, applies // allow; and pass, since the profile allows
	if action == model.ActionDeny || action == model.ActionLog {
		last, passes = model.ActionAllow, action == model.ActionLog || !applies
	}
	var rev int64
	for _, under := range []string{"workload", "host"} {
		rev = m.put(model.NewPolicyKey("", under), &model.Policy{
			Selector:      fmt.Sprintf("under == '%s'", under),
			Types:         []string{model.PolicyTypeIngress, model.PolicyTypeEgress},
			InboundRules:  []model.Rule{in, {Action: last}},
			OutboundRules: []model.Rule{out, {Action: last}},
		})
	}
	if err := m.h.wait(m.under, rev, patience); err != nil {
		m.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, p := range m.paths {
		if !p.workload && c.workloadOnly {
			continue
		}
		wg.Go(func() {
			if err := p.probe(c.ping, passes); err != nil {
				m.Errorf("%s, %s, applies=%v, %s: %v", c.name, action, applies, p.name, err)
			}
		})
	}
	wg.Wait()
}

// probe sends something and says what is wrong with the outcome.
func (p matrixPath) probe(ping, passes bool) error {
	if ping {
		_, err := p.from.Ping(p.to, waitFor(passes))
		return verdictFault(err, passes)
	}
	return verdictFault(p.from.TCP(netip.AddrPortFrom(p.to, tcpPort), waitFor(passes)), passes)
}
