package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const bgpHostPrefix = PrefixBGP + "host/"

// The parts of a node, in the order of its paths.
const (
	nodeMetadata = iota
	nodeBirdIP
	nodeAddrV4
	nodeAddrV6
	nodeNetworkV4
	nodeNetworkV6
	nodeASNumber
	nodeClusterID
	nodeParts
)

var (
	nodeV1Patterns = []string{hostPrefix + "{node}/metadata", hostPrefix + "{node}/bird_ip"}

	nodeBGPPatterns = []string{
		bgpHostPrefix + "{node}/ip_addr_v4", bgpHostPrefix + "{node}/ip_addr_v6",
		bgpHostPrefix + "{node}/network_v4", bgpHostPrefix + "{node}/network_v6",
		bgpHostPrefix + "{node}/as_num", bgpHostPrefix + "{node}/rr_cluster_id",
	}
)

// nodeMetadataJSON is what a node keeps in its metadata key.
type nodeMetadataJSON struct {
	Meta

	Labels   map[string]string `json:"labels,omitempty"`
	Host     Identity          `json:"host,omitzero"`
	Programs []string          `json:"programs,omitempty"`
}

// encodeNode writes the addresses also when they are empty: v2.6 did, and readers
// take an empty address for "no BGP in this family".
func encodeNode(_ NodeKey, n *Node) ([][]byte, error) {
	values := make([][]byte, nodeParts)
	metadata, err := encodeJSON(&nodeMetadataJSON{Meta: n.Meta, Labels: n.Labels, Host: n.Host, Programs: n.Programs})
	if err != nil {
		return nil, err
	}
	values[nodeMetadata] = metadata[0]
	values[nodeAddrV4] = addrText(n.IPv4)
	values[nodeAddrV6] = addrText(n.IPv6)
	if n.IPv4.IsValid() {
		values[nodeBirdIP] = addrText(n.IPv4)
	}
	if n.IPv4Net.IsValid() {
		values[nodeNetworkV4] = []byte(n.IPv4Net.String())
	}
	if n.IPv6Net.IsValid() {
		values[nodeNetworkV6] = []byte(n.IPv6Net.String())
	}
	if n.ASNumber != nil {
		values[nodeASNumber] = []byte(n.ASNumber.String())
	}
	if n.RouteReflectorClusterID != "" {
		values[nodeClusterID] = []byte(n.RouteReflectorClusterID)
	}
	return values, nil
}

func decodeNode(_ NodeKey, values [][]byte, n *Node) error {
	if metadata := values[nodeMetadata]; len(metadata) > 0 {
		var m nodeMetadataJSON
		if err := decodeJSON(metadata, &m); err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
		n.Meta, n.Labels, n.Host, n.Programs = m.Meta, m.Labels, m.Host, m.Programs
	}
	n.RouteReflectorClusterID = rawText(values[nodeClusterID])
	if as := rawText(values[nodeASNumber]); as != "" {
		number, err := ParseASNumber(as)
		if err != nil {
			return fmt.Errorf("as_num: %w", err)
		}
		n.ASNumber = &number
	}
	if values[nodeAddrV4] == nil {
		values[nodeAddrV4] = values[nodeBirdIP]
	}
	return decodeNodeAddrs(values, n)
}

func decodeNodeAddrs(values [][]byte, n *Node) (err error) {
	if n.IPv4, err = parseText(values[nodeAddrV4], netip.ParseAddr); err != nil {
		return fmt.Errorf("ip_addr_v4: %w", err)
	}
	if n.IPv6, err = parseText(values[nodeAddrV6], netip.ParseAddr); err != nil {
		return fmt.Errorf("ip_addr_v6: %w", err)
	}
	if n.IPv4Net, err = parseText(values[nodeNetworkV4], netip.ParsePrefix); err != nil {
		return fmt.Errorf("network_v4: %w", err)
	}
	if n.IPv6Net, err = parseText(values[nodeNetworkV6], netip.ParsePrefix); err != nil {
		return fmt.Errorf("network_v6: %w", err)
	}
	return nil
}

// isNodePart says whether a name under a node's BGP settings belongs to the node
// itself.
func isNodePart(name string) bool {
	return slices.ContainsFunc(nodeBGPPatterns, func(p string) bool { return strings.HasSuffix(p, "/"+name) })
}

func rawText(value []byte) string { return strings.TrimSpace(string(value)) }

// parseText reads a raw value; an absent or empty one gives the zero value.
func parseText[T any](value []byte, parse func(string) (T, error)) (T, error) {
	s := rawText(value)
	if s == "" {
		var zero T
		return zero, nil
	}
	return parse(s)
}

func addrText(a netip.Addr) []byte {
	if !a.IsValid() {
		return []byte{}
	}
	return []byte(a.String())
}
