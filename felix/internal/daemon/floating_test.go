package daemon_test

import (
	"errors"
	"net/netip"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// TestFloatingAddresses reaches a container by a floating address from another container,
// from its host and from itself, with the container's policy in force, until it is gone.
func TestFloatingAddresses(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		w.network("net2")
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		b := h.container("bbbb", "net1", "192.168.0.2")
		c := h.container("cccc", "net2", "192.168.0.3")
		float4, float6 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")
		own := *b.value
		b.value.IPv4NAT = []model.NAT{{Internal: b.addr, External: float4}}
		b.value.IPv6NAT = []model.NAT{{Internal: b.addr6, External: float6}}
		if err := h.wait(b, w.put(b.key, b.value), patience); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []netip.Addr{float4, float6} {
			to := netip.AddrPortFrom(addr, tcpPort)
			for name, from := range map[string]*nettest.Space{
				"a container of its network": a.Space, "its host": h.Space, "itself": b.Space,
			} {
				if err := from.TCP(to, answer); err != nil {
					t.Errorf("from %s: %v", name, err)
				}
			}
			if err := c.TCP(to, noAnswer); !errors.Is(err, nettest.ErrNoAnswer) {
				t.Errorf("from another network: %v", err)
			}
		}
		if err := h.wait(b, w.put(b.key, &own), patience); err != nil {
			t.Fatal(err)
		}
		if err := a.TCP(netip.AddrPortFrom(float4, tcpPort), noAnswer); err == nil {
			t.Error("the floating address that is gone still answers")
		}
	})
}
