package calc

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/model"
)

// desiredPeers is one session for each peer of the configuration.
func (e *Engine) desiredPeers() map[netip.Addr]Peer {
	out := make(map[netip.Addr]Peer, len(e.cfg.Peers))
	for _, p := range e.cfg.Peers {
		if !e.wanted(p) {
			continue
		}
		own := e.cfg.ListenOf(p.Address)
		out[p.Address] = Peer{
			Name:            p.Name,
			Type:            p.Type,
			Address:         p.Address,
			ASNumber:        p.ASNumber,
			Password:        p.Password,
			Port:            p.Port,
			LocalAddress:    own,
			Passive:         p.Type == config.PeerMesh && own.Less(p.Address),
			ReflectorClient: p.ReflectorClient,
			ClusterID:       p.ClusterID,
			Timers:          e.cfg.Timers,
		}
	}
	return out
}

// desiredAdverts is this host's own confirmed blocks, each as a whole, and the addresses
// that its containers have from elsewhere. As long as etcd has not been heard, the
// kernel's routes to containers tell which those are.
func (e *Engine) desiredAdverts() map[netip.Prefix]Advert {
	out := map[netip.Prefix]Advert{}
	for p := range e.ownBlocks() {
		if e.holds(p) && e.exportable(p) && e.confirmed(p) {
			out[p] = Advert{}
		}
	}
	add := func(p netip.Prefix) {
		if e.borrowed(p) {
			out[p] = Advert{}
		}
	}
	for _, nets := range e.endpoints {
		for _, p := range nets {
			add(p)
		}
	}
	if e.inSync {
		return out
	}
	for p, container := range e.hostRoutes {
		if container {
			add(p)
		}
	}
	return out
}

// ownBlocks are the blocks that this host has, in whatever state, each with the reason why
// it cannot be routed, if there is one. As long as etcd has not been heard, the blackholes
// that stood in the kernel tell.
func (e *Engine) ownBlocks() map[netip.Prefix]string {
	if e.own != nil {
		return e.own
	}
	out := map[netip.Prefix]string{}
	for p := range e.blocks[e.cfg.Node] {
		out[p] = e.harms(p)
	}
	for p, r := range e.adopted {
		if r.Type == Blackhole {
			out[p] = e.harms(p)
		}
	}
	e.own = out
	return out
}

func (e *Engine) isOwn(p netip.Prefix) bool {
	_, ok := e.ownBlocks()[p]
	return ok
}

func (e *Engine) confirmed(p netip.Prefix) bool {
	state, ok := e.blocks[e.cfg.Node][p]
	return !ok || state == model.AffinityConfirmed
}

// holds reports whether an own block gets a blackhole, and an advert as a whole: not one
// that would do harm, and not a single address, whose route is its container's.
func (e *Engine) holds(block netip.Prefix) bool {
	return !block.IsSingleIP() && e.ownBlocks()[block] == ""
}

// insideOwn finds an own block that p is a part of.
func (e *Engine) insideOwn(p netip.Prefix) (netip.Prefix, bool) {
	for own := range e.ownBlocks() {
		if own.Bits() < p.Bits() && own.Contains(p.Addr()) {
			return own, true
		}
	}
	return netip.Prefix{}, false
}

// exportable reports whether p may be advertised: its pool, if there is one, does not
// forbid it, and this host has an address that others can reach it by. A pool that is
// disabled gives no new addresses; what has one stays reachable, also after the pool is
// gone.
func (e *Engine) exportable(p netip.Prefix) bool {
	pool, ok := e.poolOf(p)
	return (!ok || pool.Export) && e.cfg.ListenOf(p.Addr()).IsValid()
}

// poolOf finds the pool that p is a part of; of nested ones the narrowest.
func (e *Engine) poolOf(p netip.Prefix) (config.Pool, bool) {
	var found config.Pool
	for _, pool := range e.cfg.Pools {
		if pool.CIDR.Bits() <= p.Bits() && pool.CIDR.Contains(p.Addr()) &&
			(!found.CIDR.IsValid() || found.CIDR.Bits() < pool.CIDR.Bits()) {
			found = pool
		}
	}
	return found, found.CIDR.IsValid()
}

// borrowed reports whether p is a single address of containers' that needs a route of its
// own: it is in no block that this host advertises, and the container's route stands.
func (e *Engine) borrowed(p netip.Prefix) bool {
	if _, stands := e.hostRoutes[p]; !stands || !p.IsSingleIP() || !e.exportable(p) || !e.containers(p) {
		return false
	}
	own, inside := e.insideOwn(p)
	return !inside || !e.holds(own)
}

// containers reports whether an address is one of those that are given to containers: of a
// pool, or of another node's block, which outlives a pool that was deleted by force. What is
// advertised stays so when that node goes too: the container still runs.
func (e *Engine) containers(p netip.Prefix) bool {
	_, inPool := e.poolOf(p)
	_, advertised := e.adverts[p]
	return inPool || advertised || e.inNodesBlock(p)
}

// inNodesBlock reports whether an address lies in a block that another node has, as etcd
// says, or as the node does by advertising it.
func (e *Engine) inNodesBlock(address netip.Prefix) bool {
	for bits := 1; bits < address.Bits(); bits++ {
		block, err := address.Addr().Prefix(bits)
		if err == nil && (slices.ContainsFunc(e.rib.prefixes[block], e.ofNode) || e.hasOwner(block)) {
			return true
		}
	}
	return false
}

// ofNode reports whether a path is another node's own: its next hop is one. As long as etcd
// has not been heard, peers of the mesh tell.
func (e *Engine) ofNode(en entry) bool {
	name, isNode := e.node(en.path.NextHop)
	return isNode && name != e.cfg.Node || en.path.NextHop == en.peer && e.rib.peers[en.peer].mesh
}

// hasOwner reports whether etcd knows another node that has a block.
func (e *Engine) hasOwner(block netip.Prefix) bool {
	for name, blocks := range e.blocks {
		if _, has := blocks[block]; has && name != e.cfg.Node {
			return true
		}
	}
	return false
}

// desiredRoute is what the kernel should have for a prefix: nil, and why, when nothing.
func (e *Engine) desiredRoute(p netip.Prefix) (*Route, string) {
	if e.isOwn(p) {
		return e.ownRoute(p)
	}
	entries := e.rib.prefixes[p]
	if len(entries) == 0 {
		return e.adoptedRoute(p)
	}
	if why := e.refuse(p); why != "" {
		return nil, why
	}
	candidates, why := e.candidates(p, entries)
	if len(candidates) == 0 {
		return nil, why
	}
	return &Route{Hops: e.hopsTo(e.oneNode(best(candidates))...)}, ""
}

func (e *Engine) ownRoute(p netip.Prefix) (*Route, string) {
	if why := e.ownBlocks()[p]; why != "" {
		return nil, why
	}
	if p.IsSingleIP() {
		return nil, "it is a block of one address, whose route is its container's"
	}
	return &Route{Type: Blackhole}, ""
}

func (e *Engine) adoptedRoute(p netip.Prefix) (*Route, string) {
	r, ok := e.adopted[p]
	if !ok {
		return nil, "no peer advertises it"
	}
	if n, inside := e.inNetwork(p); inside {
		return nil, fmt.Sprintf("it lies in the network %s of this host", n)
	}
	return &r, ""
}

// candidates are the paths whose next hop can be reached, and why there is none.
func (e *Engine) candidates(p netip.Prefix, entries []entry) (out []candidate, why string) {
	for _, en := range entries {
		next := en.path.NextHop
		if w := e.unusable(next); w != "" {
			why = w
			continue
		}
		out = append(out, candidate{Path: en.path, owner: e.owns(next, p), held: en.stale, inForce: len(entries) > 1 && e.inForce(p, next)})
	}
	return out, why
}

// owns reports whether etcd knows the node at next as the owner of a block.
func (e *Engine) owns(next netip.Addr, p netip.Prefix) bool {
	name, ok := e.node(next)
	return ok && e.blocks[name][p] == model.AffinityConfirmed
}

// unusable says why a next hop does not serve.
func (e *Engine) unusable(next netip.Addr) string {
	if slices.Contains(e.cfg.Listen, next) {
		return fmt.Sprintf("its next hop %s is this host itself", next)
	}
	r, known := e.hops[next]
	switch {
	case !known:
		return fmt.Sprintf("its next hop %s is not resolved yet", next)
	case r.Why != "":
		return fmt.Sprintf("its next hop %s is unreachable: %s", next, r.Why)
	}
	return ""
}

// inForce reports whether the route to p leads to the node at next now. Of two nodes that
// claim one prefix the new one must not take it from the other.
func (e *Engine) inForce(p netip.Prefix, next netip.Addr) bool {
	_, isNode := e.node(next)
	return isNode && e.stands(p, next)
}

// stands reports whether the route to p leads to next now.
func (e *Engine) stands(p netip.Prefix, next netip.Addr) bool {
	r, routed := e.routes[p]
	return routed && r.Equal(Route{Hops: e.hopsTo(next)})
}

// oneNode leaves only one of several nodes: what a node advertises is its own, and two of
// them cannot share it as two routers can.
func (e *Engine) oneNode(nexts []netip.Addr) []netip.Addr {
	found := false
	return slices.DeleteFunc(nexts, func(next netip.Addr) bool {
		_, isNode := e.node(next)
		surplus := isNode && found
		found = found || isNode
		return surplus
	})
}

// hopsTo turns next hops into ways; two next hops behind one router are one way.
func (e *Engine) hopsTo(nexts ...netip.Addr) []Hop {
	if len(nexts) == 1 {
		return e.hops[nexts[0]].Hops
	}
	var hops []Hop
	for _, next := range nexts {
		hops = append(hops, e.hops[next].Hops...)
	}
	slices.SortFunc(hops, CompareHops)
	return slices.Compact(hops)
}

// gone reports whether etcd knows that a path of a peer that is down leads nowhere.
func (e *Engine) gone(peer netip.Addr, p netip.Prefix, next netip.Addr) bool {
	if !e.inSync {
		return false
	}
	name, isNode := e.node(next)
	if e.rib.peers[peer].mesh && !isNode {
		return true
	}
	_, holds := e.blocks[name][p]
	return isNode && e.known[name] && e.isBlock(p) && !holds
}

// isBlock reports whether p can only be a block.
func (e *Engine) isBlock(p netip.Prefix) bool {
	_, inPool := e.poolOf(p)
	return inPool && !p.IsSingleIP()
}

// dispute notes whether several nodes advertise a block.
func (e *Engine) dispute(p netip.Prefix) {
	first := ""
	other := func(en entry) bool {
		name, isNode := e.node(en.path.NextHop)
		if isNode && first == "" {
			first = name
		}
		return isNode && name != first
	}
	if entries := e.rib.prefixes[p]; len(entries) > 1 && !p.IsSingleIP() && slices.ContainsFunc(entries, other) {
		e.disputed[p] = struct{}{}
	} else {
		delete(e.disputed, p)
	}
}

// Routes lists all prefixes that are known, for people.
func (e *Engine) Routes() []RouteInfo {
	prefixes := map[netip.Prefix]struct{}{}
	for p := range e.rib.prefixes {
		prefixes[p] = struct{}{}
	}
	for p := range e.routes {
		prefixes[p] = struct{}{}
	}
	for p := range e.adverts {
		prefixes[p] = struct{}{}
	}
	for p := range e.ownBlocks() {
		prefixes[p] = struct{}{}
	}
	out := make([]RouteInfo, 0, len(prefixes))
	for _, p := range slices.SortedFunc(maps.Keys(prefixes), netip.Prefix.Compare) {
		out = append(out, e.routeInfo(p))
	}
	return out
}

func (e *Engine) routeInfo(p netip.Prefix) RouteInfo {
	info := RouteInfo{Prefix: p}
	_, info.Advertised = e.adverts[p]
	for _, en := range e.rib.prefixes[p] {
		info.NextHops = append(info.NextHops, en.path.NextHop)
	}
	slices.SortFunc(info.NextHops, netip.Addr.Compare)
	info.NextHops = slices.Compact(info.NextHops)
	if r, why := e.desiredRoute(p); r != nil {
		info.Route, info.Wanted = *r, true
	} else if !info.Advertised {
		info.Why = why
	}
	return info
}

// Received counts the paths that a peer advertises.
func (e *Engine) Received(peer netip.Addr) int {
	if s := e.rib.peers[peer]; s != nil {
		return len(s.prefixes) - s.stale
	}
	return 0
}

// Held counts the paths of a peer that is down and whose routes stay.
func (e *Engine) Held(peer netip.Addr) int {
	if s := e.rib.peers[peer]; s != nil {
		return s.stale
	}
	return 0
}
