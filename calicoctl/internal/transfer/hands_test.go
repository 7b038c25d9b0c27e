package transfer

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// has says whether an endpoint is stored.
func (w *world) has(name string) bool {
	w.Helper()
	_, err := w.store.Get(w.Context(), endpointKey(name))
	if err != nil && !errors.Is(err, etcdstore.ErrNotFound) {
		w.Fatal(err)
	}
	return err == nil
}

// damage makes the value of a block contradict itself: that of the addresses from a first on
// is lost.
func (w *world) damage(cidr, value string) {
	w.Helper()
	path := model.Paths(model.BlockKey{CIDR: netip.MustParsePrefix(cidr)})[0]
	if _, err := w.store.Raw().Put(w.Context(), path, value); err != nil {
		w.Fatal(err)
	}
}

// end has a container end: its endpoint goes, and its address with it.
func (w *world) end(name string) {
	w.Helper()
	remove, err := etcdstore.DeleteWrite(endpointKey(name), 0)
	if err == nil {
		_, err = ipam.New(w.store, "n1").ReleaseOf(w.Context(), name, remove)
	}
	if err != nil {
		w.Fatal(err)
	}
}

// TestAnEndpointOfATakenAddressIsNotBroughtIn brings in an endpoint whose address somebody else
// has, or may have, where no block of the source tells that.
func TestAnEndpointOfATakenAddressIsNotBroughtIn(t *testing.T) {
	for _, tc := range []struct {
		name, addr, block string
		store             func(w *world, addr string)
		withBlock         bool
		why               string
	}{
		{"an endpoint has it", "10.0.0.5", "10.0.0.0/26", func(w *world, addr string) { w.endpoint("other", addr) }, false, "is that of endpoint other on node n1"},
		{"an endpoint has it (IPv6)", "fd00:1::5", "fd00:1::/122", func(w *world, addr string) { w.endpoint("other", addr) }, false, "is that of endpoint other on node n1"},
		{"an endpoint has it without being the owner", "10.0.0.5", "10.0.0.0/26", func(w *world, addr string) { w.apply(endpointKey("other"), endpointOf(addr)) }, true, "is that of endpoint other"},
		{"a container that is being started has it", "10.0.0.5", "10.0.0.0/26", func(w *world, addr string) {
			if err := ipam.New(w.store, "n1").Assign(w.Context(), netip.MustParseAddr(addr), ipam.Owner{}); err != nil {
				w.Fatal(err)
			}
		}, false, "is in use by"},
		{"its block cannot be read", "10.0.0.5", "10.0.0.0/26", func(w *world, addr string) {
			w.endpoint("other", "10.0.0.6")
			w.assign("third", addr)
			w.damage("10.0.0.0/26", "[not a block")
		}, true, "is in block 10.0.0.0/26 of the datastore, which is damaged"},
		{"its block contradicts itself", "fd00:1::5", "fd00:1::/122", func(w *world, addr string) {
			w.endpoint("other", addr)
			w.damage("fd00:1::/122", `{"cidr":"fd00:1::/122","affinity":"host:n1","allocations":[],"unallocated":[],"attributes":[]}`)
			w.delete(endpointKey("other"))
		}, true, "is in block fd00:1::/122 of the datastore, which is damaged"},
	} {
		for _, late := range []bool{false, true} {
			name := tc.name
			if late {
				name += ", after the look"
			}
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				w.endpoint("e1", tc.addr)
				cidr := netip.MustParsePrefix(tc.block)
				lose := func() {
					w.delete(model.BlockKey{CIDR: cidr})
					w.delete(model.BlockAffinityKey{Node: "n1", CIDR: cidr})
					w.delete(model.HandleKey{ID: "e1"})
				}
				if !tc.withBlock {
					lose()
				}
				backup := w.export()
				if tc.withBlock {
					lose()
				}
				w.delete(endpointKey("e1"))
				im := Import{Store: w.store, Source: backup, By: by("ann@host1", os.Getpid())}
				if !late {
					tc.store(w, tc.addr)
				}
				p, err := im.Look(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				said := p.Skipped
				if late {
					tc.store(w, tc.addr)
				}
				r, err := im.Run(t.Context(), p)
				if damaged := strings.Contains(tc.why, "damaged"); err != nil && (!damaged || !errors.Is(err, errInconsistent)) {
					t.Errorf("%+v, %v", r, err)
				}
				if late {
					said = r.Refused
				}
				if !slices.ContainsFunc(said, func(p Problem) bool {
					return p.Path == model.Paths(endpointKey("e1"))[0] && strings.Contains(p.Reason, tc.why)
				}) {
					t.Errorf("said is %v", said)
				}
				if w.has("e1") {
					t.Error("the endpoint was brought in")
				}
				w.lockIs("true", "")
			})
		}
	}
}

// TestWhatTheSourceSaysTooIsNoDispute repeats an import that broke off between the blocks and
// the endpoints, of one that has its address by another name.
func TestWhatTheSourceSaysTooIsNoDispute(t *testing.T) {
	w := newWorld(t)
	w.assign("by-another-name", "10.0.0.5")
	w.apply(endpointKey("e1"), endpointOf("10.0.0.5"))
	backup := w.export()
	w.delete(endpointKey("e1"))
	if r, err := w.run(Import{Source: backup}); err != nil || r.Written != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if !w.has("e1") {
		t.Error("the endpoint is not there")
	}
}

// TestAContainerEndsDuringARestore has one end after it was written, and one after the look.
func TestAContainerEndsDuringARestore(t *testing.T) {
	for _, addrs := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"fd00:1::1", "fd00:1::2"}} {
		for _, alone := range []bool{false, true} { // in the block
			w := newWorld(t)
			w.endpoint("ends", addrs[0])
			if !alone {
				w.endpoint("stays", addrs[1])
			}
			w.policy("web", "all()")
			backup := w.export()

			// It was written.
			w.end("ends")
			w.delete(policyKey("web"))
			written := false
			im := Import{Source: backup, Progress: func(int, int) {
				if !written && w.has("ends") {
					written = true
					w.end("ends")
				}
			}}
			r, err := w.run(im)
			if err != nil || !written || r.Ended != 1 || r.Refused != nil {
				t.Errorf("ended after it was written (%t): %+v, %v", written, r, err)
			}
			w.ended(addrs[0], "ends")

			// It was there.
			w.endpoint("ends", addrs[0])
			w.delete(policyKey("web"))
			im = Import{Store: w.store, Source: backup, By: by("ann@host1", os.Getpid())}
			p, err := im.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w.end("ends")
			if alone {
				for _, cidr := range []string{"10.0.0.0/26", "fd00:1::/122"} {
					if _, err := w.store.Delete(t.Context(), model.BlockKey{CIDR: netip.MustParsePrefix(cidr)}, 0); err != nil && !errors.Is(err, etcdstore.ErrNotFound) {
						t.Fatal(err)
					}
					if _, err := w.store.Delete(t.Context(), model.BlockAffinityKey{Node: "n1", CIDR: netip.MustParsePrefix(cidr)}, 0); err != nil && !errors.Is(err, etcdstore.ErrNotFound) {
						t.Fatal(err)
					}
				}
			}
			r, err = im.Run(t.Context(), p)
			if err != nil || r.Ended != 1 || r.Written != 1 || r.Refused != nil {
				t.Errorf("ended after the look: %+v, %v", r, err)
			}
			w.ended(addrs[0], "ends")
			if w.selector("web") == "" || !alone && !w.has("stays") {
				t.Error("the rest is not there")
			}
		}
	}
}

// ended checks that an endpoint is gone with its address, and all is well.
func (w *world) ended(addr, name string) {
	w.Helper()
	if w.has(name) {
		w.Error("the endpoint is back")
	}
	if who, ok := w.owners()[addr]; ok {
		w.Errorf("its address is %q's", who)
	}
	w.consistent()
	w.lockIs("true", "")
}
