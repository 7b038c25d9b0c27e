package calc

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/model"
)

// Engine holds all that is known, and what was last asked for. It belongs to one
// goroutine.
type Engine struct {
	cfg config.Config
	// inSync says that etcd's resources are all there, but for others' blocks.
	inSync bool
	// blocks has the blocks of this host and of those in known, with the states of their
	// affinities. own are the blocks of this host, with why one cannot be routed; nil means
	// that they must be collected again.
	blocks map[string]map[netip.Prefix]string
	known  map[string]bool
	own    map[netip.Prefix]string
	// nodes has the addresses of every host, nodeOf is the inverse; nil means that it must
	// be made again.
	nodes  map[string][]netip.Addr
	nodeOf map[netip.Addr]string
	// endpoints has the addresses of this host's containers, floating ones included.
	endpoints map[model.WorkloadEndpointKey][]netip.Prefix
	// hostRoutes are the single addresses to which the kernel has a route of somebody
	// else's, felix's above all; true for those that lead to a container.
	hostRoutes map[netip.Prefix]bool
	// adopted is what the kernel had of ours when we started and no peer has spoken of
	// since. It stays until adoptedUntil at most.
	adopted      map[netip.Prefix]Route
	adoptedUntil time.Time
	hops         map[netip.Addr]Resolution
	rib          *rib

	// dirty are prefixes whose route must be worked out again; the flags say the same of
	// all peers and all adverts. recheck asks for a look at everything that is held.
	dirty                    map[netip.Prefix]struct{}
	peersDirty, advertsDirty bool
	recheck                  bool
	// disputed are blocks that several nodes advertise.
	disputed map[netip.Prefix]struct{}
	// around and etcd must stay reachable. guards are all addresses that must, sorted; nil
	// means that they must be collected again.
	around Surroundings
	etcd   []netip.Addr
	guards []guarded

	peers   map[netip.Addr]Peer
	adverts map[netip.Prefix]Advert
	routes  map[netip.Prefix]Route
}

// New makes an engine that wants nothing yet.
func New() *Engine {
	e := &Engine{
		blocks:     map[string]map[netip.Prefix]string{},
		known:      map[string]bool{},
		disputed:   map[netip.Prefix]struct{}{},
		nodes:      map[string][]netip.Addr{},
		endpoints:  map[model.WorkloadEndpointKey][]netip.Prefix{},
		hostRoutes: map[netip.Prefix]bool{},
		adopted:    map[netip.Prefix]Route{},
		hops:       map[netip.Addr]Resolution{},
		dirty:      map[netip.Prefix]struct{}{},
		peers:      map[netip.Addr]Peer{},
		adverts:    map[netip.Prefix]Advert{},
		routes:     map[netip.Prefix]Route{},
	}
	e.rib = newRIB(e.heard)
	return e
}

// heard is called when the paths to a prefix change: they supersede a route that was
// adopted. A blackhole is etcd's matter.
func (e *Engine) heard(p netip.Prefix) {
	if r, ok := e.adopted[p]; ok && r.Type == Unicast {
		delete(e.adopted, p)
	}
	e.touchLent(p)
	e.touch(p)
}

// touchLent has adverts looked at again when a prefix comes or goes that may be a block of
// another node's outside all pools: an address that it has lent to this host is told by it.
func (e *Engine) touchLent(block netip.Prefix) {
	if _, inPool := e.poolOf(block); !inPool && !block.IsSingleIP() {
		e.advertsDirty = true
	}
}

func (e *Engine) touch(p netip.Prefix) { e.dirty[p] = struct{}{} }

// touchAll has every prefix looked at again.
func (e *Engine) touchAll() {
	for p := range e.rib.prefixes {
		e.touch(p)
	}
	for p := range e.routes {
		e.touch(p)
	}
	for p := range e.blocks[e.cfg.Node] {
		e.touch(p)
	}
	for p := range e.adopted {
		e.touch(p)
	}
}

// leaveTime is how long the paths of a peer stay that there is to be no session with any
// more: long enough for others, such as reflectors, to say the same.
const leaveTime = 10 * time.Second

// SetConfig puts a configuration in force. Paths of peers that it does not have stay for a
// moment, unless another peer has the same.
func (e *Engine) SetConfig(c config.Config, now time.Time) {
	e.cfg = c
	e.own, e.guards = nil, nil
	e.peersDirty, e.advertsDirty = true, true
	for _, p := range e.cfg.Peers {
		if e.wanted(p) {
			e.rib.add(p.Address, p.Type == config.PeerMesh, now.Add(c.Timers.Restart))
		}
	}
	for a := range e.rib.peers {
		if p, ok := e.peer(a); !ok || !e.wanted(p) {
			e.rib.leave(a, now.Add(leaveTime))
		}
	}
	e.recheck = true
	e.touchAll()
}

// wanted leaves the mesh out when it is off.
func (e *Engine) wanted(p config.Peer) bool { return e.cfg.Mesh || p.Type != config.PeerMesh }

func (e *Engine) peer(a netip.Addr) (config.Peer, bool) {
	i, ok := slices.BinarySearchFunc(e.cfg.Peers, a, func(p config.Peer, a netip.Addr) int { return p.Address.Compare(a) })
	if !ok {
		return config.Peer{}, false
	}
	return e.cfg.Peers[i], true
}

// SetInSync says that all resources of etcd have been told.
func (e *Engine) SetInSync() {
	if e.inSync {
		return
	}
	e.inSync, e.recheck, e.advertsDirty = true, true, true
	e.touchAll()
}

// OnResource takes a resource of etcd; nil says that it is gone. Kinds that do not
// matter are ignored.
func (e *Engine) OnResource(k model.Key, r model.Resource) {
	switch k := k.(type) {
	case model.BlockAffinityKey:
		a, _ := r.(*model.BlockAffinity)
		e.onAffinity(k, a)
	case model.NodeKey:
		n, _ := r.(*model.Node)
		e.onNode(k, n)
	case model.WorkloadEndpointKey:
		w, _ := r.(*model.WorkloadEndpoint)
		e.onEndpoint(k, w)
	}
}

func (e *Engine) onAffinity(k model.BlockAffinityKey, a *model.BlockAffinity) {
	blocks := e.blocks[k.Node]
	switch {
	case a == nil:
		delete(blocks, k.CIDR)
	case blocks == nil:
		e.blocks[k.Node] = map[netip.Prefix]string{k.CIDR: stateOf(a)}
	default:
		blocks[k.CIDR] = stateOf(a)
	}
	e.recheck = true
	e.touch(k.CIDR)
	e.touchLent(k.CIDR)
	if k.Node != e.cfg.Node {
		return
	}
	e.own, e.advertsDirty = nil, true
	for p := range e.rib.prefixes {
		if k.CIDR.Overlaps(p) {
			e.touch(p)
		}
	}
}

// stateOf reads what v2.6 wrote as well: no state means confirmed.
func stateOf(a *model.BlockAffinity) string {
	return cmp.Or(a.State, model.AffinityConfirmed)
}

func (e *Engine) onNode(k model.NodeKey, n *model.Node) {
	var addrs []netip.Addr
	if n != nil {
		addrs = slices.DeleteFunc([]netip.Addr{n.IPv4, n.IPv6}, func(a netip.Addr) bool { return !a.IsValid() })
	}
	old := e.nodes[k.Name]
	if slices.Equal(old, addrs) {
		return
	}
	if e.nodes[k.Name] = addrs; n == nil {
		delete(e.nodes, k.Name)
	}
	e.recheck = true
	e.guards, e.nodeOf = nil, nil
	e.advertsDirty = true
	for _, a := range slices.Concat(old, addrs) {
		e.touchOwn(a)
	}
	for _, p := range e.towardsEtcd() {
		e.touch(p)
	}
	for p := range e.rib.prefixes {
		if _, holds := e.blocks[k.Name][p]; holds || slices.ContainsFunc(slices.Concat(old, addrs), p.Contains) {
			e.touch(p)
		}
	}
}

// WantedOwners lists the other nodes whose blocks are of interest, sorted: those whose
// routes are held though their sessions fell, those that advertise a block which another
// advertises too, and those that advertise one with etcd in it. Usually there are none: were all blocks of all nodes watched
// always, each new block would wake every host, and the first to know last.
func (e *Engine) WantedOwners() []string {
	names := map[string]struct{}{}
	add := func(next netip.Addr) {
		if name, ok := e.node(next); ok && name != e.cfg.Node {
			names[name] = struct{}{}
		}
	}
	for a, s := range e.rib.peers {
		if s.stale > 0 && !s.up && !s.leaving {
			add(a)
		}
	}
	for _, p := range e.towardsEtcd() {
		for _, en := range e.rib.prefixes[p] {
			add(en.path.NextHop)
		}
	}
	for p := range e.disputed {
		for _, en := range e.rib.prefixes[p] {
			add(en.path.NextHop)
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// SetOwnerKnown tells whether all blocks of another node have been told, or that nothing
// more will be.
func (e *Engine) SetOwnerKnown(node string, known bool) {
	if e.known[node] == known {
		return
	}
	e.recheck = true
	for p := range e.blocks[node] {
		e.touch(p)
		e.touchLent(p)
	}
	for _, p := range e.towardsEtcd() {
		e.touch(p)
	}
	if e.known[node] = known; !known {
		delete(e.known, node)
		delete(e.blocks, node)
	}
}

// node finds the host that has an address.
func (e *Engine) node(a netip.Addr) (name string, ok bool) {
	if e.nodeOf == nil {
		e.nodeOf = map[netip.Addr]string{}
		for name, addrs := range e.nodes {
			for _, addr := range addrs {
				if first, twice := e.nodeOf[addr]; !twice || name < first {
					e.nodeOf[addr] = name
				}
			}
		}
	}
	name, ok = e.nodeOf[a]
	return name, ok
}

func (e *Engine) onEndpoint(k model.WorkloadEndpointKey, w *model.WorkloadEndpoint) {
	e.advertsDirty = true
	if w == nil {
		delete(e.endpoints, k)
		return
	}
	addrs := slices.Concat(w.IPv4Nets, w.IPv6Nets)
	for _, n := range slices.Concat(w.IPv4NAT, w.IPv6NAT) {
		addrs = append(addrs, netip.PrefixFrom(n.External, n.External.BitLen()))
	}
	e.endpoints[k] = addrs
}

// Adopt takes over what the kernel had when we started. It stays until peers and etcd
// have said what is true, at most until the given time.
func (e *Engine) Adopt(routes map[netip.Prefix]Route, until time.Time) {
	maps.Copy(e.adopted, routes)
	e.adoptedUntil = until
	e.own, e.advertsDirty = nil, true
	e.recheck = true
	e.touchAll()
}

// KeepAdopted has what was adopted stay until the given time at most: nobody can speak of
// it as long as BGP does not run.
func (e *Engine) KeepAdopted(until time.Time) { e.adoptedUntil = until }

// SetHostRoute tells whether the kernel has somebody else's route to a single address,
// and whether it leads to a container.
func (e *Engine) SetHostRoute(p netip.Prefix, present, container bool) {
	was, had := e.hostRoutes[p]
	if had == present && was == (present && container) {
		return
	}
	e.advertsDirty = true
	if present {
		e.hostRoutes[p] = container
	} else {
		delete(e.hostRoutes, p)
	}
	if _, heard := e.rib.prefixes[p]; heard {
		e.touch(p)
	}
	if had != present && len(e.covered(p)) > 0 {
		e.touchOwn(p.Addr())
	}
}

// HasContainers reports whether the kernel has a route to a container inside a prefix.
func (e *Engine) HasContainers(p netip.Prefix) bool {
	for host, container := range e.hostRoutes {
		if container && p.Contains(host.Addr()) {
			return true
		}
	}
	return false
}

// Disproves reports whether the kernel shows that a block which is remembered is this host's
// no more, without etcd to ask: no container here has an address in it, and what stood there
// when we started has the block elsewhere, or blackholes of other blocks only.
func (e *Engine) Disproves(block netip.Prefix) bool {
	if e.HasContainers(block) {
		return false
	}
	if r, stands := e.adopted[block]; stands {
		return r.Type != Blackhole
	}
	for p, r := range e.adopted {
		if r.Type == Blackhole && p.Addr().Is4() == block.Addr().Is4() {
			return true
		}
	}
	return false
}

// SetHop tells how the kernel reaches a next hop.
func (e *Engine) SetHop(next netip.Addr, r Resolution) {
	if old, known := e.hops[next]; known && old.Equal(r) {
		return
	}
	e.hops[next] = r
	for p := range e.rib.users[next] {
		e.touch(p)
	}
}

// touchOwn has an own block that holds an address looked at again.
func (e *Engine) touchOwn(a netip.Addr) {
	for p := range e.ownBlocks() {
		if p.Contains(a) {
			e.own, e.advertsDirty = nil, true
			e.touch(p)
			return
		}
	}
}

// NextHops lists the next hops in use. Each wants a [Engine.SetHop], again when the
// kernel's links, addresses or routes change.
func (e *Engine) NextHops() []netip.Addr {
	return slices.SortedFunc(maps.Keys(e.rib.users), netip.Addr.Compare)
}

// Unresolved lists the next hops in use of which nothing is known yet.
func (e *Engine) Unresolved() []netip.Addr {
	var out []netip.Addr
	for a := range e.rib.users {
		if _, ok := e.hops[a]; !ok {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// PeerUp says that a session is established.
func (e *Engine) PeerUp(a netip.Addr) { e.rib.up(a) }

// PeerDown says that a session fell. notified says that the peer itself ended it: an
// outside peer then means it, and its paths go at once (RFC 4724 section 4.2). Of a
// mesh peer etcd knows better whether its routes are still good.
func (e *Engine) PeerDown(a netip.Addr, notified bool, now time.Time) {
	s := e.rib.heard(a)
	e.rib.down(a, now.Add(e.cfg.Timers.Restart))
	if notified && s != nil && !s.mesh {
		e.rib.drop(a, func(netip.Prefix, entry) bool { return true })
	}
	e.recheck = true
}

// Update says that a peer advertises a prefix.
func (e *Engine) Update(peer netip.Addr, p netip.Prefix, path Path) { e.rib.update(peer, p, path) }

// Withdraw says that a peer no longer advertises a prefix.
func (e *Engine) Withdraw(peer netip.Addr, p netip.Prefix) { e.rib.withdraw(peer, p) }

// EndOfRIB says that a peer has advertised all that it has.
func (e *Engine) EndOfRIB(a netip.Addr) {
	e.rib.endOfRIB(a)
	e.recheck = true
}

// SetHostRoutes tells of all single addresses that others have routes to; true for those
// that lead to a container.
func (e *Engine) SetHostRoutes(all map[netip.Prefix]bool) {
	for p := range e.hostRoutes {
		if _, still := all[p]; !still {
			e.SetHostRoute(p, false, false)
		}
	}
	for p, container := range all {
		e.SetHostRoute(p, true, container)
	}
}
