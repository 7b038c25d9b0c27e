package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/model"
)

// Peer is a session to have. It is comparable: a difference in any field but Name and
// Type needs a new session.
type Peer struct {
	Name     string
	Type     config.PeerType
	Address  netip.Addr
	ASNumber model.ASNumber
	Password config.Secret
	Port     uint16
	// LocalAddress is the address of ours that the session uses.
	LocalAddress netip.Addr
	// Passive sessions wait for the peer to dial. Of two hosts in a mesh exactly one
	// dials, because GoBGP drops both connections when they cross.
	Passive         bool
	ReflectorClient bool
	ClusterID       netip.Addr
	Timers          config.Timers
}

// SameSession reports whether p needs no other session than o.
func (p Peer) SameSession(o Peer) bool {
	o.Name, o.Type = p.Name, p.Type
	return p == o
}

// Advert is what an advertised prefix carries besides itself. The next hop is always
// the session's own address.
type Advert struct{}

// RouteType says what becomes of packets that match a route.
type RouteType uint8

// The types of route that bgpd installs.
const (
	Unicast RouteType = iota
	Blackhole
)

// Hop is one way to a next hop.
type Hop struct {
	// Gateway is the neighbour on the link, never invalid.
	Gateway netip.Addr
	// Link is the interface's index.
	Link int
	// OnLink takes the gateway for a neighbour although no route says so.
	OnLink bool
}

// Route is the desired state of one prefix in the kernel.
type Route struct {
	Type RouteType
	// Hops is sorted; more than one share the traffic (ECMP).
	Hops []Hop
}

// Equal reports whether two routes need no change.
func (r Route) Equal(o Route) bool { return r.Type == o.Type && slices.Equal(r.Hops, o.Hops) }

// String is the route in the manner of "ip route", links by their index.
func (r Route) String() string {
	if r.Type == Blackhole {
		return "blackhole"
	}
	hops := make([]string, len(r.Hops))
	for i, h := range r.Hops {
		hops[i] = fmt.Sprintf("via %s dev %d", h.Gateway, h.Link)
		if h.OnLink {
			hops[i] += " onlink"
		}
	}
	return strings.Join(hops, " ")
}

// Path is what one peer says about one prefix (RFC 4271 section 5).
type Path struct {
	NextHop   netip.Addr
	LocalPref uint32
	// ASPathLen and NeighborAS are the length and the first AS of AS_PATH.
	ASPathLen  int
	NeighborAS uint32
	Origin     uint8
	MED        uint32
	// External says that the peer is of another AS.
	External bool
	// ClusterLen is the length of CLUSTER_LIST (RFC 4456).
	ClusterLen int
}

// Resolution says how the kernel reaches a next hop, or why it does not.
type Resolution struct {
	// Hops share the traffic, in the manner of [Route].
	Hops []Hop
	// Why is empty when Hops count.
	Why string
}

// Equal reports whether nothing differs.
func (r Resolution) Equal(o Resolution) bool { return r.Why == o.Why && slices.Equal(r.Hops, o.Hops) }

// Change is one thing to set or, when Delete is true, to remove.
type Change[K, V any] struct {
	Key    K
	Value  V
	Delete bool
}

// Changes is what a flush found to be different from the one before, each list in the
// order of its keys.
type Changes struct {
	Peers   []Change[netip.Addr, Peer]
	Adverts []Change[netip.Prefix, Advert]
	Routes  []Change[netip.Prefix, Route]
}

// Empty reports whether nothing changed.
func (c Changes) Empty() bool { return len(c.Peers)+len(c.Adverts)+len(c.Routes) == 0 }

// RouteInfo is what is known about one prefix, for people.
type RouteInfo struct {
	Prefix     netip.Prefix
	NextHops   []netip.Addr
	Advertised bool
	// Route is what the kernel should have, if Wanted.
	Route  Route
	Wanted bool
	// Why says why no route is wanted.
	Why string
}

// CompareHops orders hops.
func CompareHops(a, b Hop) int {
	return cmp.Or(a.Gateway.Compare(b.Gateway), cmp.Compare(a.Link, b.Link))
}
