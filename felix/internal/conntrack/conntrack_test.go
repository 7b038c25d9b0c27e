package conntrack

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"calico.internal/libcalico/nettest"
)

// connect makes the kernel believe in a connection, with the conntrack command.
func connect(t *testing.T, from, to, replyFrom, replyTo string, port int) {
	t.Helper()
	nettest.Run(t, "conntrack", "-I", "-p", "udp", "-s", from, "-d", to, "-r", replyFrom, "-q", replyTo,
		"--sport", fmt.Sprint(port), "--dport", "53", "--reply-port-src", "53", "--reply-port-dst", fmt.Sprint(port), "--timeout", "600")
}

func connections(t *testing.T, family string) string {
	t.Helper()
	return nettest.Run(t, "conntrack", "-L", "-f", family)
}

func TestRemove(t *testing.T) {
	for _, filtered := range []bool{true, false} {
		t.Run(fmt.Sprintf("filtered=%v", filtered), func(t *testing.T) {
			nettest.Isolate(t)
			c, err := Open()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if filtered {
				c.scanWorth = 0
			}
			connect(t, "10.0.0.1", "10.0.0.9", "10.0.0.9", "10.0.0.1", 1001) // begins
			connect(t, "10.0.0.9", "10.0.0.1", "10.0.0.1", "10.0.0.9", 1002) // answers
			connect(t, "10.0.0.9", "8.8.8.8", "10.0.0.1", "10.0.0.9", 1003)  // answers behind DNAT
			connect(t, "10.0.0.2", "10.0.0.9", "10.0.0.9", "10.0.0.2", 1004) // another one's
			connect(t, "fd00::1", "fd00::9", "fd00::9", "fd00::1", 1005)

			n, err := c.Remove(netip.MustParseAddr("10.0.0.1"))
			if n != 3 || err != nil {
				t.Errorf("removed %d, %v; want 3", n, err)
			}
			left := connections(t, "ipv4")
			if strings.Contains(left, "10.0.0.1") || !strings.Contains(left, "sport=1004") {
				t.Errorf("left are %s", left)
			}
			if left := connections(t, "ipv6"); !strings.Contains(left, "sport=1005") {
				t.Errorf("left are %s", left)
			}
			addrs, err := c.Addresses()
			if err != nil {
				t.Error(err)
			}
			for addr, want := range map[string]bool{"10.0.0.1": false, "10.0.0.2": true, "10.0.0.9": true, "fd00::1": true, "fd00::9": true, "8.8.8.8": false} {
				if _, got := addrs[netip.MustParseAddr(addr)]; got != want {
					t.Errorf("%s has connections: %v, want %v", addr, got, want)
				}
			}
			n, err = c.Remove(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.77"))
			if n != 1 || err != nil {
				t.Errorf("removed %d, %v; want 1", n, err)
			}
			if n, err := c.Remove(); n != 0 || err != nil {
				t.Errorf("removed %d, %v of no address", n, err)
			}
			if c.unfiltered {
				t.Error("this kernel does not filter")
			}
		})
	}
}

func TestRemoveOfNothing(t *testing.T) {
	nettest.Isolate(t)
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Remove(netip.MustParseAddr("10.0.0.1")); n != 0 || err != nil {
		t.Errorf("removed %d, %v of an empty table", n, err)
	}
}
