package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// TestCallersWithOneWriteInCommon binds addresses at once, each together with the same
// resource, as the first containers of a network do with its profile: etcd refuses a
// transaction that writes a key twice, which one caller must win and no other suffer.
func TestCallersWithOneWriteInCommon(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	c := w.node("node1")
	addrs := w.assign(c, 8, "")
	errs := make([]error, len(addrs))
	var all sync.WaitGroup
	for i, a := range addrs {
		all.Go(func() {
			profile, err := etcdstore.CreateWrite(model.ProfileKey{Name: "net1"}, &model.Profile{Tags: []string{"net1"}})
			if err != nil {
				errs[i] = err
				return
			}
			_, errs[i] = c.SetOwner(w.ctx(), []netip.Addr{a}, Owner{Handle: fmt.Sprint("h", i)}, profile)
		})
	}
	all.Wait()
	won := 0
	for i, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, etcdstore.ErrExists):
			t.Errorf("caller %d: %v", i, err)
		}
	}
	if handles := w.handles(); won != 1 || len(handles) != 1 {
		t.Errorf("%d callers made the profile, %d handles; want 1 and 1", won, len(handles))
	}
}
