package calc

import (
	"net/netip"
	"slices"
	"time"
)

// rib holds what all peers say, as RFC 4271's Adj-RIBs-In, by prefix. It remembers the
// paths of a session that fell until they are said again, withdrawn, or their time is
// over; GoBGP forgets them.
type rib struct {
	peers    map[netip.Addr]*session
	prefixes map[netip.Prefix][]entry
	// users has the prefixes that need each next hop.
	users map[netip.Addr]map[netip.Prefix]struct{}
	// touched is told each prefix whose entries changed.
	touched func(netip.Prefix)
}

// session is the state of one peer.
type session struct {
	up bool
	// synced says that the peer has sent End-of-RIB since the session came up.
	synced bool
	// until is when the paths that the peer has not said again are given up.
	until    time.Time
	prefixes map[netip.Prefix]struct{}
	// stale counts the paths that the peer has not said again since the session fell.
	stale int
	// mesh says that the peer is another node.
	mesh bool
	// leaving says that there is to be no session any more; its paths stay for a moment, so
	// that others can take their place.
	leaving bool
}

// entry is one peer's path to a prefix.
type entry struct {
	peer  netip.Addr
	path  Path
	stale bool
}

func newRIB(touched func(netip.Prefix)) *rib {
	return &rib{
		peers:    map[netip.Addr]*session{},
		prefixes: map[netip.Prefix][]entry{},
		users:    map[netip.Addr]map[netip.Prefix]struct{}{},
		touched:  touched,
	}
}

// add starts to listen to a peer, or again to one that is leaving; what that said is held
// until the given time.
func (r *rib) add(peer netip.Addr, mesh bool, until time.Time) {
	s := r.peers[peer]
	if s == nil {
		s = &session{prefixes: map[netip.Prefix]struct{}{}}
		r.peers[peer] = s
	}
	if s.mesh = mesh; s.leaving {
		s.leaving, s.until = false, until
	}
}

// leave says that there is no session with a peer any more. Its paths stay until the given
// time at most.
func (r *rib) leave(peer netip.Addr, until time.Time) {
	s := r.peers[peer]
	if s.leaving {
		return
	}
	r.down(peer, until)
	s.leaving, s.until = true, until
	r.forget(peer)
}

// forget drops a peer that has left and of which nothing is left.
func (r *rib) forget(peer netip.Addr) {
	if s := r.peers[peer]; s.leaving && len(s.prefixes) == 0 {
		delete(r.peers, peer)
	}
}

// heard is the session of a peer that is listened to.
func (r *rib) heard(peer netip.Addr) *session {
	if s := r.peers[peer]; s != nil && !s.leaving {
		return s
	}
	return nil
}

// up says that a session is established; what the peer said before stays stale until it
// is said again.
func (r *rib) up(peer netip.Addr) {
	if s := r.heard(peer); s != nil {
		s.up, s.synced = true, false
	}
}

// down says that a session fell, and keeps the peer's paths until the given time.
func (r *rib) down(peer netip.Addr, until time.Time) {
	s := r.heard(peer)
	if s == nil {
		return
	}
	wasUp := s.up
	s.up, s.synced = false, false
	if wasUp || s.until.IsZero() {
		s.until = until
	}
	for p := range s.prefixes {
		i := r.find(p, peer)
		if e := &r.prefixes[p][i]; !e.stale {
			e.stale = true
			s.stale++
			r.touched(p)
		}
	}
}

// endOfRIB drops what the peer has not said again.
func (r *rib) endOfRIB(peer netip.Addr) {
	s := r.heard(peer)
	if s == nil || !s.up {
		return
	}
	s.synced = true
	r.drop(peer, func(_ netip.Prefix, e entry) bool { return e.stale })
	s.until = time.Time{}
}

// update stores a path. One that comes after its session fell was on its way before.
func (r *rib) update(peer netip.Addr, p netip.Prefix, path Path) {
	s := r.heard(peer)
	if s == nil {
		return
	}
	e := entry{peer: peer, path: path, stale: !s.up}
	i := r.find(p, peer)
	if i < 0 {
		r.prefixes[p] = append(r.prefixes[p], e)
		s.prefixes[p] = struct{}{}
	} else {
		old := r.prefixes[p][i]
		if old == e {
			return
		}
		if old.stale {
			s.stale--
		}
		r.prefixes[p][i] = e
		r.unuse(old.path.NextHop, p)
	}
	if e.stale {
		s.stale++
	}
	r.use(path.NextHop, p)
	r.touched(p)
}

// withdraw removes a path.
func (r *rib) withdraw(peer netip.Addr, p netip.Prefix) {
	i := r.find(p, peer)
	if i < 0 {
		return
	}
	s, es := r.peers[peer], r.prefixes[p]
	if es[i].stale {
		s.stale--
	}
	next := es[i].path.NextHop
	delete(s.prefixes, p)
	if es = slices.Delete(es, i, i+1); len(es) == 0 {
		delete(r.prefixes, p)
	} else {
		r.prefixes[p] = es
	}
	r.unuse(next, p)
	r.touched(p)
}

// drop removes the paths of a peer that match.
func (r *rib) drop(peer netip.Addr, match func(netip.Prefix, entry) bool) {
	s := r.peers[peer]
	if s == nil {
		return
	}
	for p := range s.prefixes {
		if match(p, r.prefixes[p][r.find(p, peer)]) {
			r.withdraw(peer, p)
		}
	}
}

func (r *rib) find(p netip.Prefix, peer netip.Addr) int {
	return slices.IndexFunc(r.prefixes[p], func(e entry) bool { return e.peer == peer })
}

func (r *rib) use(next netip.Addr, p netip.Prefix) {
	if r.users[next] == nil {
		r.users[next] = map[netip.Prefix]struct{}{}
	}
	r.users[next][p] = struct{}{}
}

// unuse takes a prefix off a next hop that none of its entries names any more.
func (r *rib) unuse(next netip.Addr, p netip.Prefix) {
	if slices.ContainsFunc(r.prefixes[p], func(e entry) bool { return e.path.NextHop == next }) {
		return
	}
	delete(r.users[next], p)
	if len(r.users[next]) == 0 {
		delete(r.users, next)
	}
}
