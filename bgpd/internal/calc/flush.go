package calc

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Flush works out what changed since the last flush.
func (e *Engine) Flush(now time.Time) Changes {
	e.expire(now)
	var c Changes
	if e.peersDirty {
		peers := e.desiredPeers()
		c.Peers = diff(e.peers, peers, func(a, b Peer) bool { return a == b }, netip.Addr.Compare)
		e.peers, e.peersDirty = peers, false
	}
	if e.advertsDirty {
		adverts := e.desiredAdverts()
		c.Adverts = diff(e.adverts, adverts, func(a, b Advert) bool { return a == b }, netip.Prefix.Compare)
		e.adverts, e.advertsDirty = adverts, false
	}
	c.Routes = e.flushRoutes()
	return c
}

// flushRoutes looks at the dirty prefixes only: there may be many thousands of others.
func (e *Engine) flushRoutes() []Change[netip.Prefix, Route] {
	var out []Change[netip.Prefix, Route]
	for _, p := range slices.SortedFunc(maps.Keys(e.dirty), netip.Prefix.Compare) {
		e.dispute(p)
		old, had := e.routes[p]
		r, _ := e.desiredRoute(p)
		switch {
		case r == nil && had:
			delete(e.routes, p)
			out = append(out, Change[netip.Prefix, Route]{Key: p, Value: old, Delete: true})
		case r != nil && (!had || !r.Equal(old)):
			e.routes[p] = *r
			out = append(out, Change[netip.Prefix, Route]{Key: p, Value: *r})
		}
	}
	clear(e.dirty)
	return out
}

// diff compares two small maps.
func diff[K comparable, V any](old, next map[K]V, equal func(a, b V) bool, order func(a, b K) int) []Change[K, V] {
	var out []Change[K, V]
	for k, v := range next {
		if o, had := old[k]; !had || !equal(o, v) {
			out = append(out, Change[K, V]{Key: k, Value: v})
		}
	}
	for k, v := range old {
		if _, kept := next[k]; !kept {
			out = append(out, Change[K, V]{Key: k, Value: v, Delete: true})
		}
	}
	slices.SortFunc(out, func(a, b Change[K, V]) int { return order(a.Key, b.Key) })
	return out
}

// expire gives up what is held for nothing: the time is over, or etcd knows that the
// node or the block is gone.
func (e *Engine) expire(now time.Time) {
	if d := e.Deadline(); !e.recheck && (d.IsZero() || now.Before(d)) {
		return
	}
	e.recheck = false
	for a, s := range e.rib.peers {
		e.rib.forget(a)
		if s.stale == 0 {
			continue
		}
		over := !now.Before(s.until)
		e.rib.drop(a, func(p netip.Prefix, en entry) bool {
			return en.stale && (over || e.gone(a, p, en.path.NextHop))
		})
		e.rib.forget(a)
	}
	e.expireAdopted(now)
}

// expireAdopted drops what was adopted once etcd and all peers have spoken, or the time
// is over.
func (e *Engine) expireAdopted(now time.Time) {
	over := !now.Before(e.adoptedUntil) || (e.inSync && e.allSynced())
	for p, r := range e.adopted {
		own := r.Type == Blackhole
		if (own && e.inSync) || (!own && over) {
			delete(e.adopted, p)
			e.own, e.advertsDirty = nil, true
			e.touch(p)
		}
	}
}

// allSynced reports whether every peer that we are to have has sent End-of-RIB.
func (e *Engine) allSynced() bool {
	for _, s := range e.rib.peers {
		if !s.synced && !s.leaving {
			return false
		}
	}
	return true
}

// Deadline is when Flush must be called at the latest, even if nothing was told; zero
// means never.
func (e *Engine) Deadline() time.Time {
	var first time.Time
	earliest := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	for _, s := range e.rib.peers {
		if s.stale > 0 {
			earliest(s.until)
		}
	}
	if len(e.adopted) > 0 {
		earliest(e.adoptedUntil)
	}
	return first
}
