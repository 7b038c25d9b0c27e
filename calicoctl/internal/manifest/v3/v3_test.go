package v3

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/calicoctl/internal/manifest/tree"
	v1 "calico.internal/calicoctl/internal/manifest/v1"
	"calico.internal/libcalico/model"
)

var (
	meta = model.Meta{
		UID: "u", CreationTimestamp: time.Unix(1, 0).UTC(), Annotations: map[string]string{"a": "b"}, V3Labels: map[string]string{"c": "d"},
	}
	named    = model.Meta{V3Name: "x", UID: meta.UID, CreationTimestamp: meta.CreationTimestamp, Annotations: meta.Annotations, V3Labels: meta.V3Labels}
	labelled = model.Meta{UID: meta.UID, CreationTimestamp: meta.CreationTimestamp, Annotations: meta.Annotations}
	labels   = map[string]string{"l": "m"}
	ports    = []model.EndpointPort{{Name: "http", Protocol: "tcp", Port: 80}}
	rules    = []model.Rule{
		{
			Action: model.ActionAllow, Protocol: "tcp", IPVersion: 4, Annotations: map[string]string{"a": "b"},
			Source:      model.Match{Nets: prefixes("10.0.0.0/8"), Selector: "a == 'b'", NotSelector: "c == 'd'"},
			Destination: model.Match{NotNets: prefixes("10.1.0.0/16"), Ports: []model.Port{{First: 1, Last: 2}, {Name: "http"}}, NotPorts: []model.Port{{First: 1, Last: 1}}},
		},
		{Action: model.ActionDeny, Protocol: "icmp", ICMP: &model.ICMP{Type: 8, Code: new(0)}, NotICMP: &model.ICMP{Type: 3}},
		{Action: model.ActionLog, NotProtocol: "17"},
		{Action: model.ActionPass},
	}
	tagged = slices.Concat(rules, []model.Rule{{Action: model.ActionAllow, LogPrefix: "x", Source: model.Match{Tag: "t"}}})
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// full is resources with everything that a resource can have, by the kind that prints
// them, and what the dialect cannot say of them.
var full = map[string]struct {
	key   model.Key
	value model.Resource
	lost  []string
}{
	"BGPConfiguration": {
		settings.Key{Of: settings.KindBGP},
		&settings.Settings{
			Meta: meta, Of: settings.KindBGP,
			Values: map[string]string{"loglevel": "none", "node_mesh": `{"enabled":true}`, "as_num": "64513", "other": "x"},
		},
		[]string{"setting other"},
	},
	"BGPFilter": {
		model.BGPFilterKey{Name: "f"},
		&model.BGPFilter{
			Meta: meta,
			ExportV4: []model.BGPFilterRule{{
				CIDR: netip.MustParsePrefix("10.0.0.0/8"), Operator: "In", MinLength: new(8), MaxLength: new(24),
				Source: "RemotePeers", Interface: "eth*", Action: "Accept",
			}},
			ImportV4: []model.BGPFilterRule{{Action: "Reject"}}, ExportV6: []model.BGPFilterRule{{Action: "Reject"}},
			ImportV6: []model.BGPFilterRule{{Action: "Accept"}},
		},
		nil,
	},
	"BGPPeer": {
		model.BGPPeerKey{Node: "n", IP: addr("fd00::1")},
		&model.BGPPeer{Meta: named, IP: addr("fd00::1"), ASNumber: 1, Password: "p", Port: 1790, Filters: []string{"f"}},
		nil,
	},
	"FelixConfiguration": {
		settings.Key{Of: settings.KindFelix, Node: "n"},
		&settings.Settings{Meta: meta, Of: settings.KindFelix, Values: map[string]string{
			"InterfacePrefix": "cali,tap", "Ipv6Support": "false", "IpInIpEnabled": "true", "DefaultEndpointToHostAction": "RETURN",
			"ChainInsertMode": "append", "IptablesFilterAllowAction": "RETURN", "IptablesMangleAllowAction": "ACCEPT",
			"IptablesFilterDenyAction": "REJECT", "IptablesMarkMask": "0xff00", "DisableConntrackInvalidCheck": "true",
			"IptablesRefreshInterval": "90", "IptablesPostWriteCheckIntervalSecs": "0.5", "IpsetsRefreshInterval": "1",
			"RouteRefreshInterval": "3600", "NetlinkTimeoutSecs": "10", "MaxIpsetSize": "5", "DeviceRouteProtocol": "3",
			"RemoveExternalRoutes": "false", "WorkloadDNSEnabled": "false", "WorkloadsReachControlPlane": "true", "FailsafeInboundHostPorts": "tcp:22,udp:10.0.0.0/8:53,tcp:[fd00::/8]:1", "FailsafeOutboundHostPorts": "none",
			"LogPrefix": "x", "LogSeverityScreen": "DEBUG", "ReportingIntervalSecs": "0", "ReportingTTLSecs": "90",
			"EndpointReportingEnabled": "true", "EndpointReportingDelaySecs": "1", "HealthEnabled": "true", "HealthHost": "localhost",
			"HealthPort": "1", "PrometheusMetricsEnabled": "true", "PrometheusMetricsHost": "::1", "PrometheusMetricsPort": "2", "Other": "x",
		}},
		[]string{"setting Other"},
	},
	"GlobalNetworkPolicy": {
		model.NewPolicyKey("t", "p"),
		&model.Policy{
			Meta: meta, Order: new(1.5), InboundRules: tagged, OutboundRules: rules, Selector: "a == 'b'",
			ApplyOnForward: true, Types: []string{"ingress", "egress"},
		},
		[]string{"spec.ingress[4] log prefix"},
	},
	"NetworkPolicy": {
		model.NewPolicyKey("t", "default/p"),
		&model.Policy{Meta: meta, InboundRules: rules, Selector: "a == 'b'", Types: []string{"egress"}},
		nil,
	},
	"GlobalNetworkSet": {
		model.NetworkSetKey{Name: "s"}, &model.NetworkSet{Meta: labelled, Nets: prefixes("10.0.0.0/8", "fd00::/8"), Labels: labels}, nil,
	},
	"NetworkSet": {
		model.NetworkSetKey{Name: "default/s"}, &model.NetworkSet{Meta: labelled, Nets: prefixes("10.0.0.0/8"), Labels: labels}, nil,
	},
	"HostEndpoint": {
		model.HostEndpointKey{Node: "n", Name: "x"},
		&model.HostEndpoint{
			Meta:      model.Meta{V3Name: "x", UID: "u", CreationTimestamp: meta.CreationTimestamp},
			Interface: "eth0", ExpectedIPv4Addrs: []netip.Addr{addr("10.0.0.1")}, ExpectedIPv6Addrs: []netip.Addr{addr("fd00::1")},
			Labels: labels, Profiles: []string{"p"}, Ports: ports,
		},
		nil,
	},
	"IPAMConfiguration": {
		model.IPAMConfigKey{}, &model.IPAMConfig{Meta: meta, StrictAffinity: true, AutoAllocateBlocks: false, MaxBlocksPerHost: 2}, nil,
	},
	"IPPool": {
		model.IPPoolKey{CIDR: netip.MustParsePrefix("10.0.0.0/16")},
		&model.IPPool{
			Meta: named, CIDR: netip.MustParsePrefix("10.0.0.0/16"), IPIPDevice: "tunl0", IPIPMode: "cross-subnet", Masquerade: true,
			IPAM: true, Disabled: true, BlockSize: 28, NodeSelector: "has(a)", DisableBGPExport: true, Manual: true,
		},
		nil,
	},
	"IPReservation": {model.IPReservationKey{Name: "r"}, &model.IPReservation{Meta: meta, ReservedCIDRs: prefixes("10.0.0.0/30")}, nil},
	"Node": {
		model.NodeKey{Name: "n"},
		&model.Node{
			Meta: labelled, IPv4: addr("10.0.0.1"), IPv4Net: netip.MustParsePrefix("10.0.0.0/24"), IPv6: addr("fd00::1"),
			IPv6Net: netip.MustParsePrefix("fd00::/64"), ASNumber: new(model.ASNumber(7)), RouteReflectorClusterID: "244.0.0.1", Labels: labels,
		},
		nil,
	},
	"Profile": {
		model.ProfileKey{Name: "p"},
		&model.Profile{Meta: meta, InboundRules: tagged, OutboundRules: rules, Tags: []string{"t"}, Labels: labels},
		[]string{"tags", "spec.ingress[4] log prefix"},
	},
	"Tier": {model.TierKey{Name: "t"}, &model.Tier{Meta: meta, Order: new(1.5), DefaultAction: "Pass"}, nil},
	"WorkloadEndpoint": {
		model.WorkloadEndpointKey{Node: "n-1", Orchestrator: "o", Workload: "w", Name: "e"},
		&model.WorkloadEndpoint{
			Meta: labelled, State: "inactive", Interface: "cali0", ActiveInstanceID: "i", MAC: "ee:ee:ee:ee:ee:ee", Profiles: []string{"p"},
			IPv4Nets: prefixes("10.0.0.1/32"), IPv6Nets: prefixes("fd00::1/128"), Labels: labels, Ports: ports,
			IPv4NAT:     []model.NAT{{Internal: addr("10.0.0.1"), External: addr("10.1.0.1")}},
			IPv6NAT:     []model.NAT{{Internal: addr("fd00::1"), External: addr("fd00::2")}},
			IPv4Gateway: addr("169.254.1.1"), IPv6Gateway: addr("fe80::1"),
		},
		[]string{"state inactive"},
	},
}

var equal = []cmp.Option{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

// TestThroughTheDialect checks that a resource is the same after it was printed and
// read, and that what the dialect cannot say is named and kept.
func TestThroughTheDialect(t *testing.T) {
	for _, kind := range Kinds() {
		if kind.ReadOnly != "" {
			continue
		}
		t.Run(kind.Name, func(t *testing.T) {
			old, ok := full[kind.Name]
			if !ok {
				t.Fatal("is not tested")
			}
			if !kind.OwnedBy(old.key) {
				t.Fatal("is of another kind")
			}
			doc, lost := kind.Encode(old.key, old.value)
			if diff := cmp.Diff(old.lost, lost); diff != "" {
				t.Errorf("lost (-want +got):\n%s", diff)
			}
			through(t, kind, kind, old.key, old.value)
			if text, err := json.Marshal(doc); err != nil || strings.Contains(string(text), "null") {
				t.Errorf("%s, error %v", text, err)
			}
		})
	}
}

// through prints a resource in one kind, reads and stores it, and expects what was there.
func through(t *testing.T, kind, other dialect.Kind, key model.Key, value model.Resource) {
	t.Helper()
	doc, _ := other.Encode(key, value)
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	read, next, faults := decode(t, other, string(text))
	if len(faults) > 0 || read != key {
		t.Fatalf("read again as %v, faults %v", read, faults)
	}
	next, lost, err := other.Carry(key, value, next)
	if err != nil || len(lost) > 0 {
		t.Fatalf("lost %v, error %v", lost, err)
	}
	if diff := cmp.Diff(value, next, equal...); diff != "" {
		t.Errorf("%s replaced by %s (-old +next):\n%s", kind.Name, other.APIVersion, diff)
	}
	_, before := kind.Encode(key, value)
	_, after := kind.Encode(key, next)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("lost (-before +after):\n%s", diff)
	}
}

// TestBetweenDialects checks that what one dialect wrote is the same after the other
// has printed and read it, for the kinds that both have.
func TestBetweenDialects(t *testing.T) {
	for _, other := range v1.Kinds() {
		for _, kind := range Kinds() {
			old := full[kind.Name]
			if kind.Model != other.Model || kind.Name == "NetworkPolicy" {
				continue
			}
			t.Run(kind.Name, func(t *testing.T) {
				key, value := old.key, old.value
				if key.Kind() == model.KindPolicy { // v1 has no tiers
					key = model.NewPolicyKey("", "p")
				}
				through(t, kind, other, key, value)
				through(t, other, kind, key, value)
			})
		}
	}
}

// TestDefaults checks that what v1 writes is not changed when v3 prints and reads it.
func TestDefaults(t *testing.T) {
	for name, text := range map[string]string{
		"IPPool":              `{"apiVersion":"v1","kind":"ipPool","metadata":{"cidr":"10.0.0.0/16"},"spec":{}}`,
		"BGPPeer":             `{"apiVersion":"v1","kind":"bgpPeer","metadata":{"scope":"global","peerIP":"fd00::1"},"spec":{"asNumber":1}}`,
		"GlobalNetworkPolicy": `{"apiVersion":"v1","kind":"policy","metadata":{"name":"a"},"spec":{"preDNAT":true}}`,
		"Profile":             `{"apiVersion":"v1","kind":"profile","metadata":{"name":"a"},"spec":{}}`,
		"Node":                `{"apiVersion":"v1","kind":"node","metadata":{"name":"a"},"spec":{}}`,
		"HostEndpoint":        `{"apiVersion":"v1","kind":"hostEndpoint","metadata":{"name":"eth0","node":"n"},"spec":{"interfaceName":"eth0"}}`,
		"WorkloadEndpoint":    `{"apiVersion":"v1","kind":"workloadEndpoint","metadata":{"name":"e","node":"n","orchestrator":"o","workload":"w"},"spec":{"interfaceName":"cali0"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			kind := kindNamed(t, name)
			i := slices.IndexFunc(v1.Kinds(), func(k dialect.Kind) bool { return k.Model == kind.Model })
			key, value, faults := decode(t, v1.Kinds()[i], text)
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			through(t, kind, kind, key, value)
		})
	}
}

// TestKnownSettings checks that the list of known settings is that of the fields.
func TestKnownSettings(t *testing.T) {
	for kind, spec := range map[model.Kind]any{
		settings.KindFelix: &FelixConfigurationSpec{}, settings.KindBGP: &BGPConfigurationSpec{}, settings.KindCluster: &ClusterInformationSpec{},
	} {
		var names []string
		eachSetting(spec, func(name string, _ reflect.Value) { names = append(names, name) })
		if diff := cmp.Diff(settings.Known(kind), names); diff != "" {
			t.Errorf("%s (-known +fields):\n%s", kind, diff)
		}
	}
}

func kindNamed(t *testing.T, name string) dialect.Kind {
	t.Helper()
	i := slices.IndexFunc(Kinds(), func(k dialect.Kind) bool { return k.Name == name })
	if i < 0 {
		t.Fatalf("no kind %s", name)
	}
	return Kinds()[i]
}

// decode reads one document; faults of new objects count.
func decode(t *testing.T, kind dialect.Kind, text string) (model.Key, model.Resource, tree.Faults) {
	t.Helper()
	for d := range tree.Documents("f.yaml", []byte(text)) {
		values, faults := d.Parse()
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		r := tree.NewReport("f", values[0], "")
		key, value := kind.Decode(r)
		return key, value, slices.Concat(r.Faults(), r.IfNew())
	}
	t.Fatal("nothing to read")
	return nil, nil, nil
}

// TestRules holds what a document may say: one line for each rule, with the faults by
// path and a part of the message; none means that the document is valid.
func TestRules(t *testing.T) {
	place := regexp.MustCompile(`^f:\d+:\d+: `)
	for _, tc := range []struct{ name, kind, meta, spec, want string }{
		{"name missing", "Profile", "{}", "{}", "metadata.name: missing"},
		{"name in upper case", "Profile", "{name: A}", "{}", `metadata.name: "A": must be 1 to 253 lower-case`},
		{"name with a hyphen at its end", "Profile", "{name: a-.b}", "{}", "must be 1 to 253"},
		{"name of several parts", "Profile", "{name: a-b.c}", "{}", ""},
		{"long name", "Profile", "{name: " + strings.Repeat("a", 64) + "}", "{}", "must be 1 to 253"},
		{"namespace of a kind without one", "Profile", "{name: a, namespace: default}", "{}", "metadata.namespace: a Profile has no namespace"},
		{"another namespace", "NetworkPolicy", "{name: a, namespace: b}", "{}", `metadata.namespace: "b": all of Docker's endpoints`},
		{"label name", "Profile", "{name: a, labels: {-a: b}}", "{}", `metadata.labels: "-a": label name must`},
		{"label name's prefix", "Profile", "{name: a, labels: {A_/a: b}}", "{}", "label name must"},
		{"label value", "Profile", "{name: a, labels: {a: b-}}", "{}", "label value must"},
		{"labels", "Profile", "{name: a, labels: {a.b/c_d: 'e.f'}}", "{}", ""},
		{"revision", "Profile", "{name: a, resourceVersion: x}", "{}", `metadata.resourceVersion: "x" is not a revision`},
		{"time", "Profile", "{name: a, creationTimestamp: now}", "{}", `"now" is not a time`},
		{"no time yet", "Profile", "{name: a, creationTimestamp: null}", "{}", ""},
		{"finalizers", "Profile", "{name: a, finalizers: [x]}", "{}", ""},
		{"a name to be made", "Profile", "{name: a, generateName: x}", "{}", "metadata.generateName: is for Kubernetes"},
		{"annotations too large", "Profile", "{name: a, annotations: {a: " + strings.Repeat("x", 256<<10) + "}}", "{}", "metadata.annotations: more than 256 KiB"},
		{"unknown field", "Profile", "{name: a}", "{labelToApply: {}}", `no such field here; did you mean "labelsToApply"?`},

		{"pool", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16}", ""},
		{"pool without cidr", "IPPool", "{name: a}", "{}", "spec.cidr: missing"},
		{"pool's host bits", "IPPool", "{name: a}", "{cidr: 10.0.0.1/16}", "spec.cidr: \"10.0.0.1/16\": IP pool CIDR is not strictly masked"},
		{"pool smaller than a block", "IPPool", "{name: a}", "{cidr: 10.0.0.0/27}", "IP pool size is too small"},
		{"small pool with small blocks", "IPPool", "{name: a}", "{cidr: 10.0.0.0/27, blockSize: 28}", ""},
		{"small disabled pool", "IPPool", "{name: a}", "{cidr: 10.0.0.0/27, disabled: true}", ""},
		{"block size 19", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, blockSize: 19}", "spec.blockSize: \"19\": must be 20 to 32"},
		{"block size 0", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, blockSize: 0}", "spec.blockSize: must be 20 to 32"},
		{"block size for IPv6", "IPPool", "{name: a}", "{cidr: 'fd00::/64', blockSize: 26}", "must be 116 to 128"},
		{"link-local pool", "IPPool", "{name: a}", "{cidr: 169.254.0.0/16}", "overlaps with IPv4 Link Local"},
		{"link-local pool of IPv6", "IPPool", "{name: a}", "{cidr: 'fe80::/64'}", "overlaps with IPv6 Link Local"},
		{"IPIP with IPv6", "IPPool", "{name: a}", "{cidr: 'fd00::/64', ipipMode: Always}", "spec.ipipMode: IPIP is not supported on an IPv6 IP pool"},
		{"unknown IPIP mode", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, ipipMode: Sometimes}", "expected Never, Always or CrossSubnet"},
		{"VXLAN", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, vxlanMode: Always}", ""}, // refused where it is not stored already
		{"VXLAN and IPIP", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, vxlanMode: Always, ipipMode: Always}", "spec.vxlanMode: a pool has IPIP or VXLAN, not both"},
		{"node selector", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, nodeSelector: 'a ='}", "spec.nodeSelector: selector"},
		{"namespace selector", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, namespaceSelector: all()}", "is for Kubernetes"},
		{"load balancers", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer]}", "LoadBalancer is for Kubernetes"},
		{"tunnels alone", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, allowedUses: [Tunnel]}", "spec.allowedUses: must hold Workload"},
		{"assignment mode", "IPPool", "{name: a}", "{cidr: 10.0.0.0/16, assignmentMode: Auto}", "expected Automatic or Manual"},

		{"reservation", "IPReservation", "{name: a}", "{reservedCIDRs: [10.0.0.1, x]}", `spec.reservedCIDRs[1]: "x" is not an IP address or a network`},
		{"IPAM configuration's name", "IPAMConfiguration", "{name: a}", "{}", `the only IPAMConfiguration is called default`},
		{"neither affinity nor blocks", "IPAMConfiguration", "{name: default}", "{autoAllocateBlocks: false}", "spec.autoAllocateBlocks: "},
		{"block limit without strict affinity", "IPAMConfiguration", "{name: default}", "{maxBlocksPerHost: 1}", ""},
		{"negative block limit", "IPAMConfiguration", "{name: default}", "{maxBlocksPerHost: -1}", "must not be negative"},
		{"largest block limit", "IPAMConfiguration", "{name: default}", "{maxBlocksPerHost: 2147483647}", ""},
		{"block limit beyond Calico's", "IPAMConfiguration", "{name: default}", "{maxBlocksPerHost: 2147483648}", "must be at most 2147483647"},
		{"cooldown", "IPAMConfiguration", "{name: default}", "{ipCooldownSeconds: 5}", "nothing acts on this field"},
		{"virtual machines", "IPAMConfiguration", "{name: default}", "{kubeVirtVMAddressPersistence: Enabled}", "is for Kubernetes"},

		{"peer", "BGPPeer", "{name: a}", "{peerIP: '[fd00::1]:179', asNumber: 1, nodeSelector: all()}", ""},
		{"peer without address and AS", "BGPPeer", "{name: a}", "{}", "spec.peerIP: missing; spec.asNumber: missing"},
		{"peer's port", "BGPPeer", "{name: a}", "{peerIP: '192.0.2.1:0', asNumber: 1}", `"0" is not a port`},
		{"peer's address", "BGPPeer", "{name: a}", "{peerIP: tor, asNumber: 1}", "with or without a port"},
		{"multicast peer", "BGPPeer", "{name: a}", "{peerIP: 224.0.0.1, asNumber: 1}", "not the address of one host"},
		{"AS 0", "BGPPeer", "{name: a}", "{peerIP: 192.0.2.1, asNumber: 0}", `spec.asNumber: "0": must be 1 to 4294967294`},
		{"peer of some nodes", "BGPPeer", "{name: a}", "{peerIP: 192.0.2.1, asNumber: 1, nodeSelector: has(a)}", "spec.nodeSelector: must be all()"},
		{"peer of a node and of all", "BGPPeer", "{name: a}", "{peerIP: 192.0.2.1, asNumber: 1, nodeSelector: all(), node: n}", "spec.nodeSelector: excludes node"},
		{"peers by selector", "BGPPeer", "{name: a}", "{peerIP: 192.0.2.1, asNumber: 1, peerSelector: all()}", "spec.peerSelector: nothing acts"},
		{"peer's filters", "BGPPeer", "{name: a}", "{peerIP: 192.0.2.1, asNumber: 1, filters: ['a b']}", "spec.filters[0]"},

		{"filter's operator without cidr", "BGPFilter", "{name: a}", "{importV4: [{action: Accept, matchOperator: In}]}", "spec.importV4[0]: cidr and matchOperator are set together"},
		{"filter of the other family", "BGPFilter", "{name: a}", "{exportV6: [{action: Accept, matchOperator: In, cidr: 10.0.0.0/8}]}", "is not of IPv6"},
		{"filter's operator", "BGPFilter", "{name: a}", "{importV4: [{action: Accept, matchOperator: Like, cidr: 10.0.0.0/8}]}", "expected Equal, NotEqual, In or NotIn"},
		{"filter without action", "BGPFilter", "{name: a}", "{importV4: [{}]}", "spec.importV4[0].action: missing"},
		{"filter's operations", "BGPFilter", "{name: a}", "{importV4: [{action: Accept, operations: []}]}", "nothing acts"},

		{"node", "Node", "{name: a}", "{bgp: {ipv4Address: 192.0.2.1/24}}", ""},
		{"node with a tunnel address alone", "Node", "{name: a}", "{bgp: {ipv4IPIPTunnelAddr: 10.1.0.1}}", ""},
		{"node with a tunnel address and an AS number", "Node", "{name: a}", "{bgp: {ipv4IPIPTunnelAddr: 10.1.0.1, asNumber: 7}}", "spec.bgp: no BGP IP address and subnet specified"},
		{"node without address", "Node", "{name: a}", "{bgp: {}}", "spec.bgp: no BGP IP address and subnet specified"},
		{"node's families crossed", "Node", "{name: a}", "{bgp: {ipv4Address: 'fd00::1'}}", "is of the other IP version"},
		{"node's cluster id", "Node", "{name: a}", "{bgp: {ipv4Address: 192.0.2.1, routeReflectorClusterID: '1'}}", "must be a dotted quad"},
		{"node's orchestrators", "Node", "{name: a}", "{orchRefs: [{orchestrator: k8s}]}", ""},

		{"tier with a dot", "Tier", "{name: a.b}", "{}", "the name of a tier has no dots"},
		{"tier's action", "Tier", "{name: a}", "{defaultAction: Allow}", "expected Deny or Pass"},
		{"the default tier passes", "Tier", "{name: default}", "{defaultAction: Pass}", "must be Deny for the tier default"},
		{"tier's order", "Tier", "{name: a}", "{order: first}", "expected a number"},

		{"policy's selector", "GlobalNetworkPolicy", "{name: a}", "{selector: 'a = b'}", "spec.selector: selector"},
		{"policy's types", "GlobalNetworkPolicy", "{name: a}", "{types: [Ingress, Ingress, Up]}", `spec.types[2]: "Up" is not a policy type; spec.types[1]: stands there twice`},
		{"untracked without forward", "GlobalNetworkPolicy", "{name: a}", "{doNotTrack: true}", "spec.applyOnForward: must be true"},
		{"before NAT without forward", "GlobalNetworkPolicy", "{name: a}", "{preDNAT: true}", "spec.applyOnForward: must be true"},
		{"untracked and before NAT", "GlobalNetworkPolicy", "{name: a}", "{preDNAT: true, doNotTrack: true, applyOnForward: true}", "spec.preDNAT: \"true\": excludes doNotTrack"},
		{"egress before NAT", "GlobalNetworkPolicy", "{name: a}", "{preDNAT: true, applyOnForward: true, egress: [{action: Allow}]}", "has no egress rules"},
		{"egress type before NAT", "GlobalNetworkPolicy", "{name: a}", "{preDNAT: true, applyOnForward: true, types: [Egress]}", "has no egress"},
		{"service accounts", "GlobalNetworkPolicy", "{name: a}", "{serviceAccountSelector: all()}", "is for Kubernetes"},
		{"namespaces", "GlobalNetworkPolicy", "{name: a}", "{namespaceSelector: all()}", "is for Kubernetes"},
		{"host fields in a namespace", "NetworkPolicy", "{name: a}", "{doNotTrack: true}", "spec.doNotTrack: no such field here"},

		{"rule without action", "Profile", "{name: a}", "{ingress: [{}]}", "spec.ingress[0].action: missing; expected Allow, Deny, Log or Pass"},
		{"rule's action", "Profile", "{name: a}", "{ingress: [{action: Alow}]}", `did you mean "Allow"?`},
		{"rule's protocol", "Profile", "{name: a}", "{ingress: [{action: Allow, protocol: TPC}]}", `expected TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number`},
		{"rule's protocol by number", "Profile", "{name: a}", "{ingress: [{action: Allow, protocol: 256}]}", "is not a protocol"},
		{"ports without protocol", "Profile", "{name: a}", "{ingress: [{action: Allow, destination: {ports: [80]}}]}", "spec.ingress[0].destination.ports: ports need protocol tcp, udp or sctp"},
		{"ports of SCTP", "Profile", "{name: a}", "{ingress: [{action: Allow, protocol: SCTP, destination: {ports: [80, http, '1:2']}}]}", ""},
		{"port 0", "Profile", "{name: a}", "{ingress: [{action: Allow, protocol: TCP, source: {ports: [0]}}]}", `"0" is not a port`},
		{"crossed range", "Profile", "{name: a}", "{ingress: [{action: Allow, protocol: TCP, source: {ports: ['2:1']}}]}", `"2:1" is not a port`},
		{"ICMP without protocol", "Profile", "{name: a}", "{ingress: [{action: Allow, icmp: {type: 8}}]}", "spec.ingress[0].icmp: protocol must be icmp or icmpv6"},
		{"ICMP code without type", "Profile", "{name: a}", "{ingress: [{action: Allow, protocol: ICMP, icmp: {code: 8}}]}", "needs a type"},
		{"ICMP type 255", "Profile", "{name: a}", "{ingress: [{action: Allow, protocol: ICMP, icmp: {type: 255}}]}", "must be 0 to 254"},
		{"ICMP in IPv6", "Profile", "{name: a}", "{ingress: [{action: Allow, protocol: ICMP, ipVersion: 6}]}", "is not a protocol of IPv6"},
		{"IP version", "Profile", "{name: a}", "{ingress: [{action: Allow, ipVersion: 5}]}", "must be 4 or 6"},
		{"families mixed", "Profile", "{name: a}", "{ingress: [{action: Allow, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}}]}", "rule contains both IPv4 and IPv6 CIDRs"},
		{"everything excluded", "Profile", "{name: a}", "{ingress: [{action: Allow, source: {notNets: [0.0.0.0/0]}}]}", "no address is outside of it"},
		{"rule's namespaces", "Profile", "{name: a}", "{ingress: [{action: Allow, source: {namespaceSelector: all(), services: {}, serviceAccounts: {}}}]}", "is for Kubernetes; spec.ingress[0].source.services; spec.ingress[0].source.serviceAccounts"},
		{"HTTP", "Profile", "{name: a}", "{ingress: [{action: Allow, http: {methods: [GET]}}]}", "spec.ingress[0].http: is for Kubernetes"},
		{"tags", "Profile", "{name: a}", "{ingress: [{action: Allow, source: {tag: a}}]}", "spec.ingress[0].source.tag: no such field here"},

		{"nets", "GlobalNetworkSet", "{name: a}", "{nets: [10.0.0.0/33]}", "spec.nets[0]"},
		{"host endpoint without node", "HostEndpoint", "{name: a}", "{interfaceName: eth0}", "spec.node: missing"},
		{"host endpoint of nothing", "HostEndpoint", "{name: a}", "{node: n}", "no interface or expected IPs have been specified"},
		{"host endpoint's interface", "HostEndpoint", "{name: a}", "{node: n, interfaceName: 'a b'}", "spec.interfaceName"},
		{"host endpoint's addresses", "HostEndpoint", "{name: a}", "{node: n, expectedIPs: ['fd00::1', 0.0.0.0]}", `spec.expectedIPs[1]: "0.0.0.0": not the address of one host`},
		{"port's name", "HostEndpoint", "{name: a}", "{node: n, interfaceName: eth0, ports: [{name: '80', protocol: TCP, port: 80}]}", "spec.ports[0].name"},
		{"port's protocol", "HostEndpoint", "{name: a}", "{node: n, interfaceName: eth0, ports: [{name: a, protocol: ICMP, port: 80}]}", "spec.ports[0].protocol"},
		{"port's number", "HostEndpoint", "{name: a}", "{node: n, interfaceName: eth0, ports: [{name: a, protocol: TCP, port: 65536}]}", "spec.ports[0].port: expected a whole number"},

		{"endpoint", "WorkloadEndpoint", "{name: n-o-w-e}", "{node: n, orchestrator: o, workload: w, endpoint: e, interfaceName: cali0}", ""},
		{"endpoint without identity", "WorkloadEndpoint", "{name: a}", "{interfaceName: cali0}", "spec.node: missing; spec.orchestrator: missing; spec.workload: missing; spec.endpoint: missing"},
		{"endpoint's name", "WorkloadEndpoint", "{name: n-1-o-w-e}", "{node: n-1, orchestrator: o, workload: w, endpoint: e, interfaceName: cali0}", "metadata.name: \"n-1-o-w-e\": must be n--1-o-w-e"},
		{"endpoint's network", "WorkloadEndpoint", "{name: n-o-w-e}", "{node: n, orchestrator: o, workload: w, endpoint: e, interfaceName: cali0, ipNetworks: [10.0.0.0/24]}", "must be a single address"},
		{"endpoint's floating address", "WorkloadEndpoint", "{name: n-o-w-e}", "{node: n, orchestrator: o, workload: w, endpoint: e, interfaceName: cali0, ipNATs: [{internalIP: 10.0.0.1, externalIP: 10.0.0.2}]}", "is not in ipNetworks"},
		{"endpoint's MAC", "WorkloadEndpoint", "{name: n-o-w-e}", "{node: n, orchestrator: o, workload: w, endpoint: e, interfaceName: cali0, mac: x}", "is not a MAC address"},
		{"endpoint's pod", "WorkloadEndpoint", "{name: n-o-w-e}", "{node: n, orchestrator: o, workload: w, endpoint: e, interfaceName: cali0, pod: p}", "is for Kubernetes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, faults := decode(t, kindNamed(t, tc.kind),
				"{apiVersion: projectcalico.org/v3, kind: "+tc.kind+", metadata: "+tc.meta+", spec: "+tc.spec+"}")
			var got []string
			for _, f := range faults {
				got = append(got, place.ReplaceAllString(f.Error(), ""))
			}
			var want []string
			if tc.want != "" {
				want = strings.Split(tc.want, "; spec.")
			}
			if len(got) != len(want) {
				t.Fatalf("faults %q, want %q", got, tc.want)
			}
			for i := range want {
				if !strings.Contains(got[i], want[i]) {
					t.Errorf("fault %q, want %q in it", got[i], want[i])
				}
			}
		})
	}
}
