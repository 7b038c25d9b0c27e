package rules

import (
	"fmt"
	"net/netip"
	"testing"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

// tcp is a packet of a new connection to port 80.
func tcp(in, src, out, dst string) packet {
	return packet{in: in, out: out, src: src, dst: dst, proto: desired.TCP, sport: 40000, dport: 80}
}

// twoOpen is a host with two endpoints whose profile allows everything.
func twoOpen(w *world) {
	w.profile("open", allowAll(), allowAll())
	w.endpoint("cali1", "open")
	w.endpoint("cali2", "open")
}

func TestBehaviour(t *testing.T) {
	web := desired.Rule{Action: desired.Allow, Protocol: desired.TCP, Destination: desired.Match{Ports: ports(80)}}
	passAll := desired.Rule{Action: desired.Pass}
	tests := []struct {
		name  string
		build func(w *world)
		send  packet
		want  Verb
		by    string
		check func(t *testing.T, w *world, got fate)
	}{
		{
			name: "an open endpoint is reached from elsewhere", build: twoOpen,
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "an open endpoint reaches elsewhere", build: twoOpen,
			send: tcp("cali1", "10.0.0.1", "eth0", "10.9.0.2"), want: Accept,
		},
		{
			name: "an accepted packet outlives Docker's policy DROP of FORWARD, though nothing accepts behind the hook", build: twoOpen,
			send: tcp("cali1", "10.0.0.1", "cali2", "10.0.0.2"), want: Accept,
		},
		{
			name:  "with allow action RETURN, the last hook accepts",
			build: func(w *world) { twoOpen(w); w.cfg.FilterAllow = Return },
			send:  tcp("cali1", "10.0.0.1", "cali2", "10.0.0.2"), want: Accept,
		},
		{
			name: "with allow action RETURN, an established connection is accepted by the last hook too",
			build: func(w *world) {
				w.cfg.FilterAllow = Return
				w.endpoint("cali1")
			},
			send: packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", conn: Established}, want: Accept,
		},
		{
			name: "with allow action RETURN, another program's mark accepts nothing",
			build: func(w *world) {
				w.cfg.FilterAllow = Return
				w.endpoint("cali1")
			},
			send: packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", mark: 0xffffffff},
			want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "packets that are no workload's are left to others", build: twoOpen,
			send: tcp("docker0", "172.17.0.2", "eth0", "8.8.8.8"), want: Drop, by: "policy of FORWARD",
		},
		{
			name:  "an endpoint without profile and policy gets nothing",
			build: func(w *world) { w.endpoint("cali1") },
			send:  tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "No policy or profile allowed it",
		},
		{
			name:  "an endpoint without profile and policy sends nothing",
			build: func(w *world) { w.endpoint("cali1") },
			send:  tcp("cali1", "10.0.0.1", "eth0", "10.9.0.2"), want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "an unknown workload interface sends nothing", build: twoOpen,
			send: tcp("cali9", "10.0.0.9", "eth0", "10.9.0.2"), want: Drop, by: "Unknown interface",
		},
		{
			name: "an unknown workload interface gets nothing", build: twoOpen,
			send: tcp("eth0", "10.9.0.2", "cali9", "10.0.0.9"), want: Drop, by: "Unknown interface",
		},
		{
			name: "an unknown interface whose name begins like a known one sends nothing", build: twoOpen,
			send: tcp("cali11", "10.0.0.9", "eth0", "10.9.0.2"), want: Drop, by: "Unknown interface",
		},
		{
			name:  "with no endpoint at all, workload interfaces are unknown",
			build: func(*world) {},
			send:  tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "Unknown interface",
		},
		{
			name: "an unknown workload interface does not reach the host", build: twoOpen,
			send: packet{in: "cali9", src: "10.0.0.9", dst: "169.254.1.1", proto: desired.UDP, dport: 54}, want: Drop, by: "Unknown interface",
		},
		{
			name: "a missing profile denies",
			build: func(w *world) {
				deny := withOrigin(model.ProfileKey{Name: "gone"}, desired.Ingress, denyAll())
				w.changes.Profiles = append(w.changes.Profiles, &desired.Profile{Name: "gone", Missing: true, Ingress: deny, Egress: deny})
				w.profile("open", allowAll(), allowAll())
				w.endpoint("cali1", "gone", "open")
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "profile gone ingress 0",
		},
		{
			name: "profiles are asked in their order",
			build: func(w *world) {
				w.profile("mute", nil, nil)
				w.profile("open", allowAll(), nil)
				w.endpoint("cali1", "mute", "open")
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name:  "an inactive endpoint gets nothing, whatever its profile says",
			build: func(w *world) { twoOpen(w); w.changes.Endpoints[0].Up = false },
			send:  tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "The endpoint is inactive",
		},
		{
			name:  "an inactive endpoint does not even go on with known connections",
			build: func(w *world) { twoOpen(w); w.changes.Endpoints[0].Up = false },
			send:  packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "10.9.0.2", conn: Established}, want: Drop, by: "The endpoint is inactive",
		},
		{
			name:  "an established connection goes on, though policy would deny it now",
			build: func(w *world) { w.endpoint("cali1") },
			send:  packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", conn: Established}, want: Accept,
		},
		{
			name:  "what belongs to an established connection goes on",
			build: func(w *world) { w.endpoint("cali1") },
			send:  packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "10.9.0.2", proto: desired.ICMPv4, icmp: 3, conn: Related}, want: Accept,
		},
		{
			name: "an invalid packet is dropped, though policy would allow it", build: twoOpen,
			send: packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", conn: Invalid}, want: Drop,
		},
		{
			name:  "an invalid packet is subject to policy when the check is off",
			build: func(w *world) { twoOpen(w); w.cfg.NoInvalidCheck = true },
			send:  packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", conn: Invalid}, want: Accept,
		},
		{
			name: "traffic between two endpoints of the host needs the receiver's consent",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.endpoint("cali1", "open")
				w.endpoint("cali2")
			},
			send: tcp("cali1", "10.0.0.1", "cali2", "10.0.0.2"), want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "traffic between two endpoints of the host needs the sender's consent",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.endpoint("cali1")
				w.endpoint("cali2", "open")
			},
			send: tcp("cali1", "10.0.0.1", "cali2", "10.0.0.2"), want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "a tier that decides nothing drops, though the profile allows",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.endpoint("cali1", "open").Tiers = []desired.Tier{tier("default", w.policy("default", "empty"))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "No policy of tier default decided",
		},
		{
			name: "a policy for ingress alone leaves egress to the profile",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				k := w.policy("default", "p")
				w.endpoint("cali1", "open").Tiers = []desired.Tier{{Name: "default", Ingress: []model.PolicyKey{k}}}
			},
			send: tcp("cali1", "10.0.0.1", "eth0", "10.9.0.2"), want: Accept,
		},
		{
			name: "a log-only policy still drops",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.endpoint("cali1", "open").Tiers = []desired.Tier{tier("default", w.policy("default", "log", desired.Rule{Action: desired.Log}))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "No policy of tier default decided",
			check: func(t *testing.T, _ *world, got fate) {
				if len(got.logs) != 1 || got.logs[0] != "calico-packet: " {
					t.Errorf("logs %q, want one line with the configured prefix", got.logs)
				}
			},
		},
		{
			name: "policies of a tier are asked in their order: the first decision wins",
			build: func(w *world) {
				a, b := w.policy("default", "a", web), w.policy("default", "b", denyAll()...)
				w.endpoint("cali1").Tiers = []desired.Tier{tier("default", a, b)}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "policies of a tier are asked in their order: a deny before an allow",
			build: func(w *world) {
				a, b := w.policy("default", "a", denyAll()...), w.policy("default", "b", web)
				w.endpoint("cali1").Tiers = []desired.Tier{tier("default", a, b)}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "policy default/a ingress 0",
		},
		{
			name: "pass skips the rest of the tier and goes on to the next",
			build: func(w *world) {
				a, b := w.policy("first", "a", passAll), w.policy("first", "b", denyAll()...)
				c := w.policy("second", "c", web)
				w.endpoint("cali1").Tiers = []desired.Tier{tier("first", a, b), tier("second", c)}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "a pass of one tier does not pass the next",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				a, b := w.policy("first", "a", passAll), w.policy("second", "b")
				w.endpoint("cali1", "open").Tiers = []desired.Tier{tier("first", a), tier("second", b)}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Drop, by: "No policy of tier second decided",
		},
		{
			name: "a pass of the last tier goes on to the profiles",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.endpoint("cali1", "open").Tiers = []desired.Tier{tier("default", w.policy("default", "a", passAll))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "a tier that passes by default goes on to the next",
			build: func(w *world) {
				first := tier("first", w.policy("first", "a"))
				first.PassByDefault = true
				w.endpoint("cali1").Tiers = []desired.Tier{first, tier("second", w.policy("second", "b", web))}
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "the allow of the sender does not count as one of the receiver",
			build: func(w *world) {
				a, b := w.policy("default", "a", web), w.policy("default", "b")
				w.endpoint("cali1").Tiers = []desired.Tier{tier("default", a)}
				w.endpoint("cali2").Tiers = []desired.Tier{tier("default", b)}
			},
			send: tcp("cali1", "10.0.0.1", "cali2", "10.0.0.2"), want: Drop, by: "No policy of tier default decided",
		},
		{
			name: "the pass of the sender does not count as one of the receiver",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				a, b := w.policy("default", "a", passAll), w.policy("default", "b")
				w.endpoint("cali1", "open").Tiers = []desired.Tier{tier("default", a)}
				w.endpoint("cali2", "open").Tiers = []desired.Tier{tier("default", b)}
			},
			send: tcp("cali1", "10.0.0.1", "cali2", "10.0.0.2"), want: Drop, by: "No policy of tier default decided",
		},
		{
			name: "a forged source is dropped before policy", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.2", dst: "10.9.0.2", rpfFails: true}, want: Drop, by: "The source is not this workload's",
		},
		{
			name: "a forged IPv6 source is dropped before policy", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "fd00::2", dst: "fd00:9::2", rpfFails: true}, want: Drop, by: "The source is not this workload's",
		},
		{
			name: "an asymmetric route of the host is no fault", build: twoOpen,
			send: packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", rpfFails: true}, want: Accept,
		},
		{
			name:  "a workload does not reach the host's loopback, whatever the endpoint-to-host action",
			build: func(w *world) { twoOpen(w); w.cfg.EndpointToHost = Accept },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: "127.0.0.1", proto: desired.TCP, dport: 2379}, want: Drop, by: "Workloads must not reach the host's loopback",
		},
		{
			name:  "a workload does not speak in the name of the loopback",
			build: func(w *world) { twoOpen(w); w.cfg.EndpointToHost = Accept },
			send:  packet{in: "cali1", src: "127.0.0.1", dst: "10.0.0.9", proto: desired.TCP}, want: Drop, by: "Workloads must not reach the host's loopback",
		},
		{
			name: "VXLAN from a workload is dropped", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "10.9.0.2", proto: desired.UDP, dport: 4789}, want: Drop, by: "VXLAN from a workload",
		},
		{
			name: "IP in IP from a workload is dropped", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "10.9.0.2", proto: desired.IPIP}, want: Drop, by: "IP in IP from a workload",
		},
		{
			name: "UDP 4789 to a workload is not special", build: twoOpen,
			send: packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", proto: desired.UDP, dport: 4789}, want: Accept,
		},
		{
			name: "what a workload sends into a bridge of Docker's is left to Docker, whose policy drops", build: twoOpen,
			send: tcp("cali1", "10.0.0.1", "docker0", "172.17.0.2"), want: Drop, by: "policy of FORWARD",
		},
		{
			name:  "with allow action RETURN too",
			build: func(w *world) { twoOpen(w); w.cfg.FilterAllow = Return },
			send:  tcp("cali1", "10.0.0.1", "docker0", "172.17.0.2"), want: Drop, by: "policy of FORWARD",
		},
		{
			name:  "so is what comes from the bridge of another network",
			build: func(w *world) { twoOpen(w); w.bridges = []string{"br-0123456789ab"} },
			send:  tcp("br-0123456789ab", "172.18.0.2", "cali1", "10.0.0.1"), want: Drop, by: "policy of FORWARD",
		},
		{
			name:  "policy is asked before Docker",
			build: func(w *world) { w.endpoint("cali1") },
			send:  tcp("docker0", "172.17.0.2", "cali1", "10.0.0.1"), want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "known connections with a bridge go on", build: twoOpen,
			send: packet{in: "cali1", out: "docker0", src: "10.0.0.1", dst: "172.17.0.2", conn: Established}, want: Accept,
		},
		{
			name: "a bridge of the host's own is not Docker's", build: twoOpen,
			send: tcp("cali1", "10.0.0.1", "br-lan", "10.9.0.2"), want: Accept,
		},
		{
			name: "a workload does not reach etcd, whatever its policy says", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.10", proto: desired.TCP, dport: 12379}, want: Drop, by: "Workloads must not reach etcd",
		},
		{
			name: "nor by IPv6", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "fd00::1", dst: "fd28::10", proto: desired.TCP, dport: 12379}, want: Drop, by: "Workloads must not reach etcd",
		},
		{
			name: "a workload reaches other ports of etcd's host", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.10", proto: desired.TCP, dport: 80}, want: Accept,
		},
		{
			name: "a workload reaches the port of etcd elsewhere", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.11", proto: desired.TCP, dport: 12379}, want: Accept,
		},
		{
			name: "a workload does not speak BGP with a node", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.101", proto: desired.TCP, dport: 179}, want: Drop, by: "Workloads must not reach a node's BGP",
		},
		{
			name: "nor by IPv6 with it", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "fd00::1", dst: "fd28::101", proto: desired.TCP, dport: 179}, want: Drop, by: "Workloads must not reach a node's BGP",
		},
		{
			name:  "nor with its own, whatever the endpoint-to-host action",
			build: func(w *world) { twoOpen(w); w.cfg.EndpointToHost = Accept },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: hostAddr, proto: desired.TCP, dport: 179}, want: Drop, by: "Workloads must not reach a node's BGP",
		},
		{
			name: "a workload may speak BGP with somebody else", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.200", proto: desired.TCP, dport: 179}, want: Accept,
		},
		{
			name:  "etcd on this host is not reached at another of its addresses",
			build: func(w *world) { twoOpen(w); w.cfg.EndpointToHost, w.cfg.EtcdPorts = Accept, []uint16{2379} },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: hostAddr, proto: desired.TCP, dport: 2379}, want: Drop, by: "Workloads must not reach etcd",
		},
		{
			name:  "what is denied so is rejected where the table can",
			build: func(w *world) { twoOpen(w); w.cfg.FilterDeny = Reject },
			send:  packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.10", proto: desired.TCP, dport: 12379}, want: Drop, by: "Workloads must not reach etcd",
		},
		{
			name: "a connection to etcd that was there before goes on", build: twoOpen,
			send: packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.10", proto: desired.TCP, dport: 12379, conn: Established}, want: Accept,
		},
		{
			name:  "the control plane can be opened to workloads",
			build: func(w *world) { twoOpen(w); w.cfg.ReachControlPlane = true },
			send:  packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.10", proto: desired.TCP, dport: 12379}, want: Accept,
		},
		{
			name:  "and is then subject to policy",
			build: func(w *world) { w.endpoint("cali1"); w.cfg.ReachControlPlane = true },
			send:  packet{in: "cali1", out: "eth0", src: "10.0.0.1", dst: "172.28.8.101", proto: desired.TCP, dport: 179}, want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "others reach etcd through this host", build: func(w *world) { twoOpen(w) },
			send: packet{in: "eth0", src: "172.28.8.101", dst: hostAddr, proto: desired.TCP, dport: 12379}, want: Accept,
		},
		{
			name: "a workload does not reach its host by default", build: twoOpen,
			send: packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP, dport: 22}, want: Drop, by: "Endpoint to host",
		},
		{
			name: "a workload does not ping another address of its host", build: twoOpen,
			send: packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.ICMPv4, icmp: 8}, want: Drop, by: "Endpoint to host",
		},
		{
			name: "a workload pings its gateway", build: twoOpen,
			send: packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.1", proto: desired.ICMPv4, icmp: 8}, want: Accept,
		},
		{
			name: "a workload with several networks pings its second gateway", build: twoOpen,
			send: packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.2", proto: desired.ICMPv4, icmp: 8}, want: Accept,
		},
		{
			name: "a workload pings its IPv6 gateway", build: twoOpen,
			send: packet{in: "cali1", src: "fd00::1", dst: "fe80::a9fe:101", proto: desired.ICMPv6, icmp: 128}, want: Accept,
		},
		{
			name: "a workload asks its IPv6 gateway for names", build: twoOpen,
			send: packet{in: "cali1", src: "fd00::1", dst: "fe80::a9fe:102", proto: desired.UDP, dport: 53}, want: Accept,
		},
		{
			name: "a workload asks no other link-local address of its host for names", build: twoOpen,
			send: packet{in: "cali1", src: "fd00::1", dst: "fe80::1", proto: desired.UDP, dport: 53}, want: Drop, by: "Endpoint to host",
		},
		{
			name: "nor by TCP", build: twoOpen,
			send: packet{in: "cali1", src: "fd00::1", dst: "fe80::ecee:eeff:feee:eeee", proto: desired.TCP, dport: 53}, want: Drop, by: "Endpoint to host",
		},
		{
			name: "a workload sends its gateway no other ICMP", build: twoOpen,
			send: packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.1", proto: desired.ICMPv4, icmp: 13}, want: Drop, by: "Endpoint to host",
		},
		{
			name: "a workload asks its gateway for names by UDP", build: twoOpen,
			send: packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.1", proto: desired.UDP, dport: 53}, want: Accept,
		},
		{
			name: "a workload asks its gateway for names by TCP", build: twoOpen,
			send: packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.1", proto: desired.TCP, dport: 53}, want: Accept,
		},
		{
			name: "a workload gets nothing else of its gateway", build: twoOpen,
			send: packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.1", proto: desired.TCP, dport: 22}, want: Drop, by: "Endpoint to host",
		},
		{
			name:  "a workload's egress policy comes before ping of its gateway",
			build: func(w *world) { w.endpoint("cali1") },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.1", proto: desired.ICMPv4, icmp: 8}, want: Drop, by: "No policy or profile allowed it",
		},
		{
			name:  "and before names where those are not let in",
			build: func(w *world) { w.endpoint("cali1"); w.cfg.WorkloadDNS = false },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.1", proto: desired.UDP, dport: 53}, want: Drop, by: "No policy or profile allowed it",
		},
		{
			name:  "where names are not let in, policy may allow them",
			build: func(w *world) { twoOpen(w); w.cfg.WorkloadDNS = false },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: "169.254.1.1", proto: desired.UDP, dport: 53}, want: Accept,
		},
		{
			name:  "endpoint-to-host ACCEPT lets a workload reach its host",
			build: func(w *world) { twoOpen(w); w.cfg.EndpointToHost = Accept },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP, dport: 22}, want: Accept,
		},
		{
			name:  "endpoint-to-host RETURN leaves it to the host's own rules",
			build: func(w *world) { twoOpen(w); w.cfg.EndpointToHost = Return },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP, dport: 22}, want: Accept,
		},
		{
			name: "endpoint-to-host ACCEPT comes behind the egress policy",
			build: func(w *world) {
				w.cfg.EndpointToHost = Accept
				w.endpoint("cali1")
			},
			send: packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP, dport: 22}, want: Drop, by: "No policy or profile allowed it",
		},
		{
			name:  "a workload answers its host",
			build: func(w *world) { w.endpoint("cali1") },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP, conn: Established}, want: Accept,
		},
		{
			name: "a workload answers its host with allow action RETURN too",
			build: func(w *world) {
				w.cfg.FilterAllow = Return
				w.endpoint("cali1")
			},
			send: packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP, conn: Established}, want: Accept,
		},
		{
			name:  "a workload that calls its host is dropped with allow action RETURN too",
			build: func(w *world) { twoOpen(w); w.cfg.FilterAllow = Return },
			send:  packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP}, want: Drop, by: "Endpoint to host",
		},
		{
			name: "an inactive workload does not answer its host",
			build: func(w *world) {
				w.endpoint("cali1").Up = false
			},
			send: packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP, conn: Established}, want: Drop, by: "The endpoint is inactive",
		},
		{
			name: "an inactive workload does not answer its host with allow action RETURN either",
			build: func(w *world) {
				w.cfg.FilterAllow = Return
				w.endpoint("cali1").Up = false
			},
			send: packet{in: "cali1", src: "10.0.0.1", dst: "172.28.8.100", proto: desired.TCP, conn: Established}, want: Drop, by: "The endpoint is inactive",
		},
		{
			name:  "a workload reports the groups it listens to",
			build: func(w *world) { w.endpoint("cali1") },
			send:  packet{in: "cali1", src: "fe80::2", dst: "ff02::16", proto: desired.ICMPv6, icmp: 143, conn: UntrackedState}, want: Accept,
		},
		{
			name:  "a workload solicits its neighbour, the host",
			build: func(w *world) { w.endpoint("cali1") },
			send:  packet{in: "cali1", src: "fe80::2", dst: "ff02::1", proto: desired.ICMPv6, icmp: 135}, want: Accept,
		},
		{
			name:  "a workload must not advertise itself as router",
			build: func(w *world) { twoOpen(w) },
			send:  packet{in: "cali1", src: "fe80::2", dst: "ff02::1", proto: desired.ICMPv6, icmp: 134}, want: Drop, by: "Endpoint to host",
		},
		{
			name:  "the host reaches its workloads, whatever their policy",
			build: func(w *world) { w.endpoint("cali1") },
			send:  tcp("", "172.28.8.100", "cali1", "10.0.0.1"), want: Accept,
		},
		{
			name: "the host itself is open", build: twoOpen,
			send: packet{in: "eth0", src: "172.28.8.101", dst: "172.28.8.100", proto: desired.TCP, dport: 22}, want: Accept,
		},
		{
			name: "what leaves the pools is masqueraded", build: twoOpen,
			send: tcp("cali1", "10.0.0.1", "eth0", "8.8.8.8"), want: Accept,
			check: func(t *testing.T, _ *world, got fate) {
				if !got.masquerade {
					t.Error("not masqueraded")
				}
			},
		},
		{
			name: "what stays in the pools keeps its source", build: twoOpen,
			send: tcp("cali1", "10.0.0.1", "eth0", "10.9.0.2"), want: Accept,
			check: notMasqueraded,
		},
		{
			name:  "a pool without NAT for outgoing traffic keeps its source",
			build: func(w *world) { twoOpen(w); w.sets[desired.SetMasqPools] = nil },
			send:  tcp("cali1", "10.0.0.1", "eth0", "8.8.8.8"), want: Accept,
			check: notMasqueraded,
		},
		{
			name: "what is not of a pool keeps its source", build: twoOpen,
			send: tcp("", "172.28.8.100", "eth0", "8.8.8.8"), want: Accept,
			check: notMasqueraded,
		},
		{
			name: "what is sent to a floating address is policed and goes to the workload", build: floatingOpen,
			send: tcp("eth0", "172.28.8.9", "cali1", "198.51.100.1"), want: Accept,
			check: rewrittenTo("172.28.8.9", "10.0.0.1"),
		},
		{
			name: "the host reaches a floating address", build: floatingOpen,
			send: tcp("", "172.28.8.100", "cali1", "198.51.100.1"), want: Accept,
			check: rewrittenTo("172.28.8.100", "10.0.0.1"),
		},
		{
			name: "a workload that calls its own floating address is called from there", build: floatingOpen,
			send: tcp("cali1", "10.0.0.1", "cali1", "198.51.100.1"), want: Accept,
			check: rewrittenTo("198.51.100.1", "10.0.0.1"),
		},
		{
			name: "a floating address opens nothing",
			build: func(w *world) {
				w.endpoint("cali1").NATs = floatingNAT
			},
			send: tcp("eth0", "172.28.8.9", "cali1", "198.51.100.1"), want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "denied packets can be rejected",
			build: func(w *world) {
				w.cfg.FilterDeny = Reject
				w.endpoint("cali1")
			},
			send: tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), want: Reject, by: "No policy or profile allowed it",
		},
		{
			name: "a second workload prefix is guarded like the first",
			build: func(w *world) {
				w.cfg.WorkloadPrefixes = []string{"cali", "tap"}
				w.endpoint("tap1")
			},
			send: tcp("eth0", "10.9.0.2", "tap1", "10.0.0.1"), want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "interfaces of two prefixes that go on alike find their own chains",
			build: func(w *world) {
				w.cfg.WorkloadPrefixes = []string{"cali", "tap"}
				w.profile("open", allowAll(), allowAll())
				w.endpoint("cali1")
				w.endpoint("tap1", "open")
			},
			send: tcp("eth0", "10.9.0.2", "tap1", "10.0.0.1"), want: Accept,
		},
		{
			name: "an interface that is named like the prefix is found",
			build: func(w *world) {
				w.profile("open", allowAll(), allowAll())
				w.endpoint("cali", "open")
				w.endpoint("cali1")
			},
			send: tcp("eth0", "10.9.0.2", "cali", "10.0.0.1"), want: Accept,
		},
		{
			name: "another program's marks do not decide", build: func(w *world) { w.endpoint("cali1") },
			send: packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", mark: 0xff000000},
			want: Drop, by: "No policy or profile allowed it",
		},
		{
			name: "another program's bits of the mark are left alone", build: twoOpen,
			send: packet{in: "eth0", out: "cali1", src: "10.9.0.2", dst: "10.0.0.1", mark: 0x00abcdef}, want: Accept,
			check: func(t *testing.T, w *world, got fate) {
				if got.mark&^w.cfg.MarkMask != 0x00abcdef {
					t.Errorf("mark = %#x", got.mark)
				}
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.build(w)
			got := w.send(tt.send)
			if got.verdict != tt.want || got.by != tt.by {
				t.Errorf("got %s by %q, want %s by %q", got.verdict, got.by, tt.want, tt.by)
			}
			if tt.check != nil {
				tt.check(t, w, got)
			}
			if t.Failed() {
				w.send(tt.send) // prints the way
			}
		})
	}
}

func notMasqueraded(t *testing.T, _ *world, got fate) {
	if got.masquerade {
		t.Error("masqueraded")
	}
}

var floatingNAT = []desired.NAT{
	{External: netip.MustParseAddr("198.51.100.1"), Internal: netip.MustParseAddr("10.0.0.1")},
	{External: netip.MustParseAddr("2001:db8::1"), Internal: netip.MustParseAddr("fd00::1")},
}

func floatingOpen(w *world) {
	w.profile("open", allowAll(), allowAll())
	w.endpoint("cali1", "open").NATs = floatingNAT
}

func rewrittenTo(src, dst string) func(*testing.T, *world, fate) {
	return func(t *testing.T, _ *world, got fate) {
		t.Helper()
		if got.src.String() != src || got.dst.String() != dst {
			t.Errorf("goes from %s to %s, want from %s to %s", got.src, got.dst, src, dst)
		}
	}
}

// TestThePolicyThatDecidesFirstHolds puts the first policy that decides at each place of a
// tier that is longer than the number of policies after which a chain is left, with others
// behind it that decide otherwise.
func TestThePolicyThatDecidesFirstHolds(t *testing.T) {
	const policies = 2*returnEvery + 2
	opposite := map[desired.Action]desired.Action{desired.Allow: desired.Deny, desired.Deny: desired.Allow, desired.Pass: desired.Deny}
	for action, others := range opposite {
		for first := range policies {
			w := newWorld(t)
			w.profile("open", allowAll(), allowAll())
			var keys []model.PolicyKey
			for i := range policies {
				var rules []desired.Rule
				switch {
				case i == first:
					rules = []desired.Rule{{Action: action}}
				case i > first:
					rules = []desired.Rule{{Action: others}}
				}
				keys = append(keys, w.policy("default", fmt.Sprintf("p%02d", i), rules...))
			}
			w.endpoint("cali1", "open").Tiers = []desired.Tier{tier("default", keys...)}
			want := Accept
			if action == desired.Deny {
				want = Drop
			}
			for _, p := range []packet{tcp("eth0", "10.9.0.2", "cali1", "10.0.0.1"), tcp("cali1", "10.0.0.1", "eth0", "10.9.0.2")} {
				if got := w.send(p); got.verdict != want {
					t.Errorf("policy %d of %d says %s, and the packet from %q has verdict %s", first, policies, action, p.in, got.verdict)
				}
			}
		}
	}
}
