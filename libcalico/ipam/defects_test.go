package ipam

import (
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// These tests are about what the code of Calico v2.6 got wrong.

func TestDefectAddressesOfAnEarlierBlockWereForgotten(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	c := w.node("a")
	w.assign(c, 60, "first")
	got := w.assign(c, 10, "second") // four from one block, six from another
	if n := len(slices.Compact(sorted(got))); n != 10 {
		t.Errorf("%d different addresses instead of 10", n)
	}
	owners := w.consistent()
	for _, a := range got {
		if owners[a].Handle != "second" {
			t.Errorf("%s belongs to %v", a, owners[a])
		}
	}
	if len(owners) != 70 {
		t.Errorf("%d addresses are in use, 70 were given out", len(owners))
	}
}

func TestDefectHandleCountedWhatWasAskedFor(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	c := w.node("a")
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 65, Owner: Owner{Handle: "h"}}); !errors.Is(err, ErrPoolFull) {
		t.Fatalf("got %v", err)
	}
	if h := w.handles(); len(h) > 0 {
		t.Errorf("a refused request left the handle %v", h)
	}
	w.assign(c, 64, "h")
	if n := w.handles()["h"]["10.0.0.0/26"]; n != 64 {
		t.Errorf("the handle counts %d of 64", n)
	}
}

func TestDefectReleaseOfSeveralCountedOne(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	c := w.node("a")
	got := w.assign(c, 5, "h")
	w.release(c, got[:3]...)
	if n := w.handles()["h"]["10.0.0.0/26"]; n != 2 {
		t.Errorf("the handle counts %d of 2", n)
	}
	w.release(c, got[3:]...)
	if h := w.handles(); len(h) > 0 {
		t.Errorf("left is the handle %v", h)
	}
	// The same address twice in one call is freed once.
	got = w.assign(c, 2, "h")
	missing, err := c.Release(w.ctx(), got[0], got[0])
	if err != nil || len(missing) != 1 {
		t.Errorf("not assigned: %v, %v", missing, err)
	}
	w.consistent()
}

func TestDefectMissingHandleEndedTheProcess(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	c := w.node("a")
	for name, damage := range map[string]func(){
		"missing": func() {
			if _, err := w.store.Delete(w.ctx(), model.HandleKey{ID: "h"}, 0); err != nil {
				t.Fatal(err)
			}
		},
		"counts too few": func() {
			w.apply(model.HandleKey{ID: "h"}, &model.Handle{Block: map[string]int{"10.0.0.0/26": 1}})
		},
		"counts another block": func() {
			w.apply(model.HandleKey{ID: "h"}, &model.Handle{Block: map[string]int{"10.0.0.64/26": 3}})
		},
		"not readable": func() {
			if _, err := w.store.Raw().Put(w.ctx(), model.Paths(model.HandleKey{ID: "h"})[0], "nonsense"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, known := range []bool{true, false} {
			got := w.assign(c, 3, "h")
			damage()
			by := c
			if !known {
				by = w.node("b")
			}
			if missing, err := by.Release(w.ctx(), got...); err != nil || len(missing) > 0 {
				t.Errorf("%s: %v, %v", name, missing, err)
			}
			if _, err := w.store.Delete(w.ctx(), model.HandleKey{ID: "h"}, 0); err != nil && !errors.Is(err, etcdstore.ErrNotFound) {
				t.Fatal(err)
			}
			if owners := w.consistent(); len(owners) > 0 {
				t.Errorf("%s: left are %v", name, owners)
			}
		}
	}
}

func TestDefectClaimIgnoredTheAffinity(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	cidr := netip.MustParsePrefix("10.0.0.0/26")
	// An affinity of ours without a block, as a crash of the original leaves it, does
	// not get into the way of the claim.
	w.apply(model.BlockAffinityKey{Node: "a", CIDR: cidr}, &model.BlockAffinity{})
	a, b := w.node("a"), w.node("b")
	w.assign(a, 1, "")
	// A node that loses the race for a block leaves no affinity.
	w.assign(b, 1, "")
	if n := w.affinities(); len(n) != 1 || n[0].Node != "a" {
		t.Errorf("affinities: %v", n)
	}
	w.consistent()
	// An affinity of ours whose block is another's gives no right to it.
	w.config(model.IPAMConfig{StrictAffinity: true, AutoAllocateBlocks: true})
	stale := model.BlockAffinityKey{Node: "b", CIDR: cidr}
	w.apply(stale, &model.BlockAffinity{})
	if _, err := b.AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.Is(err, ErrPoolFull) {
		t.Errorf("got %v", err)
	}
	if err := b.ReleaseNode(w.ctx(), "b"); err != nil {
		t.Fatal(err)
	}
	if owners := w.consistent(); len(owners) != 2 {
		t.Errorf("%d addresses", len(owners))
	}
}

func TestDefectAddressesWithoutAnyOwner(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	c := w.node("a")
	w.assign(c, 1, "")
	if err := c.Assign(w.ctx(), netip.MustParseAddr("10.0.0.60"), Owner{Attrs: map[string]string{AttrType: "ipipTunnelAddress"}}); err != nil {
		t.Fatal(err)
	}
	for a, o := range w.consistent() {
		if o.Attrs[AttrNode] != "a" || o.Attrs[AttrTimestamp] == "" {
			t.Errorf("%s belongs to %v", a, o)
		}
	}
}

func TestDefectErrorsOfHandlesWereIgnored(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	var down atomic.Bool
	c := newClient(&countingStore{store: etcd{w.store}, fail: func(int64) error {
		if down.Load() {
			return etcdstore.ErrUnavailable
		}
		return nil
	}}, "a")
	c.queue.patience = 200 * time.Millisecond
	got := w.assign(c, 1, "h")
	down.Store(true)
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Owner: Owner{Handle: "h"}}); !errors.Is(err, etcdstore.ErrUnavailable) {
		t.Errorf("assign: %v", err)
	}
	if _, err := c.Release(w.ctx(), got...); !errors.Is(err, etcdstore.ErrUnavailable) {
		t.Errorf("release: %v", err)
	}
	if err := c.ReleaseByHandle(w.ctx(), "h"); !errors.Is(err, etcdstore.ErrUnavailable) {
		t.Errorf("release by handle: %v", err)
	}
	if owners := w.consistent(); len(owners) != 1 {
		t.Errorf("%d addresses", len(owners))
	}
	// That the address is not needed is a fact: it is free as soon as that can be written.
	down.Store(false)
	w.await("the address is free", func() bool { return len(w.inUse()) == 0 })
	got = w.assign(c, 1, "h")
	// A handle that cannot be stored is refused, alone, before anything is written.
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Owner: Owner{Handle: "\x00"}}); !errors.Is(err, etcdstore.ErrInvalid) {
		t.Errorf("bad handle: %v", err)
	}
	w.release(c, got...)
}

func TestDefectConfigurationWasFrozenByTheFirstBlock(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	a, b := w.node("a"), w.node("b")
	w.assign(a, 1, "")
	w.assign(b, 1, "")
	w.config(model.IPAMConfig{StrictAffinity: true, AutoAllocateBlocks: true})
	if _, err := b.AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.Is(err, ErrPoolFull) {
		t.Errorf("strict: %v", err)
	}
	w.config(model.IPAMConfig{AutoAllocateBlocks: true})
	w.assign(b, 1, "")
}

func TestADamagedBlockHarmsNothingElse(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	c := w.node("a")
	got := w.assign(c, 1, "")
	cidr := netip.PrefixFrom(got[0], 26).Masked()
	path := model.Paths(model.BlockKey{CIDR: cidr})[0]
	if _, err := w.store.Raw().Put(w.ctx(), path, `{"cidr":"`+cidr.String()+`","allocations":[0,7]}`); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Client{c, w.node("a"), w.node("b")} {
		for _, a := range w.assign(c, 2, "") {
			if cidr.Contains(a) {
				t.Errorf("%s is from the damaged block", a)
			}
		}
		if _, err := c.Release(w.ctx(), got...); !errors.Is(err, ErrDamaged) {
			t.Errorf("release: %v", err)
		}
		if _, err := c.Lookup(w.ctx(), got[0]); !errors.Is(err, ErrDamaged) {
			t.Errorf("lookup: %v", err)
		}
	}
	usage, err := c.Usage(w.ctx())
	if err != nil || !slices.ContainsFunc(usage[0].Blocks, func(b BlockUsage) bool { return b.Damaged && b.CIDR == cidr }) {
		t.Errorf("usage: %+v, %v", usage, err)
	}
}
