package v3

import (
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// BGPPeerSpec is the specification of a BGP peer.
type BGPPeerSpec struct {
	Node         string           `json:"node,omitempty"`
	NodeSelector string           `json:"nodeSelector,omitempty"`
	PeerIP       PeerAddress      `json:"peerIP"`
	ASNumber     *scalar.ASNumber `json:"asNumber,omitempty"`
	Password     string           `json:"password,omitempty"`
	Filters      []string         `json:"filters,omitempty"`

	PeerSelector            scalar.Elsewhere `json:"peerSelector,omitzero"`
	LocalASNumber           scalar.Elsewhere `json:"localASNumber,omitzero"`
	KeepOriginalNextHop     scalar.Elsewhere `json:"keepOriginalNextHop,omitzero"`
	NextHopMode             scalar.Elsewhere `json:"nextHopMode,omitzero"`
	SourceAddress           scalar.Elsewhere `json:"sourceAddress,omitzero"`
	MaxRestartTime          scalar.Elsewhere `json:"maxRestartTime,omitzero"`
	KeepaliveTime           scalar.Elsewhere `json:"keepaliveTime,omitzero"`
	NumAllowedLocalASNumber scalar.Elsewhere `json:"numAllowedLocalASNumbers,omitzero"`
	TTLSecurity             scalar.Elsewhere `json:"ttlSecurity,omitzero"`
	ReachableBy             scalar.Elsewhere `json:"reachableBy,omitzero"`
	LocalWorkloadSelector   scalar.Elsewhere `json:"localWorkloadSelector,omitzero"`
	ReversePeering          scalar.Elsewhere `json:"reversePeering,omitzero"`
}

// BGPPeer is the document of a BGP peer.
type BGPPeer = Resource[BGPPeerSpec]

func bgpPeerKind() dialect.Kind {
	return conversion[BGPPeerSpec, *model.BGPPeer]{
		kind: model.KindBGPPeer, name: "BGPPeer", aliases: []string{"bgppeer", "bgppeers", "bgpp", "bgpps", "bp", "bps"},
		decode: decodePeer, encode: encodePeer,
		nameOf: func(k model.Key, _ *model.BGPPeer) string {
			key, _ := k.(model.BGPPeerKey)
			node := key.Node
			if node == "" {
				node = "global"
			}
			return node + "." + strings.Trim(strings.NewReplacer(".", "-", ":", "-").Replace(key.IP.String()), "-")
		},
		secret: func(s *BGPPeerSpec, p *model.BGPPeer) (shown, stored *string) { return &s.Password, &p.Password },
		places: map[string]string{"metadata.peerIP": "spec.peerIP", "metadata.node": "spec.node"},
		columns: []dialect.Column{
			nameColumn[BGPPeerSpec](),
			column("PEERIP", func(p *BGPPeer) string { return p.Spec.PeerIP.String() }),
			column("NODE", func(p *BGPPeer) string {
				if p.Spec.Node == "" {
					return "(global)"
				}
				return p.Spec.Node
			}),
			column("ASN", func(p *BGPPeer) string { return deref(p.Spec.ASNumber, 0).String() }),
		},
		short: []string{"NAME", "PEERIP", "NODE", "ASN"}, wide: []string{"NAME", "PEERIP", "NODE", "ASN"},
	}.dialectKind()
}

func decodePeer(r *tree.Report, m ObjectMeta, s BGPPeerSpec) (model.Key, *model.BGPPeer) {
	if !s.PeerIP.IP.IsValid() {
		need(r, "peerIP", "")
	}
	if s.ASNumber == nil {
		need(r, "asNumber", "")
	}
	if s.NodeSelector != "" && s.NodeSelector != all {
		r.Add("spec.nodeSelector", "must be %s: a peer is for one node or for all of them", all)
	}
	if s.NodeSelector != "" && s.Node != "" {
		r.Add("spec.nodeSelector", "excludes node")
	}
	return model.BGPPeerKey{Node: s.Node, IP: s.PeerIP.IP.Addr}, &model.BGPPeer{
		Meta: model.Meta{V3Name: m.Name}, IP: s.PeerIP.IP.Addr, Port: s.PeerIP.Port,
		ASNumber: model.ASNumber(deref(s.ASNumber, 0)), Password: s.Password, Filters: s.Filters,
	}
}

func encodePeer(k model.Key, p *model.BGPPeer) (BGPPeerSpec, []string) {
	key, _ := k.(model.BGPPeerKey)
	as := scalar.ASNumber(p.ASNumber)
	return BGPPeerSpec{
		Node: key.Node, PeerIP: PeerAddress{IP: scalar.IP{Addr: key.IP}, Port: p.Port},
		ASNumber: &as, Password: p.Password, Filters: p.Filters,
	}, nil
}

// BGPFilterSpec is the specification of a BGP filter.
type BGPFilterSpec struct {
	ExportV4 []FilterRule `json:"exportV4,omitempty"`
	ImportV4 []FilterRule `json:"importV4,omitempty"`
	ExportV6 []FilterRule `json:"exportV6,omitempty"`
	ImportV6 []FilterRule `json:"importV6,omitempty"`
}

// FilterRule matches routes.
type FilterRule struct {
	CIDR          scalar.IPNet  `json:"cidr,omitzero"`
	MatchOperator MatchOperator `json:"matchOperator,omitempty"`
	PrefixLength  *PrefixLength `json:"prefixLength,omitempty"`
	Source        string        `json:"source,omitempty"`
	Interface     string        `json:"interface,omitempty"`
	Action        FilterAction  `json:"action"`

	Operations scalar.Elsewhere `json:"operations,omitzero"`
}

// PrefixLength bounds the length of a route's prefix.
type PrefixLength struct {
	Min *int `json:"min,omitempty"`
	Max *int `json:"max,omitempty"`
}

func bgpFilterKind() dialect.Kind {
	count := func(heading string, rules func(BGPFilterSpec) []FilterRule) dialect.Column {
		return column(heading, func(d *Resource[BGPFilterSpec]) string { return strconv.Itoa(len(rules(d.Spec))) })
	}
	return conversion[BGPFilterSpec, *model.BGPFilter]{
		kind: model.KindBGPFilter, name: "BGPFilter", aliases: []string{"bgpfilter", "bgpfilters"},
		decode: func(r *tree.Report, m ObjectMeta, s BGPFilterSpec) (model.Key, *model.BGPFilter) {
			return model.BGPFilterKey{Name: m.Name}, &model.BGPFilter{
				ExportV4: decodeFilter(r, "spec.exportV4", s.ExportV4), ImportV4: decodeFilter(r, "spec.importV4", s.ImportV4),
				ExportV6: decodeFilter(r, "spec.exportV6", s.ExportV6), ImportV6: decodeFilter(r, "spec.importV6", s.ImportV6),
			}
		},
		encode: func(_ model.Key, f *model.BGPFilter) (BGPFilterSpec, []string) {
			return BGPFilterSpec{
				ExportV4: encodeFilter(f.ExportV4), ImportV4: encodeFilter(f.ImportV4),
				ExportV6: encodeFilter(f.ExportV6), ImportV6: encodeFilter(f.ImportV6),
			}, nil
		},
		nameOf: func(k model.Key, _ *model.BGPFilter) string { return k.(model.BGPFilterKey).Name },
		keyOf:  func(name string) model.Key { return model.BGPFilterKey{Name: name} },
		columns: []dialect.Column{
			nameColumn[BGPFilterSpec](),
			count("NUMEXPORTV4", func(s BGPFilterSpec) []FilterRule { return s.ExportV4 }),
			count("NUMIMPORTV4", func(s BGPFilterSpec) []FilterRule { return s.ImportV4 }),
			count("NUMEXPORTV6", func(s BGPFilterSpec) []FilterRule { return s.ExportV6 }),
			count("NUMIMPORTV6", func(s BGPFilterSpec) []FilterRule { return s.ImportV6 }),
		},
		short: []string{"NAME", "NUMEXPORTV4", "NUMIMPORTV4", "NUMEXPORTV6", "NUMIMPORTV6"},
		wide:  []string{"NAME", "NUMEXPORTV4", "NUMIMPORTV4", "NUMEXPORTV6", "NUMIMPORTV6"},
	}.dialectKind()
}

func decodeFilter(r *tree.Report, path string, in []FilterRule) []model.BGPFilterRule {
	var out []model.BGPFilterRule
	for i, rule := range in {
		if at := tree.Index(path, i) + ".action"; rule.Action == "" && !r.Doubts(at) {
			r.Add(at, "missing; expected Accept or Reject")
		}
		if at := tree.Index(path, i); r.Doubts(at+".cidr") || r.Doubts(at+".matchOperator") {
			rule.CIDR, rule.MatchOperator, rule.PrefixLength = scalar.IPNet{}, "", nil
		}
		length := deref(rule.PrefixLength, PrefixLength{})
		out = append(out, model.BGPFilterRule{
			CIDR: rule.CIDR.Prefix, Operator: string(rule.MatchOperator), MinLength: length.Min, MaxLength: length.Max,
			Source: rule.Source, Interface: rule.Interface, Action: string(rule.Action),
		})
	}
	return out
}

func encodeFilter(in []model.BGPFilterRule) []FilterRule {
	var out []FilterRule
	for _, rule := range in {
		out = append(out, FilterRule{
			CIDR: scalar.IPNet{Prefix: rule.CIDR}, MatchOperator: MatchOperator(rule.Operator),
			PrefixLength: nonZero(PrefixLength{rule.MinLength, rule.MaxLength}),
			Source:       rule.Source, Interface: rule.Interface, Action: FilterAction(rule.Action),
		})
	}
	return out
}
