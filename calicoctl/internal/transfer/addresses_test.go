package transfer

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// TestHandlesAndAffinitiesStandAfterAnImport imports blocks that are the same in the
// datastore, where what follows from them is missing: there alone, or in the export too.
func TestHandlesAndAffinitiesStandAfterAnImport(t *testing.T) {
	blocks := []string{"10.0.0.0/26", "fd00:1::/122"}
	lose := func(w *world) {
		w.delete(model.HandleKey{ID: "a"})
		for _, cidr := range blocks {
			w.delete(model.BlockAffinityKey{Node: "n1", CIDR: netip.MustParsePrefix(cidr)})
		}
		w.apply(model.HandleKey{ID: "six"}, &model.Handle{Block: map[string]int{"fd00:1::/122": 7}})
		w.apply(model.BlockAffinityKey{Node: "n9", CIDR: netip.MustParsePrefix(blocks[0])}, &model.BlockAffinity{State: model.AffinityConfirmed})
	}
	for _, both := range []bool{false, true} {
		t.Run(fmt.Sprint("in both: ", both), func(t *testing.T) {
			w := newWorld(t)
			w.endpoint("a", "10.0.0.1")
			w.endpoint("b", "10.0.0.2")
			w.endpoint("six", "fd00:1::1")
			if both {
				lose(w)
			}
			backup := w.export()
			if !both {
				lose(w)
			}
			r, err := w.run(Import{Source: backup, Overwrite: true})
			if err != nil || r.Mended == 0 {
				t.Errorf("%+v, %v", r, err)
			}
			for id, want := range map[string]string{"a": "map[10.0.0.0/26:1]", "b": "map[10.0.0.0/26:1]", "six": "map[fd00:1::/122:1]"} {
				e, err := w.store.Get(t.Context(), model.HandleKey{ID: id})
				if err != nil {
					t.Error(err)
				} else if got := fmt.Sprint(e.Value.(*model.Handle).Block); got != want {
					t.Errorf("handle %s counts %s, want %s", id, got, want)
				}
			}
			for _, cidr := range blocks {
				e, err := w.store.Get(t.Context(), model.BlockAffinityKey{Node: "n1", CIDR: netip.MustParsePrefix(cidr)})
				if err != nil || e.Value.(*model.BlockAffinity).State != model.AffinityConfirmed {
					t.Errorf("%s: %+v, %v", cidr, e.Value, err)
				}
			}
			w.consistent()
			w.lockIs("true", "")
			// There is nothing left to do.
			if r, err := w.run(Import{Source: backup, Overwrite: true}); err != nil || r.Mended > 0 {
				t.Errorf("the repetition: %+v, %v", r, err)
			}
		})
	}
}

// TestAnUnreadableHandleIsLeft imports an address of a handle whose stored value cannot be
// read, into a block that is there and into one that is not.
func TestAnUnreadableHandleIsLeft(t *testing.T) {
	for _, gone := range []bool{false, true} {
		w := newWorld(t)
		w.endpoint("a", "10.0.0.1")
		w.endpoint("b", "10.0.0.2")
		backup := w.export()
		w.delete(endpointKey("a"))
		w.release("10.0.0.1")
		if gone {
			w.delete(endpointKey("b"))
			w.release("10.0.0.2")
			w.delete(model.BlockKey{CIDR: netip.MustParsePrefix("10.0.0.0/26")})
		}
		const path, value = "/calico/ipam/v2/handle/a", "[not a handle"
		if _, err := w.store.Raw().Put(t.Context(), path, value); err != nil {
			t.Fatal(err)
		}
		if _, err := w.run(Import{Source: backup}); err == nil ||
			!strings.Contains(err.Error(), "the stored value of handle a cannot be read; calicoctl ipam check --fix would: count again") {
			t.Errorf("error %v", err)
		}
		if got := fmt.Sprint(w.owners()); got != "map[10.0.0.1:a 10.0.0.2:b]" {
			t.Errorf("in use are %s", got)
		}
		resp, err := w.store.Raw().Get(t.Context(), path)
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value {
			t.Errorf("the handle is %v, %v", resp.Kvs, err)
		}
		w.lockIs("true", "")
	}
}

// TestAnEndpointWhoseAddressIsNotInUseGetsIt imports endpoints without the block that their
// addresses are in, into a datastore that is set up by that.
func TestAnEndpointWhoseAddressIsNotInUseGetsIt(t *testing.T) {
	for _, addr := range []string{"10.0.0.1", "fd00:1::1"} {
		w := newWorld(t)
		w.apply(endpointKey("e"), endpointOf(addr))
		w.delete(model.ReadyKey{})
		backup := w.export()
		w.delete(endpointKey("e"))
		if r, err := w.run(Import{Source: backup}); err != nil || r.Mended != 1 || r.Lock != "the datastore is open" {
			t.Errorf("%+v, %v", r, err)
		}
		if got := w.owners(); len(got) != 1 || got[addr] != "e" {
			t.Errorf("in use are %v", got)
		}
		w.consistent()
		w.lockIs("true", "")
	}
}

// TestWhatIsNotCertainIsSaidWithTheWayOn imports into a datastore that is not set up, and in
// which two endpoints have one address, and does what the error says.
func TestWhatIsNotCertainIsSaidWithTheWayOn(t *testing.T) {
	w := newWorld(t)
	w.endpoint("a", "10.0.0.1")
	w.apply(endpointKey("b"), endpointOf("10.0.0.1"))
	w.policy("web", "all()")
	backup := w.export()
	w.server.Wipe(t)
	for _, name := range []string{"a", "b"} {
		w.apply(endpointKey(name), endpointOf("10.0.0.1"))
	}
	_, err := w.run(Import{Source: backup})
	for _, want := range []string{
		"address 10.0.0.1 is that of 2 endpoints", "calicoctl delete workloadEndpoint --node=n1 --orchestrator=libnetwork --workload=libnetwork b",
		"nodes keep off it until \"calicoctl datastore unlock\" says that it is right",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	w.lockIs("", "")
	if err != nil && strings.Contains(err.Error(), "repeat the import") {
		t.Errorf("a repetition would bring it back: %v", err)
	}
}

// TestOthersAreNotMendedUnder has somebody open the lock, or the flag alone, before something is
// mended: the import that has lost it is told so at once.
func TestOthersAreNotMendedUnder(t *testing.T) {
	opened := model.Ready(true)
	for name, open := range map[string]func(w *world){
		"the lock":       func(w *world) { w.delete(model.LockKey{}) },
		"the flag alone": func(w *world) { w.apply(model.ReadyKey{}, &opened) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.endpoint("a", "10.0.0.1")
			w.delete(model.HandleKey{ID: "a"})
			w.apply(endpointKey("b"), endpointOf("10.0.0.2")) // whose address is not in use
			l, err := takeLock(t.Context(), w.store, by("ann@host1", os.Getpid()), false)
			if err != nil {
				t.Fatal(err)
			}
			r := &run{Import: Import{Store: w.store}, lock: l}
			problems, err := r.problems(t.Context())
			if err != nil || len(problems) != 2 {
				t.Fatal(problems, err)
			}
			open(w)
			for _, p := range problems {
				if n, err := r.mend(t.Context(), []ipam.Problem{p}, map[ipam.ID]error{}); n != 0 || !errors.Is(err, errLockLost) {
					t.Errorf("%s: %d mended, %v", p.Kind, n, err)
				}
			}
			if _, err := w.store.Get(t.Context(), model.HandleKey{ID: "a"}); !errors.Is(err, etcdstore.ErrNotFound) {
				t.Errorf("it was mended: %v", err)
			}
		})
	}
}
