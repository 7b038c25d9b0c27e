package address

import (
	"net/netip"
	"slices"
	"testing"
)

func TestCursorVisitsEachAddressOnce(t *testing.T) {
	for _, text := range []string{"192.168.4.0/24", "192.168.4.8/29", "192.168.4.7/32", "10.0.0.0/16", "fd80::/122"} {
		within := netip.MustParsePrefix(text)
		seen := map[netip.Addr]bool{}
		for a := range newCursor("node00").from(within) {
			if !within.Contains(a) || seen[a] {
				t.Fatalf("%s: %s is outside or came twice", within, a)
			}
			seen[a] = true
		}
		want := min(tries, 1<<(within.Addr().BitLen()-within.Bits()))
		if len(seen) != want {
			t.Errorf("%s: %d addresses, want %d", within, len(seen), want)
		}
	}
}

func TestCursorBeginsAtABlockOfTheNodesOwn(t *testing.T) {
	within := netip.MustParsePrefix("10.0.0.0/16")
	starts := map[netip.Addr]bool{}
	for _, node := range []string{"node00", "node01", "node02", "node03"} {
		for a := range newCursor(node).from(within) {
			if a.As4()[3]%64 != 0 {
				t.Errorf("%s begins in the middle of a block: %s", node, a)
			}
			starts[a] = true
			break
		}
	}
	if len(starts) != 4 {
		t.Errorf("nodes share a beginning: %v", starts)
	}
}

func TestCursorGoesOn(t *testing.T) {
	within := netip.MustParsePrefix("192.168.4.0/30")
	c := newCursor("node00")
	c.at(within, netip.MustParseAddr("192.168.4.2"))
	var got []string
	for a := range c.from(within) {
		got = append(got, a.String())
	}
	want := []string{"192.168.4.3", "192.168.4.0", "192.168.4.1", "192.168.4.2"}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
