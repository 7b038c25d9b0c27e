package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
)

func TestAddressesComeFromTheRange(t *testing.T) {
	for _, tc := range []struct {
		pool, within string
		n            int // how many addresses there are
	}{
		{"10.0.0.0/16", "10.0.7.64/26", 64},                    // a block
		{"10.0.0.0/16", "10.0.7.80/29", 8},                     // a part of one
		{"10.0.0.0/16", "10.0.7.80/32", 1},                     // an address
		{"10.0.0.0/16", "10.0.8.0/25", 128},                    // several blocks
		{"10.0.0.0/16", "10.0.7.80/30 10.0.7.92/30", 8},        // two parts of a block
		{"10.0.0.0/16", "10.0.7.80/30 10.0.9.64/30", 8},        // parts of two blocks
		{"10.0.0.0/16", "10.0.7.64/28 10.0.7.64/30", 16},       // one within the other
		{"10.0.0.0/26", "10.0.0.0/8", 64},                      // more than the pool
		{"fd80::/64", "fd80::1:0/123", 32},                     // IPv6
		{"fd80::/64", "fd80::1:0/121 fd80::2:0/124", 128 + 16}, // several blocks of it
	} {
		t.Run(tc.within, func(t *testing.T) {
			w := newWorld(t, tc.pool)
			c := w.node("a")
			within := prefixes(strings.Fields(tc.within)...)
			r := Request{IPv4: 1, Within: within, Owner: Owner{Handle: "h"}}
			if within[0].Addr().Is6() {
				r.IPv4, r.IPv6 = 0, 1
			}
			seen := map[netip.Addr]bool{}
			for i := range tc.n {
				got, err := c.AutoAssign(w.ctx(), r)
				if err != nil {
					t.Fatalf("address %d: %v", i+1, err)
				}
				if !holds(within, got[0]) || seen[got[0]] {
					t.Fatalf("got %s", got[0])
				}
				seen[got[0]] = true
			}
			_, err := c.AutoAssign(w.ctx(), r)
			var full *PoolFullError
			if !errors.As(err, &full) {
				t.Fatalf("from a full range: %v", err)
			}
			if fill := full.Pools[0]; fill.InUse != tc.n || fill.Size.Int64() != int64(tc.n) {
				t.Errorf("%d of %s in use, want %d: %v", fill.InUse, fill.Size, tc.n, err)
			}
			if !strings.Contains(err.Error(), "within "+within[0].String()) {
				t.Errorf("the error names no range: %v", err)
			}
			w.consistent()
		})
	}
}

func TestARangeIsSharedByNodes(t *testing.T) {
	w := newWorld(t, "10.0.0.0/16")
	r := Request{IPv4: 1, Within: prefixes("10.0.4.0/25")}
	a, b := w.node("a"), w.node("b")
	for range 64 {
		for _, c := range []*Client{a, b} {
			if _, err := c.AutoAssign(w.ctx(), r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(w.affinities()); n != 2 {
		t.Errorf("%d blocks claimed", n)
	}
}

// TestARangeIsAskedForOnceOnly: a search reads, and one transaction assigns.
func TestARangeIsAskedForOnceOnly(t *testing.T) {
	w := newWorld(t, "10.0.0.0/16")
	counted := &countingStore{store: etcd{w.store}}
	c := newClient(counted, "a")
	r := Request{IPv4: 1, Within: prefixes("10.0.4.0/22")}
	for i := range 300 {
		if _, err := c.AutoAssign(w.ctx(), r); err != nil {
			t.Fatal(err)
		}
		if n := counted.commits.Load(); n != int64(i+1) {
			t.Fatalf("%d transactions for %d addresses", n, i+1)
		}
	}
}

func TestReservationsAndRanges(t *testing.T) {
	w := newWorld(t, "10.0.0.0/16")
	w.apply(model.IPReservationKey{Name: "r"}, &model.IPReservation{ReservedCIDRs: prefixes("10.0.4.0/26", "10.0.4.64/27")})
	c := w.node("a")
	r := Request{IPv4: 32, Within: prefixes("10.0.4.0/25")}
	got, err := c.AutoAssign(w.ctx(), r)
	if err != nil || sorted(got)[0] != addrs("10.0.4.96")[0] {
		t.Fatalf("got %v, %v", got, err)
	}
	r.IPv4 = 1
	if _, err := c.AutoAssign(w.ctx(), r); !errors.Is(err, ErrPoolFull) || !strings.Contains(err.Error(), "32 reserved") {
		t.Errorf("got %v", err)
	}
}

func TestRangesOutsidePools(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.pool("10.1.0.0/24", func(p *model.IPPool) { p.Disabled = true })
	c := w.node("a")
	for _, within := range []string{"10.9.0.0/24", "10.1.0.0/24"} {
		_, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Within: prefixes(within)})
		if !errors.Is(err, ErrNoPool) || !strings.Contains(err.Error(), within) {
			t.Errorf("%s: got %v", within, err)
		}
	}
	// A range of the other family restricts nothing.
	got, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Within: prefixes("fd80::/64")})
	if err != nil || !netip.MustParsePrefix("10.0.0.0/24").Contains(got[0]) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestRangesAndStrictAffinity(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.config(model.IPAMConfig{StrictAffinity: true, AutoAllocateBlocks: true})
	r := Request{IPv4: 1, Within: prefixes("10.0.0.64/27")}
	if _, err := w.node("a").AutoAssign(w.ctx(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := w.node("b").AutoAssign(w.ctx(), r); !errors.Is(err, ErrPoolFull) {
		t.Errorf("the block of another node: %v", err)
	}
}

func TestHoldingsAreThoseOfTheNodesBlocks(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24", "fd80::/120")
	a, b := w.node("a"), w.node("b")
	var want []string
	for i := range 3 {
		got, err := a.AutoAssign(w.ctx(), Request{IPv4: 1, IPv6: 1, Owner: Owner{Handle: fmt.Sprint("h", i)}})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprint(got[0], " h", i), fmt.Sprint(got[1], " h", i))
	}
	w.assign(b, 1, "other")
	block := w.affinitiesOf("a")[0]
	if err := b.Assign(w.ctx(), addTo(block.Addr(), 60), Owner{Handle: "borrowed"}); err != nil {
		t.Fatal(err)
	}
	want = append(want, fmt.Sprint(addTo(block.Addr(), 60), " borrowed"))
	holdings, _, err := b.Holdings(w.ctx(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range holdings {
		got = append(got, fmt.Sprint(h.Addr, " ", h.Owner.Handle))
		if !h.Block.Contains(h.Addr) {
			t.Errorf("%s in block %s", h.Addr, h.Block)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if none, _, err := b.Holdings(w.ctx(), "c"); err != nil || len(none) > 0 {
		t.Errorf("got %v, %v", none, err)
	}
}

func (w *world) affinitiesOf(node string) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range w.affinities() {
		if a.Node == node {
			out = append(out, a.CIDR)
		}
	}
	return out
}
