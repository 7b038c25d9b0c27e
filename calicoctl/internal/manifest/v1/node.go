package v1

import (
	"net/netip"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// NodeMetadata is the metadata of a node.
type NodeMetadata struct {
	Name string `json:"name,omitempty"`
}

// NodeSpec is the specification of a node.
type NodeSpec struct {
	BGP *NodeBGPSpec `json:"bgp,omitempty"`
}

// NodeBGPSpec is a node as BGP sees it.
type NodeBGPSpec struct {
	ASNumber    *ASNumber `json:"asNumber,omitempty"`
	IPv4Address *IPNet    `json:"ipv4Address,omitempty"`
	IPv6Address *IPNet    `json:"ipv6Address,omitempty"`
}

// Node is the document of a node.
type Node = Resource[NodeMetadata, NodeSpec]

func nodeKind() dialect.Kind {
	return conversion[NodeMetadata, NodeSpec, *model.Node]{
		kind:    model.KindNode,
		aliases: []string{"node", "nodes", "no", "nos"},
		key: func(r *tree.Report, m NodeMetadata) model.Key {
			need(r, "name", m.Name)
			return model.NodeKey{Name: m.Name}
		},
		decode: decodeNode,
		encode: encodeNode,
		columns: []dialect.Column{
			column("NAME", func(n *Node, _ dialect.Cluster) string { return n.Metadata.Name }),
			column("ASN", nodeAS),
			column("IPV4", func(n *Node, _ dialect.Cluster) string { return netText(deref(n.Spec.BGP).IPv4Address) }),
			column("IPV6", func(n *Node, _ dialect.Cluster) string { return netText(deref(n.Spec.BGP).IPv6Address) }),
		},
		short: []string{"NAME"},
		wide:  []string{"NAME", "ASN", "IPV4", "IPV6"},
	}.dialectKind()
}

// nodeAS is the node's own AS number, or the cluster's in brackets.
func nodeAS(n *Node, c dialect.Cluster) string {
	if as := deref(n.Spec.BGP).ASNumber; as != nil {
		return as.String()
	}
	return "(" + ASNumber(c.ASNumber).String() + ")"
}

func netText(n *IPNet) string {
	if n == nil {
		return ""
	}
	return n.String()
}

func decodeNode(r *tree.Report, _ NodeMetadata, s NodeSpec) *model.Node {
	n := &model.Node{}
	if s.BGP == nil {
		return n
	}
	n.ASNumber = (*model.ASNumber)(s.BGP.ASNumber)
	n.IPv4, n.IPv4Net = decodeAddress(r, "spec.bgp.ipv4Address", s.BGP.IPv4Address, netip.Addr.Is4)
	n.IPv6, n.IPv6Net = decodeAddress(r, "spec.bgp.ipv6Address", s.BGP.IPv6Address, netip.Addr.Is6)
	if s.BGP.IPv4Address == nil && s.BGP.IPv6Address == nil && !r.Has("spec.bgp") {
		r.Add("spec.bgp", "no BGP IP address and subnet specified")
	}
	return n
}

func decodeAddress(r *tree.Report, path string, in *IPNet, family func(netip.Addr) bool) (netip.Addr, netip.Prefix) {
	if in == nil || !in.IsValid() {
		return netip.Addr{}, netip.Prefix{}
	}
	if !family(in.Addr()) {
		r.Add(path, "%s is of the other IP version", in)
	}
	return in.Addr(), in.Masked()
}

func encodeNode(k model.Key, n *model.Node) (m NodeMetadata, s NodeSpec, lost []string) {
	key, _ := k.(model.NodeKey)
	m = NodeMetadata{Name: key.Name}
	bgp := NodeBGPSpec{
		ASNumber:    (*ASNumber)(n.ASNumber),
		IPv4Address: encodeAddress(n.IPv4, n.IPv4Net),
		IPv6Address: encodeAddress(n.IPv6, n.IPv6Net),
	}
	s.BGP = ref(bgp)
	if n.RouteReflectorClusterID != "" {
		lost = append(lost, "route reflector cluster id")
	}
	if len(n.Labels) > 0 {
		lost = append(lost, "labels")
	}
	return m, s, lost
}

func encodeAddress(a netip.Addr, subnet netip.Prefix) *IPNet {
	if !a.IsValid() {
		return nil
	}
	bits := a.BitLen()
	if subnet.IsValid() {
		bits = subnet.Bits()
	}
	return &IPNet{Prefix: netip.PrefixFrom(a, bits)}
}
