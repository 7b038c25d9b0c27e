package ipam

import (
	"errors"
	"net/netip"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// TestSetOwnerOfWhatAnotherHasMeanwhile: that an address has its owner already is no memory
// to trust: the writes of the caller are done only if it is still so.
func TestSetOwnerOfWhatAnotherHasMeanwhile(t *testing.T) {
	for _, tc := range []struct {
		name      string
		also      bool
		want      error
		meanwhile func(w *world, b *Client, got netip.Addr) error
	}{
		{name: "another's", also: true, want: ErrInUse, meanwhile: func(w *world, b *Client, got netip.Addr) error {
			return b.Assign(w.ctx(), got, Owner{Handle: "other"})
		}},
		{name: "another's, nothing to write", want: ErrInUse, meanwhile: func(w *world, b *Client, got netip.Addr) error {
			return b.Assign(w.ctx(), got, Owner{Handle: "other"})
		}},
		{name: "nobody's", also: true, want: ErrNotAssigned, meanwhile: func(*world, *Client, netip.Addr) error { return nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, "10.0.0.0/24")
			a, b := w.node("a"), w.node("b")
			got := w.assign(a, 1, "")
			e := Owner{Handle: "e", Attrs: map[string]string{AttrEndpoint: "e"}}
			if _, err := a.SetOwner(w.ctx(), got, e); err != nil {
				t.Fatal(err)
			}
			w.release(b, got...)
			if err := tc.meanwhile(w, b, got[0]); err != nil {
				t.Fatal(err)
			}
			before := w.consistent()[got[0]]
			k := model.NodeKey{Name: "endpoint"}
			put, err := etcdstore.PutWrite(k, &model.Node{})
			if err != nil {
				t.Fatal(err)
			}
			var also []etcdstore.Write
			if tc.also {
				also = append(also, put)
			}
			if _, err := a.SetOwner(w.ctx(), got, e, also...); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if _, err := w.store.Get(w.ctx(), k); !errors.Is(err, etcdstore.ErrNotFound) {
				t.Errorf("the other write was done: %v", err)
			}
			if after := w.consistent()[got[0]]; !sameOwner(before, after) {
				t.Errorf("the owner was %v, is %v", before, after)
			}
			// Of what is still its own, the writes are done.
			more := w.assign(a, 1, "e")
			for range 2 {
				if rev, err := a.SetOwner(w.ctx(), more, e, put); err != nil || rev == 0 {
					t.Errorf("revision %d, %v", rev, err)
				}
			}
		})
	}
}
