package calc

import (
	"net/netip"
	"testing"
	"time"
)

func TestWhatTheKernelSaysOfARememberedBlock(t *testing.T) {
	p := netip.MustParsePrefix
	block, other, block6 := p("192.168.1.0/26"), p("192.168.2.0/26"), p("fd80::1:0/122")
	hole, away := Route{Type: Blackhole}, Route{Hops: []Hop{{Gateway: netip.MustParseAddr("10.0.0.2"), Link: 2}}}
	for name, c := range map[string]struct {
		adopted   map[netip.Prefix]Route
		container string
		block     netip.Prefix
		want      bool
	}{
		"nothing: the host was booted":         {block: block},
		"its blackhole stands":                 {block: block, adopted: map[netip.Prefix]Route{block: hole, other: hole}},
		"only another's stands":                {block: block, adopted: map[netip.Prefix]Route{other: hole}, want: true},
		"only another family's stands":         {block: block6, adopted: map[netip.Prefix]Route{other: hole}},
		"only routes of others stand":          {block: block, adopted: map[netip.Prefix]Route{other: away}},
		"it is another's":                      {block: block, adopted: map[netip.Prefix]Route{block: away}, want: true},
		"a container is in it":                 {block: block, adopted: map[netip.Prefix]Route{other: hole}, container: "192.168.1.7/32"},
		"a container is in it, and it moved":   {block: block, adopted: map[netip.Prefix]Route{block: away}, container: "192.168.1.7/32"},
		"a container is in another":            {block: block, adopted: map[netip.Prefix]Route{other: hole}, container: "192.168.2.7/32", want: true},
		"one of a single address, unused":      {block: p("192.168.1.7/32"), adopted: map[netip.Prefix]Route{other: hole}, want: true},
		"one of a single address with its own": {block: p("192.168.1.7/32"), adopted: map[netip.Prefix]Route{other: hole}, container: "192.168.1.7/32"},
	} {
		t.Run(name, func(t *testing.T) {
			e := New()
			e.Adopt(c.adopted, time.Time{})
			if c.container != "" {
				e.SetHostRoute(p(c.container), true, true)
			}
			if got := e.Disproves(c.block); got != c.want {
				t.Errorf("disproves %v: %t, want %t", c.block, got, c.want)
			}
		})
	}
}
