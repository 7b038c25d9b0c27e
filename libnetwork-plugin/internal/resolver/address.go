package resolver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loopback carries the address of the containers' gateway, so that a program can listen
// there.
const loopback = "lo"

// ensureAddress makes an address of containers' gateways one of this host's. Its scope is
// the link: with a wider one the kernel would take it as the source of what the host sends to
// containers. Other addresses must be there.
func ensureAddress(a netip.Addr) error {
	if !a.Is4() || !a.IsLinkLocalUnicast() {
		return nil
	}
	lo, err := netlink.LinkByName(loopback)
	if err != nil {
		return fmt.Errorf("interface %s: %w", loopback, err)
	}
	err = netlink.AddrAdd(lo, &netlink.Addr{
		IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		Scope: unix.RT_SCOPE_LINK,
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %s on %s: %w", a, loopback, err)
	}
	return nil
}
