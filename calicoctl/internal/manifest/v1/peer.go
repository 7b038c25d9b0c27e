package v1

import (
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// BGPPeerMetadata is the metadata of a BGP peer.
type BGPPeerMetadata struct {
	Scope  Scope  `json:"scope,omitempty"`
	Node   string `json:"node,omitempty"`
	PeerIP IP     `json:"peerIP"`
}

// BGPPeerSpec is the specification of a BGP peer.
type BGPPeerSpec struct {
	ASNumber *ASNumber `json:"asNumber,omitempty"`
}

// BGPPeer is the document of a BGP peer.
type BGPPeer = Resource[BGPPeerMetadata, BGPPeerSpec]

func bgpPeerKind() dialect.Kind {
	return conversion[BGPPeerMetadata, BGPPeerSpec, *model.BGPPeer]{
		kind:    model.KindBGPPeer,
		aliases: []string{"bgppeer", "bgppeers", "bgpp", "bgpps", "bp", "bps"},
		key:     peerKey,
		decode:  decodePeer,
		encode:  encodePeer,
		columns: []dialect.Column{
			column("SCOPE", func(p *BGPPeer, _ dialect.Cluster) string { return string(p.Metadata.Scope) }),
			column("PEERIP", func(p *BGPPeer, _ dialect.Cluster) string { return p.Metadata.PeerIP.String() }),
			column("NODE", func(p *BGPPeer, _ dialect.Cluster) string { return p.Metadata.Node }),
			column("ASN", func(p *BGPPeer, _ dialect.Cluster) string { return deref(p.Spec.ASNumber).String() }),
		},
		short: []string{"SCOPE", "PEERIP", "NODE", "ASN"},
		wide:  []string{"SCOPE", "PEERIP", "NODE", "ASN"},
	}.dialectKind()
}

func peerKey(r *tree.Report, m BGPPeerMetadata) model.Key {
	if !m.PeerIP.IsValid() {
		need(r, "peerIP", "")
	}
	switch {
	case m.Scope == ScopeGlobal && m.Node != "":
		r.Add("metadata.node", "no BGP Peer node name should be specified when scope is global")
	case m.Scope == ScopeNode && m.Node == "":
		if !r.Doubts("metadata.node") {
			r.Add("metadata.node", "missing; scope node needs the name of the node")
		}
	case m.Scope == "" && m.Node == "":
		need(r, "scope", "")
	}
	return model.BGPPeerKey{Node: m.Node, IP: m.PeerIP.Addr}
}

func decodePeer(r *tree.Report, m BGPPeerMetadata, s BGPPeerSpec) *model.BGPPeer {
	if s.ASNumber == nil && !r.Has("spec") {
		r.Add("spec.asNumber", "missing")
	}
	return &model.BGPPeer{IP: m.PeerIP.Addr, ASNumber: model.ASNumber(deref(s.ASNumber))}
}

func encodePeer(k model.Key, p *model.BGPPeer) (m BGPPeerMetadata, s BGPPeerSpec, lost []string) {
	key, _ := k.(model.BGPPeerKey)
	m = BGPPeerMetadata{Scope: ScopeGlobal, Node: key.Node, PeerIP: IP{Addr: key.IP}}
	if key.Node != "" {
		m.Scope = ScopeNode
	}
	as := ASNumber(p.ASNumber)
	s = BGPPeerSpec{ASNumber: &as}
	if p.Password != "" {
		lost = append(lost, "password")
	}
	if p.Port != 0 {
		lost = append(lost, "port")
	}
	if len(p.Filters) > 0 {
		lost = append(lost, "filters")
	}
	return m, s, lost
}
