package model_test

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

func nets(list ...string) []netip.Prefix {
	var result []netip.Prefix
	for _, s := range list {
		result = append(result, prefix(s))
	}
	return result
}

// TestValidateRules holds what a rule may say; an empty field means that it is valid,
// "." is the rule itself.
func TestValidateRules(t *testing.T) {
	t.Parallel()
	port := func(first, last uint16) []model.Port { return []model.Port{{First: first, Last: last}} }
	for _, tt := range []struct {
		name  string
		rule  model.Rule
		field string
	}{
		{"allow", model.Rule{Action: "allow"}, ""},
		{"log", model.Rule{Action: "log", LogPrefix: "dropped by web: "}, ""},
		{"pass as it is stored", model.Rule{Action: "next-tier"}, ""},
		{"no action", model.Rule{}, ".action"},
		{"unknown action", model.Rule{Action: "reject"}, ".action"},
		{"IP version 5", model.Rule{Action: "allow", IPVersion: 5}, ".ipVersion"},
		{"unknown protocol", model.Rule{Action: "allow", Protocol: "gre"}, ".protocol"},
		{"upper-case protocol", model.Rule{Action: "allow", Protocol: "TCP"}, ".protocol"},
		{"protocol 0", model.Rule{Action: "allow", Protocol: "0"}, ".protocol"},
		{"protocol with a leading zero", model.Rule{Action: "allow", Protocol: "06"}, ".protocol"},
		{"protocol 255", model.Rule{Action: "allow", Protocol: "255"}, ""},
		{"unknown negated protocol", model.Rule{Action: "allow", NotProtocol: "gre"}, ".notProtocol"},
		{"ICMP", model.Rule{Action: "allow", Protocol: "icmp", ICMP: &model.ICMP{Type: 254, Code: new(255)}}, ""},
		{"ICMPv6 by number", model.Rule{Action: "allow", Protocol: "58", NotICMP: &model.ICMP{Type: 0}}, ""},
		{"ICMP without protocol", model.Rule{Action: "allow", ICMP: &model.ICMP{Type: 8}}, ".icmp"},
		{"negated ICMP without protocol", model.Rule{Action: "allow", NotICMP: &model.ICMP{Type: 8}}, ".notICMP"},
		{"ICMP with TCP", model.Rule{Action: "allow", Protocol: "tcp", ICMP: &model.ICMP{Type: 8}}, ".icmp"},
		{"ICMP type 255", model.Rule{Action: "allow", Protocol: "icmp", ICMP: &model.ICMP{Type: 255}}, ".icmp.type"},
		{"ICMP type -1", model.Rule{Action: "allow", Protocol: "icmp", ICMP: &model.ICMP{Type: -1}}, ".icmp.type"},
		{"ICMP code 256", model.Rule{Action: "allow", Protocol: "icmp", ICMP: &model.ICMP{Code: new(256)}}, ".icmp.code"},
		{"ICMP in IPv6", model.Rule{Action: "allow", IPVersion: 6, Protocol: "icmp"}, ".protocol"},
		{"ICMPv6 in IPv4", model.Rule{Action: "allow", IPVersion: 4, Protocol: "icmpv6"}, ".protocol"},
		{"ICMP with an IPv6 net", model.Rule{Action: "allow", Protocol: "icmp", Source: model.Match{Nets: nets("fd00::/8")}}, "."},
		{"ports with TCP", model.Rule{Action: "allow", Protocol: "tcp", Source: model.Match{Ports: port(1, 65535)}}, ""},
		{"ports with 17", model.Rule{Action: "allow", Protocol: "17", Destination: model.Match{NotPorts: port(53, 53)}}, ""},
		{"ports with SCTP", model.Rule{Action: "allow", Protocol: "sctp", Source: model.Match{Ports: port(80, 80)}}, ""},
		{"a named port", model.Rule{Action: "allow", Protocol: "tcp", Source: model.Match{Ports: []model.Port{{Name: "http"}}}}, ""},
		{"a named port with a quote", model.Rule{Action: "allow", Protocol: "tcp", Source: model.Match{Ports: []model.Port{{Name: `a"b`}}}}, ".source.ports[0]"},
		{"ports without protocol", model.Rule{Action: "allow", Source: model.Match{Ports: port(80, 80)}}, ".source.ports"},
		{"ports with ICMP", model.Rule{Action: "allow", Protocol: "icmp", Destination: model.Match{NotPorts: port(80, 80)}}, ".destination.notPorts"},
		{"port 0", model.Rule{Action: "allow", Protocol: "tcp", Source: model.Match{Ports: port(0, 0)}}, ".source.ports[0]"},
		{"a range from 0", model.Rule{Action: "allow", Protocol: "tcp", Source: model.Match{Ports: port(0, 1023)}}, ""},
		{"a range that ends before it begins", model.Rule{Action: "allow", Protocol: "tcp", Source: model.Match{Ports: port(2, 1)}}, ".source.ports[0]"},
		{"nets with host bits", model.Rule{Action: "allow", Source: model.Match{Nets: nets("10.0.0.5/8")}}, ""},
		{"an empty net", model.Rule{Action: "allow", Source: model.Match{Nets: make([]netip.Prefix, 1)}}, ".source.nets[0]"},
		{"an IPv4-mapped net", model.Rule{Action: "allow", Source: model.Match{Nets: nets("::ffff:1.2.3.4/128")}}, ".source.nets[0]"},
		{"all addresses", model.Rule{Action: "allow", Source: model.Match{Nets: nets("0.0.0.0/0")}}, ""},
		{"none of all addresses", model.Rule{Action: "allow", Destination: model.Match{NotNets: nets("::/0")}}, ".destination.notNets[0]"},
		{"both families in one list", model.Rule{Action: "allow", Source: model.Match{Nets: nets("10.0.0.0/8", "fd00::/8")}}, "."},
		{"a net against the IP version", model.Rule{Action: "allow", IPVersion: 4, Source: model.Match{NotNets: nets("fd00::/8")}}, "."},
		{"a bad selector", model.Rule{Action: "allow", Source: model.Match{Selector: "a = 'b'"}}, ".source.selector"},
		{"a bad negated selector", model.Rule{Action: "allow", Destination: model.Match{NotSelector: "has(a"}}, ".destination.notSelector"},
		{"a bad tag", model.Rule{Action: "allow", Source: model.Match{Tag: "a b"}}, ".source.tag"},
		{"a bad negated tag", model.Rule{Action: "allow", Destination: model.Match{NotTag: "a/b"}}, ".destination.notTag"},
		{"a log prefix with a quote", model.Rule{Action: "log", LogPrefix: `" -j ACCEPT`}, ".logPrefix"},
		{"a log prefix with a newline", model.Rule{Action: "log", LogPrefix: "a\nb"}, ".logPrefix"},
		{"a long log prefix", model.Rule{Action: "log", LogPrefix: strings.Repeat("x", 28)}, ".logPrefix"},
		{"a bad annotation", model.Rule{Action: "log", Annotations: map[string]string{"a b": ""}}, ".metadata.annotations"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := model.Validate(model.NewPolicyKey("", "p"), &model.Policy{OutboundRules: []model.Rule{{Action: "allow"}, tt.rule}})
			if diff := cmp.Diff(fieldOf("spec.egress[1]", tt.field), fields(err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s%v", diff, err)
			}
		})
	}
}

func fieldOf(base, field string) []string {
	switch field {
	case "":
		return nil
	case ".":
		return []string{base}
	default:
		return []string{base + field}
	}
}

func fields(err error) []string {
	var list []string
	for _, f := range model.Faults(err) {
		list = append(list, f.Field)
	}
	return list
}

func TestValidateResources(t *testing.T) {
	t.Parallel()
	endpointKey := model.WorkloadEndpointKey{Node: "n", Orchestrator: "o", Workload: "w/x", Name: "e"}
	endpoint := func(change func(*model.WorkloadEndpoint)) *model.WorkloadEndpoint {
		e := &model.WorkloadEndpoint{State: "active", Interface: "cali1", IPv4Nets: nets("10.0.0.1/32"), IPv6Nets: nets("fd00::1/128")}
		change(e)
		return e
	}
	v4Pool := func(cidr string, p model.IPPool) (model.Key, model.Resource) {
		p.CIDR = prefix(cidr)
		return model.IPPoolKey{CIDR: p.CIDR}, &p
	}
	type check struct {
		name  string
		key   model.Key
		value model.Resource
		want  []string
	}
	pool := func(name, cidr string, p model.IPPool, want ...string) check {
		k, v := v4Pool(cidr, p)
		return check{name, k, v, want}
	}
	wep := func(name string, change func(*model.WorkloadEndpoint), want ...string) check {
		return check{name, endpointKey, endpoint(change), want}
	}
	block := func(name string, b model.Block, want ...string) check {
		return check{name, model.BlockKey{CIDR: prefix("10.0.0.0/31")}, &b, want}
	}
	filterKey := model.BGPFilterKey{Name: "tor"}
	filter := func(r model.BGPFilterRule) *model.BGPFilter {
		return &model.BGPFilter{ImportV4: []model.BGPFilterRule{r}}
	}
	peerKey := model.BGPPeerKey{IP: addr("10.0.0.1")}
	long := strings.Repeat("x", 129)
	many := map[string]string{}
	for i := range 1001 {
		many["l"+strings.Repeat("x", i)] = ""
	}
	for _, tt := range []check{
		{"policy: fine", model.NewPolicyKey("security", "a/b_c.d-1"), &model.Policy{Selector: "all()", Types: []string{"egress", "ingress"}}, nil},
		{"policy: path climbing name", model.NewPolicyKey("", "../x y"), &model.Policy{}, []string{"metadata.name"}},
		{"policy: name with a newline", model.NewPolicyKey("", "a\n-j ACCEPT"), &model.Policy{}, []string{"metadata.name"}},
		{"policy: name with a NUL", model.NewPolicyKey("", "a\x00"), &model.Policy{}, []string{"metadata.name"}},
		{"policy: long name", model.NewPolicyKey("", long), &model.Policy{}, []string{"metadata.name"}},
		{"policy: bad tier", model.NewPolicyKey("a/b", "p"), &model.Policy{}, []string{"metadata.tier"}},
		{"policy: bad selector", model.NewPolicyKey("", "p"), &model.Policy{Selector: "a = 'b"}, []string{"spec.selector"}},
		{"policy: infinite order", model.NewPolicyKey("", "p"), &model.Policy{Order: new(math.Inf(1))}, []string{"spec.order"}},
		{"policy: unknown type", model.NewPolicyKey("", "p"), &model.Policy{Types: []string{"Ingress"}}, []string{"spec.types[0]"}},
		{"policy: type twice", model.NewPolicyKey("", "p"), &model.Policy{Types: []string{"ingress", "ingress"}}, []string{"spec.types[1]"}},
		{
			"policy: preDNAT excludes", model.NewPolicyKey("", "p"),
			&model.Policy{PreDNAT: true, DoNotTrack: true, Types: []string{"egress"}, OutboundRules: []model.Rule{{Action: "allow"}}},
			[]string{"spec.types[0]", "spec.preDNAT", "spec.egress"},
		},
		{"policy: big annotations", model.NewPolicyKey("", "p"), &model.Policy{Meta: model.Meta{Annotations: map[string]string{"a": strings.Repeat("x", 300<<10)}}}, []string{"metadata.annotations"}},
		{"profile: fine", model.ProfileKey{Name: "net1"}, &model.Profile{Tags: []string{"net1"}, Labels: map[string]string{"a/b": "c"}}, nil},
		{"profile: bad tag", model.ProfileKey{Name: "net1"}, &model.Profile{Tags: []string{"net1", "a/b"}}, []string{"metadata.tags[1]"}},
		{"profile: bad label", model.ProfileKey{Name: "net1"}, &model.Profile{Labels: map[string]string{"a": "b c", "d e": ""}}, []string{"metadata.labels[a]", "metadata.labels"}},
		{"profile: label values", model.ProfileKey{Name: "net1"}, &model.Profile{Labels: map[string]string{"a": "-b", "c": "d.", "e": strings.Repeat("f", 64)}}, []string{"metadata.labels[a]", "metadata.labels[c]", "metadata.labels[e]"}},
		{"profile: too many labels", model.ProfileKey{Name: "net1"}, &model.Profile{Labels: many}, []string{"metadata.labels"}},
		{"tier: unknown default", model.TierKey{Name: "t"}, &model.Tier{DefaultAction: "allow"}, []string{"spec.defaultAction"}},

		pool("pool: fine", "10.0.0.0/26", model.IPPool{IPAM: true}),
		pool("pool: too small", "10.0.0.0/28", model.IPPool{}, "metadata.cidr"),
		pool("pool: small and disabled", "10.0.0.0/28", model.IPPool{Disabled: true}),
		pool("pool: small blocks", "10.0.0.0/28", model.IPPool{BlockSize: 29}),
		pool("pool: IPv6 too small", "fd00::/123", model.IPPool{}, "metadata.cidr"),
		pool("pool: block size too small", "10.0.0.0/8", model.IPPool{BlockSize: 19}, "spec.blockSize"),
		pool("pool: IPv6 block size", "fd00::/64", model.IPPool{BlockSize: 26}, "spec.blockSize"),
		pool("pool: host bits", "10.0.0.5/8", model.IPPool{}, "metadata.cidr"),
		pool("pool: link local", "169.254.0.0/20", model.IPPool{}, "metadata.cidr"),
		pool("pool: IPv6 link local", "fe80::/64", model.IPPool{}, "metadata.cidr"),
		pool("pool: everything", "0.0.0.0/0", model.IPPool{}, "metadata.cidr"),
		pool("pool: multicast", "224.0.0.0/8", model.IPPool{}, "metadata.cidr"),
		pool("pool: IPIP", "10.0.0.0/8", model.IPPool{IPIPDevice: "tunl0", IPIPMode: "always"}),
		pool("pool: IPIP on IPv6", "fd00::/64", model.IPPool{IPIPDevice: "tunl0"}, "spec.ipip"),
		pool("pool: unknown IPIP mode", "10.0.0.0/8", model.IPPool{IPIPMode: "Always"}, "spec.ipip.mode"),
		pool("pool: IPIP and VXLAN", "10.0.0.0/8", model.IPPool{IPIPMode: "always", VXLANMode: "always"}, "spec.vxlanMode"),
		pool("pool: bad selector", "10.0.0.0/8", model.IPPool{NodeSelector: "("}, "spec.nodeSelector"),
		pool("pool: v3 name", "10.0.0.0/8", model.IPPool{Meta: model.Meta{V3Name: "a b"}}, "metadata.name"),
		{"pool: other key", model.IPPoolKey{CIDR: prefix("10.0.0.0/8")}, &model.IPPool{CIDR: prefix("10.0.0.0/9")}, []string{"metadata.cidr"}},
		{"pool: no range", model.IPPoolKey{}, &model.IPPool{}, []string{"metadata.cidr"}},
		{"reservation: no CIDR", model.IPReservationKey{Name: "r"}, &model.IPReservation{ReservedCIDRs: make([]netip.Prefix, 1)}, []string{"spec.reservedCIDRs[0]"}},
		{"network set: no CIDR", model.NetworkSetKey{Name: "ns/s"}, &model.NetworkSet{Nets: make([]netip.Prefix, 1)}, []string{"spec.nets[0]"}},

		{"node: fine", model.NodeKey{Name: "n"}, &model.Node{IPv4: addr("10.0.0.1"), IPv4Net: prefix("10.0.0.0/8")}, nil},
		{"node: families", model.NodeKey{Name: "n"}, &model.Node{IPv4: addr("fd00::1"), IPv6: addr("10.0.0.1")}, []string{"spec.bgp.ipv4Address", "spec.bgp.ipv6Address"}},
		{"node: other subnet", model.NodeKey{Name: "n"}, &model.Node{IPv4: addr("10.0.0.1"), IPv4Net: prefix("11.0.0.0/8")}, []string{"spec.bgp.ipv4Address"}},
		{"node: subnet without address", model.NodeKey{Name: "n"}, &model.Node{IPv6Net: prefix("fd00::/64")}, []string{"spec.bgp.ipv6Address"}},
		{"node: unspecified address", model.NodeKey{Name: "n"}, &model.Node{IPv4: addr("0.0.0.0")}, []string{"spec.bgp.ipv4Address"}},
		{"node: AS 0", model.NodeKey{Name: "n"}, &model.Node{ASNumber: new(model.ASNumber(0))}, []string{"spec.bgp.asNumber"}},
		{"node: cluster id", model.NodeKey{Name: "n"}, &model.Node{RouteReflectorClusterID: "1"}, []string{"spec.bgp.routeReflectorClusterID"}},
		{"node: name with a slash", model.NodeKey{Name: "a/b"}, &model.Node{}, []string{"metadata.name"}},

		{"filter: fine", filterKey, filter(model.BGPFilterRule{CIDR: prefix("10.0.0.0/8"), Operator: "NotIn", MinLength: new(8), MaxLength: new(32), Interface: "eth*", Source: "RemotePeers", Action: "Accept"}), nil},
		{"filter: no action", filterKey, filter(model.BGPFilterRule{}), []string{"spec.importV4[0].action"}},
		{"filter: unknown operator", filterKey, filter(model.BGPFilterRule{Action: "Accept", CIDR: prefix("10.0.0.0/8"), Operator: "Is"}), []string{"spec.importV4[0].matchOperator"}},
		{"filter: cidr alone", filterKey, filter(model.BGPFilterRule{Action: "Accept", CIDR: prefix("10.0.0.0/8")}), []string{"spec.importV4[0]"}},
		{"filter: operator alone", filterKey, filter(model.BGPFilterRule{Action: "Accept", Operator: "In"}), []string{"spec.importV4[0]"}},
		{"filter: other family", filterKey, filter(model.BGPFilterRule{Action: "Accept", CIDR: prefix("fd00::/8"), Operator: "In"}), []string{"spec.importV4[0].cidr"}},
		{"filter: lengths without cidr", filterKey, filter(model.BGPFilterRule{Action: "Accept", MinLength: new(1)}), []string{"spec.importV4[0].prefixLength"}},
		{"filter: length out of range", filterKey, filter(model.BGPFilterRule{Action: "Accept", CIDR: prefix("10.0.0.0/8"), Operator: "In", MaxLength: new(33)}), []string{"spec.importV4[0].prefixLength.max"}},
		{"filter: lengths crossed", filterKey, filter(model.BGPFilterRule{Action: "Accept", CIDR: prefix("10.0.0.0/8"), Operator: "In", MinLength: new(9), MaxLength: new(8)}), []string{"spec.importV4[0].prefixLength"}},
		{"filter: source and interface", filterKey, filter(model.BGPFilterRule{Action: "Reject", Source: "All", Interface: "a b"}), []string{"spec.importV4[0].source", "spec.importV4[0].interface"}},
		{"peer: filter's name", peerKey, &model.BGPPeer{IP: addr("10.0.0.1"), ASNumber: 1, Filters: []string{"a b"}}, []string{"spec.filters[0]"}},

		{"peer: fine", peerKey, &model.BGPPeer{IP: addr("10.0.0.1"), ASNumber: 1}, nil},
		{"peer: other key", peerKey, &model.BGPPeer{IP: addr("10.0.0.2"), ASNumber: 1}, []string{"metadata.peerIP"}},
		{"peer: no address and no AS", model.BGPPeerKey{}, &model.BGPPeer{}, []string{"metadata.peerIP", "spec.asNumber"}},
		{"peer: zone", model.BGPPeerKey{IP: addr("fe80::1%eth0")}, &model.BGPPeer{IP: addr("fe80::1%eth0"), ASNumber: 1}, []string{"metadata.peerIP"}},
		{"peer: long password", peerKey, &model.BGPPeer{IP: addr("10.0.0.1"), ASNumber: 1, Password: strings.Repeat("x", 81)}, []string{"spec.password"}},
		{"peer: password with a newline", peerKey, &model.BGPPeer{IP: addr("10.0.0.1"), ASNumber: 1, Password: "a\nb"}, []string{"spec.password"}},

		{"BGP: AS number", model.BGPConfigKey{Name: "as_num"}, &model.Setting{Value: "64512"}, nil},
		{"BGP: reserved AS number", model.BGPConfigKey{Name: "as_num"}, &model.Setting{Value: "23456"}, []string{"value"}},
		{"BGP: the last AS number", model.BGPConfigKey{Name: "as_num"}, &model.Setting{Value: "65535.65535"}, []string{"value"}},
		{"peer: reserved AS number", peerKey, &model.BGPPeer{IP: addr("10.0.0.1"), ASNumber: 23456}, []string{"spec.asNumber"}},
		{"BGP: bad AS number", model.BGPConfigKey{Name: "as_num"}, &model.Setting{Value: "x"}, []string{"value"}},
		{"BGP: bad mesh", model.BGPConfigKey{Name: "node_mesh"}, &model.Setting{Value: "{}"}, []string{"value"}},
		{"BGP: bad log level", model.BGPConfigKey{Name: "loglevel"}, &model.Setting{Value: "loud"}, []string{"value"}},
		{"BGP: other settings are raw", model.BGPConfigKey{Name: "whatever"}, &model.Setting{Value: "x y"}, nil},
		{"BGP: a part of the node", model.BGPConfigKey{Node: "n", Name: "as_num"}, &model.Setting{Value: "1"}, []string{"metadata.name"}},
		{"felix: bad name and node", model.FelixConfigKey{Node: "a b", Name: "c d"}, &model.Setting{}, []string{"metadata.node", "metadata.name"}},

		{"host endpoint: fine", model.HostEndpointKey{Node: "n", Name: "eth0"}, &model.HostEndpoint{Interface: "eth0.100"}, nil},
		{"host endpoint: a VLAN of a bond", model.HostEndpointKey{Node: "n", Name: "e"}, &model.HostEndpoint{Interface: "bond0.2103"}, nil},
		{"host endpoint: a bridge", model.HostEndpointKey{Node: "n", Name: "e"}, &model.HostEndpoint{Interface: "br-0123456789ab"}, nil},
		{"host endpoint: an address label", model.HostEndpointKey{Node: "n", Name: "e"}, &model.HostEndpoint{Interface: "eth0:1"}, []string{"spec.interfaceName"}},
		{"host endpoint: all interfaces", model.HostEndpointKey{Node: "n", Name: "all"}, &model.HostEndpoint{Interface: "*"}, nil},
		{"host endpoint: neither interface nor address", model.HostEndpointKey{Node: "n", Name: "e"}, &model.HostEndpoint{}, []string{"spec.interfaceName"}},
		{"host endpoint: long interface", model.HostEndpointKey{Node: "n", Name: "e"}, &model.HostEndpoint{Interface: strings.Repeat("x", 16)}, []string{"spec.interfaceName"}},
		{
			"host endpoint: families",
			model.HostEndpointKey{Node: "n", Name: "e"},
			&model.HostEndpoint{ExpectedIPv4Addrs: []netip.Addr{addr("10.0.0.1"), addr("fd00::1")}, ExpectedIPv6Addrs: []netip.Addr{addr("10.0.0.1")}},
			[]string{"spec.expectedIPs[1]", "spec.expectedIPs[2]"},
		},
		{
			"host endpoint: ports",
			model.HostEndpointKey{Node: "n", Name: "e"},
			&model.HostEndpoint{Interface: "e", Ports: []model.EndpointPort{{Name: "80", Protocol: "icmp"}}},
			[]string{"spec.ports[0].name", "spec.ports[0].protocol", "spec.ports[0].port"},
		},

		wep("endpoint: fine", func(*model.WorkloadEndpoint) {}),
		wep("endpoint: no state", func(e *model.WorkloadEndpoint) { e.State = "" }, "spec.state"),
		wep("endpoint: interface with a slash", func(e *model.WorkloadEndpoint) { e.Interface = "../x" }, "spec.interfaceName"),
		wep("endpoint: interface ..", func(e *model.WorkloadEndpoint) { e.Interface = ".." }, "spec.interfaceName"),
		wep("endpoint: no interface", func(e *model.WorkloadEndpoint) { e.Interface = "" }, "spec.interfaceName"),
		wep("endpoint: MAC", func(e *model.WorkloadEndpoint) { e.MAC = "ee:ee:ee:ee:ee:ee:ee:ee" }, "spec.mac"),
		wep("endpoint: MAC with a sign", func(e *model.WorkloadEndpoint) { e.MAC = "+e:ee:ee:ee:ee:ee" }, "spec.mac"),
		wep("endpoint: MAC in upper case", func(e *model.WorkloadEndpoint) { e.MAC = "EE:EE:EE:00:00:01" }),
		wep("endpoint: a subnet", func(e *model.WorkloadEndpoint) { e.IPv4Nets = nets("10.0.0.0/24") }, "spec.ipNetworks[0]"),
		wep("endpoint: families", func(e *model.WorkloadEndpoint) { e.IPv4Nets, e.IPv6Nets = e.IPv6Nets, e.IPv4Nets }, "spec.ipNetworks[0]", "spec.ipNetworks[1]"),
		wep("endpoint: NAT", func(e *model.WorkloadEndpoint) {
			e.IPv4NAT = []model.NAT{{Internal: addr("10.0.0.1"), External: addr("1.2.3.4")}}
		}),
		wep("endpoint: NAT of another address", func(e *model.WorkloadEndpoint) {
			e.IPv4NAT = []model.NAT{{Internal: addr("10.0.0.2"), External: addr("1.2.3.4")}}
		}, "spec.ipNATs[0].internalIP"),
		wep("endpoint: NAT between families", func(e *model.WorkloadEndpoint) {
			e.IPv6NAT = []model.NAT{{Internal: addr("fd00::1"), External: addr("1.2.3.4")}}
		}, "spec.ipNATs[0].externalIP"),
		wep("endpoint: gateways", func(e *model.WorkloadEndpoint) {
			e.IPv4Gateway, e.IPv6Gateway = addr("fd00::1"), addr("10.0.0.1")
		}, "spec.ipv4Gateway", "spec.ipv6Gateway"),
		wep("endpoint: profile", func(e *model.WorkloadEndpoint) { e.Profiles = []string{"a", "b c"} }, "spec.profiles[1]"),
		{"endpoint: key", model.WorkloadEndpointKey{Node: "a b", Orchestrator: "c d", Workload: "e f", Name: ""}, endpoint(func(*model.WorkloadEndpoint) {}), []string{"metadata.node", "metadata.orchestrator", "metadata.workload", "metadata.name"}},

		{"IPAM: no way to give out an address", model.IPAMConfigKey{}, &model.IPAMConfig{}, []string{"spec.autoAllocateBlocks"}},
		{"IPAM: negative limit", model.IPAMConfigKey{}, &model.IPAMConfig{StrictAffinity: true, MaxBlocksPerHost: -1}, []string{"spec.maxBlocksPerHost"}},
		{"IPAM: limit beyond Calico's", model.IPAMConfigKey{}, &model.IPAMConfig{StrictAffinity: true, MaxBlocksPerHost: 1 << 31}, []string{"spec.maxBlocksPerHost"}},
		{"affinity: unknown state", model.BlockAffinityKey{Node: "n", CIDR: prefix("10.0.0.0/26")}, &model.BlockAffinity{State: "maybe"}, []string{"state"}},
		{"affinity: host bits", model.BlockAffinityKey{Node: "n", CIDR: prefix("10.0.0.1/26")}, &model.BlockAffinity{}, []string{"cidr"}},
		{"handle: bad", model.HandleKey{ID: "a\nb"}, &model.Handle{HandleID: "c", Block: map[string]int{"d": -1}}, []string{"id", "id", "block", "block[d]"}},
		block("block: fine", model.Block{CIDR: prefix("10.0.0.0/31"), Allocations: []*int{nil, new(0)}, Unallocated: []int{0}, Attributes: make([]model.BlockAttributes, 1)}),
		block("block: other key", model.Block{CIDR: prefix("10.0.0.2/31"), Allocations: make([]*int, 2)}, "cidr"),
		block("block: no CIDR", model.Block{}, "cidr"),
		block("block: size", model.Block{CIDR: prefix("10.0.0.0/31"), Allocations: make([]*int, 3)}, "allocations"),
		block("block: affinity", model.Block{CIDR: prefix("10.0.0.0/31"), Affinity: new("node"), Allocations: make([]*int, 2)}, "affinity"),
		block("block: no such attribute", model.Block{CIDR: prefix("10.0.0.0/31"), Allocations: []*int{nil, new(1)}, Attributes: make([]model.BlockAttributes, 1)}, "allocations[1]"),
		block("block: free and given out", model.Block{CIDR: prefix("10.0.0.0/31"), Allocations: []*int{new(0), nil}, Unallocated: []int{0}, Attributes: make([]model.BlockAttributes, 1)}, "unallocated[0]"),
		block("block: free twice", model.Block{CIDR: prefix("10.0.0.0/31"), Allocations: make([]*int, 2), Unallocated: []int{1, 1}}, "unallocated[1]"),
		block("block: free beyond its end", model.Block{CIDR: prefix("10.0.0.0/31"), Allocations: make([]*int, 2), Unallocated: []int{2}}, "unallocated[0]"),
		{"block: huge", model.BlockKey{CIDR: prefix("fd00::/64")}, &model.Block{CIDR: prefix("fd00::/64")}, []string{"allocations"}},

		{"network: bad node", model.DockerNetworkKey{Name: "net1"}, &model.DockerNetwork{IDs: map[string]string{"a b": "x"}}, []string{"spec.ids"}},
		{"history: bad node", model.HistoryKey{Node: "a/b"}, &model.History{Count: -1}, []string{"metadata.node", "count"}},
		{"liveness: bad host", model.LivenessKey{Node: "n", Program: "felix"}, &model.Liveness{Host: model.Identity{ID: "a b", Boot: strings.Repeat("b", 65)}}, []string{"host.id", "host.boot"}},
		{"node: bad host and program", model.NodeKey{Name: "n"}, &model.Node{Host: model.Identity{ID: "a/b"}, Programs: []string{"felix", "a b"}}, []string{"host.id", "programs"}},
		{"liveness: bad program", model.LivenessKey{Node: "n", Program: "a/b"}, &model.Liveness{}, []string{"metadata.name"}},
		{"endpoint status: unknown", model.EndpointStatusKey{Node: "n"}, &model.EndpointStatus{Status: "fine"}, []string{"status"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := model.Validate(tt.key, tt.value)
			if diff := cmp.Diff(tt.want, fields(err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s%v", diff, err)
			}
		})
	}
}

func TestValidateReportsAllFaults(t *testing.T) {
	t.Parallel()
	err := model.Validate(model.NewPolicyKey("", "p"), &model.Policy{Selector: "a = 'b'", InboundRules: []model.Rule{
		{Action: "reject", Destination: model.Match{Ports: []model.Port{{First: 80, Last: 80}}}},
		{Action: "allow", Source: model.Match{Nets: nets("fd00::/8", "10.0.0.0/8")}},
	}})
	want := []string{"spec.selector", "spec.ingress[0].action", "spec.ingress[0].destination.ports", "spec.ingress[1]"}
	if diff := cmp.Diff(want, fields(fmt.Errorf("wrapped: %w", err))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFieldErrorText(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]*model.FieldError{
		"metadata.cidr = '10.0.0.0/28' (too small)": {Field: "metadata.cidr", Value: "10.0.0.0/28", Reason: "too small"},
		`metadata.name = 'a\nb' (bad)`:              {Field: "metadata.name", Value: "a\nb", Reason: "bad"},
	} {
		if got := f.Error(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if long := (&model.FieldError{Field: "f", Value: strings.Repeat("x", 10_000)}).Error(); len(long) > 300 {
		t.Errorf("a long value gives a text of %d characters", len(long))
	}
}

func TestAnAddressLabelIsToldFromABadName(t *testing.T) {
	key := model.HostEndpointKey{Node: "n", Name: "e"}
	for iface, want := range map[string]string{
		"eth0:1":         "eth0:1 is an address label; name eth0",
		"bond0.2103:vip": "bond0.2103:vip is an address label; name bond0.2103",
		":1":             "must be 1 to 15 letters, digits, '_', '.' or '-'",
		"eth/0:1":        "must be 1 to 15 letters, digits, '_', '.' or '-'",
	} {
		faults := model.Faults(model.Validate(key, &model.HostEndpoint{Interface: iface}))
		if len(faults) != 1 || faults[0].Reason != want {
			t.Errorf("%s: got %v, want %q", iface, faults, want)
		}
	}
}
