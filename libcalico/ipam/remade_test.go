package ipam

import (
	"errors"
	"net/netip"
	"testing"

	"calico.internal/libcalico/model"
)

// remake deletes a pool and makes it again, with blocks of another size.
func (w *world) remake(cidr string, blockSize int) {
	w.Helper()
	if _, err := w.store.Delete(w.ctx(), model.IPPoolKey{CIDR: netip.MustParsePrefix(cidr)}, 0); err != nil {
		w.Fatal(err)
	}
	w.pool(cidr, func(p *model.IPPool) { p.BlockSize = blockSize })
}

// disjoint checks that no two blocks have an address in common.
func (w *world) disjoint() {
	w.Helper()
	blocks := w.blocks()
	for i, a := range blocks {
		for _, b := range blocks[:i] {
			if a.CIDR.Overlaps(b.CIDR) {
				w.Errorf("blocks %s and %s overlap", a.CIDR, b.CIDR)
			}
		}
	}
}

// TestAPoolMadeAnewWithOtherBlocks: a client that remembers the pool as it was claims no
// block of the old size.
func TestAPoolMadeAnewWithOtherBlocks(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	a, b := w.node("a"), w.node("b")
	w.release(a, w.assign(a, 1, "")...)
	if err := a.ReleaseNode(w.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	w.remake("10.0.0.0/24", 28)
	l := &ledger{TB: t, given: map[netip.Addr]string{}}
	l.give("b", w.assign(b, 70, ""))
	l.give("a", w.assign(a, 70, ""))
	w.disjoint()
	if n := len(w.consistent()); n != 140 {
		t.Errorf("%d addresses in use", n)
	}
}

// TestNoBlockIsClaimedBesideOneOfAnotherSize: blocks of the old size are left when a pool is
// made anew, wider ones or narrower ones, with addresses in use.
func TestNoBlockIsClaimedBesideOneOfAnotherSize(t *testing.T) {
	for _, tc := range []struct {
		name     string
		pool     string
		was, is  int
		beside   string // an address whose block would be beside the old one
		old      string // one in the old block
		ipv6     bool
		atOnce   int // how many are left
		wantLeft string
	}{
		{name: "narrower, IPv4", pool: "10.0.0.0/25", was: 28, is: 26, beside: "10.0.0.1", old: "10.0.0.17", atOnce: 64},
		{name: "wider, IPv4", pool: "10.0.0.0/25", was: 26, is: 28, old: "10.0.0.17", atOnce: 64},
		{name: "narrower, IPv6", pool: "fd80::/121", was: 124, is: 122, beside: "fd80::1", old: "fd80::11", ipv6: true, atOnce: 64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.pool(tc.pool, func(p *model.IPPool) { p.BlockSize = tc.was })
			old := netip.MustParseAddr(tc.old)
			if err := w.node("old").Assign(w.ctx(), old, Owner{}); err != nil {
				t.Fatal(err)
			}
			w.remake(tc.pool, tc.is)
			w.config(model.IPAMConfig{AutoAllocateBlocks: true, StrictAffinity: true})
			c := w.node("a")
			got, err := w.exhaust(c, tc.ipv6)
			if !errors.Is(err, ErrPoolFull) || len(got) != tc.atOnce {
				t.Errorf("got %d addresses, want %d; %v", len(got), tc.atOnce, err)
			}
			w.disjoint()
			if tc.beside != "" {
				if err := c.Assign(w.ctx(), netip.MustParseAddr(tc.beside), Owner{}); !errors.Is(err, ErrOverlap) {
					t.Errorf("a certain address beside the old block: %v", err)
				}
			}
			w.config(model.IPAMConfig{AutoAllocateBlocks: true})
			if err := c.Assign(w.ctx(), old, Owner{}); !errors.Is(err, ErrInUse) {
				t.Errorf("the address of the old block: %v", err)
			}
			if err := c.Assign(w.ctx(), old.Next(), Owner{}); err != nil {
				t.Errorf("its neighbour: %v", err)
			}
			w.disjoint()
			w.consistent()
		})
	}
}

// TestVacantBlocksAreForgotten: a client that remembers for long which blocks were nobody's
// does not lose a race for each of them.
func TestVacantBlocksAreForgotten(t *testing.T) {
	w := newWorld(t, "10.0.0.0/20")
	counted := &countingStore{store: etcd{w.store}}
	c := newClient(counted, "a")
	w.assign(c, 64, "") // its block is full; it has seen that the others are nobody's
	b := w.node("b")
	for len(w.blocks()) < 40 {
		w.assign(b, 64, "")
	}
	if v, ok := c.queue.vacant[netip.MustParsePrefix("10.0.0.0/20")]; !ok || len(v.blocks) < 30 {
		t.Fatalf("it remembers %v", v)
	} else {
		v.at = v.at.Add(-2 * vacantAge)
		c.queue.vacant[netip.MustParsePrefix("10.0.0.0/20")] = v
	}
	w.assign(c, 1, "")
	if n := counted.conflicts.Load(); n > 1 {
		t.Errorf("%d conflicts", n)
	}
	w.consistent()
}

// TestACertainAddressOfAPoolForOthers: the node selector of a pool is asked also for an
// address that somebody names; not for one that a container has already.
func TestACertainAddressOfAPoolForOthers(t *testing.T) {
	w := newWorld(t)
	w.pool("10.0.0.0/24", func(p *model.IPPool) { p.NodeSelector = "rack == 'r1'" })
	w.apply(model.NodeKey{Name: "a"}, &model.Node{Labels: map[string]string{"rack": "r1"}})
	w.apply(model.NodeKey{Name: "b"}, &model.Node{Labels: map[string]string{"rack": "r2"}})
	addr := netip.MustParseAddr("10.0.0.7")
	if err := w.node("b").Assign(w.ctx(), addr, Owner{}); !errors.Is(err, ErrNoPool) {
		t.Errorf("a node that the pool is not for: %v", err)
	}
	if err := w.node("a").Assign(w.ctx(), addr, Owner{}); err != nil {
		t.Errorf("a node that it is for: %v", err)
	}
	if err := w.node("b").Keep(w.ctx(), addr.Next(), Owner{}); err != nil {
		t.Errorf("an address that a container has: %v", err)
	}
	w.consistent()
}

// leftovers stores blocks of a size in the whole of a pool, each with one address in use.
func (w *world) leftovers(cidr string, bits int) {
	w.Helper()
	p := pool{cidr: netip.MustParsePrefix(cidr), blockBits: bits}
	for i := range p.blocks() {
		b := newBlock(p.block(i), "old", false)
		take(b, 0, Owner{})
		w.apply(model.BlockKey{CIDR: b.CIDR}, b)
		w.apply(model.BlockAffinityKey{Node: "old", CIDR: b.CIDR}, &model.BlockAffinity{State: model.AffinityConfirmed})
	}
}

// TestASearchAmongLeftoversEnds: when all of a pool is blocks of another size, the search does
// not try one after the other, and borrows from them.
func TestASearchAmongLeftoversEnds(t *testing.T) {
	w := newWorld(t, "10.1.0.0/24")
	w.leftovers("10.0.0.0/19", 26)
	w.pool("10.0.0.0/19", func(p *model.IPPool) { p.BlockSize = 30 })
	s := &countingStore{store: etcd{w.store}}
	c := newClient(s, "a")
	r := Request{IPv4: 1, Pools: prefixes("10.0.0.0/19")}
	held := w.assign(c, 2, "") // a block of its own elsewhere
	if took, err := soon(t, c, r); err != nil {
		t.Fatalf("after %v: %v", took, err)
	}
	if took, err := soon(t, c, r); err != nil { // and again
		t.Errorf("after %v: %v", took, err)
	}
	w.release(c, held...)
	w.config(model.IPAMConfig{AutoAllocateBlocks: true, StrictAffinity: true})
	if took, err := soon(t, c, r); !errors.Is(err, ErrPoolFull) {
		t.Errorf("strict: after %v: %v", took, err)
	}
	w.disjoint()
	w.consistent()
}

// TestLeftoversOfASmallPoolAreCounted: blocks of another size are borrowed from, and counted,
// also when the pool is so small that each of its blocks could be read.
func TestLeftoversOfASmallPoolAreCounted(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config model.IPAMConfig
	}{
		{"blocks may be claimed", model.IPAMConfig{AutoAllocateBlocks: true}},
		{"no more blocks may be claimed", model.IPAMConfig{AutoAllocateBlocks: true, MaxBlocksPerHost: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, "10.1.0.0/24")
			c := w.node("a")
			w.assign(c, 1, "") // its one block
			w.leftovers("10.0.0.0/25", 26)
			w.pool("10.0.0.0/25", func(p *model.IPPool) { p.BlockSize = 28 })
			w.config(tc.config)
			for _, n := range []int{1, 125} { // all that are free
				if _, err := c.AutoAssign(w.ctx(), Request{IPv4: n, Pools: prefixes("10.0.0.0/25")}); err != nil {
					t.Fatal(err)
				}
			}
			var full *PoolFullError
			_, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Pools: prefixes("10.0.0.0/25")})
			if !errors.As(err, &full) || full.Pools[0].InUse != 128 || full.Pools[0].Blocks != 2 {
				t.Errorf("got %v", err)
			}
			w.disjoint()
			w.consistent()
		})
	}
}
