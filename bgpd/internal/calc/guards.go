package calc

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/bgpd/internal/config"
)

// Surroundings are what the host needs besides our routes: no route of ours may take it
// away.
type Surroundings struct {
	// Networks are those that this host is a part of. Containers' interfaces do not count.
	Networks []netip.Prefix
	// Gateways are the routers of others' routes.
	Gateways []netip.Addr
}

// Equal reports whether nothing differs.
func (s Surroundings) Equal(o Surroundings) bool {
	return slices.Equal(s.Networks, o.Networks) && slices.Equal(s.Gateways, o.Gateways)
}

// guarded is an address that must stay reachable, and what it is.
type guarded struct {
	addr netip.Addr
	what string
}

// What guarded addresses are, in the order in which one of several is named.
const (
	guardNode    = "the node or peer address"
	guardEtcd    = "the etcd endpoint"
	guardGateway = "the gateway"
)

// SetSurroundings tells what is around this host, each list sorted.
func (e *Engine) SetSurroundings(s Surroundings) {
	if !e.around.Equal(s) {
		e.around = s
		e.guardsChanged()
	}
}

// SetEtcd tells the addresses of etcd.
func (e *Engine) SetEtcd(addrs []netip.Addr) {
	if !slices.Equal(e.etcd, addrs) {
		e.etcd = addrs
		e.guardsChanged()
	}
}

func (e *Engine) guardsChanged() {
	e.guards, e.own, e.advertsDirty = nil, nil, true
	e.touchAll()
}

// guard collects the addresses that no route of ours may cover: a peer that sent such a
// route by mistake, or a pool in the wrong place, would cut this host off from others.
func (e *Engine) guard() []guarded {
	if e.guards != nil {
		return e.guards
	}
	out := map[netip.Addr]string{}
	for _, a := range e.around.Gateways {
		out[a] = guardGateway
	}
	for _, a := range e.etcd {
		out[a] = guardEtcd
	}
	for _, addrs := range e.nodes {
		for _, a := range addrs {
			out[a] = guardNode
		}
	}
	for _, p := range e.cfg.Peers {
		out[p.Address] = guardNode
	}
	for _, a := range e.cfg.Listen {
		out[a] = guardNode
	}
	e.guards = make([]guarded, 0, len(out))
	for _, a := range slices.SortedFunc(maps.Keys(out), netip.Addr.Compare) {
		e.guards = append(e.guards, guarded{a, out[a]})
	}
	return e.guards
}

// covered lists the guarded addresses inside p.
func (e *Engine) covered(p netip.Prefix) []guarded {
	all := e.guard()
	from, _ := slices.BinarySearchFunc(all, p.Addr(), func(g guarded, a netip.Addr) int { return g.addr.Compare(a) })
	to := from
	for to < len(all) && p.Contains(all[to].addr) {
		to++
	}
	return all[from:to]
}

// inNetwork finds a network of this host that p is, or is a part of: a route to p would
// take it away from there.
func (e *Engine) inNetwork(p netip.Prefix) (netip.Prefix, bool) {
	for _, n := range e.around.Networks {
		if n.Bits() <= p.Bits() && n.Contains(p.Addr()) {
			return n, true
		}
	}
	return netip.Prefix{}, false
}

// martians are prefixes that nobody may route (RFC 6890), and containers' gateways.
var martians = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.1.0/24"),
	netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/127"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// isMartian reports whether p is or lies in such a prefix.
func isMartian(p netip.Prefix) bool {
	return slices.ContainsFunc(martians, func(m netip.Prefix) bool { return m.Bits() <= p.Bits() && m.Contains(p.Addr()) })
}

// refuse says why no path to a prefix may be used.
func (e *Engine) refuse(p netip.Prefix) string {
	if _, ok := e.hostRoutes[p]; ok {
		return "a local route to it stands"
	}
	if p.Bits() == 0 {
		if !e.cfg.Import.DefaultRoute {
			return "default routes are not imported (import.default_route)"
		}
		return ""
	}
	if isMartian(p) {
		return "such addresses are not routed (RFC 6890)"
	}
	if own, inside := e.insideOwn(p); inside && !p.IsSingleIP() {
		return fmt.Sprintf("it is a part of the own block %s", own)
	}
	if n, inside := e.inNetwork(p); inside {
		return fmt.Sprintf("it lies in the network %s of this host", n)
	}
	for _, g := range e.covered(p) {
		if g.what == guardEtcd && e.leadsToEtcd(p) {
			continue
		}
		if p.IsSingleIP() && (g.what != guardNode || slices.Contains(e.cfg.Listen, g.addr)) {
			return fmt.Sprintf("it is %s %s", g.what, g.addr)
		}
		if !e.cfg.Import.CoveringNodes {
			return fmt.Sprintf("it covers %s %s (import.covering_nodes)", g.what, g.addr)
		}
	}
	return ""
}

// leadsToEtcd reports whether a block that covers etcd is the way to it, since etcd is a
// container: etcd itself knows a node that advertises the block as its owner. Until it has
// said whose it is, what is in force stays: it may be the way to ask.
func (e *Engine) leadsToEtcd(p netip.Prefix) bool {
	return e.isBlock(p) && slices.ContainsFunc(e.rib.prefixes[p], func(en entry) bool {
		next := en.path.NextHop
		name, isNode := e.node(next)
		asked := e.inSync && (!isNode || e.known[name])
		return e.owns(next, p) || !asked && e.stands(p, next)
	})
}

// towardsEtcd lists the blocks with paths that cover etcd.
func (e *Engine) towardsEtcd() (out []netip.Prefix) {
	for _, a := range e.etcd {
		for bits := range a.BitLen() {
			p, err := a.Prefix(bits)
			if _, heard := e.rib.prefixes[p]; err == nil && heard && e.isBlock(p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// harms says why an own block cannot be: its blackhole would take away what this host
// needs. An address to which a container has a route of its own is not taken away. Only
// what the operator, etcd or the kernel says counts: no peer can make a block harmful.
func (e *Engine) harms(block netip.Prefix) string {
	if n, inside := e.inNetwork(block); inside {
		return fmt.Sprintf("it lies in the network %s of this host", n)
	}
	for _, g := range e.covered(block) {
		if _, local := e.hostRoutes[netip.PrefixFrom(g.addr, g.addr.BitLen())]; !local {
			return fmt.Sprintf("it covers %s %s", g.what, g.addr)
		}
	}
	return ""
}

// Problems says what this host should do and does not, with what to do about it.
func (e *Engine) Problems() []string {
	var out []string
	own := e.ownBlocks()
	for _, p := range slices.SortedFunc(maps.Keys(own), netip.Prefix.Compare) {
		if why := own[p]; why != "" {
			out = append(out, fmt.Sprintf("block %s of this host is not routed: %s; give containers addresses of a pool that lies elsewhere, and release this block", p, why))
		}
	}
	toEtcd := e.towardsEtcd()
	for _, a := range e.etcd {
		if p := netip.PrefixFrom(a, a.BitLen()); len(e.rib.prefixes[p]) > 0 {
			toEtcd = append(toEtcd, p)
		}
	}
	out = append(out, e.displaced(toEtcd)...)
	slices.SortFunc(toEtcd, netip.Prefix.Compare)
	for _, p := range slices.Compact(toEtcd) {
		if why := e.refuse(p); why != "" {
			out = append(out, fmt.Sprintf("%s, which a peer advertises, is not routed: %s; of containers' addresses, only a block that etcd says is the peer's may lead to etcd", p, why))
		}
	}
	return out
}

// displaced names the containers' addresses elsewhere that this host does not reach because
// something that it needs is there, but for those of which others tell.
func (e *Engine) displaced(others []netip.Prefix) (out []string) {
	prefixes := map[netip.Prefix]struct{}{}
	for p := range e.rib.prefixes {
		prefixes[p] = struct{}{}
	}
	for p, r := range e.adopted {
		if r.Type == Unicast {
			prefixes[p] = struct{}{}
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(prefixes), netip.Prefix.Compare) {
		_, inPool := e.poolOf(p)
		_, inside := e.inNetwork(p)
		why := e.refuse(p)
		if !inPool || why == "" || !inside && len(e.covered(p)) == 0 || e.isOwn(p) || slices.Contains(others, p) {
			continue
		}
		out = append(out, fmt.Sprintf("%s, containers' addresses%s, is not routed: %s; take that off this host, or give containers addresses of a pool that lies elsewhere", p, e.whose(p), why))
	}
	return out
}

// whose says who advertises a prefix.
func (e *Engine) whose(p netip.Prefix) string {
	var names []string
	for _, en := range e.rib.prefixes[p] {
		name, isNode := e.node(en.path.NextHop)
		if !isNode {
			name = en.path.NextHop.String()
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return " of another node"
	}
	slices.Sort(names)
	return " of " + strings.Join(slices.Compact(names), " and ")
}

// Notes says what the configuration asks for and nothing here does, and what is odd among
// the nodes.
func (e *Engine) Notes() []string {
	var out []string
	for _, p := range e.cfg.Pools {
		if p.IPIP != config.IPIPOff {
			out = append(out, fmt.Sprintf("pool %s asks for IP-in-IP (%s), which is not built: its routes go without a tunnel", p.CIDR, p.IPIP))
		}
	}
	names := map[netip.Addr][]string{}
	for name, addrs := range e.nodes {
		for _, a := range addrs {
			names[a] = append(names[a], name)
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(names), netip.Addr.Compare) {
		if same := names[a]; len(same) > 1 {
			slices.Sort(same)
			out = append(out, fmt.Sprintf("nodes %s have the same address %s: correct that of all but one, or delete the nodes that are gone", strings.Join(same, " and "), a))
		}
	}
	return out
}
