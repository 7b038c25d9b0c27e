package localnet_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/nettest"
)

// TestList asks a kernel with all sorts of interfaces, addresses and routes.
func TestList(t *testing.T) {
	h := nettest.New(t, nettest.HostSpec{
		Name:  "h0",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.100/24"), netip.MustParsePrefix("fd00::100/64")},
	}).Host("h0")
	for _, line := range []string{
		"ip link add br-0123456789ab type bridge", "ip addr add 172.18.0.1/16 dev br-0123456789ab", "ip link set br-0123456789ab up",
		"ip link add br-storage type bridge", "ip addr add 10.7.0.1/24 dev br-storage",
		"ip link add cali0 type veth peer name veth0", "ip addr add 192.168.9.1/32 dev cali0", "ip link set cali0 up", "ip link set veth0 up",
		"ip addr add 10.9.9.9/32 dev lo",
		"ip route add 192.168.0.1/32 dev cali0",
		"ip route add blackhole 192.168.0.0/26",
		"ip route add 203.0.113.1/32 dev eth0", "ip route add default via 203.0.113.1",
		"ip -6 route add 2001:db8::1/128 dev eth0", "ip -6 route add default via 2001:db8::1",
		"ip route add 192.168.4.0/26 via 10.0.0.101",
	} {
		h.Run(strings.Fields(line)[0], strings.Fields(line)[1:]...)
	}
	var got []string
	h.Do(func() {
		places, err := localnet.List()
		if err != nil {
			t.Error(err)
		}
		for _, p := range places {
			got = append(got, p.String())
		}
	})
	want := []string{
		"10.0.0.0/24 (network of eth0)", "fd00::/64 (network of eth0)",
		"172.18.0.0/16 (network of Docker's bridge br-0123456789ab)", "10.7.0.0/24 (network of br-storage)",
		"10.9.9.9 (address of lo)",
		"203.0.113.1 (gateway of a route)", "2001:db8::1 (gateway of a route)", "10.0.0.101 (gateway of a route)",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestOverlap(t *testing.T) {
	var places []localnet.Place
	for _, p := range []string{"10.0.0.0/24", "10.0.0.1/32", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.4.0/24"} {
		places = append(places, localnet.Place{Prefix: netip.MustParsePrefix(p), What: "x"})
	}
	for within, want := range map[string]string{
		"192.168.0.0/16": "",
		"10.0.0.0/25":    "10.0.0.0/24 (x)",
		"10.0.0.0/23":    "10.0.0.0/24 (x) and 10.0.1.0/24 (x)",
		"10.0.0.0/8":     "10.0.0.0/24 (x), 10.0.1.0/24 (x), 10.0.2.0/24 (x) and 2 more of the hosts' own",
	} {
		if got := localnet.Overlap(places, netip.MustParsePrefix(within)); got != want {
			t.Errorf("%s: %q, want %q", within, got, want)
		}
	}
}

func TestAcross(t *testing.T) {
	places := []localnet.Place{
		{Prefix: netip.MustParsePrefix("10.0.0.0/24"), What: "a"}, {Prefix: netip.MustParsePrefix("fd00::1/128"), What: "b"},
	}
	for within, want := range map[string]string{
		"10.0.0.64/26": "a", "10.0.0.0/8": "a", "10.0.0.7/32": "a", "10.0.1.0/24": "", "fd00::/64": "b", "::/0": "b", "fd01::/64": "",
	} {
		if p, ok := localnet.Across(places, netip.MustParsePrefix(within)); p.What != want || ok != (want != "") {
			t.Errorf("%s: %v, %t, want %q", within, p, ok, want)
		}
	}
}
