package ipam

import (
	"net/netip"
	"slices"
	"testing"
)

// TestTextRanges: the keys of all blocks within a block are in its ranges of keys.
func TestTextRanges(t *testing.T) {
	for _, tc := range []struct {
		block  string
		ranges int
	}{
		{"10.0.0.0/26", 1},
		{"10.0.9.192/26", 1},
		{"10.10.99.0/24", 1},
		{"10.1.96.0/20", 16},
		{"10.1.0.0/16", 0},
		{"10.1.2.3/32", 1},
		{"fd80::/122", 0},
		{"fd80::40/122", 1},
		{"fd80::fc0/122", 1},
		{"fd80::1000/116", 1},
		{"fd80:1:2:3:4:5:6:ffc0/122", 1},
		{"fd80:0:0:3::5:1000/120", 1},
		{"fd80::1:0:40/122", 1},
	} {
		cidr := netip.MustParsePrefix(tc.block)
		ranges := textRanges(cidr)
		if len(ranges) != tc.ranges {
			t.Errorf("%s: %d ranges, want %d", cidr, len(ranges), tc.ranges)
		}
		for _, b := range narrowerBlocks(cidr) {
			p := blockPath(b)
			if len(ranges) > 0 && !slices.ContainsFunc(ranges, func(r textRange) bool { return r.from <= p && p < r.to }) {
				t.Errorf("%s: %s is not within %v", cidr, p, ranges)
			}
		}
	}
}

// TestOverlappingBlocks finds blocks of other sizes wherever they are, in the text order of
// their keys too.
func TestOverlappingBlocks(t *testing.T) {
	for _, tc := range []struct{ block, other string }{
		{"10.0.0.64/26", "10.0.0.64/28"},
		{"10.0.0.64/26", "10.0.0.127/32"},
		{"10.0.0.64/26", "10.0.0.0/24"},
		{"10.0.5.64/26", "10.0.0.0/20"},
		{"10.0.0.0/20", "10.0.15.255/32"},
		{"10.0.0.64/28", "10.0.0.64/26"},
		{"fd80::/122", "fd80::/124"},
		{"fd80::/122", "fd80::3f/128"},
		{"fd80::40/122", "fd80::7c/126"},
		{"fd80::40/122", "fd80::/121"},
		{"fd80::/116", "fd80::f00/120"},
	} {
		w := newWorld(t)
		block, other := netip.MustParsePrefix(tc.block), netip.MustParsePrefix(tc.other)
		neighbour := netip.PrefixFrom(addTo(block.Addr(), uint64(blockSize(block))), block.Bits())
		for _, cidr := range []netip.Prefix{block, neighbour, other} {
			w.emptyBlock(cidr)
		}
		got, err := etcd{w.store}.overlapping(w.ctx(), block)
		if err != nil || len(got) != 1 || got[0] != other {
			t.Errorf("beside %s: %v, %v, want %s", block, got, err, other)
		}
	}
}
