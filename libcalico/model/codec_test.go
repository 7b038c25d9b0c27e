package model_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

var compareValues = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// stored is a resource and its values in etcd, in the spelling that this package
// writes.
var stored = []struct {
	name  string
	key   model.Key
	value model.Resource
	parts map[string]string
}{
	{
		"an endpoint as the Docker plugin writes it",
		model.WorkloadEndpointKey{Node: "node00", Orchestrator: "libnetwork", Workload: "libnetwork", Name: "4e5e"},
		&model.WorkloadEndpoint{
			State: "active", Interface: "cali4e5ed993aed", MAC: "ee:ee:ee:ee:ee:ee",
			Profiles: []string{"net2"}, IPv4Nets: []netip.Prefix{prefix("192.168.18.65/32")},
		},
		map[string]string{
			"/calico/v1/host/node00/workload/libnetwork/libnetwork/endpoint/4e5e": `{"state":"active","name":"cali4e5ed993aed","active_instance_id":"",` +
				`"mac":"ee:ee:ee:ee:ee:ee","profile_ids":["net2"],"ipv4_nets":["192.168.18.65/32"],"ipv6_nets":[]}`,
		},
	},
	{
		"an endpoint with everything",
		model.WorkloadEndpointKey{Node: "n", Orchestrator: "o", Workload: "w", Name: "e"},
		&model.WorkloadEndpoint{
			Meta: model.Meta{
				UID: "1b2c", CreationTimestamp: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Annotations: map[string]string{"container": "<web>"},
			},
			State: "inactive", Interface: "cali1", ActiveInstanceID: "i",
			IPv4Nets: []netip.Prefix{prefix("10.0.0.1/32")}, IPv6Nets: []netip.Prefix{prefix("fd00::1/128")},
			IPv4NAT: []model.NAT{{Internal: addr("10.0.0.1"), External: addr("1.2.3.4")}},
			IPv6NAT: []model.NAT{{Internal: addr("fd00::1"), External: addr("2001::1")}},
			Labels:  map[string]string{"role": "web"}, IPv4Gateway: addr("169.254.1.1"), IPv6Gateway: addr("fe80::1"),
			Ports: []model.EndpointPort{{Name: "http", Protocol: "tcp", Port: 80}},
		},
		map[string]string{
			"/calico/v1/host/n/workload/o/w/endpoint/e": `{"uid":"1b2c","creation_timestamp":"2026-01-02T03:04:05Z","annotations":{"container":"<web>"},` +
				`"state":"inactive","name":"cali1","active_instance_id":"i","profile_ids":[],"ipv4_nets":["10.0.0.1/32"],"ipv6_nets":["fd00::1/128"],` +
				`"ipv4_nat":[{"int_ip":"10.0.0.1","ext_ip":"1.2.3.4"}],"ipv6_nat":[{"int_ip":"fd00::1","ext_ip":"2001::1"}],"labels":{"role":"web"},` +
				`"ipv4_gateway":"169.254.1.1","ipv6_gateway":"fe80::1","ports":[{"name":"http","protocol":"tcp","port":80}]}`,
		},
	},
	{
		"a host endpoint",
		model.HostEndpointKey{Node: "node00", Name: "eth0"},
		&model.HostEndpoint{Interface: "eth0", ExpectedIPv4Addrs: []netip.Addr{addr("172.28.8.100")}, Labels: map[string]string{"a": ""}},
		map[string]string{"/calico/v1/host/node00/endpoint/eth0": `{"name":"eth0","expected_ipv4_addrs":["172.28.8.100"],"labels":{"a":""}}`},
	},
	{
		"a network's profile",
		model.ProfileKey{Name: "net1"},
		&model.Profile{
			InboundRules:  []model.Rule{{Action: "allow", Source: model.Match{Tag: "net1"}}},
			OutboundRules: []model.Rule{{Action: "allow"}}, Tags: []string{"net1"},
		},
		map[string]string{
			"/calico/v1/policy/profile/net1/rules":  `{"inbound_rules":[{"action":"allow","src_tag":"net1"}],"outbound_rules":[{"action":"allow"}]}`,
			"/calico/v1/policy/profile/net1/tags":   `["net1"]`,
			"/calico/v1/policy/profile/net1/labels": `{}`,
		},
	},
	{
		"an empty profile",
		model.ProfileKey{Name: "none"},
		&model.Profile{},
		map[string]string{
			"/calico/v1/policy/profile/none/rules":  `{"inbound_rules":[],"outbound_rules":[]}`,
			"/calico/v1/policy/profile/none/tags":   `[]`,
			"/calico/v1/policy/profile/none/labels": `{}`,
		},
	},
	{
		"a policy",
		model.NewPolicyKey("", "web"),
		&model.Policy{
			Meta: model.Meta{Annotations: map[string]string{"why": "x"}}, Order: new(10.5), Selector: "role == 'web'",
			InboundRules: []model.Rule{{Action: "next-tier"}}, DoNotTrack: true, ApplyOnForward: true, Types: []string{"ingress"},
		},
		map[string]string{
			"/calico/v1/policy/tier/default/policy/web": `{"annotations":{"why":"x"},"order":10.5,"inbound_rules":[{"action":"next-tier"}],` +
				`"outbound_rules":[],"selector":"role == 'web'","untracked":true,"apply_on_forward":true,"types":["ingress"]}`,
		},
	},
	{
		"a tier",
		model.TierKey{Name: "t"},
		&model.Tier{Order: new(1.0), DefaultAction: model.TierPass},
		map[string]string{"/calico/v1/policy/tier/t/metadata": `{"order":1,"default_action":"Pass"}`},
	},
	{
		"a pool",
		model.IPPoolKey{CIDR: prefix("192.168.0.0/16")},
		&model.IPPool{CIDR: prefix("192.168.0.0/16"), IPIPDevice: "tunl0", IPIPMode: model.IPIPCrossSubnet, Masquerade: true, IPAM: true},
		map[string]string{
			"/calico/v1/ipam/v4/pool/192.168.0.0-16": `{"cidr":"192.168.0.0/16","ipip":"tunl0","ipip_mode":"cross-subnet","masquerade":true,"ipam":true,"disabled":false}`,
		},
	},
	{
		"a reservation",
		model.IPReservationKey{Name: "r"},
		&model.IPReservation{ReservedCIDRs: []netip.Prefix{prefix("10.0.0.0/30")}},
		map[string]string{"/calico/v1/ipreservations/r": `{"reserved_cidrs":["10.0.0.0/30"]}`},
	},
	{
		"a network set",
		model.NetworkSetKey{Name: "s"},
		&model.NetworkSet{Nets: []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/8")}, Labels: map[string]string{"a": "b"}},
		map[string]string{"/calico/v1/netset/s": `{"nets":["10.0.0.0/8","fd00::/8"],"labels":{"a":"b"}}`},
	},
	{
		"a node with both families",
		model.NodeKey{Name: "node00"},
		&model.Node{
			IPv4: addr("172.28.8.100"), IPv4Net: prefix("172.28.8.0/24"), IPv6: addr("fd00::1"), IPv6Net: prefix("fd00::/64"),
			ASNumber: new(model.ASNumber(4259840005)), RouteReflectorClusterID: "244.0.0.1", Labels: map[string]string{"rack": "1"},
		},
		map[string]string{
			"/calico/v1/host/node00/metadata":          `{"labels":{"rack":"1"}}`,
			"/calico/v1/host/node00/bird_ip":           "172.28.8.100",
			"/calico/bgp/v1/host/node00/ip_addr_v4":    "172.28.8.100",
			"/calico/bgp/v1/host/node00/ip_addr_v6":    "fd00::1",
			"/calico/bgp/v1/host/node00/network_v4":    "172.28.8.0/24",
			"/calico/bgp/v1/host/node00/network_v6":    "fd00::/64",
			"/calico/bgp/v1/host/node00/as_num":        "4259840005",
			"/calico/bgp/v1/host/node00/rr_cluster_id": "244.0.0.1",
		},
	},
	{
		"a node that says which host it is, and what runs there",
		model.NodeKey{Name: "node02"},
		&model.Node{Host: model.Identity{ID: "0a1b", Boot: "b-1"}, Programs: []string{"bgpd", "felix"}},
		map[string]string{
			"/calico/v1/host/node02/metadata":       `{"host":{"id":"0a1b","boot":"b-1"},"programs":["bgpd","felix"]}`,
			"/calico/bgp/v1/host/node02/ip_addr_v4": "",
			"/calico/bgp/v1/host/node02/ip_addr_v6": "",
		},
	},
	{
		"a node without BGP",
		model.NodeKey{Name: "node01"},
		&model.Node{},
		map[string]string{
			"/calico/v1/host/node01/metadata":       `{}`,
			"/calico/bgp/v1/host/node01/ip_addr_v4": "",
			"/calico/bgp/v1/host/node01/ip_addr_v6": "",
		},
	},
	{
		"a global peer",
		model.BGPPeerKey{IP: addr("172.28.8.1")},
		&model.BGPPeer{IP: addr("172.28.8.1"), ASNumber: 64513},
		map[string]string{"/calico/bgp/v1/global/peer_v4/172.28.8.1": `{"ip":"172.28.8.1","as_num":"64513"}`},
	},
	{
		"a node's peer with password and port",
		model.BGPPeerKey{Node: "n", IP: addr("fd00::1")},
		&model.BGPPeer{IP: addr("fd00::1"), ASNumber: 1, Password: "x", Port: 1179},
		map[string]string{"/calico/bgp/v1/host/n/peer_v6/fd00::1": `{"ip":"fd00::1","as_num":"1","password":"x","port":1179}`},
	},
	{
		"a BGP setting",
		model.BGPConfigKey{Name: "node_mesh"},
		&model.Setting{Of: model.KindBGPConfig, Value: `{"enabled":true}`},
		map[string]string{"/calico/bgp/v1/global/node_mesh": `{"enabled":true}`},
	},
	{
		"a felix setting",
		model.FelixConfigKey{Node: "n", Name: "LogSeverityScreen"},
		&model.Setting{Of: model.KindFelixConfig, Value: "info"},
		map[string]string{"/calico/v1/host/n/config/LogSeverityScreen": "info"},
	},
	{
		"an empty felix setting",
		model.FelixConfigKey{Name: "InterfaceExclude"},
		&model.Setting{Of: model.KindFelixConfig},
		map[string]string{"/calico/v1/config/InterfaceExclude": ""},
	},
	{"ready", model.ReadyKey{}, new(model.Ready(true)), map[string]string{"/calico/v1/Ready": "true"}},
	{"not ready", model.ReadyKey{}, new(model.Ready(false)), map[string]string{"/calico/v1/Ready": "false"}},
	{
		"the accepted GUID",
		model.AcceptedGUIDKey{},
		&model.Setting{Of: model.KindAcceptedGUID, Value: "0123abcd"},
		map[string]string{"/calico/v1/accepted_guid": "0123abcd"},
	},
	{
		"a lock",
		model.LockKey{},
		&model.Lock{
			ID: "4AXQ", By: "root@host1", Command: "calicoctl datastore import", PID: 42, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			Boot: "b1", PIDNamespace: "pid:[4026531836]", Started: 7, Import: true,
			Under: &model.Lock{By: "ann@host2"},
		},
		map[string]string{"/calico/v1/lock": `{"id":"4AXQ","by":"root@host1","command":"calicoctl datastore import","pid":42,"since":"2026-01-02T03:04:05Z",` +
			`"boot":"b1","pidNamespace":"pid:[4026531836]","started":7,"import":true,"under":{"by":"ann@host2"}}`},
	},
	{
		"the version that is needed to write",
		model.MinVersionKey{},
		&model.Setting{Of: model.KindMinVersion, Value: "v0.3.0"},
		map[string]string{"/calico/v1/min_version": "v0.3.0"},
	},
	{
		"the IPAM configuration",
		model.IPAMConfigKey{},
		&model.IPAMConfig{AutoAllocateBlocks: true},
		map[string]string{"/calico/ipam/v2/config": `{"strict_affinity":false,"auto_allocate_blocks":true}`},
	},
	{
		"a block",
		model.BlockKey{CIDR: prefix("10.0.0.0/30")},
		&model.Block{
			CIDR: prefix("10.0.0.0/30"), Affinity: new("host:node00"), Allocations: []*int{new(0), nil, new(0), nil},
			Unallocated: []int{3, 1}, Attributes: []model.BlockAttributes{{HandleID: new("h"), Secondary: map[string]string{"node": "node00"}}, {}},
		},
		map[string]string{
			"/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-30": `{"cidr":"10.0.0.0/30","affinity":"host:node00","strictAffinity":false,` +
				`"allocations":[0,null,0,null],"unallocated":[3,1],"attributes":[{"handle_id":"h","secondary":{"node":"node00"}},{"handle_id":null,"secondary":null}]}`,
		},
	},
	{
		"an affinity as v2.6 wrote it",
		model.BlockAffinityKey{Node: "n", CIDR: prefix("10.0.0.0/26")},
		&model.BlockAffinity{},
		map[string]string{"/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-26": `{}`},
	},
	{
		"a pending affinity",
		model.BlockAffinityKey{Node: "n", CIDR: prefix("fd00::/122")},
		&model.BlockAffinity{State: model.AffinityPending},
		map[string]string{"/calico/ipam/v2/host/n/ipv6/block/fd00::-122": `{"state":"pending"}`},
	},
	{
		"a handle",
		model.HandleKey{ID: "h"},
		&model.Handle{Block: map[string]int{"192.168.3.128/26": 1}},
		map[string]string{"/calico/ipam/v2/handle/h": `{"block":{"192.168.3.128/26":1}}`},
	},
	{
		"a Docker network",
		model.DockerNetworkKey{Name: "net1"},
		&model.DockerNetwork{IDs: map[string]string{"node00": "abc"}, Internal: true, Options: map[string]string{"mtu": "1400"}},
		map[string]string{"/calico/docker/v1/network/net1": `{"ids":{"node00":"abc"},"options":{"mtu":"1400"},"internal":true}`},
	},
	{
		"a name of an endpoint",
		model.DockerNameKey{Network: "net1", Name: "web", Endpoint: "e1"},
		&model.DockerName{Node: "node00", Addresses: []netip.Addr{netip.MustParseAddr("192.168.3.4")}, Own: true},
		map[string]string{"/calico/docker/v1/name/net1/web/e1": `{"node":"node00","addresses":["192.168.3.4"],"own":true}`},
	},
	{
		"a BGP filter",
		model.BGPFilterKey{Name: "tor"},
		&model.BGPFilter{ImportV4: []model.BGPFilterRule{
			{CIDR: prefix("10.0.0.0/8"), Operator: "In", MinLength: new(16), Action: model.FilterReject}, {Action: model.FilterAccept},
		}},
		map[string]string{"/calico/v1/bgpfilters/tor": `{"import_v4":[{"cidr":"10.0.0.0/8","operator":"In","min_length":16,"action":"Reject"},{"action":"Accept"}]}`},
	},
	{
		"a configuration's metadata",
		model.ConfigurationKey{Of: model.FelixConfigurations, Name: "default"},
		&model.Configuration{Meta: model.Meta{UID: "u"}},
		map[string]string{"/calico/v1/felixconfigurations/default": `{"uid":"u"}`},
	},
	{
		"a host's account of the history",
		model.HistoryKey{Node: "n"},
		&model.History{Count: 12, Restored: 1},
		map[string]string{"/calico/status/v1/host/n/history": `{"count":12,"restored":1}`},
	},
	{
		"what a host has written back",
		model.HistoryKey{Node: "n", WrittenBack: true},
		&model.History{Count: 12},
		map[string]string{"/calico/status/v1/host/n/written_back": `{"count":12}`},
	},
	{
		"liveness",
		model.LivenessKey{Node: "n", Program: "felix"},
		&model.Liveness{Version: "v1", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Ready: true},
		map[string]string{"/calico/status/v1/host/n/felix": `{"version":"v1","started":"2026-01-02T03:04:05Z","ready":true}`},
	},
	{
		"liveness that says on which host",
		model.LivenessKey{Node: "n", Program: "bgpd"},
		&model.Liveness{Version: "v1", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Host: model.Identity{ID: "0a1b", Boot: "b-1"}},
		map[string]string{"/calico/status/v1/host/n/bgpd": `{"version":"v1","started":"2026-01-02T03:04:05Z","ready":false,"host":{"id":"0a1b","boot":"b-1"}}`},
	},
	{
		"felix's status",
		model.FelixStatusKey{Node: "n"},
		&model.FelixStatus{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), UptimeSecs: 1.5, FirstUpdate: true},
		map[string]string{"/calico/felix/v1/host/n/status": `{"time":"2026-01-02T03:04:05Z","uptime":1.5,"first_update":true}`},
	},
	{
		"an endpoint's status",
		model.EndpointStatusKey{Node: "n", Orchestrator: "o", Workload: "w", Name: "e"},
		&model.EndpointStatus{Status: model.EndpointUp},
		map[string]string{"/calico/felix/v1/host/n/workload/o/w/endpoint/e": `{"status":"up"}`},
	},
}

func TestEncodeAndBack(t *testing.T) {
	t.Parallel()
	seen := map[model.Kind]bool{}
	for _, tt := range stored {
		seen[tt.key.Kind()] = true
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.value.Kind() != tt.key.Kind() {
				t.Errorf("the value is a %s", tt.value.Kind())
			}
			parts, err := model.Encode(tt.key, tt.value)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for path, value := range parts {
				got[path] = string(value)
			}
			if diff := cmp.Diff(tt.parts, got); diff != "" {
				t.Errorf("Encode (-want +got):\n%s", diff)
			}
			back, err := model.Decode(tt.key, parts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.value, back, compareValues); diff != "" {
				t.Errorf("Decode (-want +got):\n%s", diff)
			}
			if err := model.Validate(tt.key, tt.value); err != nil {
				t.Errorf("Validate: %v", err)
			}
		})
	}
	for _, kind := range model.Kinds() {
		if !seen[kind] {
			t.Errorf("no value of kind %s is tested", kind)
		}
	}
}

// Values that this package would write otherwise, but others have written.
func TestDecodeWhatOthersWrote(t *testing.T) {
	t.Parallel()
	nodeKey := model.NodeKey{Name: "n"}
	for _, tt := range []struct {
		name  string
		key   model.Key
		parts map[string]string
		want  model.Resource
	}{
		{
			"null lists", model.NewPolicyKey("", "p"),
			map[string]string{"/calico/v1/policy/tier/default/policy/p": `{"selector":"","inbound_rules":null,"outbound_rules":null,"order":null}`},
			&model.Policy{},
		},
		{
			"unknown fields",
			model.IPPoolKey{CIDR: prefix("10.0.0.0/8")},
			map[string]string{"/calico/v1/ipam/v4/pool/10.0.0.0-8": `{"cidr":"10.0.0.0/8","ipip":"","ipip_mode":"","masquerade":false,"ipam":true,"disabled":true,"new":1}`},
			&model.IPPool{Meta: model.Meta{Unknown: `"new":1`}, CIDR: prefix("10.0.0.0/8"), IPAM: true, Disabled: true},
		},
		{
			"a profile that has only tags",
			model.ProfileKey{Name: "p"},
			map[string]string{"/calico/v1/policy/profile/p/tags": `["a"]`},
			&model.Profile{Tags: []string{"a"}},
		},
		{
			"a node that has only an address for BGP", nodeKey,
			map[string]string{"/calico/bgp/v1/host/n/ip_addr_v4": "10.0.0.1\n"},
			&model.Node{IPv4: addr("10.0.0.1")},
		},
		{
			"a node that has only bird_ip", nodeKey,
			map[string]string{"/calico/v1/host/n/bird_ip": "10.0.0.1"},
			&model.Node{IPv4: addr("10.0.0.1")},
		},
		{
			"an empty address wins over bird_ip", nodeKey,
			map[string]string{"/calico/v1/host/n/bird_ip": "10.0.0.1", "/calico/bgp/v1/host/n/ip_addr_v4": "", "/calico/v1/host/n/metadata": ""},
			&model.Node{},
		},
		{
			"a dotted AS number", nodeKey,
			map[string]string{"/calico/bgp/v1/host/n/as_num": "65000.5"},
			&model.Node{ASNumber: new(model.ASNumber(65000<<16 + 5))},
		},
		{
			"an AS number that is a JSON number",
			model.BGPPeerKey{IP: addr("10.0.0.1")},
			map[string]string{"/calico/bgp/v1/global/peer_v4/10.0.0.1": `{"ip":"10.0.0.1","as_num":64513}`},
			&model.BGPPeer{IP: addr("10.0.0.1"), ASNumber: 64513},
		},
		{
			"an affinity without a value",
			model.BlockAffinityKey{Node: "n", CIDR: prefix("10.0.0.0/26")},
			map[string]string{"/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-26": ""},
			&model.BlockAffinity{},
		},
		{
			"today's affinity",
			model.BlockAffinityKey{Node: "n", CIDR: prefix("10.0.0.0/26")},
			map[string]string{"/calico/ipam/v2/host/n/ipv4/block/10.0.0.0-26": `{"state":"confirmed","deleted":false}`},
			&model.BlockAffinity{State: model.AffinityConfirmed, Unknown: `"deleted":false`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := model.Decode(tt.key, bytesOf(tt.parts))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, compareValues); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	policyPath := "/calico/v1/policy/tier/default/policy/p"
	policyKey := model.NewPolicyKey("", "p")
	for _, tt := range []struct {
		name  string
		key   model.Key
		parts map[string]string
	}{
		{"no value at all", policyKey, nil},
		{"an empty value", policyKey, map[string]string{policyPath: ""}},
		{"broken JSON", policyKey, map[string]string{policyPath: `{"selector":`}},
		{"something after the JSON", policyKey, map[string]string{policyPath: `{} {}`}},
		{"a list in place of an object", policyKey, map[string]string{policyPath: `[]`}},
		{"a port that is too large", policyKey, map[string]string{policyPath: `{"inbound_rules":[{"src_ports":[70000]}]}`}},
		{"a range of ports that are too large", policyKey, map[string]string{policyPath: `{"inbound_rules":[{"src_ports":["1:70000"]}]}`}},
		{"a net that is none", policyKey, map[string]string{policyPath: `{"inbound_rules":[{"src_nets":["10.0.0.0/33"]}]}`}},
		{"an ICMP code without a type", policyKey, map[string]string{policyPath: `{"inbound_rules":[{"icmp_code":1}]}`}},
		{"a protocol that is a list", policyKey, map[string]string{policyPath: `{"inbound_rules":[{"protocol":[]}]}`}},
		{"a bad node address", model.NodeKey{Name: "n"}, map[string]string{"/calico/bgp/v1/host/n/ip_addr_v4": "x"}},
		{"a bad node network", model.NodeKey{Name: "n"}, map[string]string{"/calico/bgp/v1/host/n/network_v6": "fd00::"}},
		{"a bad AS number", model.NodeKey{Name: "n"}, map[string]string{"/calico/bgp/v1/host/n/as_num": "70000.1"}},
		{"bad node metadata", model.NodeKey{Name: "n"}, map[string]string{"/calico/v1/host/n/metadata": "x"}},
		{"bad profile tags", model.ProfileKey{Name: "p"}, map[string]string{"/calico/v1/policy/profile/p/tags": `{}`}},
		{"bad profile labels", model.ProfileKey{Name: "p"}, map[string]string{"/calico/v1/policy/profile/p/labels": `[]`}},
		{"bad readiness", model.ReadyKey{}, map[string]string{"/calico/v1/Ready": `maybe`}},
		{"an AS number that is a fraction", model.BGPPeerKey{IP: addr("10.0.0.1")}, map[string]string{"/calico/bgp/v1/global/peer_v4/10.0.0.1": `{"as_num":64512.1}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if r, err := model.Decode(tt.key, bytesOf(tt.parts)); err == nil {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestEncodeRefusesAForeignSetting(t *testing.T) {
	t.Parallel()
	if _, err := model.Encode(model.BGPConfigKey{Name: "as_num"}, &model.Setting{Of: model.KindFelixConfig, Value: "1"}); err == nil {
		t.Error("a felix setting was taken for a BGP setting")
	}
	if _, err := model.Encode(model.BGPConfigKey{Name: "as_num"}, &model.Setting{Value: "1"}); err != nil {
		t.Error(err)
	}
}

func bytesOf(parts map[string]string) map[string][]byte {
	values := map[string][]byte{}
	for path, value := range parts {
		values[path] = []byte(value)
	}
	return values
}

// FuzzBlockValue checks that whatever is read as a block, and passes the checks, is
// written and read as the same block again.
func FuzzBlockValue(f *testing.F) {
	f.Add([]byte(`{"cidr":"10.0.0.64/30","affinity":"host:a","strictAffinity":false,"allocations":[0,null,null,0],"unallocated":[2,1],"attributes":[{"handle_id":"h","secondary":{"node":"a"}}]}`))
	f.Add([]byte(`{"cidr":"fd00::/126","affinity":null,"allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":[]}`))
	f.Add([]byte(`{"cidr":"10.0.0.64/30","allocations":[7],"unallocated":[0],"attributes":null}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		for _, cidr := range []string{"10.0.0.64/30", "fd00::/126"} {
			k := model.BlockKey{CIDR: netip.MustParsePrefix(cidr)}
			path := model.Paths(k)[0]
			block, err := model.Decode(k, map[string][]byte{path: value})
			if err != nil || model.Validate(k, block) != nil {
				continue
			}
			written, err := model.Encode(k, block)
			if err != nil {
				t.Fatalf("%s: %v", value, err)
			}
			back, err := model.Decode(k, written)
			if err != nil {
				t.Fatalf("%s, written as %s: %v", value, written[path], err)
			}
			if diff := cmp.Diff(block, back, compareValues); diff != "" {
				t.Errorf("%s, written as %s (-read +read again):\n%s", value, written[path], diff)
			}
		}
	})
}
