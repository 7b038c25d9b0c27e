package daemon_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// guarded is a host whose interface to the others has an open host endpoint, with an open
// container, and a peer that reaches both.
type guarded struct {
	*world
	h    *host
	peer *nettest.Host
	c    *endpoint
}

func newGuarded(t *testing.T, variant string) *guarded {
	w := newWorld(t, nil)
	g := &guarded{world: w, h: w.addHost(0, variant)}
	g.peer = w.net.AddHost(nettest.HostSpec{
		Name: "peer", Addrs: []netip.Prefix{netip.MustParsePrefix("172.28.8.200/24")}, Default: []netip.Addr{g.h.Addr(false)},
	})
	open := []model.Rule{{Action: model.ActionAllow}}
	w.put(model.ProfileKey{Name: "open"}, &model.Profile{InboundRules: open, OutboundRules: open})
	w.put(model.HostEndpointKey{Node: g.h.Name, Name: "eth0"}, &model.HostEndpoint{
		Interface: "eth0", Labels: map[string]string{"under": "host"}, Profiles: []string{"open"},
	})
	g.h.startInSync("LOGSEVERITYSCREEN=WARNING")
	g.c = g.h.container("cccc", "open", "192.168.0.3")
	g.h.ServeTCP(tcpPort)
	g.h.ServeUDP(udpPort)
	g.peer.ServeTCP(tcpPort)
	return g
}

// policy puts the policy of the host endpoint in force.
func (g *guarded) policy(p *model.Policy) {
	g.Helper()
	p.Selector = "under == 'host'"
	if err := g.h.wait(g.c, g.put(model.NewPolicyKey("", "host"), p), patience); err != nil {
		g.Fatal(err)
	}
}

// expect looks whether TCP connections pass.
func (g *guarded) expect(what string, from *nettest.Space, to netip.Addr, port uint16, passes bool) {
	g.Helper()
	if err := verdictFault(from.TCP(netip.AddrPortFrom(to, port), waitFor(passes)), passes); err != nil {
		g.Errorf("%s: %v", what, err)
	}
}

func tcpTo(action string, port uint16) model.Rule {
	return model.Rule{Action: action, Protocol: "tcp", Destination: model.Match{Ports: []model.Port{{First: port, Last: port}}}}
}

// TestUntrackedPolicy sends packets under policy that is asked before connection tracking.
func TestUntrackedPolicy(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		g := newGuarded(t, variant)
		here := g.h.Addr(false)
		ports := model.Match{Ports: []model.Port{{First: udpPort, Last: udpPort}}}
		in := model.Rule{Action: model.ActionAllow, Protocol: "udp", Destination: ports}
		out := model.Rule{Action: model.ActionAllow, Protocol: "udp", Source: ports}
		udp := func(what string, to netip.Addr, passes bool) {
			t.Helper()
			if err := verdictFault(g.peer.UDP(netip.AddrPortFrom(to, udpPort), waitFor(passes)), passes); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		g.policy(&model.Policy{DoNotTrack: true, InboundRules: []model.Rule{in}, OutboundRules: []model.Rule{out}})
		udp("both directions are allowed", here, true)
		if g.tracked() {
			t.Error("the kernel keeps a connection of what must not be tracked")
		}
		g.expect("what no untracked policy decides on is left to the profile", g.peer.Space, here, tcpPort, true)
		if !g.tracked() {
			t.Error("the kernel keeps no connection of what is tracked")
		}
		out.Action = model.ActionDeny
		g.policy(&model.Policy{DoNotTrack: true, InboundRules: []model.Rule{in}, OutboundRules: []model.Rule{out}})
		udp("the answer is denied", here, false)
		in.Action = model.ActionDeny
		g.policy(&model.Policy{DoNotTrack: true, InboundRules: []model.Rule{in}})
		udp("the request is denied, whatever the profile says", here, false)
		udp("so is one that the host would forward: where it goes is not known yet", g.c.addr, false)
		g.expect("a container is reached where it does not deny", g.peer.Space, g.c.addr, tcpPort, true)
	})
}

// TestUntrackedPolicyIsForTheHostAlone has untracked policy that allows all, and one that
// allows the host's port alone, beside containers of a pool that is masqueraded and of one
// that is not.
func TestUntrackedPolicyIsForTheHostAlone(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		u := newUnusable(t, variant)
		u.raw(openPath, goodValues()[openPath])
		u.raw(hostPath, `{"name":"eth0","labels":{"is":"host"},"profile_ids":["open"]}`)
		u.peer.ServeTCP(tcpPort)
		u.peer.ServeUDP(udpPort)
		u.h.ServeUDP(udpPort)
		one := func(port uint16) model.Match {
			return model.Match{Ports: []model.Port{{First: port, Last: port}}}
		}
		everything := []model.Rule{{Action: model.ActionAllow}}
		for what, p := range map[string]*model.Policy{
			"all": {InboundRules: everything, OutboundRules: everything},
			"the host's port alone": {
				InboundRules:  []model.Rule{{Action: model.ActionAllow, Protocol: "tcp", Destination: one(tcpPort)}, {Action: model.ActionDeny, Protocol: "udp"}},
				OutboundRules: []model.Rule{{Action: model.ActionAllow, Protocol: "tcp", Source: one(tcpPort)}},
			},
		} {
			p.Selector, p.DoNotTrack = "is == 'host'", true
			u.awaitRevision(u.put(model.NewPolicyKey("", "raw"), p))
			for _, masquerade := range []bool{true, false} {
				for path, value := range goodValues() {
					if path == pool4Path || path == pool6Path {
						u.awaitRevision(u.raw(path, strings.Replace(value, `"masquerade":true`, fmt.Sprintf(`"masquerade":%v`, masquerade), 1)))
					}
				}
				for _, ipv6 := range []bool{false, true} {
					here, there, b := u.h.Addr(ipv6), u.peer.Addr(ipv6), u.b.addr
					if ipv6 {
						b = u.b.addr6
					}
					when := fmt.Sprintf("untracked policy allows %s, masqueraded: %v, IPv6: %v", what, masquerade, ipv6)
					for way, try := range map[string]func() error{
						"outside to container":         func() error { return u.peer.TCP(netip.AddrPortFrom(b, tcpPort), answer) },
						"outside to container by UDP":  func() error { return u.peer.UDP(netip.AddrPortFrom(b, udpPort), answer) },
						"container to outside":         func() error { return u.b.TCP(netip.AddrPortFrom(there, tcpPort), answer) },
						"container to outside by UDP":  func() error { return u.b.UDP(netip.AddrPortFrom(there, udpPort), answer) },
						"container to outside by ping": func() error { _, err := u.b.Ping(there, answer); return err },
						"outside to host":              func() error { return u.peer.TCP(netip.AddrPortFrom(here, tcpPort), answer) },
					} {
						if strings.HasSuffix(way, "outside by UDP") && masquerade && what != "all" {
							continue // the answer goes to the host's address, for which UDP is denied
						}
						if err := try(); err != nil {
							t.Errorf("%s: %s: %v", when, way, err)
						}
					}
				}
			}
		}
	})
}

// tracked reports whether the host's kernel knows a connection of the peer.
func (g *guarded) tracked() bool {
	g.Helper()
	return strings.Contains(g.h.Run("conntrack", "-L"), "src="+g.peer.Addr(false).String())
}

// TestPreDNATPolicy closes a published port by the number under which it is published.
func TestPreDNATPolicy(t *testing.T) {
	const published = 8080
	onVariants(t, func(t *testing.T, variant string) {
		g := newGuarded(t, variant)
		here := g.h.Addr(false)
		g.h.Run("iptables-"+variant, "-w", "-t", "nat", "-A", "PREROUTING", "-i", "eth0", "-p", "tcp", "--dport", fmt.Sprint(published),
			"-j", "DNAT", "--to-destination", netip.AddrPortFrom(g.c.addr, tcpPort).String())
		policy := func(rules ...model.Rule) {
			t.Helper()
			g.policy(&model.Policy{PreDNAT: true, ApplyOnForward: true, Types: []string{model.PolicyTypeIngress}, InboundRules: rules})
		}
		expect := func(when string, byPublished, byContainer bool) {
			t.Helper()
			g.expect(when+": by the published port", g.peer.Space, here, published, byPublished)
			g.expect(when+": by the container's address", g.peer.Space, g.c.addr, tcpPort, byContainer)
		}
		expect("without policy", true, true)
		policy(tcpTo(model.ActionDeny, published))
		expect("the published port is denied", false, true)
		policy(tcpTo(model.ActionDeny, tcpPort))
		expect("the container's port is denied", true, false)
		policy(tcpTo(model.ActionAllow, published), model.Rule{Action: model.ActionDeny, Protocol: "tcp"})
		expect("only the published port is allowed", true, false)
	})
}

// TestApplyOnForward has a host's policy meet, or not meet, what the host forwards.
func TestApplyOnForward(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		g := newGuarded(t, variant)
		here, there := g.h.Addr(false), g.peer.Addr(false)
		deny := []model.Rule{tcpTo(model.ActionDeny, tcpPort), {Action: model.ActionAllow}}
		for _, forwarded := range []bool{false, true} {
			g.policy(&model.Policy{
				ApplyOnForward: forwarded, Types: []string{model.PolicyTypeIngress, model.PolicyTypeEgress},
				InboundRules: deny, OutboundRules: deny,
			})
			when := fmt.Sprintf("applyOnForward=%v", forwarded)
			g.expect(when+": to the host", g.peer.Space, here, tcpPort, false)
			g.expect(when+": from the host", g.h.Space, there, tcpPort, false)
			g.expect(when+": to a container", g.peer.Space, g.c.addr, tcpPort, !forwarded)
			g.expect(when+": from a container", g.c.Space, there, tcpPort, !forwarded)
			g.expect(when+": from the host to its container", g.h.Space, g.c.addr, tcpPort, true)
		}
	})
}

// TestHostPolicyAfterDNAT has the host call an address whose route goes over another
// interface, but which is rewritten to one that is reached by the guarded one.
func TestHostPolicyAfterDNAT(t *testing.T) {
	const service = "203.0.113.9"
	onVariants(t, func(t *testing.T, variant string) {
		g := newGuarded(t, variant)
		g.h.Run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
		g.h.Run("ip", "addr", "add", "10.66.0.1/24", "dev", "other0")
		g.h.Run("ip", "link", "set", "other0", "up")
		g.h.Run("ip", "link", "set", "other1", "up")
		g.h.Run("ip", "route", "add", service, "via", "10.66.0.2")
		g.h.Run("iptables-"+variant, "-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", service, "--dport", "80",
			"-j", "DNAT", "--to-destination", netip.AddrPortFrom(g.peer.Addr(false), tcpPort).String())
		policy := func(rules ...model.Rule) {
			t.Helper()
			g.policy(&model.Policy{Types: []string{model.PolicyTypeEgress}, OutboundRules: rules})
		}
		to := netip.MustParseAddr(service)
		g.expect("the profile allows it", g.h.Space, to, 80, true)
		policy(tcpTo(model.ActionDeny, tcpPort), model.Rule{Action: model.ActionAllow})
		g.expect("the port that it is rewritten to is denied", g.h.Space, to, 80, false)
		policy(tcpTo(model.ActionAllow, tcpPort))
		g.expect("only that port is allowed", g.h.Space, to, 80, true)
		policy(tcpTo(model.ActionAllow, 80))
		g.expect("only the port before that is allowed", g.h.Space, to, 80, false)
	})
}

// TestAPolicyThatChangesItsStageLeavesNothingBehind has one policy go through all stages, with
// a selector, and then without it: its former chains are gone, and so is the set.
func TestAPolicyThatChangesItsStageLeavesNothingBehind(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		g := newGuarded(t, variant)
		here := g.h.Addr(false)
		none := model.Match{Selector: "role == 'nobody'"}
		ingress := []string{model.PolicyTypeIngress}
		allow, deny := model.Rule{Action: model.ActionAllow, Source: none}, tcpTo(model.ActionDeny, tcpPort)
		for _, p := range []model.Policy{
			{}, {DoNotTrack: true}, {}, {PreDNAT: true, ApplyOnForward: true}, {DoNotTrack: true}, {PreDNAT: true, ApplyOnForward: true}, {},
		} {
			p.Types, p.InboundRules = ingress, []model.Rule{allow, deny}
			g.policy(&p)
			g.expect(fmt.Sprintf("doNotTrack=%v preDNAT=%v: denied", p.DoNotTrack, p.PreDNAT), g.peer.Space, here, tcpPort, false)
		}
		g.policy(&model.Policy{Types: ingress, InboundRules: []model.Rule{{Action: model.ActionAllow}}})
		g.expect("without the selector", g.peer.Space, here, tcpPort, true)
		nettest.Eventually(t, patience, func() error {
			if sets := g.h.Run("ipset", "list", "-n"); strings.Contains(sets, "s:") {
				return fmt.Errorf("sets are %s", sets)
			}
			return nil
		})
		if err := g.h.wait(g.c, g.remove(model.NewPolicyKey("", "host")), patience); err != nil {
			t.Error(err)
		}
		d := g.h.container("dddd", "open", "192.168.0.4")
		g.canReach(g.c, d)
		if rules := g.h.dump(); strings.Contains(rules, "cali-pi-default/host") {
			t.Errorf("a chain of the policy is left: %s", rules)
		}
		if st, err := g.h.status(); err != nil || len(st.GetProblems()) > 0 {
			t.Errorf("problems are %v, %v", st.GetProblems(), err)
		}
	})
}
