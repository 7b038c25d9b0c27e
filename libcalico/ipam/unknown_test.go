package ipam

import (
	"errors"
	"net/netip"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// TestBlockWritesKeepWhatIsUnknown goes through all that is written of a block in which a
// newer program noted something, of it and of an address of it.
func TestBlockWritesKeepWhatIsUnknown(t *testing.T) {
	w := newWorld(t, "10.0.0.0/26")
	c := w.node("n")
	addrs := w.assign(c, 2, "h")
	noted, other := addrs[0], addrs[1]

	b := w.blocks()[0]
	b.Unknown = `"block":1`
	ordinal, _ := ordinalOf(b, noted)
	attrs, _ := attributesOf(b, ordinal)
	attrs.Unknown = `"address":{"a":[2]}`
	b.Allocations[ordinal] = new(intern(b, attrs))
	w.apply(model.BlockKey{CIDR: b.CIDR}, b)
	w.apply(model.HandleKey{ID: "h"}, &model.Handle{Block: map[string]int{b.CIDR.String(): 2}, Unknown: `"handle":3`})
	w.apply(model.BlockAffinityKey{Node: "n", CIDR: b.CIDR}, &model.BlockAffinity{State: model.AffinityConfirmed, Unknown: `"affinity":4`})

	check := func(when string, of string) {
		t.Helper()
		b := w.blocks()[0]
		if b.Unknown != `"block":1` {
			t.Errorf("%s: of the block is left %s", when, b.Unknown)
		}
		for i := range b.Allocations {
			attrs, used := attributesOf(b, i)
			want := model.Unknown("")
			if used && addrOf(b, i) == noted {
				want = model.Unknown(of)
			}
			if attrs.Unknown != want {
				t.Errorf("%s: of %s is left %q, want %q", when, addrOf(b, i), attrs.Unknown, want)
			}
		}
	}
	check("at first", `"address":{"a":[2]}`)
	w.assign(c, 1, "h")
	check("after another address", `"address":{"a":[2]}`)
	if _, err := c.SetOwner(w.ctx(), addrs, Owner{Handle: "h", Attrs: map[string]string{"container": "web"}}); err != nil {
		t.Fatal(err)
	}
	check("after another owner", `"address":{"a":[2]}`)
	w.release(c, other)
	check("after the release of another address", `"address":{"a":[2]}`)
	if e, err := w.store.Get(w.ctx(), model.HandleKey{ID: "h"}); err != nil || e.Value.(*model.Handle).Unknown != `"handle":3` {
		t.Errorf("handle: %+v, %v", e.Value, err)
	}
	for what, o := range map[string]op{
		"handle": &mendHandle{id: "h", blocks: []netip.Prefix{b.CIDR}}, "affinity": &mendAffinity{cidr: b.CIDR, node: "n"},
	} {
		if done, err := c.mendBy(w.ctx(), o); !done || err != nil {
			t.Errorf("mend the %s: %v, %v", what, done, err)
		}
	}
	if e, err := w.store.Get(w.ctx(), model.HandleKey{ID: "h"}); err != nil || e.Value.(*model.Handle).Unknown != `"handle":3` {
		t.Errorf("mended handle: %+v, %v", e.Value, err)
	}
	if e, err := w.store.Get(w.ctx(), model.BlockAffinityKey{Node: "n", CIDR: b.CIDR}); err != nil || e.Value.(*model.BlockAffinity).Unknown != `"affinity":4` {
		t.Errorf("mended affinity: %+v, %v", e.Value, err)
	}
	w.release(c, noted)
	w.assign(w.node("n"), 63, "later") // the released one too
	check("after the address was given to another", "")
}

// TestTooOldForTheStore raises the version that the store asks for while addresses are
// given out.
func TestTooOldForTheStore(t *testing.T) {
	s := etcdtest.Shared(t)
	w := newWorld(t, "10.0.0.0/26")
	store, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints(), Version: "v0.2.0"})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() //nolint:errcheck // the test is over
	old := New(store, "n")
	addrs := w.assign(old, 1, "h")
	w.apply(model.MinVersionKey{}, &model.Setting{Of: model.KindMinVersion, Value: "v0.3.0"})
	before := w.blocks()[0]
	if _, err := old.AutoAssign(w.ctx(), Request{IPv4: 1, Owner: Owner{Handle: "h"}}); !errors.Is(err, etcdstore.ErrTooOld) {
		t.Errorf("assign: %v", err)
	}
	if _, err := old.Release(w.ctx(), addrs...); !errors.Is(err, etcdstore.ErrTooOld) {
		t.Errorf("release: %v", err)
	}
	if after := w.blocks()[0]; inUse(after) != inUse(before) {
		t.Errorf("%d addresses are in use, were %d", inUse(after), inUse(before))
	}
	w.assign(w.node("n"), 1, "h") // a newer one does
}
