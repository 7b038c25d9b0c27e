package manifest

import (
	"encoding/json"
	"net/netip"
	"time"

	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/libcalico/model"
)

// dice decides by bytes, so that a fuzzer can change one decision; when they are used up
// it decides for the first of all possibilities.
type dice struct{ bytes []byte }

func (d *dice) n(sides int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	b := int(d.bytes[0])
	d.bytes = d.bytes[1:]
	return b % sides
}

func (d *dice) coin() bool { return d.n(2) == 1 }

func one[T any](d *dice, of ...T) T { return of[d.n(len(of))] }

// some is up to limit of the given values.
func some[T any](d *dice, limit int, of ...T) []T {
	var out []T
	for range d.n(limit + 1) {
		out = append(out, one(d, of...))
	}
	return out
}

func (d *dice) table() map[string]string {
	out := map[string]string{}
	for range d.n(3) {
		out[one(d, "a", "b.c/d", "role")] = one(d, "", "x", "y-z", "1")
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func address(s string) netip.Addr  { return netip.MustParseAddr(s) }

func (d *dice) meta(name string) model.Meta {
	m := model.Meta{Annotations: d.table(), V3Labels: d.table()}
	if d.coin() {
		m.UID, m.CreationTimestamp = "u-1", time.Unix(1500000000, 0).UTC()
	}
	if d.coin() {
		m.V3Name = name
	}
	if d.n(4) == 0 {
		m.V3Inert = map[string]json.RawMessage{"spec.performanceHints": json.RawMessage(`["AssumeNeededOnEveryNode"]`), "spec.later": json.RawMessage(`1`)}
	}
	m.Unknown = d.unknown()
	return m
}

// unknown is what a newer program wrote.
func (d *dice) unknown() model.Unknown {
	return one[model.Unknown](d, "", "", "", `"later":1`, `"later":{"a":[true]}`)
}

func (d *dice) selector() string {
	return one(d, "", "a == 'b'", `has(a) || c != "d"`, "all()", "has(net1)", "a in {'x', 'y'} && !has(b)", "!(a == 'b')", "  has( a )")
}

func (d *dice) tag() string { return one(d, "", "", "net1", "net2", "a.b-c_d", "in", "all", "has") }

func (d *dice) nets(v6 bool) []netip.Prefix {
	if v6 {
		return some(d, 2, prefix("fd00::/8"), prefix("fd00::1/128"))
	}
	return some(d, 2, prefix("10.0.0.0/8"), prefix("10.1.2.3/32"), prefix("10.1.2.3/16"))
}

func (d *dice) ports() []model.Port {
	return some(d, 3, model.Port{First: 80, Last: 80}, model.Port{First: 8000, Last: 8010}, model.Port{Name: "http"}, model.Port{Name: "a-1"})
}

func (d *dice) match(v6, ports bool) model.Match {
	m := model.Match{
		Tag: d.tag(), Selector: d.selector(), Nets: d.nets(v6), NotTag: d.tag(), NotSelector: d.selector(), NotNets: d.nets(v6),
	}
	if ports {
		m.Ports, m.NotPorts = d.ports(), d.ports()
	}
	return m
}

func (d *dice) rule() model.Rule {
	r := model.Rule{
		Action: one(d, model.ActionAllow, model.ActionDeny, model.ActionLog, model.ActionPass), IPVersion: one(d, 0, 0, 4),
		Protocol: one[model.Protocol](d, "", "tcp", "udp", "icmp", "17", "sctp"), NotProtocol: one[model.Protocol](d, "", "", "udplite", "1"),
		LogPrefix: one(d, "", "", "", "log: "),
	}
	if d.n(4) == 0 {
		r.Annotations = d.table()
	}
	if d.coin() {
		r.Unknown = d.unknown()
	}
	v6 := r.IPVersion == 0 && r.Protocol != "icmp" && d.coin()
	for _, m := range []*model.Match{&r.Source, &r.Destination} {
		if d.coin() {
			*m = d.match(v6, r.Protocol.HasPorts())
		}
	}
	if r.Protocol == "icmp" && d.coin() {
		r.ICMP = &model.ICMP{Type: one(d, 0, 8), Code: one(d, nil, new(0), new(3))}
		r.NotICMP = one(d, nil, &model.ICMP{Type: 3})
	}
	return r
}

// rules has now and then rules that look alike in a dialect, or are the same.
func (d *dice) rules() []model.Rule {
	var out []model.Rule
	for range d.n(6) {
		r := d.rule()
		if len(out) > 0 && d.n(3) == 0 {
			r = out[d.n(len(out))]
			switch d.n(5) {
			case 0:
				r.Annotations = d.table()
			case 1:
				r.LogPrefix = "other"
			case 2:
				r.Source.Tag = d.tag()
			}
		}
		out = append(out, r)
	}
	return out
}

func (d *dice) types(preDNAT bool) []string {
	if preDNAT {
		return one(d, nil, []string{"ingress"})
	}
	return one(d, nil, []string{"ingress"}, []string{"egress"}, []string{"ingress", "egress"}, []string{"egress", "ingress"})
}

func (d *dice) endpointPorts() []model.EndpointPort {
	return some(d, 3, model.EndpointPort{Name: "http", Protocol: "tcp", Port: 80, Unknown: d.unknown()},
		model.EndpointPort{Name: "dns", Protocol: "udp", Port: 53}, model.EndpointPort{Name: "web", Protocol: "tcp", Port: 443})
}

// resources makes one of each kind of the model that manifests have.
var resources = []func(*dice) (model.Key, model.Resource){
	func(d *dice) (model.Key, model.Resource) {
		p := &model.Policy{
			Meta: d.meta("p"), Order: one(d, nil, new(1.5), new(-20.0)), InboundRules: d.rules(), Selector: d.selector(),
			PreDNAT: d.n(4) == 0, ApplyOnForward: d.coin(),
		}
		if !p.PreDNAT {
			p.OutboundRules, p.DoNotTrack = d.rules(), d.n(3) == 0
		}
		p.Types = d.types(p.PreDNAT)
		return model.NewPolicyKey(one(d, "", "", "t"), one(d, "p", "p", "default/p")), p
	},
	func(d *dice) (model.Key, model.Resource) {
		return model.ProfileKey{Name: "net1"}, &model.Profile{
			Meta: d.meta(""), InboundRules: d.rules(), OutboundRules: d.rules(), Tags: some(d, 3, "net1", "net2", "x"), Labels: d.table(),
		}
	},
	func(d *dice) (model.Key, model.Resource) {
		return model.HostEndpointKey{Node: "n", Name: "eth0"}, &model.HostEndpoint{
			Meta: d.meta("eth0"), Interface: one(d, "eth0", "*"), Labels: d.table(), Profiles: some(d, 2, "p", "q"), Ports: d.endpointPorts(),
			ExpectedIPv4Addrs: some(d, 2, address("10.0.0.1"), address("10.0.0.2")), ExpectedIPv6Addrs: some(d, 2, address("fd00::1")),
		}
	},
	func(d *dice) (model.Key, model.Resource) {
		e := &model.WorkloadEndpoint{
			Meta: d.meta(""), State: one(d, "active", "inactive"), Interface: "cali0", ActiveInstanceID: one(d, "", "i"),
			MAC: one(d, "", "ee:ee:ee:ee:ee:ee", "EE:ee:ee:ee:ee:0A"), Profiles: some(d, 2, "p", "q"), Labels: d.table(), Ports: d.endpointPorts(),
			IPv4Nets: some(d, 2, prefix("10.0.0.1/32")), IPv6Nets: some(d, 2, prefix("fd00::1/128")),
		}
		if len(e.IPv4Nets) > 0 {
			e.IPv4NAT = some(d, 1, model.NAT{Internal: address("10.0.0.1"), External: address("10.1.0.1")})
		}
		if d.coin() {
			e.IPv4Gateway, e.IPv6Gateway = address("169.254.1.1"), address("fe80::1")
		}
		return model.WorkloadEndpointKey{Node: "n", Orchestrator: "o", Workload: "w", Name: "e"}, e
	},
	func(d *dice) (model.Key, model.Resource) {
		p := &model.IPPool{
			Meta: d.meta("pool"), CIDR: prefix("10.0.0.0/16"), IPIPDevice: one(d, "", "tunl0", "tunl1"), IPIPMode: one(d, "", "always", "cross-subnet"),
			Masquerade: d.coin(), IPAM: d.coin(), Disabled: d.coin(), BlockSize: one(d, 0, 26, 28), NodeSelector: one(d, "", "all()", "has(a)"),
			DisableBGPExport: d.coin(), Manual: d.coin(),
		}
		if p.IPIPDevice == "" && p.IPIPMode == "" {
			p.VXLANMode = one(d, "", "always", "cross-subnet")
		}
		return model.IPPoolKey{CIDR: p.CIDR}, p
	},
	func(d *dice) (model.Key, model.Resource) {
		n := &model.Node{Meta: d.meta(""), ASNumber: one(d, nil, new(model.ASNumber(7))), RouteReflectorClusterID: one(d, "", "244.0.0.1"), Labels: d.table()}
		if d.coin() {
			n.IPv4, n.IPv4Net = address("10.0.0.1"), one(d, netip.Prefix{}, prefix("10.0.0.0/24"), prefix("10.0.0.1/32"))
		}
		if d.coin() {
			n.IPv6, n.IPv6Net = address("fd00::1"), one(d, netip.Prefix{}, prefix("fd00::/64"))
		}
		return model.NodeKey{Name: "n"}, n
	},
	func(d *dice) (model.Key, model.Resource) {
		k := model.BGPPeerKey{Node: one(d, "", "n"), IP: one(d, address("192.0.2.1"), address("fd00::1"))}
		return k, &model.BGPPeer{
			Meta: d.meta("tor"), IP: k.IP, ASNumber: one[model.ASNumber](d, 1, 64512), Password: one(d, "", "secret", "other one"),
			Port: one[uint16](d, 0, 1790), Filters: some(d, 2, "f", "g"),
		}
	},
	func(d *dice) (model.Key, model.Resource) {
		rules := func() []model.BGPFilterRule {
			var out []model.BGPFilterRule
			for range d.n(3) {
				r := model.BGPFilterRule{Source: one(d, "", "RemotePeers"), Interface: one(d, "", "eth*"), Action: one(d, model.FilterAccept, model.FilterReject)}
				if d.coin() {
					r.CIDR, r.Operator, r.MinLength, r.MaxLength = prefix("10.0.0.0/8"), one(d, "In", "NotIn", "Equal"), one(d, nil, new(8)), one(d, nil, new(24))
				}
				out = append(out, r)
			}
			return out
		}
		return model.BGPFilterKey{Name: "f"}, &model.BGPFilter{Meta: d.meta(""), ExportV4: rules(), ImportV4: rules()}
	},
	func(d *dice) (model.Key, model.Resource) {
		return model.NetworkSetKey{Name: one(d, "s", "default/s")}, &model.NetworkSet{Meta: d.meta(""), Nets: d.nets(d.coin()), Labels: d.table()}
	},
	func(d *dice) (model.Key, model.Resource) {
		return model.IPReservationKey{Name: "r"}, &model.IPReservation{Meta: d.meta(""), ReservedCIDRs: d.nets(d.coin())}
	},
	func(d *dice) (model.Key, model.Resource) {
		return model.IPAMConfigKey{}, &model.IPAMConfig{
			Meta: d.meta(""), StrictAffinity: d.coin(), AutoAllocateBlocks: d.coin(), MaxBlocksPerHost: one(d, 0, 4),
		}
	},
	func(d *dice) (model.Key, model.Resource) {
		return model.TierKey{Name: "t"}, &model.Tier{Meta: d.meta(""), Order: one(d, nil, new(10.0)), DefaultAction: one(d, "", "Deny", "Pass")}
	},
	func(d *dice) (model.Key, model.Resource) {
		return d.settings(settings.Key{Of: settings.KindFelix, Node: one(d, "", "n")}, map[string][]string{
			"IptablesRefreshInterval": {"90", "90.0", "1m30s", "soon"}, "Ipv6Support": {"true", "TRUE", "no", "maybe"}, "MaxIpsetSize": {"5", "0005", "many"},
			"IptablesMarkMask": {"0xff00", "65280"}, "FailsafeInboundHostPorts": {"none", "22", "tcp:22", "tcp:22,udp:10.0.0.0/8:53", "?"},
			"LogSeverityScreen": {"INFO", "info", "critical"}, "DefaultEndpointToHostAction": {"DROP", "drop"}, "Other": {"x", ""}, "LogPrefix": {"p"},
		})
	},
	func(d *dice) (model.Key, model.Resource) {
		return d.settings(settings.Key{Of: settings.KindBGP, Node: one(d, "", "n")}, map[string][]string{
			"loglevel": {"none", "debug", "info"}, "node_mesh": {`{"enabled":true}`, `{ "enabled" : false }`}, "as_num": {"64513", `"64513"`, "1.1"}, "other": {"x"},
		})
	},
}

func (d *dice) settings(k settings.Key, values map[string][]string) (model.Key, model.Resource) {
	s := &settings.Settings{Meta: d.meta(""), Of: k.Of, Values: map[string]string{}}
	s.V3Name = ""
	for _, name := range settings.Known(k.Of) {
		if of := values[name]; of != nil && d.coin() && (k.Node == "" || name != "as_num" && name != "node_mesh") {
			s.Values[name] = one(d, of...)
		}
	}
	for _, name := range []string{"Other", "other"} {
		if of := values[name]; of != nil && d.coin() {
			s.Values[name] = one(d, of...)
		}
	}
	return k, s
}
