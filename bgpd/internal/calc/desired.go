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
// that its containers have from blocks of others.
func (e *Engine) desiredAdverts() map[netip.Prefix]Advert {
	out := map[netip.Prefix]Advert{}
	for p := range e.ownBlocks() {
		if e.exportable(p) && e.confirmed(p) {
			out[p] = Advert{}
		}
	}
	for _, nets := range e.endpoints {
		for _, p := range nets {
			if e.borrowed(p) {
				out[p] = Advert{}
			}
		}
	}
	return out
}

// ownBlocks are the blocks that this host has, in whatever state. As long as etcd has
// not been heard, the blackholes that stood in the kernel tell.
func (e *Engine) ownBlocks() map[netip.Prefix]struct{} {
	if e.own != nil {
		return e.own
	}
	out := map[netip.Prefix]struct{}{}
	for p := range e.blocks[e.cfg.Node] {
		out[p] = struct{}{}
	}
	for p, r := range e.adopted {
		if r.Type == Blackhole {
			out[p] = struct{}{}
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

// insideOwn finds an own block that p is a part of.
func (e *Engine) insideOwn(p netip.Prefix) (netip.Prefix, bool) {
	for own := range e.ownBlocks() {
		if own.Bits() < p.Bits() && own.Contains(p.Addr()) {
			return own, true
		}
	}
	return netip.Prefix{}, false
}

// exportable reports whether p lies in a pool that is enabled and may be exported, and
// this host has an address that others can reach it by.
func (e *Engine) exportable(p netip.Prefix) bool {
	pool, ok := e.poolOf(p)
	return ok && !pool.Disabled && pool.Export && e.cfg.ListenOf(p.Addr()).IsValid()
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

// borrowed reports whether p is a single address that needs a route of its own: it is in
// no block of this host, and the container's route stands.
func (e *Engine) borrowed(p netip.Prefix) bool {
	if _, stands := e.hostRoutes[p]; !stands || !p.IsSingleIP() || !e.exportable(p) {
		return false
	}
	_, inside := e.insideOwn(p)
	return !inside && !e.isOwn(p)
}

// desiredRoute is what the kernel should have for a prefix: nil, and why, when nothing.
func (e *Engine) desiredRoute(p netip.Prefix) (*Route, string) {
	if e.isOwn(p) {
		return &Route{Type: Blackhole}, ""
	}
	entries := e.rib.prefixes[p]
	if len(entries) == 0 {
		if r, ok := e.adopted[p]; ok {
			return &r, ""
		}
		return nil, "no peer advertises it"
	}
	if why := e.refuse(p); why != "" {
		return nil, why
	}
	candidates, why := e.candidates(p, entries)
	if len(candidates) == 0 {
		return nil, why
	}
	return &Route{Hops: e.hopsTo(p, best(candidates))}, ""
}

// refuse says why no path to a prefix may be used.
func (e *Engine) refuse(p netip.Prefix) string {
	if _, ok := e.hostRoutes[p]; ok {
		return "a local route to it stands"
	}
	if p.Bits() == 0 && !e.cfg.Import.DefaultRoute {
		return "default routes are not imported (import.default_route)"
	}
	if own, inside := e.insideOwn(p); inside && !p.IsSingleIP() {
		return fmt.Sprintf("it is a part of the own block %s", own)
	}
	if a, covers := e.covers(p); covers && p.Bits() > 0 && !e.cfg.Import.CoveringNodes {
		return fmt.Sprintf("it covers the node or peer address %s (import.covering_nodes)", a)
	}
	return ""
}

// guard collects the addresses that a learned route must not cover: a peer that sent
// such a route by mistake would cut this host off from others.
func (e *Engine) guard() {
	if e.guarded != nil {
		return
	}
	e.guarded = append([]netip.Addr{}, e.cfg.Listen...)
	for _, p := range e.cfg.Peers {
		e.guarded = append(e.guarded, p.Address)
	}
	for _, addrs := range e.nodes {
		e.guarded = append(e.guarded, addrs...)
	}
	slices.SortFunc(e.guarded, netip.Addr.Compare)
	e.guarded = slices.Compact(e.guarded)
}

// covers finds an address of a node or peer inside p.
func (e *Engine) covers(p netip.Prefix) (netip.Addr, bool) {
	e.guard()
	i, _ := slices.BinarySearchFunc(e.guarded, p.Addr(), netip.Addr.Compare)
	if i < len(e.guarded) && p.Contains(e.guarded[i]) {
		return e.guarded[i], true
	}
	return netip.Addr{}, false
}

// candidates are the paths whose next hop can be reached, and why there is none.
func (e *Engine) candidates(p netip.Prefix, entries []entry) (out []candidate, why string) {
	for _, en := range entries {
		next := en.path.NextHop
		if w := e.unusable(p, next); w != "" {
			why = w
			continue
		}
		out = append(out, candidate{Path: en.path, owner: e.owns(next, p), held: en.stale})
	}
	return out, why
}

// owns reports whether etcd knows the node at next as the owner of a block.
func (e *Engine) owns(next netip.Addr, p netip.Prefix) bool {
	name, ok := e.node(next)
	return ok && e.blocks[name][p] == model.AffinityConfirmed
}

// unusable says why a next hop does not serve.
func (e *Engine) unusable(p netip.Prefix, next netip.Addr) string {
	if slices.Contains(e.cfg.Listen, next) {
		return fmt.Sprintf("its next hop %s is this host itself", next)
	}
	r, known := e.hops[next]
	if e.tunnelled(p, next) {
		r, known = e.tunnel, true
	}
	switch {
	case !known:
		return fmt.Sprintf("its next hop %s is not resolved yet", next)
	case r.Why != "":
		return fmt.Sprintf("its next hop %s is unreachable: %s", next, r.Why)
	}
	return ""
}

// tunnelled reports whether packets to p travel to next inside IP-in-IP.
func (e *Engine) tunnelled(p netip.Prefix, next netip.Addr) bool {
	pool, ok := e.poolOf(p)
	if !ok || pool.IPIP == config.IPIPOff {
		return false
	}
	near := slices.ContainsFunc(e.cfg.Networks, func(n netip.Prefix) bool { return n.Contains(next) })
	return pool.IPIP == config.IPIPAlways || !near
}

// hopsTo turns next hops into ways; two next hops behind one router are one way.
func (e *Engine) hopsTo(p netip.Prefix, nexts []netip.Addr) []Hop {
	hops := make([]Hop, len(nexts))
	for i, next := range nexts {
		hops[i] = e.hops[next].Hop
		if e.tunnelled(p, next) {
			hops[i] = Hop{Gateway: next, Link: e.tunnel.Hop.Link, OnLink: true}
		}
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
	if c, _ := e.peer(peer); c.Type == config.PeerMesh && !isNode {
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
	entries := e.rib.prefixes[p]
	different := func(en entry) bool { return en.path.NextHop != entries[0].path.NextHop }
	if e.isBlock(p) && slices.ContainsFunc(entries, different) {
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
