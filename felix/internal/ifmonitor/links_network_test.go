package ifmonitor

import (
	"net/netip"
	"strings"
	"testing"
)

func TestNetworkOf(t *testing.T) {
	l := NewLinks()
	prefix := netip.MustParsePrefix
	l.Apply(Event{
		Snapshot: true,
		Links: []Link{
			{Index: 1, Name: "lo", Up: true},
			{Index: 2, Name: "eth0", Up: true},
			{Index: 3, Name: "usb0", Up: true},
			{Index: 4, Name: "cali1", Up: true},
			{Index: 5, Name: "down0"},
		},
		Addrs: []Addr{
			{Index: 1, Prefix: prefix("169.254.1.1/32")},
			{Index: 2, Prefix: prefix("10.0.0.1/24")},
			{Index: 3, Prefix: prefix("169.254.9.9/16")},
			{Index: 4, Prefix: prefix("169.254.2.1/24")},
			{Index: 5, Prefix: prefix("192.168.0.1/24")},
			{Index: 6, Prefix: prefix("192.168.0.2/24")}, // of an interface that is not known yet
		},
	})
	own := func(name string) bool { return !strings.HasPrefix(name, "cali") }
	expect := func(addr, wantName, wantOwn string) {
		t.Helper()
		name, p, ok := l.NetworkOf(netip.MustParseAddr(addr), own)
		if ok != (wantName != "") || name != wantName || ok && p != prefix(wantOwn) {
			t.Errorf("%s is in %s of %s, %v", addr, p, name, ok)
		}
	}
	expect("169.254.1.1", "usb0", "169.254.9.9/16")
	expect("10.0.0.9", "eth0", "10.0.0.1/24")
	expect("192.168.0.9", "", "")
	expect("fe80::1", "", "")
	// An address can be there with two lengths, and goes with one of them.
	l.Apply(Event{Addrs: []Addr{{Index: 3, Prefix: prefix("169.254.9.9/32")}}})
	l.Apply(Event{Addrs: []Addr{{Index: 3, Prefix: prefix("169.254.9.9/16"), Gone: true}}})
	expect("169.254.1.1", "", "")
	expect("169.254.9.9", "usb0", "169.254.9.9/32")
	if got := l.Addrs(own)["usb0"]; len(got) != 1 || got[0] != netip.MustParseAddr("169.254.9.9") {
		t.Errorf("addresses are %v", got)
	}
	// Of several, the answer does not depend on chance.
	l.Apply(Event{Addrs: []Addr{{Index: 2, Prefix: prefix("169.254.1.7/24")}, {Index: 2, Prefix: prefix("169.254.1.6/24")}, {Index: 3, Prefix: prefix("169.254.1.5/24")}}})
	expect("169.254.1.1", "eth0", "169.254.1.6/24")
	l.Apply(Event{Addrs: []Addr{{Index: 3, Prefix: prefix("169.254.1.8/28")}}})
	expect("169.254.1.1", "usb0", "169.254.1.8/28")
	expect("169.254.1.17", "eth0", "169.254.1.6/24")
	l.Apply(Event{Addrs: []Addr{{Index: 3, Prefix: prefix("169.254.1.8/28"), Gone: true}}})
	l.Apply(Event{Links: []Link{{Index: 2, Name: "eth0", Gone: true}}})
	expect("169.254.1.1", "usb0", "169.254.1.5/24")
}
