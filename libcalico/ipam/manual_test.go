package ipam

import (
	"net/netip"
	"testing"

	"calico.internal/libcalico/model"
)

func TestManualPoolIsUsedOnlyWhenAskedFor(t *testing.T) {
	w := newWorld(t, "10.1.0.0/24")
	manual := netip.MustParsePrefix("10.0.0.0/24") // the first by its address
	w.pool(manual.String(), func(p *model.IPPool) { p.Manual = true })
	c := w.node("a")
	for name, tc := range map[string]struct {
		request Request
		inside  bool
	}{
		"by whom nothing is asked":  {Request{IPv4: 1}, false},
		"by the pool":               {Request{IPv4: 1, Pools: []netip.Prefix{manual}}, true},
		"by a range in it":          {Request{IPv4: 1, Within: []netip.Prefix{netip.MustParsePrefix("10.0.0.128/25")}}, true},
		"by a range of another one": {Request{IPv4: 1, Within: []netip.Prefix{netip.MustParsePrefix("10.1.0.128/25")}}, false},
	} {
		got, err := c.AutoAssign(w.ctx(), tc.request)
		if err != nil || manual.Contains(got[0]) != tc.inside {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if err := c.Assign(w.ctx(), netip.MustParseAddr("10.0.0.7"), Owner{}); err != nil {
		t.Errorf("one certain address: %v", err)
	}
	w.consistent()
}
