package localnet_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/nettest"
)

// TestSandboxes tells the pairs of containers from those that no container has.
func TestSandboxes(t *testing.T) {
	h := nettest.New(t, nettest.HostSpec{Name: "h0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.100/24")}}).Host("h0")
	list := func() (got []localnet.Sandbox) {
		h.Do(func() {
			var err error
			if got, err = localnet.Sandboxes(); err != nil {
				t.Error(err)
			}
		})
		slices.SortFunc(got, func(a, b localnet.Sandbox) int { return strings.Compare(a.Link, b.Link) })
		return got
	}
	for _, line := range []string{
		"ip link add caliidle type veth peer name tempidle", "ip link set caliidle up", "ip link set tempidle up",
		"ip route add 192.168.0.9/32 dev caliidle",
	} {
		h.Run(strings.Fields(line)[0], strings.Fields(line)[1:]...)
	}
	if got := list(); len(got) > 0 {
		t.Errorf("without containers: %v", got)
	}
	v4, v6 := netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("fd01::1")
	c := h.AddContainer("caliweb", v4, v6)
	h.AddContainer("caliother", netip.MustParseAddr("192.168.0.2"))
	h.AddContainer("dockers", netip.MustParseAddr("172.17.0.2")) // another driver's
	h.Run("ip", "route", "add", v4.String(), "dev", "caliweb")
	h.Run("ip", "-6", "route", "add", v6.String(), "dev", "caliweb")
	got := list()
	if len(got) != 2 || got[0].Link != "caliother" || len(got[0].Addrs) > 0 || got[1].Link != "caliweb" || !slices.Equal(got[1].Addrs, []netip.Addr{v4, v6}) {
		t.Errorf("got %v", got)
	}
	c.Remove()
	h.Run("ip", "link", "del", "caliother")
	if got := list(); len(got) > 0 {
		t.Errorf("after the containers: %v", got)
	}
}
