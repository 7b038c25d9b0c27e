package rules

import (
	"net/netip"
	"slices"
	"testing"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

// host adds a host endpoint.
func (w *world) host(iface string, profiles ...string) *desired.Endpoint {
	e := hostEndpoint("h-"+iface, iface)
	e.Profiles = profiles
	w.changes.Endpoints = append(w.changes.Endpoints, e)
	return e
}

// staged adds a policy of a stage, with the same rules for both directions.
func (w *world) staged(s desired.Stage, name string, rules ...desired.Rule) desired.Tier {
	k := w.policy("default", name, rules...)
	p := w.changes.Policies[len(w.changes.Policies)-1]
	p.Stage = s
	if s == desired.PreDNAT {
		p.Directions, p.Egress = []desired.Direction{desired.Ingress}, nil
		return desired.Tier{Name: "default", Ingress: []model.PolicyKey{k}}
	}
	return tier("default", k)
}

func TestHostEndpoints(t *testing.T) {
	const host, peer = hostAddr, "172.28.8.101"
	toHost := func(port uint16) packet {
		return packet{in: "eth0", src: peer, dst: host, proto: desired.TCP, sport: 40000, dport: port}
	}
	fromHost := func(port uint16) packet {
		return packet{out: "eth0", src: host, dst: peer, proto: desired.TCP, sport: 40000, dport: port}
	}
	through := packet{in: "eth0", out: "eth1", src: peer, dst: "192.0.2.1", proto: desired.TCP, dport: 80}
	port := func(a desired.Action, n uint16) desired.Rule {
		return desired.Rule{Action: a, Protocol: desired.TCP, Destination: desired.Match{Ports: ports(n)}}
	}
	rewritten := func(p packet) packet {
		p.dnat = true
		return p
	}
	const nothingAllowed, anyPolicy = "No policy or profile allowed it", "Nobody knows which policies select the host endpoint"
	bothWays := []desired.Direction{desired.Ingress, desired.Egress}
	tests := []struct {
		name    string
		build   func(w *world)
		send    packet
		want    Verb
		by      string
		notrack bool
	}{
		{
			name:  "with a bare host endpoint the host is closed",
			build: func(w *world) { w.host("eth0") },
			send:  toHost(80), want: Drop, by: nothingAllowed,
		},
		{
			name:  "with a bare host endpoint the host sends nothing",
			build: func(w *world) { w.host("eth0") },
			send:  fromHost(80), want: Drop, by: nothingAllowed,
		},
		{
			name:  "failsafe ports of the host stay open",
			build: func(w *world) { w.host("eth0") },
			send:  toHost(22), want: Accept,
		},
		{
			name:  "failsafe ports elsewhere stay reachable",
			build: func(w *world) { w.host("eth0") },
			send:  fromHost(2379), want: Accept,
		},
		{
			name:  "neighbour discovery stays open, or IPv6 would reach no failsafe port",
			build: func(w *world) { w.host("eth0") },
			send:  packet{in: "eth0", src: "fe80::2", dst: "fe80::1", proto: desired.ICMPv6, icmp: 135}, want: Accept,
		},
		{
			name:  "so do reports of the groups that the host listens to, or a switch that snoops cuts it off",
			build: func(w *world) { w.host("eth0") },
			send:  packet{out: "eth0", src: "fe80::1", dst: "ff02::16", proto: desired.ICMPv6, icmp: 143, conn: UntrackedState}, want: Accept,
		},
		{
			name: "also where untracked policy denies all",
			build: func(w *world) {
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
			},
			send: packet{out: "eth0", src: "fe80::1", dst: "ff02::16", proto: desired.ICMPv6, icmp: 143, conn: UntrackedState}, want: Accept,
		},
		{
			name: "a packet that is too big is said so, or nothing large gets through",
			build: func(w *world) {
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
			},
			send: packet{in: "eth0", src: "fe80::2", dst: "fe80::1", proto: desired.ICMPv6, icmp: 2, conn: Related}, want: Accept,
		},
		{
			name:  "other ICMPv6 does not",
			build: func(w *world) { w.host("eth0") },
			send:  packet{in: "eth0", src: "fe80::2", dst: "fe80::1", proto: desired.ICMPv6, icmp: 128}, want: Drop, by: nothingAllowed,
		},
		{
			name:  "etcd stays reachable at its own port, whatever ports are failsafe",
			build: func(w *world) { w.cfg.FailsafeOutbound = nil; w.host("eth0") },
			send:  packet{out: "eth0", src: host, dst: "172.28.8.10", proto: desired.TCP, sport: 40000, dport: 12379}, want: Accept,
		},
		{
			name:  "so it does by IPv6",
			build: func(w *world) { w.cfg.FailsafeOutbound = nil; w.host("eth0") },
			send:  packet{out: "eth0", src: "fd28::100", dst: "fd28::10", proto: desired.TCP, sport: 40000, dport: 12379}, want: Accept,
		},
		{
			name:  "another port of etcd's host does not",
			build: func(w *world) { w.cfg.FailsafeOutbound = nil; w.host("eth0") },
			send:  packet{out: "eth0", src: host, dst: "172.28.8.10", proto: desired.TCP, sport: 40000, dport: 80}, want: Drop, by: nothingAllowed,
		},
		{
			name:  "nor does the port of etcd elsewhere",
			build: func(w *world) { w.cfg.FailsafeOutbound = nil; w.host("eth0") },
			send:  packet{out: "eth0", src: host, dst: peer, proto: desired.TCP, sport: 40000, dport: 12379}, want: Drop, by: nothingAllowed,
		},
		{
			name: "untracked policy stops no answer of etcd",
			build: func(w *world) {
				w.cfg.FailsafeOutbound = nil
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
			},
			send: packet{in: "eth0", src: "172.28.8.10", dst: host, proto: desired.TCP, sport: 12379, dport: 40000, conn: Established}, want: Accept,
		},
		{
			name: "a failsafe port of a net is open to that net",
			build: func(w *world) {
				w.cfg.FailsafeInbound = []FailsafePort{{Protocol: desired.TCP, Port: 80, Net: netip.MustParsePrefix("172.28.0.0/16")}}
				w.host("eth0")
			},
			send: toHost(80), want: Accept,
		},
		{
			name: "a failsafe port of an IPv4 net is closed to IPv6",
			build: func(w *world) {
				w.cfg.FailsafeInbound = []FailsafePort{{Protocol: desired.TCP, Port: 80, Net: netip.MustParsePrefix("172.28.0.0/16")}}
				w.host("eth0")
			},
			send: packet{in: "eth0", src: "fd00::2", dst: "fd00::1", proto: desired.TCP, dport: 80}, want: Drop, by: nothingAllowed,
		},
		{
			name: "a failsafe port of a net is closed to others",
			build: func(w *world) {
				w.cfg.FailsafeInbound = []FailsafePort{{Protocol: desired.TCP, Port: 80, Net: netip.MustParsePrefix("10.0.0.0/8")}}
				w.host("eth0")
			},
			send: toHost(80), want: Drop, by: nothingAllowed,
		},
		{
			name:  "an interface without host endpoint is open",
			build: func(w *world) { w.host("eth1") },
			send:  toHost(80), want: Accept,
		},
		{
			name:  "an established connection goes on",
			build: func(w *world) { w.host("eth0") },
			send:  packet{in: "eth0", src: peer, dst: host, proto: desired.TCP, conn: Established}, want: Accept,
		},
		{
			name: "normal policy opens the host",
			build: func(w *world) {
				w.host("eth0").Tiers = []desired.Tier{tier("default", w.policy("default", "p", port(desired.Allow, 80)))}
			},
			send: toHost(80), want: Accept,
		},
		{
			name: "a profile opens the host",
			build: func(w *world) {
				w.profile("open", allowAll(), nil)
				w.host("eth0", "open")
			},
			send: toHost(80), want: Accept,
		},
		{
			name:  "a bare host endpoint does not concern forwarded packets",
			build: func(w *world) { w.host("eth0"); twoOpen(w) },
			send:  tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "a forward policy that allows nothing closes the way to workloads",
			build: func(w *world) {
				twoOpen(w)
				w.host("eth0").Forward = []desired.Tier{tier("default", w.policy("default", "p"))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "No policy of tier default decided",
		},
		{
			name: "a forward policy closes the way out for workloads",
			build: func(w *world) {
				twoOpen(w)
				w.host("eth0").Forward = []desired.Tier{tier("default", w.policy("default", "p", port(desired.Deny, 80), allow()))}
			},
			send: tcp("cali1", "10.0.0.1", "eth0", "10.9.0.2"), want: Drop, by: "policy default/p egress 0",
		},
		{
			name: "a forward policy that allows does not stand for the workload's own",
			build: func(w *world) {
				w.endpoint("cali1")
				w.host("eth0").Forward = []desired.Tier{tier("default", w.policy("default", "p", allow()))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: nothingAllowed,
		},
		{
			name:  "what is forwarded without a forward policy is left to others",
			build: func(w *world) { w.host("eth0") },
			send:  through, want: Drop, by: "policy of FORWARD",
		},
		{
			name: "what a forward policy allows is accepted",
			build: func(w *world) {
				w.host("eth0").Forward = []desired.Tier{tier("default", w.policy("default", "p", allow()))}
			},
			send: through, want: Accept,
		},
		{
			name:  "where any policy may select the endpoint nothing passes through",
			build: func(w *world) { w.host("eth0").WorkloadsOnly = bothWays },
			send:  through, want: Drop, by: anyPolicy,
		},
		{
			name: "also what the policy allows, which may not be this endpoint's",
			build: func(w *world) {
				e := w.host("eth1")
				e.WorkloadsOnly, e.Forward = bothWays, []desired.Tier{tier("default", w.policy("default", "p", allow()))}
			},
			send: through, want: Drop, by: anyPolicy,
		},
		{
			name:  "in a direction in which there is none it passes",
			build: func(w *world) { w.host("eth1").WorkloadsOnly = bothWays[:1] },
			send:  through, want: Drop, by: "policy of FORWARD",
		},
		{
			name:  "what is known goes on",
			build: func(w *world) { w.host("eth0").WorkloadsOnly = bothWays },
			send:  packet{in: "eth0", out: "eth1", src: peer, dst: "192.0.2.1", proto: desired.TCP, conn: Established}, want: Accept,
		},
		{
			name: "what a workload sends passes where no policy decides",
			build: func(w *world) {
				twoOpen(w)
				e := w.host("eth0")
				e.WorkloadsOnly, e.Forward = bothWays, []desired.Tier{tier("default", w.policy("default", "p", port(desired.Deny, 81)))}
			},
			send: tcp("cali1", "10.0.0.1", "eth0", "10.9.0.2"), want: Accept,
		},
		{
			name: "and is dropped where one denies",
			build: func(w *world) {
				twoOpen(w)
				e := w.host("*")
				e.WorkloadsOnly, e.Forward = bothWays, []desired.Tier{tier("default", w.policy("default", "p", port(desired.Deny, 80)))}
			},
			send: tcp("cali1", "10.0.0.1", "eth0", "10.9.0.2"), want: Drop, by: "policy default/p egress 0",
		},
		{
			name: "so does what a workload gets",
			build: func(w *world) {
				twoOpen(w)
				e := w.host("*")
				e.WorkloadsOnly, e.Forward = bothWays, []desired.Tier{tier("default", w.policy("default", "p"))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name:  "but no workload's policy is skipped",
			build: func(w *world) { w.endpoint("cali1"); w.host("eth0").WorkloadsOnly = bothWays },
			send:  tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: nothingAllowed,
		},
		{
			name: "untracked policy lets a packet pass without connection tracking and without asking further",
			build: func(w *world) {
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", port(desired.Allow, 80))}
			},
			send: toHost(80), want: Accept, notrack: true,
		},
		{
			name: "untracked policy that does not decide leaves it to normal policy",
			build: func(w *world) {
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", port(desired.Allow, 80))}
			},
			send: toHost(81), want: Drop, by: nothingAllowed,
		},
		{
			name: "untracked policy denies before normal policy allows",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.host("eth0", "open").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", port(desired.Deny, 80))}
			},
			send: toHost(80), want: Drop, by: "policy default/u ingress 0",
		},
		{
			name: "untracked policy does not close failsafe ports",
			build: func(w *world) {
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
			},
			send: toHost(22), want: Accept,
		},
		{
			name: "untracked policy does not stop the answers of failsafe ports",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.host("eth0", "open").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
			},
			send: packet{out: "eth0", src: host, dst: peer, proto: desired.TCP, sport: 22, dport: 40000, conn: Established}, want: Accept,
		},
		{
			name: "untracked policy concerns what the host sends",
			build: func(w *world) {
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", port(desired.Allow, 80))}
			},
			send: fromHost(80), want: Accept, notrack: true,
		},
		{
			name: "untracked policy does not meet what goes to a workload",
			build: func(w *world) {
				twoOpen(w)
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
			},
			send: tcp("eth0", peer, "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "nor what comes from a workload elsewhere",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.host("eth0", "open").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", allowAll()...)}
			},
			send: packet{in: "eth0", src: "10.9.0.2", dst: host, proto: desired.TCP, dport: 80}, want: Accept,
		},
		{
			name: "nor what the host sends to it",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.host("eth0", "open").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
			},
			send: packet{out: "eth0", src: host, dst: "10.9.0.2", proto: desired.TCP, dport: 80}, want: Accept,
		},
		{
			name: "the answer to a masqueraded workload is allowed, but tracked",
			build: func(w *world) {
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", allowAll()...)}
			},
			send: packet{in: "eth0", src: peer, dst: host, proto: desired.TCP, sport: 80, dport: 40000, noSocket: true}, want: Accept,
		},
		{
			name: "preDNAT policy denies before all else",
			build: func(w *world) {
				twoOpen(w)
				w.host("eth0").PreDNAT = []desired.Tier{w.staged(desired.PreDNAT, "d", port(desired.Deny, 80))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "policy default/d ingress 0",
		},
		{
			name: "preDNAT policy that allows spares the host's normal policy",
			build: func(w *world) {
				w.host("eth0").PreDNAT = []desired.Tier{w.staged(desired.PreDNAT, "d", port(desired.Allow, 80))}
			},
			send: toHost(80), want: Accept,
		},
		{
			name: "preDNAT policy that allows does not stand for the workload's own",
			build: func(w *world) {
				w.endpoint("cali1")
				w.host("eth0").PreDNAT = []desired.Tier{w.staged(desired.PreDNAT, "d", port(desired.Allow, 80))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: nothingAllowed,
		},
		{
			name: "preDNAT policy that does not decide drops nothing",
			build: func(w *world) {
				twoOpen(w)
				w.host("eth0").PreDNAT = []desired.Tier{w.staged(desired.PreDNAT, "d")}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "a workload is not subject to the host's untracked and preDNAT policies",
			build: func(w *world) {
				twoOpen(w)
				e := w.host("*")
				e.Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
				e.PreDNAT = []desired.Tier{w.staged(desired.PreDNAT, "d", denyAll()...)}
			},
			send: tcp("cali1", "10.0.0.1", "cali2", "10.0.0.2"), want: Accept,
		},
		{
			name:  "an endpoint for all interfaces closes each",
			build: func(w *world) { w.host("*") },
			send:  toHost(80), want: Drop, by: nothingAllowed,
		},
		{
			name:  "an endpoint for all interfaces does not cut the host from itself",
			build: func(w *world) { w.host("*") },
			send:  packet{in: "lo", src: "127.0.0.1", dst: "127.0.0.1", proto: desired.TCP, dport: 80}, want: Accept,
		},
		{
			name:  "an endpoint for all interfaces does not cut the host from its workloads",
			build: func(w *world) { w.host("*"); w.endpoint("cali1") },
			send:  tcp("", host, "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "an interface with an endpoint of its own does not fall to that for all",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.host("eth0", "open")
				w.host("*").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", denyAll()...)}
			},
			send: toHost(80), want: Accept,
		},
		{
			name: "what the host sends with a rewritten destination is subject to egress policy too",
			build: func(w *world) {
				w.host("eth0").Tiers = []desired.Tier{tier("default", w.policy("default", "p", port(desired.Deny, 80), allow()))}
			},
			send: rewritten(fromHost(80)), want: Drop, by: "policy default/p egress 0",
		},
		{
			name: "and is not rejected, which that table cannot",
			build: func(w *world) {
				w.cfg.FilterDeny = Reject
				w.host("eth0")
			},
			send: rewritten(fromHost(80)), want: Drop, by: nothingAllowed,
		},
		{
			name: "and passes where a policy or a profile lets it",
			build: func(w *world) {
				w.profile("open", nil, allowAll())
				w.host("eth0", "open").Tiers = []desired.Tier{{Name: "default", Egress: []model.PolicyKey{w.policy("default", "p", port(desired.Allow, 80), desired.Rule{Action: desired.Pass})}}}
			},
			send: rewritten(fromHost(81)), want: Accept,
		},
		{
			name:  "and to a failsafe port",
			build: func(w *world) { w.host("eth0") },
			send:  rewritten(fromHost(2379)), want: Accept,
		},
		{
			name:  "what is forwarded with a rewritten destination is not the host's",
			build: func(w *world) { w.host("eth1"); twoOpen(w) },
			send:  rewritten(tcp("cali1", "10.0.0.1", "eth1", "10.9.0.2")), want: Accept,
		},
		{
			name: "denied packets can be rejected, where the table can",
			build: func(w *world) {
				w.cfg.FilterDeny = Reject
				w.host("eth0").Untracked = []desired.Tier{w.staged(desired.Untracked, "u", port(desired.Deny, 80))}
			},
			send: toHost(80), want: Drop, by: "policy default/u ingress 0",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.FailsafeInbound = []FailsafePort{{Protocol: desired.TCP, Port: 22}}
			w.cfg.FailsafeOutbound = []FailsafePort{{Protocol: desired.TCP, Port: 2379}}
			tt.build(w)
			got := w.send(tt.send)
			if got.verdict != tt.want || got.by != tt.by || got.notrack != tt.notrack {
				t.Errorf("got %s by %q, notrack %v, want %s by %q, notrack %v", got.verdict, got.by, got.notrack, tt.want, tt.by, tt.notrack)
				w.send(tt.send) // prints the way
			}
		})
	}
}

func TestHostEndpointsAreFoundByAddress(t *testing.T) {
	tk := newTestTracker(t)
	e := hostEndpoint("by-address", "")
	e.ExpectedAddrs = []netip.Addr{netip.MustParseAddr("172.28.8.100")}
	e.Profiles = []string{"p"}
	named := hostEndpoint("named", "eth1")
	tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{e, named}})
	if got := tk.Unbound(); !slices.Equal(got, []model.Key{e.Key}) {
		t.Errorf("before the addresses are known: unbound are %v", got)
	}

	addrs := map[string][]netip.Addr{"eth0": e.ExpectedAddrs, "eth1": e.ExpectedAddrs}
	c := tk.SetInterfaces(addrs)
	if names := chainNames(c.Set); !slices.Contains(names, "cali-fh-eth0") || slices.Contains(names, "cali-fh-eth1") {
		t.Errorf("an interface with the address sets %v, want eth0's chains and not those of eth1, which has its own endpoint", names)
	}
	if got := tk.Unbound(); len(got) > 0 {
		t.Errorf("unbound are %v", got)
	}
	if c := tk.SetInterfaces(addrs); len(c.Set)+len(c.Delete) > 0 {
		t.Errorf("the same addresses again change %+v", c)
	}

	c = tk.SetInterfaces(nil)
	if !slices.Contains(c.Delete, ChainID{Filter, "cali-fh-eth0"}) {
		t.Errorf("the address goes: deletes %v", c.Delete)
	}
}
