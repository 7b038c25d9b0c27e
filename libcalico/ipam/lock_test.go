package ipam

import (
	"errors"
	"strings"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

func TestLockedStoreGivesNothingOut(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	c := w.node("a")
	before := w.assign(c, 1, "h")[0]
	setReady := func(ready bool) {
		r := model.Ready(ready)
		if _, _, err := w.store.Apply(w.ctx(), model.ReadyKey{}, &r); err != nil {
			t.Fatal(err)
		}
	}
	setReady(false)
	if _, _, err := w.store.Apply(w.ctx(), model.LockKey{}, &model.Lock{By: "ann@host1"}); err != nil {
		t.Fatal(err)
	}
	// At once, although the client knows its blocks and has looked a moment ago.
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.Is(err, etcdstore.ErrLocked) || !strings.Contains(err.Error(), "by ann@host1") {
		t.Errorf("AutoAssign: error %v, want %v and by whom", err, etcdstore.ErrLocked)
	}
	if err := c.Assign(w.ctx(), before.Next(), Owner{}); !errors.Is(err, etcdstore.ErrLocked) {
		t.Errorf("Assign: error %v, want %v", err, etcdstore.ErrLocked)
	}
	if missing, err := c.Release(w.ctx(), before); err != nil || len(missing) > 0 {
		t.Errorf("Release: %v, %v", missing, err)
	}
	// Nor does a flag that nobody can read.
	if _, err := w.store.Raw().Put(w.ctx(), model.Paths(model.ReadyKey{})[0], "True"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.Is(err, etcdstore.ErrLocked) {
		t.Errorf("AutoAssign: error %v, want %v", err, etcdstore.ErrLocked)
	}
	setReady(true)
	w.assign(c, 1, "h")
	w.consistent()
}
