package faults

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// long is set by `make test-all`, which runs with counts that take minutes.
func long() bool { return os.Getenv("CALICO_TEST_LONG") != "" }

// starts is the number of containers that TestFirstPackets starts.
func starts() int {
	if long() {
		return 1000
	}
	return 20
}

// flow is a connection.
type flow struct{ net.Conn }

func dial(t *testing.T, from *nettest.Space, to netip.Addr) *flow {
	t.Helper()
	var conn net.Conn
	var err error
	from.Do(func() {
		conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(to, cluster.EchoPort).String(), cluster.Answer)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &flow{conn}
}

// exchange sends a word and wants it back.
func (f *flow) exchange(t *testing.T) {
	t.Helper()
	_ = f.SetDeadline(time.Now().Add(cluster.Answer))
	if _, err := f.Write([]byte("word")); err != nil {
		t.Fatalf("the connection does not go on: %v", err)
	}
	if _, err := f.Read(make([]byte, 4)); err != nil {
		t.Fatalf("the connection does not go on: %v", err)
	}
}

// leftOvers is what felix keeps for containers, in numbers.
func leftOvers(h *cluster.Host) map[string]int {
	count := func(text, of string) int { return strings.Count(text, of) }
	routes := h.Run("ip", "route") + h.Run("ip", "-6", "route")
	rules := h.Run("iptables-nft-save") + h.Run("ip6tables-nft-save") + h.Run("iptables-legacy-save") + h.Run("ip6tables-legacy-save")
	return map[string]int{
		"routes":     count(routes, "dev cali"),
		"neighbours": count(h.Run("ip", "neigh", "show", "nud", "permanent"), "dev cali"),
		"rules":      count(rules, "cali-"),
		"sets":       count(h.Run("ipset", "list", "-n"), "cali"),
		"members":    strings.Count(h.Run("ipset", "save"), "\nadd "),
	}
}

// awaitLeftOvers waits until as much is left as there was.
func awaitLeftOvers(t *testing.T, h *cluster.Host, want map[string]int) {
	t.Helper()
	nettest.Eventually(t, cluster.Patience, func() error {
		have := leftOvers(h)
		for what, n := range want {
			if have[what] != n {
				return fmt.Errorf("%d %s, want %d", have[what], what, n)
			}
		}
		return nil
	})
}
