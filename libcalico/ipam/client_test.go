package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

func TestAssignAndRelease(t *testing.T) {
	w := newWorld(t, "192.168.0.0/16", "fd00::/112")
	c := w.node("n1")
	c.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	got, err := c.AutoAssign(w.ctx(), Request{IPv4: 2, IPv6: 1, Owner: Owner{Handle: "h", Attrs: map[string]string{AttrNetwork: "net1"}}})
	if err != nil || len(got) != 3 || !got[0].Is4() || !got[1].Is4() || !got[2].Is6() {
		t.Fatalf("got %v, %v", got, err)
	}
	owners := w.consistent()
	want := Owner{Handle: "h", Attrs: map[string]string{
		AttrNetwork: "net1", AttrNode: "n1", AttrTimestamp: "2026-01-02T03:04:05Z",
	}}
	for _, a := range got {
		if diff := cmp.Diff(want, owners[a]); diff != "" {
			t.Errorf("owner of %s (-want +got):\n%s", a, diff)
		}
		found, err := w.node("other").Lookup(w.ctx(), a)
		if diff := cmp.Diff(want, found); diff != "" || err != nil {
			t.Errorf("lookup of %s: %v (-want +got):\n%s", a, err, diff)
		}
	}
	if n := w.affinities(); len(n) != 2 || n[0].Node != "n1" {
		t.Errorf("affinities are %v", n)
	}
	w.release(c, got[0], got[2])
	if diff := cmp.Diff(map[netip.Addr]Owner{got[1]: want}, w.consistent(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	missing, err := c.Release(w.ctx(), got[0], got[1], netip.MustParseAddr("172.16.0.1"))
	if err != nil || !slices.Equal(missing, []netip.Addr{got[0], netip.MustParseAddr("172.16.0.1")}) {
		t.Errorf("not assigned: %v, %v", missing, err)
	}
	if owners := w.consistent(); len(owners) > 0 || len(w.handles()) > 0 {
		t.Errorf("left are %v, handles %v", owners, w.handles())
	}
	if _, err := c.Lookup(w.ctx(), got[0]); !errors.Is(err, ErrNotAssigned) {
		t.Errorf("lookup: %v", err)
	}
}

func TestALargeRequestSpansBlocks(t *testing.T) {
	w := newWorld(t, "192.168.0.0/16")
	c := w.node("n1")
	w.assign(c, 60, "first")
	got := w.assign(c, 200, "second")
	if len(slices.Compact(sorted(got))) != 200 {
		t.Error("an address was given twice")
	}
	if owners := w.consistent(); len(owners) != 260 || len(w.blocks()) != 5 {
		t.Errorf("%d addresses in %d blocks", len(owners), len(w.blocks()))
	}
	if err := c.ReleaseByHandle(w.ctx(), "second"); err != nil {
		t.Fatal(err)
	}
	if owners := w.consistent(); len(owners) != 60 {
		t.Errorf("%d addresses left", len(owners))
	}
}

func TestAFullPoolIsAnErrorThatNamesIt(t *testing.T) {
	w := newWorld(t, "10.0.0.0/25")
	a, b := w.node("a"), w.node("b")
	w.assign(a, 100, "x")
	w.assign(b, 20, "y")
	before := w.consistent()
	_, err := b.AutoAssign(w.ctx(), Request{IPv4: 9})
	var full *PoolFullError
	if !errors.As(err, &full) || !errors.Is(err, ErrPoolFull) {
		t.Fatalf("got %v", err)
	}
	want := "assign an address: no free address: asked for 9 IPv4; pool 10.0.0.0/25: 120 of 128 addresses in use, " +
		"2 blocks claimed; add a pool, or release addresses (calicoctl ipam check)"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if diff := cmp.Diff(len(before), len(w.consistent())); diff != "" {
		t.Error("a refused request left addresses behind")
	}
	w.assign(b, 8, "z") // the last ones, borrowed and own
	if _, err := b.AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.Is(err, ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	w.release(a, netip.MustParseAddr("10.0.0.5"))
	if got := w.assign(b, 1, ""); got[0] != netip.MustParseAddr("10.0.0.5") {
		t.Errorf("got %v instead of what was just released", got)
	}
}

func TestNoPool(t *testing.T) {
	w := newWorld(t, "10.0.0.0/25")
	w.pool("10.1.0.0/25", func(p *model.IPPool) { p.Disabled = true })
	c := w.node("a")
	if _, err := c.AutoAssign(w.ctx(), Request{IPv6: 1}); !errors.Is(err, ErrNoPool) {
		t.Errorf("no IPv6 pool: %v", err)
	}
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Pools: prefixes("10.1.0.0/25")}); !errors.Is(err, ErrNoPool) {
		t.Errorf("disabled pool: %v", err)
	}
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, IPv6: 1}); !errors.Is(err, ErrNoPool) {
		t.Errorf("one family of two: %v", err)
	}
	if len(w.consistent()) > 0 || len(w.blocks()) > 0 {
		t.Error("refused requests left something behind")
	}
	w.pool("fd00::/112", nil) // a new pool is used at once, though the old ones are remembered
	if _, err := c.AutoAssign(w.ctx(), Request{IPv6: 1}); err != nil {
		t.Error(err)
	}
}

func TestADisabledPoolIsLeftAtOnce(t *testing.T) {
	w := newWorld(t, "10.0.0.0/25", "10.1.0.0/25")
	c := w.node("a")
	w.assign(c, 1, "")
	w.pool("10.0.0.0/25", func(p *model.IPPool) { p.Disabled = true })
	if got := w.assign(c, 1, "")[0]; !netip.MustParsePrefix("10.1.0.0/25").Contains(got) {
		t.Errorf("got %s from a disabled pool", got)
	}
	if err := c.Assign(w.ctx(), netip.MustParseAddr("10.0.0.100"), Owner{}); !errors.Is(err, ErrNotInPool) {
		t.Errorf("assign in a disabled pool: %v", err)
	}
}

func TestPoolsAreUsedInTheOrderAskedFor(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26", "10.1.0.0/26", "10.2.0.0/26")
	c := w.node("a")
	got, err := c.AutoAssign(w.ctx(), Request{IPv4: 70, Pools: prefixes("10.2.0.0/26", "10.0.0.0/26")})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, a := range got {
		if netip.MustParsePrefix("10.2.0.0/26").Contains(a) {
			n++
		}
	}
	if n != 64 {
		t.Errorf("%d of 70 are from the first pool", n)
	}
}

func TestAssignOneAddress(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	a, b := w.node("a"), w.node("b")
	addr := netip.MustParseAddr("10.0.0.70")
	if err := a.Assign(w.ctx(), addr, Owner{Handle: "h"}); err != nil {
		t.Fatal(err)
	}
	if blk := w.block("10.0.0.64/26"); blk == nil || nodeOf(blk) != "a" {
		t.Error("its block is not claimed")
	}
	err := b.Assign(w.ctx(), addr, Owner{Handle: "g"})
	var used *InUseError
	if !errors.As(err, &used) || !errors.Is(err, ErrInUse) || used.Owner.Handle != "h" || !strings.Contains(err.Error(), "handle h") {
		t.Errorf("in use: %v", err)
	}
	if err := b.Assign(w.ctx(), netip.MustParseAddr("10.0.1.1"), Owner{}); !errors.Is(err, ErrNotInPool) {
		t.Errorf("outside: %v", err)
	}
	if err := b.Assign(w.ctx(), netip.MustParseAddr("10.0.0.71"), Owner{Handle: "g"}); err != nil {
		t.Errorf("borrowed: %v", err)
	}
	w.config(model.IPAMConfig{StrictAffinity: true, AutoAllocateBlocks: true})
	if err := b.Assign(w.ctx(), netip.MustParseAddr("10.0.0.72"), Owner{}); !errors.Is(err, ErrStrictAffinity) {
		t.Errorf("strict: %v", err)
	}
	w.release(a, addr)
	if err := a.Assign(w.ctx(), addr, Owner{Handle: "again"}); err != nil {
		t.Error(err)
	}
	for i, a := range addrs("10.0.0.64", "10.0.0.127", "10.0.0.0", "10.0.0.255") { // the ends of blocks and pool
		if err := w.node([]string{"a", "a", "b", "b"}[i]).Assign(w.ctx(), a, Owner{}); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	w.consistent()
}

func TestStrictAffinityAndLimits(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.config(model.IPAMConfig{StrictAffinity: true, AutoAllocateBlocks: true, MaxBlocksPerHost: 3})
	a, b := w.node("a"), w.node("b")
	w.assign(a, 3*64, "")
	_, err := a.AutoAssign(w.ctx(), Request{IPv4: 1})
	if !errors.Is(err, ErrBlockLimit) || !errors.Is(err, ErrPoolFull) || !strings.Contains(err.Error(), "3 blocks") {
		t.Errorf("limit: %v", err)
	}
	w.assign(b, 64, "")
	w.release(a, netip.MustParseAddr(w.blocks()[0].CIDR.Addr().String()))
	if _, err := b.AutoAssign(w.ctx(), Request{IPv4: 65}); !errors.Is(err, ErrPoolFull) || errors.Is(err, ErrBlockLimit) || !strings.Contains(err.Error(), "strict affinity") {
		t.Errorf("strict: %v", err)
	}
	if len(w.affinities()) != 4 {
		t.Errorf("affinities: %v", w.affinities())
	}
}

func TestWithoutAutoAllocationNoBlockIsClaimed(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.config(model.IPAMConfig{AutoAllocateBlocks: false, StrictAffinity: true})
	if _, err := w.node("a").AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.Is(err, ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	if len(w.blocks()) > 0 {
		t.Error("a block was claimed")
	}
}

func TestReservations(t *testing.T) {
	w := newWorld(t, "10.0.0.0/25")
	w.apply(model.IPReservationKey{Name: "r"}, &model.IPReservation{ReservedCIDRs: prefixes("10.0.0.0/26", "10.0.0.64/29", "10.0.0.127/32")})
	c := w.node("a")
	got := sorted(w.assign(c, 64-8-1, "h"))
	if got[0] != netip.MustParseAddr("10.0.0.72") || got[len(got)-1] != netip.MustParseAddr("10.0.0.126") {
		t.Errorf("got %s to %s", got[0], got[len(got)-1])
	}
	_, err := c.AutoAssign(w.ctx(), Request{IPv4: 1})
	if !errors.Is(err, ErrPoolFull) || !strings.Contains(err.Error(), "9 reserved") {
		t.Errorf("got %v", err)
	}
	if len(w.blocks()) != 1 {
		t.Errorf("a block that is all reserved was claimed: %d blocks", len(w.blocks()))
	}
	if err := c.Assign(w.ctx(), netip.MustParseAddr("10.0.0.65"), Owner{}); err != nil {
		t.Errorf("a reserved address that is asked for by name: %v", err)
	}
}

func TestBlockSizesAndSmallPools(t *testing.T) {
	w := newWorld(t)
	w.pool("10.9.0.0/29", func(p *model.IPPool) { p.BlockSize = 29 })
	w.pool("10.0.0.0/24", func(p *model.IPPool) { p.BlockSize = 29 })
	c := w.node("a")
	got, err := c.AutoAssign(w.ctx(), Request{IPv4: 17, Pools: prefixes("10.0.0.0/24")})
	if err != nil || len(w.blocks()) != 3 || w.blocks()[0].CIDR.Bits() != 29 {
		t.Fatalf("got %v, %v, blocks %v", got, err, w.blocks())
	}
	if small, err := c.AutoAssign(w.ctx(), Request{IPv4: 8, Pools: prefixes("10.9.0.0/29")}); err != nil || len(small) != 8 {
		t.Errorf("a pool of one block: %v, %v", small, err)
	}
	w.consistent()
	// The pool goes; its addresses can still be released.
	if _, err := w.store.Delete(w.ctx(), model.IPPoolKey{CIDR: netip.MustParsePrefix("10.0.0.0/24")}, 0); err != nil {
		t.Fatal(err)
	}
	w.release(w.node("b"), got...)
}

func TestSetOwner(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	c := w.node("a")
	got := w.assign(c, 2, "")
	k := model.NewPolicyKey("", "p")
	also, err := etcdstore.CreateWrite(k, &model.Policy{Selector: "all()", Types: []string{model.PolicyTypeIngress}})
	if err != nil {
		t.Fatal(err)
	}
	rev, err := c.SetOwner(w.ctx(), got, Owner{Handle: "ep", Attrs: map[string]string{AttrNetwork: "net1"}}, also)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := w.store.Get(w.ctx(), k); err != nil || e.Revision != rev {
		t.Errorf("the other write is at %d, not %d: %v", e.Revision, rev, err)
	}
	owners := w.consistent()
	for _, a := range got {
		o := owners[a]
		if o.Handle != "ep" || o.Attrs[AttrNetwork] != "net1" || o.Attrs[AttrNode] != "a" || o.Attrs[AttrTimestamp] == "" {
			t.Errorf("owner of %s is %v", a, o)
		}
	}
	if _, err := c.SetOwner(w.ctx(), got, Owner{Handle: "ep", Attrs: map[string]string{AttrContainer: "c", AttrNetwork: ""}}); err != nil {
		t.Error(err)
	}
	if o := w.consistent()[got[0]]; o.Attrs[AttrContainer] != "c" || o.Attrs[AttrNetwork] != "" {
		t.Errorf("owner is %v", o)
	}
	if _, err := c.SetOwner(w.ctx(), got, Owner{Handle: "thief"}); !errors.Is(err, ErrInUse) {
		t.Errorf("another handle: %v", err)
	}
	if _, err := c.SetOwner(w.ctx(), addrs("10.0.0.250"), Owner{Handle: "x"}); !errors.Is(err, ErrNotAssigned) {
		t.Errorf("not assigned: %v", err)
	}
	// A condition of the other write that fails: nothing is done.
	before := w.consistent()
	_, err = c.SetOwner(w.ctx(), got, Owner{Attrs: map[string]string{"x": "y"}}, also)
	var lost *etcdstore.ConflictError
	if !errors.As(err, &lost) || len(lost.Keys) != 1 || lost.Keys[0] != k {
		t.Errorf("the other write fails: %v", err)
	}
	if diff := cmp.Diff(before[got[0]], w.consistent()[got[0]]); diff != "" {
		t.Errorf("changed all the same (-before +after):\n%s", diff)
	}
	del, err := etcdstore.DeleteWrite(k, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReleaseOf(w.ctx(), "ep", del); err != nil {
		t.Error(err)
	}
	if _, err := w.store.Get(w.ctx(), k); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("the other write of a release: %v", err)
	}
	if len(w.consistent()) > 0 {
		t.Error("addresses are left")
	}
	if _, err := c.ReleaseOf(w.ctx(), "ep", also); err != nil {
		t.Errorf("unknown handle: %v", err)
	}
	if _, err := w.store.Get(w.ctx(), k); err != nil {
		t.Errorf("the other write with an unknown handle: %v", err)
	}
}

func TestUsage(t *testing.T) {
	w := newWorld(t, "10.0.0.0/25", "10.1.0.0/24", "fd80:24e2:f998:72d6::/64")
	a, b := w.node("a"), w.node("b")
	w.assign(a, 70, "")
	w.release(b, w.assign(b, 1, "")...)
	if err := b.Assign(w.ctx(), w.blocks()[0].CIDR.Addr(), Owner{}); !errors.Is(err, ErrInUse) {
		t.Fatal(err)
	}
	free := addrOf(w.blocks()[1], w.blocks()[1].Unallocated[0])
	if err := b.Assign(w.ctx(), free, Owner{}); err != nil {
		t.Fatal(err)
	}
	got, err := a.Usage(w.ctx())
	if err != nil || len(got) != 3 {
		t.Fatalf("got %v, %v", got, err)
	}
	if u := got[0]; u.Size.Int64() != 128 || u.InUse != 71 || len(u.Blocks) != 2 || u.Blocks[0].InUse+u.Blocks[1].InUse != 71 ||
		u.Blocks[0].Borrowed+u.Blocks[1].Borrowed != 1 || u.Blocks[0].Node != "a" {
		t.Errorf("first pool: %+v", u)
	}
	if u := got[1]; u.InUse != 0 || len(u.Blocks) != 1 || u.Blocks[0].Node != "b" {
		t.Errorf("second pool: %+v", u)
	}
	if s := got[2].Size.String(); s != "18446744073709551616" {
		t.Errorf("a /64 has %s addresses", s)
	}
}

func TestReleaseNode(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	a, b := w.node("a"), w.node("b")
	used := w.assign(a, 65, "")
	w.release(a, used[:64]...)
	w.assign(b, 1, "")
	for range 2 { // it can be repeated
		if err := b.ReleaseNode(w.ctx(), "a"); err != nil {
			t.Fatal(err)
		}
		if owners := w.consistent(); len(owners) != 2 || len(w.blocks()) != 2 || len(w.affinities()) != 1 {
			t.Errorf("%d addresses, %d blocks, affinities %v", len(owners), len(w.blocks()), w.affinities())
		}
	}
	// The old node's client notices, and its last address takes its block along.
	w.assign(a, 1, "again")
	w.release(b, used[64])
	w.consistent()
}

func TestReleasePool(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24", "10.1.0.0/24")
	a, b := w.node("a"), w.node("b")
	w.assign(a, 1, "")
	w.release(b, w.assign(b, 1, "")...)
	other, err := b.AutoAssign(w.ctx(), Request{IPv4: 1, Pools: prefixes("10.1.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	// An affinity left over: it names a node whose block belongs to another. In the
	// original this made the pool undeletable.
	stale := model.BlockAffinityKey{Node: "ghost", CIDR: w.blocks()[0].CIDR}
	w.apply(stale, &model.BlockAffinity{})
	w.apply(model.BlockAffinityKey{Node: "ghost", CIDR: netip.MustParsePrefix("10.0.0.192/26")}, &model.BlockAffinity{})
	w.pool("10.0.0.0/24", func(p *model.IPPool) { p.Disabled = true })
	if err := a.ReleasePool(w.ctx(), netip.MustParsePrefix("10.0.0.0/24")); err != nil {
		t.Fatal(err)
	}
	// What has an address in use stays its node's, which has a route by it.
	if blocks := w.blocks(); len(blocks) != 2 || nodeOf(blocks[0]) != "a" || nodeOf(blocks[1]) != "b" {
		t.Errorf("blocks: %v", blocks)
	}
	if n := w.affinities(); len(n) != 2 {
		t.Errorf("affinities: %v", n)
	}
	if _, ok := w.consistent()[other[0]]; !ok {
		t.Error("another pool lost an address")
	}
}

func TestReleaseSpareBlocks(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24", "10.1.0.0/24")
	c := w.node("a")
	now := time.Unix(1000, 0)
	c.now = func() time.Time { return now }
	used := w.assign(c, 4*64, "h")
	w.release(c, used[10:]...)
	expect := func(what string, want int) {
		t.Helper()
		got, err := c.ReleaseSpareBlocks(w.ctx(), time.Minute)
		if err != nil || len(got) != want {
			t.Errorf("%s: released %v, %v; want %d", what, got, err, want)
		}
	}
	expect("first look", 0)
	now = now.Add(30 * time.Second)
	expect("before the time is over", 0)
	now = now.Add(31 * time.Second)
	expect("after it", 2)
	expect("again", 0)
	if n := len(w.blocks()); n != 2 {
		t.Errorf("%d blocks are left", n)
	}
	now = now.Add(time.Hour)
	expect("the one spare stays", 0)
	w.consistent()
	w.assign(c, 100, "h")
	w.consistent()
}

func TestCallersShareTransactions(t *testing.T) {
	w := newWorld(t, "10.0.0.0/16")
	c := w.node("a")
	w.assign(c, 1, "")
	counted := &countingStore{store: etcd{w.store}}
	c = newClient(counted, "a")
	const callers, each = 8, 20
	errs := make(chan error, callers)
	for i := range callers {
		go func() {
			for j := range each {
				got, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Owner: Owner{Handle: fmt.Sprintf("%d-%d", i, j)}})
				if err == nil {
					_, err = c.Release(w.ctx(), got...)
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range callers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if n := counted.commits.Load(); n > callers*each {
		t.Errorf("%d operations took %d transactions", 2*callers*each, n)
	}
	if n := counted.conflicts.Load(); n > 0 {
		t.Errorf("one node's callers met %d conflicts", n)
	}
	if len(w.consistent()) != 1 || len(w.blocks()) != 1 {
		t.Errorf("%d addresses, %d blocks", len(w.consistent()), len(w.blocks()))
	}
}

func TestFirstCallersOfANodeShareABlock(t *testing.T) {
	w := newWorld(t, "10.0.0.0/16")
	c := w.node("a")
	errs := make(chan error)
	for range 20 {
		go func() {
			_, err := c.AutoAssign(w.ctx(), Request{IPv4: 1})
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.blocks()); n != 1 {
		t.Errorf("%d blocks for 20 addresses", n)
	}
}

func TestAnAddressNobodyWaitsForIsTakenBack(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	slow := &countingStore{store: etcd{w.store}, hold: make(chan struct{}), holding: make(chan struct{}, 1)}
	c := newClient(slow, "a")
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient := errors.New("impatient")
	done := make(chan error)
	go func() {
		_, err := c.AutoAssign(ctx, Request{IPv4: 1})
		done <- err
	}()
	<-slow.holding
	cancel(impatient)
	if err := <-done; !errors.Is(err, impatient) {
		t.Errorf("got %v", err)
	}
	close(slow.hold)
	// The next call comes after the taking back in the queue, or with it.
	got := w.assign(c, 1, "")
	w.release(c, got...)
	if owners := w.consistent(); len(owners) > 0 {
		t.Errorf("left are %v", owners)
	}
}

func TestAnEndedContextDoesNothing(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.node("a").AutoAssign(ctx, Request{IPv4: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(w.blocks()) > 0 {
		t.Error("a block was claimed")
	}
}

func prefixes(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}
