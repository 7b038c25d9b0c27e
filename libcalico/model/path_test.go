package model_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/model"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// pathsOf is a key of each kind, in each of its forms, with its paths and its text.
var pathsOf = []struct {
	key   model.Key
	text  string
	paths []string
}{
	{model.ReadyKey{}, "ready", []string{"/calico/v1/Ready"}},
	{model.AcceptedGUIDKey{}, "acceptedGUID", []string{"/calico/v1/accepted_guid"}},
	{model.LockKey{}, "lock", []string{"/calico/v1/lock"}},
	{model.MinVersionKey{}, "minVersion", []string{"/calico/v1/min_version"}},
	{
		model.FelixConfigKey{Name: "LogSeverityScreen"},
		"felixConfig(name=LogSeverityScreen)",
		[]string{"/calico/v1/config/LogSeverityScreen"},
	},
	{
		model.FelixConfigKey{Node: "node00", Name: "IpInIpTunnelAddr"},
		"felixConfig(node=node00, name=IpInIpTunnelAddr)",
		[]string{"/calico/v1/host/node00/config/IpInIpTunnelAddr"},
	},
	{model.TierKey{Name: "security"}, "tier(name=security)", []string{"/calico/v1/policy/tier/security/metadata"}},
	{
		model.NewPolicyKey("", "frontend"), "policy(name=frontend)",
		[]string{"/calico/v1/policy/tier/default/policy/frontend"},
	},
	{
		model.NewPolicyKey("security", "shop/web"), "policy(tier=security, name=shop/web)",
		[]string{"/calico/v1/policy/tier/security/policy/shop%2Fweb"},
	},
	{
		model.ProfileKey{Name: "50%/net"},
		"profile(name=50%/net)",
		[]string{
			"/calico/v1/policy/profile/50%25%2Fnet/rules",
			"/calico/v1/policy/profile/50%25%2Fnet/tags",
			"/calico/v1/policy/profile/50%25%2Fnet/labels",
		},
	},
	{model.NetworkSetKey{Name: "office"}, "networkSet(name=office)", []string{"/calico/v1/netset/office"}},
	{
		model.IPPoolKey{CIDR: prefix("192.168.0.0/16")},
		"ipPool(cidr=192.168.0.0/16)",
		[]string{"/calico/v1/ipam/v4/pool/192.168.0.0-16"},
	},
	{
		model.IPPoolKey{CIDR: prefix("fd80:24e2:f998:72d6::/64")},
		"ipPool(cidr=fd80:24e2:f998:72d6::/64)",
		[]string{"/calico/v1/ipam/v6/pool/fd80:24e2:f998:72d6::-64"},
	},
	{model.IPReservationKey{Name: "gateways"}, "ipReservation(name=gateways)", []string{"/calico/v1/ipreservations/gateways"}},
	{
		model.NodeKey{Name: "node00"},
		"node(name=node00)",
		[]string{
			"/calico/v1/host/node00/metadata",
			"/calico/v1/host/node00/bird_ip",
			"/calico/bgp/v1/host/node00/ip_addr_v4",
			"/calico/bgp/v1/host/node00/ip_addr_v6",
			"/calico/bgp/v1/host/node00/network_v4",
			"/calico/bgp/v1/host/node00/network_v6",
			"/calico/bgp/v1/host/node00/as_num",
			"/calico/bgp/v1/host/node00/rr_cluster_id",
		},
	},
	{model.BGPFilterKey{Name: "tor"}, "bgpFilter(name=tor)", []string{"/calico/v1/bgpfilters/tor"}},
	{
		model.ConfigurationKey{Of: model.BGPConfigurations, Name: "default"},
		"configuration(of=bgpconfigurations, name=default)",
		[]string{"/calico/v1/bgpconfigurations/default"},
	},
	{
		model.ConfigurationKey{Of: model.FelixConfigurations, Name: "node.n"},
		"configuration(of=felixconfigurations, name=node.n)",
		[]string{"/calico/v1/felixconfigurations/node.n"},
	},
	{model.BGPConfigKey{Name: "as_num"}, "bgpConfig(name=as_num)", []string{"/calico/bgp/v1/global/as_num"}},
	{
		model.BGPConfigKey{Node: "node00", Name: "loglevel"},
		"bgpConfig(node=node00, name=loglevel)",
		[]string{"/calico/bgp/v1/host/node00/loglevel"},
	},
	{model.BGPPeerKey{IP: addr("172.28.8.1")}, "bgpPeer(ip=172.28.8.1)", []string{"/calico/bgp/v1/global/peer_v4/172.28.8.1"}},
	{model.BGPPeerKey{IP: addr("fd00::1")}, "bgpPeer(ip=fd00::1)", []string{"/calico/bgp/v1/global/peer_v6/fd00::1"}},
	{
		model.BGPPeerKey{Node: "node00", IP: addr("172.28.8.1")},
		"bgpPeer(node=node00, ip=172.28.8.1)",
		[]string{"/calico/bgp/v1/host/node00/peer_v4/172.28.8.1"},
	},
	{
		model.BGPPeerKey{Node: "node00", IP: addr("fd00::1")},
		"bgpPeer(node=node00, ip=fd00::1)",
		[]string{"/calico/bgp/v1/host/node00/peer_v6/fd00::1"},
	},
	{
		model.HostEndpointKey{Node: "node00", Name: "eth0"},
		"hostEndpoint(node=node00, name=eth0)",
		[]string{"/calico/v1/host/node00/endpoint/eth0"},
	},
	{
		model.WorkloadEndpointKey{Node: "node00", Orchestrator: "libnetwork", Workload: "libnetwork", Name: "4e5e"},
		"workloadEndpoint(node=node00, orchestrator=libnetwork, workload=libnetwork, name=4e5e)",
		[]string{"/calico/v1/host/node00/workload/libnetwork/libnetwork/endpoint/4e5e"},
	},
	{model.IPAMConfigKey{}, "ipamConfig", []string{"/calico/ipam/v2/config"}},
	{
		model.BlockAffinityKey{Node: "node00", CIDR: prefix("192.168.105.64/26")},
		"ipamBlockAffinity(node=node00, cidr=192.168.105.64/26)",
		[]string{"/calico/ipam/v2/host/node00/ipv4/block/192.168.105.64-26"},
	},
	{
		model.BlockAffinityKey{Node: "node00", CIDR: prefix("fd80::40/122")},
		"ipamBlockAffinity(node=node00, cidr=fd80::40/122)",
		[]string{"/calico/ipam/v2/host/node00/ipv6/block/fd80::40-122"},
	},
	{
		model.BlockKey{CIDR: prefix("192.168.105.64/26")},
		"ipamBlock(cidr=192.168.105.64/26)",
		[]string{"/calico/ipam/v2/assignment/ipv4/block/192.168.105.64-26"},
	},
	{
		model.BlockKey{CIDR: prefix("fd80::40/122")},
		"ipamBlock(cidr=fd80::40/122)",
		[]string{"/calico/ipam/v2/assignment/ipv6/block/fd80::40-122"},
	},
	{model.HandleKey{ID: "net1 4e5e"}, "ipamHandle(id=net1 4e5e)", []string{"/calico/ipam/v2/handle/net1 4e5e"}},
	{model.DockerNetworkKey{Name: "net1"}, "dockerNetwork(name=net1)", []string{"/calico/docker/v1/network/net1"}},
	{
		model.DockerNameKey{Network: "net1", Name: "web", Endpoint: "e1"},
		"dockerName(network=net1, name=web, endpoint=e1)",
		[]string{"/calico/docker/v1/name/net1/web/e1"},
	},
	{model.HistoryKey{Node: "node00"}, "history(node=node00)", []string{"/calico/status/v1/host/node00/history"}},
	{
		model.HistoryKey{Node: "node00", WrittenBack: true},
		"history(node=node00, of=written_back)",
		[]string{"/calico/status/v1/host/node00/written_back"},
	},
	{
		model.LivenessKey{Node: "node00", Program: "felix"},
		"liveness(node=node00, program=felix)",
		[]string{"/calico/status/v1/host/node00/felix"},
	},
	{model.FelixStatusKey{Node: "node00"}, "felixStatus(node=node00)", []string{"/calico/felix/v1/host/node00/status"}},
	{
		model.FelixStatusKey{Node: "node00", Last: true},
		"felixStatus(node=node00, copy=last)",
		[]string{"/calico/felix/v1/host/node00/last_reported_status"},
	},
	{
		model.EndpointStatusKey{Node: "node00", Orchestrator: "libnetwork", Workload: "libnetwork", Name: "4e5e"},
		"endpointStatus(node=node00, orchestrator=libnetwork, workload=libnetwork, name=4e5e)",
		[]string{"/calico/felix/v1/host/node00/workload/libnetwork/libnetwork/endpoint/4e5e"},
	},
}

func TestPathsAndBack(t *testing.T) {
	t.Parallel()
	for _, tt := range pathsOf {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			if got := tt.key.String(); got != tt.text {
				t.Errorf("String() = %q, want %q", got, tt.text)
			}
			if diff := cmp.Diff(tt.paths, model.Paths(tt.key)); diff != "" {
				t.Errorf("Paths (-want +got):\n%s", diff)
			}
			for _, path := range tt.paths {
				k, ok := model.ParsePath(path)
				if !ok || k != tt.key {
					t.Errorf("ParsePath(%q) = %v, %v", path, k, ok)
				}
				if err := model.PathFault(path); err != nil {
					t.Errorf("PathFault: %v", err)
				}
				under := func(prefix string) bool { return strings.HasPrefix(path, prefix) }
				if !slices.ContainsFunc(model.ListPrefixes(tt.key.Kind()), under) {
					t.Errorf("%q is under none of ListPrefixes(%s)", path, tt.key.Kind())
				}
			}
		})
	}
}

func TestEveryKindIsInThePathTable(t *testing.T) {
	t.Parallel()
	seen := map[model.Kind]bool{}
	for _, tt := range pathsOf {
		seen[tt.key.Kind()] = true
	}
	for _, kind := range model.Kinds() {
		if !seen[kind] {
			t.Errorf("no path of kind %s is tested", kind)
		}
	}
	if len(model.Kinds()) < 25 {
		t.Errorf("%d kinds", len(model.Kinds()))
	}
}

func TestPathsThatAreNotResources(t *testing.T) {
	t.Parallel()
	// looksLike says whether the path has the shape of a resource's.
	for path, looksLike := range map[string]bool{
		"":                                    false,
		"/":                                   false,
		"/calico":                             false,
		"/calico/":                            false,
		"/calico/v1/":                         false,
		"/calico/v1/Ready/":                   false,
		"/calico/v1/Ready2":                   false,
		"/other/v1/Ready":                     false,
		"calico/v1/Ready":                     false,
		"/calico/v1/host/node00":              false,
		"/calico/v1/host//config/x":           false,
		"/calico/v1/policy/profile/a/b/rules": false,
		"/calico/v1/policy/profile/a/other":   false,
		"/calico/bgp/v1/global/custom_filters/v4":           false,
		"/calico/ipam/v2/host/node00/ipv4/block":            false,
		"/calico/v1/ipam/v4/pool/10.0.0.0":                  true,
		"/calico/v1/ipam/v4/pool/10.0.0.0-33":               true,
		"/calico/v1/ipam/v4/pool/10.0.0.0-08":               true,
		"/calico/v1/ipam/v4/pool/fd00::-64":                 true,
		"/calico/v1/ipam/v6/pool/10.0.0.0-8":                true,
		"/calico/v1/ipam/v6/pool/FD00::-64":                 true,
		"/calico/v1/ipam/v6/pool/fd00:0::-64":               true,
		"/calico/v1/ipam/v6/pool/::ffff:10.0.0.0-104":       true,
		"/calico/v1/ipam/v6/pool/fe80::1%eth0-64":           true,
		"/calico/bgp/v1/global/peer_v4/nonsense":            true,
		"/calico/bgp/v1/host/node00/peer_v6/172.28.8.1":     true,
		"/calico/v1/policy/profile/a%2fb/rules":             true,
		"/calico/v1/policy/profile/a%/rules":                true,
		"/calico/v1/policy/profile/a%41/rules":              true,
		"/calico/ipam/v2/assignment/ipv4/block/10.0.0.0/26": false,
	} {
		if k, ok := model.ParsePath(path); ok {
			t.Errorf("ParsePath(%q) = %v", path, k)
		}
		if err := model.PathFault(path); (err != nil) != looksLike {
			t.Errorf("PathFault(%q) = %v", path, err)
		}
	}
}

func TestUnknownKindsAreRefused(t *testing.T) {
	t.Parallel()
	if paths := model.Paths(nil); paths != nil {
		t.Errorf("Paths(nil) = %v", paths)
	}
	if prefixes := model.ListPrefixes("teapot"); prefixes != nil {
		t.Errorf("ListPrefixes = %v", prefixes)
	}
	if _, err := model.Encode(nil, &model.Tier{}); err == nil {
		t.Error("Encode of no key succeeded")
	}
	if _, err := model.Decode(nil, nil); err == nil {
		t.Error("Decode of no key succeeded")
	}
	if err := model.Validate(nil, &model.Tier{}); err == nil {
		t.Error("Validate of no key succeeded")
	}
	var none *model.Tier
	for _, wrong := range []model.Resource{nil, none, &model.Policy{}} {
		if _, err := model.Encode(model.TierKey{Name: "a"}, wrong); err == nil {
			t.Errorf("Encode of a tier from %T succeeded", wrong)
		}
		if err := model.Validate(model.TierKey{Name: "a"}, wrong); err == nil {
			t.Errorf("Validate of a tier from %T succeeded", wrong)
		}
	}
}

func TestCompareSortsByKindThenPath(t *testing.T) {
	t.Parallel()
	want := make([]model.Key, 0, len(pathsOf))
	for _, tt := range pathsOf {
		want = append(want, tt.key)
	}
	slices.SortStableFunc(want, func(a, b model.Key) int {
		kinds := model.Kinds()
		return 1000*(slices.Index(kinds, a.Kind())-slices.Index(kinds, b.Kind())) + strings.Compare(model.Paths(a)[0], model.Paths(b)[0])
	})
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, model.Compare)
	if diff := cmp.Diff(want, got, compareValues); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// FuzzParsePath checks that a path that is read is one of the paths of what was read,
// so that nothing can be stored under two names.
func FuzzParsePath(f *testing.F) {
	for _, tt := range pathsOf {
		for _, path := range tt.paths {
			f.Add(path)
		}
	}
	f.Add("/calico/v1/ipam/v6/pool/::ffff:1.2.3.4-96")
	f.Add("/calico/v1/policy/profile/%25%2F%%/rules")
	f.Fuzz(func(t *testing.T, path string) {
		k, ok := model.ParsePath(path)
		if !ok {
			return
		}
		if err := model.PathFault(path); err != nil {
			t.Errorf("PathFault of a good path: %v", err)
		}
		if !slices.Contains(model.Paths(k), path) {
			t.Errorf("ParsePath(%q) = %v, whose paths are %q", path, k, model.Paths(k))
		}
	})
}

// FuzzPaths checks that any name comes back from its path.
func FuzzPaths(f *testing.F) {
	f.Add("node00", "a/b%2F", "10.0.0.0", uint8(26))
	f.Add("..", "%", "fd00::", uint8(122))
	f.Fuzz(func(t *testing.T, node, name, address string, bits uint8) {
		if node == "" || name == "" {
			return
		}
		keys := []model.Key{
			model.WorkloadEndpointKey{Node: node, Orchestrator: name, Workload: node, Name: name},
			model.HostEndpointKey{Node: node, Name: name},
			model.ProfileKey{Name: name},
			model.NewPolicyKey(node, name),
			model.TierKey{Name: name},
			model.FelixConfigKey{Node: node, Name: name},
			model.BGPConfigKey{Name: name},
			model.HandleKey{ID: name},
			model.NodeKey{Name: node},
		}
		if a, err := netip.ParseAddr(address); err == nil && a.Zone() == "" && !a.Is4In6() {
			keys = append(keys, model.BGPPeerKey{Node: node, IP: a})
			if p := netip.PrefixFrom(a, int(bits)); p.IsValid() {
				keys = append(keys, model.IPPoolKey{CIDR: p}, model.BlockKey{CIDR: p}, model.BlockAffinityKey{Node: node, CIDR: p})
			}
		}
		for _, k := range keys {
			for _, path := range model.Paths(k) {
				if got, ok := model.ParsePath(path); !ok || got != k {
					t.Errorf("ParsePath(%q) = %v, %v; it is a path of %v", path, got, ok, k)
				}
			}
		}
	})
}
