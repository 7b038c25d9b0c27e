package transfer

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// TestTwoEndpointsOfOneAddressInTheSource: of those that have an address in common the one comes
// that the source's block names; none, when it names none of them. That is said before anything
// is written.
func TestTwoEndpointsOfOneAddressInTheSource(t *testing.T) {
	nobody := func(w *world, addr string) {
		if err := ipam.New(w.store, "n1").Assign(w.Context(), netip.MustParseAddr(addr), ipam.Owner{}); err != nil {
			w.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			w.apply(endpointKey(name), endpointOf(addr))
		}
	}
	for _, tc := range []struct {
		name    string
		store   func(w *world, addr string)
		there   string // in the datastore already
		refused []string
		why     string
	}{
		{name: "the block names one", store: func(w *world, addr string) {
			w.endpoint("a", addr)
			w.apply(endpointKey("b"), endpointOf(addr))
		}, refused: []string{"b"}, why: "is that of endpoint a on node n1 in the source, by its block"},
		{name: "the block names the other", store: func(w *world, addr string) {
			w.endpoint("b", addr)
			w.apply(endpointKey("a"), endpointOf(addr))
		}, refused: []string{"a"}, why: "is that of endpoint b on node n1 in the source, by its block"},
		{name: "the block names none", store: nobody, refused: []string{"a", "b"}, why: "no block there says which of them has it"},
		{name: "the block names none, and one is there", store: nobody, there: "a", refused: []string{"b"}, why: "no block there says"},
	} {
		for _, addr := range []string{"10.0.0.1", "fd00:1::1"} {
			t.Run(tc.name+" "+addr, func(t *testing.T) {
				w := newWorld(t)
				tc.store(w, addr)
				w.endpoint("c", netip.MustParseAddr(addr).Next().String())
				backup := w.export()
				for _, name := range []string{"a", "b", "c"} {
					if name != tc.there {
						w.delete(endpointKey(name))
					}
				}
				im := Import{Store: w.store, Source: backup, By: by("ann@host1", os.Getpid())}
				p, err := im.Look(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var refused []string
				for _, name := range []string{"a", "b", "c"} {
					path := model.Paths(endpointKey(name))[0]
					if i := slices.IndexFunc(p.Refused, func(p Problem) bool { return p.Path == path }); i >= 0 {
						refused = append(refused, name)
						if !strings.Contains(p.Refused[i].Reason, tc.why) {
							t.Errorf("%s: %s", name, p.Refused[i].Reason)
						}
					}
				}
				if !slices.Equal(refused, tc.refused) {
					t.Errorf("refused are %q of %+v", refused, p)
				}
				if r, err := im.Run(t.Context(), p); err != nil || len(r.Refused) > 0 {
					t.Errorf("%+v, %v", r, err)
				}
				for _, name := range []string{"a", "b", "c"} {
					if want := !slices.Contains(tc.refused, name); w.has(name) != want {
						t.Errorf("%s is there: %v", name, !want)
					}
				}
				w.lockIs("true", "")
			})
		}
	}
}
