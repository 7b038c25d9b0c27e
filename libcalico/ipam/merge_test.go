package ipam

import (
	"net/netip"
	"slices"
	"testing"

	"calico.internal/libcalico/model"
)

// TestMergeTakesNoAddressAway merges accounts of one block, of a larger and of a smaller one.
func TestMergeTakesNoAddressAway(t *testing.T) {
	for _, pair := range [][2]string{
		{"10.0.0.0/26", "10.0.0.0/26"}, {"10.0.0.0/26", "10.0.0.0/28"}, {"10.0.0.0/28", "10.0.0.0/26"}, {"fd00::/122", "fd00::/124"},
	} {
		t.Run(pair[0]+" and "+pair[1], func(t *testing.T) {
			mine, theirs := newBlock(netip.MustParsePrefix(pair[0]), "n1", false), newBlock(netip.MustParsePrefix(pair[1]), "n2", false)
			take(mine, 1, Owner{Handle: "a"})
			take(mine, 2, Owner{Handle: "b"})
			take(theirs, 2, Owner{Handle: "old"})
			take(theirs, 3, Owner{Handle: "c", Attrs: map[string]string{AttrNode: "n2"}})
			take(theirs, blockSize(theirs.CIDR)-1, Owner{})
			m := Merge(mine, theirs)
			if err := model.Validate(model.BlockKey{CIDR: mine.CIDR}, m.Block); err != nil {
				t.Fatal(err)
			}
			owners := map[netip.Addr]string{}
			for _, h := range InUse(m.Block) {
				owners[h.Addr] = h.Owner.Handle
			}
			for ordinal, want := range map[int]string{1: "a", 2: "b", 3: "c"} {
				if got, ok := owners[addrOf(mine, ordinal)]; !ok || got != want {
					t.Errorf("address %d is %q's (in use: %t), want %q", ordinal, got, ok, want)
				}
			}
			last := addrOf(theirs, blockSize(theirs.CIDR)-1)
			if _, ok := owners[last]; ok != mine.CIDR.Contains(last) {
				t.Errorf("%s in use: %t", last, ok)
			}
			if want := []netip.Addr{addrOf(mine, 2)}; !slices.Equal(m.Disputed, want) {
				t.Errorf("disputed %v, want %v", m.Disputed, want)
			}
			if nodeOf(m.Block) != "n1" || inUse(mine) != 2 {
				t.Errorf("owner %s; the block itself has %d in use", nodeOf(m.Block), inUse(mine))
			}
			if again := Merge(m.Block, theirs); len(again.Added) > 0 {
				t.Errorf("merged again it adds %v", again.Added)
			}
			if counts := HandleCounts(m.Block); counts["a"] != 1 || counts["c"] != 1 || counts["old"] != 0 {
				t.Errorf("counts %v", counts)
			}
		})
	}
}

// TestAPartHasWhatIsInUseThere cuts blocks into smaller ones.
func TestAPartHasWhatIsInUseThere(t *testing.T) {
	for _, pair := range [][2]string{{"10.0.0.0/26", "10.0.0.16/28"}, {"fd00::/122", "fd00::10/124"}} {
		whole, cidr := newBlock(netip.MustParsePrefix(pair[0]), "n1", true), netip.MustParsePrefix(pair[1])
		for _, ordinal := range []int{1, 17, 31, 32} {
			take(whole, ordinal, Owner{Handle: "h", Attrs: map[string]string{AttrNode: "n1"}})
		}
		part := Part(whole, cidr)
		if err := model.Validate(model.BlockKey{CIDR: cidr}, part); err != nil {
			t.Fatal(err)
		}
		var got []netip.Addr
		for _, h := range InUse(part) {
			got = append(got, h.Addr)
		}
		if want := []netip.Addr{addrOf(whole, 17), addrOf(whole, 31)}; !slices.Equal(got, want) || nodeOf(part) != "n1" || !part.StrictAffinity {
			t.Errorf("in use are %v, want %v; node %s", got, want, nodeOf(part))
		}
		whole.Affinity = nil
		if nodeOf(Part(whole, cidr)) != "" {
			t.Error("a part of nobody's block is somebody's")
		}
	}
}
