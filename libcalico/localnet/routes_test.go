package localnet_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/nettest"
)

// TestRoutes tells the routes to containers from all others.
func TestRoutes(t *testing.T) {
	h := nettest.New(t, nettest.HostSpec{
		Name:  "h0",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.100/24"), netip.MustParsePrefix("fd00::100/64")},
	}).Host("h0")
	for _, line := range []string{
		"ip link add cali0 type veth peer name veth0", "ip link set cali0 up", "ip link set veth0 up",
		"ip route add 192.168.0.1/32 dev cali0", "ip -6 route add fd01::1/128 dev cali0",
		"ip route add blackhole 192.168.0.0/26 proto 12", "ip -6 route add blackhole fd01::/122 proto 12",
		"ip route add 192.168.4.0/26 via 10.0.0.101 proto 12", "ip -6 route add fd01::40/122 via fd00::101 proto 12",
		"ip route add 192.168.5.0/26 proto 12 nexthop via 10.0.0.101 nexthop via 10.0.0.102",
		"ip route add 192.168.6.0/26 via 10.0.0.101", "ip route add blackhole 192.168.7.0/26", "ip route add default via 10.0.0.1",
	} {
		h.Run(strings.Fields(line)[0], strings.Fields(line)[1:]...)
	}
	var got, running []string
	h.Do(func() {
		var err error
		if running, err = localnet.Running(); err != nil {
			t.Error(err)
		}
		routes, err := localnet.Routes()
		if err != nil {
			t.Error(err)
		}
		for _, r := range routes {
			got = append(got, fmt.Sprint(r.Prefix, " elsewhere ", r.Elsewhere, " ", r.Link))
		}
	})
	want := []string{
		"192.168.0.1/32 elsewhere false cali0", "fd01::1/128 elsewhere false cali0", "192.168.0.0/26 elsewhere false ", "fd01::/122 elsewhere false ",
		"192.168.4.0/26 elsewhere true ", "fd01::40/122 elsewhere true ", "192.168.5.0/26 elsewhere true ",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	if want := []string{"cali0", "block 192.168.0.0/26", "block fd01::/122"}; !slices.Equal(running, want) {
		t.Errorf("this host has containers by %q, want %q", running, want)
	}
}
