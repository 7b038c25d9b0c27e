package v3

import (
	"net/netip"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// NodeSpec is the specification of a node.
type NodeSpec struct {
	BGP *NodeBGPSpec `json:"bgp,omitempty"`

	OrchRefs      scalar.Inert `json:"orchRefs,omitzero"`
	Addresses     scalar.Inert `json:"addresses,omitzero"`
	Interfaces    scalar.Inert `json:"interfaces,omitzero"`
	Wireguard     scalar.Inert `json:"wireguard,omitzero"`
	IPv4VXLAN     scalar.Inert `json:"ipv4VXLANTunnelAddr,omitzero"`
	IPv6VXLAN     scalar.Inert `json:"ipv6VXLANTunnelAddr,omitzero"`
	VXLANMAC      scalar.Inert `json:"vxlanTunnelMACAddr,omitzero"`
	VXLANMACForV6 scalar.Inert `json:"vxlanTunnelMACAddrV6,omitzero"`
}

// NodeBGPSpec is a node as BGP sees it.
type NodeBGPSpec struct {
	ASNumber                *scalar.ASNumber `json:"asNumber,omitempty"`
	IPv4Address             *scalar.IPNet    `json:"ipv4Address,omitempty"`
	IPv6Address             *scalar.IPNet    `json:"ipv6Address,omitempty"`
	RouteReflectorClusterID string           `json:"routeReflectorClusterID,omitempty"`

	IPv4IPIPTunnelAddr scalar.Inert `json:"ipv4IPIPTunnelAddr,omitzero"`
}

// onlyInert says whether there is something, and nothing of it has an effect. That is what
// is shown of a node that BGP does not know.
func (s NodeBGPSpec) onlyInert() bool {
	return s == NodeBGPSpec{IPv4IPIPTunnelAddr: s.IPv4IPIPTunnelAddr} && s != NodeBGPSpec{}
}

// Node is the document of a node.
type Node = Resource[NodeSpec]

func nodeKind() dialect.Kind {
	bgp := func(n *Node) NodeBGPSpec { return deref(n.Spec.BGP, NodeBGPSpec{}) }
	return conversion[NodeSpec, *model.Node]{
		kind: model.KindNode, name: "Node", aliases: []string{"node", "nodes", "no", "nos"},
		decode: decodeNode, encode: encodeNode,
		nameOf: func(k model.Key, _ *model.Node) string { return k.(model.NodeKey).Name },
		keyOf:  func(name string) model.Key { return model.NodeKey{Name: name} },
		labels: func(n *model.Node) *map[string]string { return &n.Labels },
		columns: []dialect.Column{
			nameColumn[NodeSpec](),
			{Heading: "ASN", Show: func(doc any, c dialect.Cluster) string {
				if as := bgp(doc.(*Node)).ASNumber; as != nil {
					return as.String()
				}
				return "(" + scalar.ASNumber(c.ASNumber).String() + ")"
			}},
			column("IPV4", func(n *Node) string { return netText(bgp(n).IPv4Address) }),
			column("IPV6", func(n *Node) string { return netText(bgp(n).IPv6Address) }),
		},
		short: []string{"NAME"}, wide: []string{"NAME", "ASN", "IPV4", "IPV6"},
	}.dialectKind()
}

func netText(n *scalar.IPNet) string {
	if n == nil {
		return ""
	}
	return n.String()
}

func decodeNode(r *tree.Report, m ObjectMeta, s NodeSpec) (model.Key, *model.Node) {
	key, n := model.NodeKey{Name: m.Name}, &model.Node{}
	if s.BGP == nil {
		return key, n
	}
	n.ASNumber = (*model.ASNumber)(s.BGP.ASNumber)
	n.RouteReflectorClusterID = s.BGP.RouteReflectorClusterID
	n.IPv4, n.IPv4Net = decodeAddress(r, "spec.bgp.ipv4Address", s.BGP.IPv4Address, netip.Addr.Is4)
	n.IPv6, n.IPv6Net = decodeAddress(r, "spec.bgp.ipv6Address", s.BGP.IPv6Address, netip.Addr.Is6)
	if s.BGP.IPv4Address == nil && s.BGP.IPv6Address == nil && !s.BGP.onlyInert() && !r.Has("spec.bgp") {
		r.Add("spec.bgp", "no BGP IP address and subnet specified")
	}
	return key, n
}

func decodeAddress(r *tree.Report, path string, in *scalar.IPNet, family func(netip.Addr) bool) (netip.Addr, netip.Prefix) {
	if in == nil || !in.IsValid() {
		return netip.Addr{}, netip.Prefix{}
	}
	if !family(in.Addr()) {
		r.Add(path, "%s is of the other IP version", in)
	}
	return in.Addr(), in.Masked()
}

func encodeNode(_ model.Key, n *model.Node) (s NodeSpec, lost []string) {
	bgp := NodeBGPSpec{
		ASNumber:                (*scalar.ASNumber)(n.ASNumber),
		IPv4Address:             encodeAddress(n.IPv4, n.IPv4Net),
		IPv6Address:             encodeAddress(n.IPv6, n.IPv6Net),
		RouteReflectorClusterID: n.RouteReflectorClusterID,
	}
	s.BGP = nonZero(bgp)
	return s, nil
}

func encodeAddress(a netip.Addr, subnet netip.Prefix) *scalar.IPNet {
	if !a.IsValid() {
		return nil
	}
	bits := a.BitLen()
	if subnet.IsValid() {
		bits = subnet.Bits()
	}
	return &scalar.IPNet{Prefix: netip.PrefixFrom(a, bits)}
}
