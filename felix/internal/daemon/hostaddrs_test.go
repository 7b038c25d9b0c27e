package daemon_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// TestHostEndpointIsFoundByItsAddress guards an interface that a host endpoint does not
// name, from the moment when it has the expected address.
func TestHostEndpointIsFoundByItsAddress(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h, stranger := w.addHost(0, variant), w.addHost(1, variant)
		h.ServeTCP(tcpPort)
		to := netip.AddrPortFrom(h.Addr(false), tcpPort)
		closed := func() error {
			if err := stranger.TCP(to, noAnswer); !errors.Is(err, nettest.ErrNoAnswer) {
				return fmt.Errorf("from outside: %w", err)
			}
			return nil
		}
		here := model.HostEndpointKey{Node: h.Name, Name: "here"}
		w.put(here, &model.HostEndpoint{ExpectedIPv4Addrs: []netip.Addr{h.Addr(false)}})
		h.startInSync()
		if err := closed(); err != nil {
			t.Error(err)
		}
		w.remove(here)
		nettest.Eventually(t, patience, func() error { return stranger.TCP(to, answer) })

		later := netip.MustParseAddr("172.28.8.200")
		w.put(model.HostEndpointKey{Node: h.Name, Name: "later"}, &model.HostEndpoint{ExpectedIPv4Addrs: []netip.Addr{later}})
		nettest.Eventually(t, patience, func() error { return h.says("no interface of this host has one of its expected addresses") })
		if err := stranger.TCP(to, answer); err != nil {
			t.Errorf("before the interface has the address: %v", err)
		}
		h.Run("ip", "addr", "add", later.String()+"/24", "dev", "eth0")
		nettest.Eventually(t, patience, closed)
		h.Run("ip", "addr", "del", later.String()+"/24", "dev", "eth0")
		nettest.Eventually(t, patience, func() error { return stranger.TCP(to, answer) })
	})
}

// says looks for a text among the problems that felix tells.
func (h *host) says(text string) error {
	st, err := h.status()
	if err != nil {
		return err
	}
	for _, p := range st.GetProblems() {
		if strings.Contains(p.String(), text) {
			return nil
		}
	}
	return fmt.Errorf("problems: %v", st.GetProblems())
}
