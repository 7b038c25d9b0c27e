package nodestart

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodename"
)

// chooseName is the name of this host's node, and a line about it if there is something to say.
// A node whose name differs by case only from the one that was made of the host's name is this
// host's when something says so: v2.6 did not change the case. here tells whether an address is
// on this host.
func chooseName(n nodename.Name, r hostrecord.Record, host model.Identity, nodes map[string]*model.Node, here func(netip.Addr) bool) (name, line string) {
	if nodes[n.Node] != nil {
		return n.Node, ""
	}
	for _, other := range slices.Sorted(maps.Keys(nodes)) {
		if !strings.EqualFold(other, n.Node) {
			continue
		}
		node := nodes[other]
		ours := node.Host.SameHost(host) || r.Name == other ||
			!node.Host.Known() && (other == n.Host || here(node.IPv4) || here(node.IPv6))
		if ours && n.Host != "" {
			return other, fmt.Sprintf("This host is stored as node %s, whose name differs from %s by case only", other, n.Node)
		}
		return n.Node, fmt.Sprintf("WARNING: there is a node %s, whose name differs from %s by case only: if it is this host, set NODENAME=%s (calicoctl node run --name=%s)",
			other, n.Node, other, other)
	}
	return n.Node, ""
}
