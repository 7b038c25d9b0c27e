package daemon_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/nettest"
)

func TestDamageIsRepairedWithinASecond(t *testing.T) {
	for _, variant := range []string{iptables.Legacy, iptables.NFT} {
		ipt := "iptables-" + variant
		for _, c := range []struct {
			name    string
			command []string
		}{
			{"flush of a chain", []string{ipt, "-w", "-F", "cali-tw-calicccc"}},
			{"flush of the filter table", []string{ipt, "-w", "-F"}},
			{"a hook is deleted", []string{"sh", "-c", ipt + " -w -D FORWARD 1"}},
			{"all chains of the raw table", []string{"sh", "-c", ipt + " -w -t raw -F; " + ipt + " -w -t raw -X || true"}},
			{"a rule is inserted before felix's", []string{ipt, "-w", "-I", "cali-tw-calicccc", "-j", "ACCEPT"}},
			{"another one's rule comes before the hook", []string{ipt, "-w", "-I", "FORWARD", "-j", "RETURN"}},
			{"IPv6: flush of the filter table", []string{"ip6tables-" + variant, "-w", "-F"}},
			{"a set is flushed", []string{"sh", "-c", "ipset flush $(ipset list -n | grep cali4-s | head -1)"}},
			{"a member is added", []string{"sh", "-c", "ipset add $(ipset list -n | grep cali4-s | head -1) 192.168.0.3"}},
			{"a route is deleted", []string{"ip", "route", "del", "192.168.0.1"}},
			{"a route leads elsewhere", []string{"ip", "route", "replace", "192.168.0.1", "dev", "calicccc"}},
			{"an IPv6 route is deleted", []string{"ip", "-6", "route", "del", "fd00:80::1"}},
			{"a route is put on a container's interface", []string{"ip", "route", "add", "10.9.9.9", "dev", "caliaaaa"}},
			{"a neighbour entry is deleted", []string{"ip", "neigh", "del", "192.168.0.1", "dev", "caliaaaa"}},
			{"a neighbour entry is changed", []string{"ip", "neigh", "replace", "192.168.0.1", "dev", "caliaaaa", "lladdr", "02:00:00:00:00:01", "nud", "permanent"}},
			{"the gateway's address is deleted", []string{"ip", "addr", "del", "169.254.1.1/32", "dev", "lo"}},
			{"an interface goes down and up", []string{"sh", "-c", "ip link set caliaaaa down; ip link set caliaaaa up"}},
		} {
			if variant == iptables.NFT && !strings.Contains(strings.Join(c.command, " "), variant) {
				continue // once is enough
			}
			t.Run(variant+"/"+c.name, func(t *testing.T) { testRepair(t, variant, c.command) })
		}
	}
}

func testRepair(t *testing.T, variant string, command []string) {
	w := newWorld(t, nil)
	h := w.addHost(0, variant)
	w.network("net1")
	w.network("net2")
	w.opening()
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	c := h.container("cccc", "net2", "192.168.0.3")
	before := h.dump()
	foreign := strings.Contains(strings.Join(command, " "), "RETURN")
	h.Run(command[0], command[1:]...)
	if damaged := h.dump(); damaged == before {
		// Repaired before anybody could look, or no damage at all.
		t.Log("the damage was not seen")
	}
	start := time.Now()
	nettest.Eventually(t, patience, func() error {
		now := h.dump()
		if foreign {
			now = strings.Replace(now, "-j cali-FORWARD\n-A FORWARD -j RETURN\n", "-j cali-FORWARD\n", 1)
		}
		if d := cmp.Diff(before, now); d != "" {
			return errors.New(d)
		}
		return nil
	})
	if took := time.Since(start); took > time.Second {
		t.Errorf("the repair took %v", took)
	} else {
		t.Logf("repaired after %v", took)
	}
	w.canReach(a, c)
	w.cannotReach(c, a)
}

func TestASettingIsRepaired(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	h.container("aaaa", "net1", "192.168.0.1")
	for name, bad := range map[string]string{
		"net/ipv4/conf/caliaaaa/proxy_arp": "0", "net/ipv4/conf/caliaaaa/forwarding": "0", "net/ipv4/conf/caliaaaa/rp_filter": "1",
		"net/ipv4/ip_forward": "0", "net/ipv6/conf/caliaaaa/proxy_ndp": "0",
	} {
		good := h.Sysctl(name)
		h.SetSysctl(name, bad)
		nettest.Eventually(t, time.Second, func() error {
			if got := h.Sysctl(name); got != good {
				return fmt.Errorf("%s is %s, want %s", name, got, good)
			}
			return nil
		})
	}
}
