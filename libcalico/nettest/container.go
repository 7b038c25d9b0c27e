package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ContainerMAC is the hardware address of every container's interface.
const ContainerMAC = "ee:ee:ee:ee:ee:ee"

// Gateway is the address by which a container reaches the world; its host answers
// ARP for it.
var Gateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// containerIface is the name of the interface in the container.
const containerIface = "cali0"

// Container is a network namespace that plays a container on a host.
type Container struct {
	*Space
	host *Host
}

// NewContainer makes a container on the host with no interface but lo, as an engine
// does before it asks the network driver.
func (h *Host) NewContainer(name string) *Container {
	h.t.Helper()
	c := &Container{Space: newSpace(h.t, name, h.flows), host: h}
	c.do(h.t, "set up container "+name, func() error {
		return errors.Join(
			setSysctl("net/ipv6/conf/all/accept_dad", "0"),
			setSysctl("net/ipv6/conf/default/accept_dad", "0"),
			setUp("lo"),
		)
	})
	return c
}

// AddContainer makes a container with an interface: the host's end of the pair is
// called hostIface (cali…) and is up, the container's is cali0 with [ContainerMAC],
// the given /32 or /128 addresses and a default route by [Gateway] (IPv6: by the
// link-local address of the host's end). The host gets no address, route or sysctl:
// that is felix's work.
func (h *Host) AddContainer(hostIface string, addrs ...netip.Addr) *Container {
	h.t.Helper()
	c := h.NewContainer(hostIface)
	h.do(h.t, "make the pair "+hostIface, func() error {
		mac, err := net.ParseMAC(ContainerMAC)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = hostIface
		return missing("veth pairs", netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: containerIface, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(c.fd),
		}))
	})
	c.finish(hostIface, addrs)
	return c
}

// Attach gives the container an interface that the code under test made: peer, the
// far end of hostIface, stands in the host's namespace. As an engine would, it is
// moved into the container, renamed to cali0 and given addresses and routes. Its
// hardware address stays.
func (c *Container) Attach(hostIface, peer string, addrs ...netip.Addr) {
	c.t.Helper()
	c.host.do(c.t, "move "+peer, func() error {
		link, err := netlink.LinkByName(peer)
		if err != nil {
			return fmt.Errorf("find %s: %w", peer, err)
		}
		return netlink.LinkSetNsFd(link, c.fd)
	})
	c.do(c.t, "rename "+peer, func() error {
		link, err := netlink.LinkByName(peer)
		if err != nil {
			return fmt.Errorf("find %s: %w", peer, err)
		}
		return netlink.LinkSetName(link, containerIface)
	})
	c.finish(hostIface, addrs)
}

// finish brings both ends up and configures the container's.
func (c *Container) finish(hostIface string, addrs []netip.Addr) {
	c.t.Helper()
	c.host.do(c.t, "set up "+hostIface, func() error { return setUp(hostIface) })
	c.do(c.t, "configure "+hostIface, func() error { return configure(addrs) })
	if slices.ContainsFunc(addrs, netip.Addr.Is6) {
		c.host.await(hostIface)
		c.await(containerIface)
	}
	c.do(c.t, "make routes by "+hostIface, func() error {
		link, err := netlink.LinkByName(containerIface)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if err := c.addRoutes(link, hostIface, a.Is6()); err != nil {
				return err
			}
		}
		return nil
	})
}

// configure gives the container's interface its addresses and sets it up.
func configure(addrs []netip.Addr) error {
	link, err := netlink.LinkByName(containerIface)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := addAddr(link, netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// addRoutes adds the routes of one family, unless they are there.
func (c *Container) addRoutes(link netlink.Link, hostIface string, ipv6 bool) error {
	gw := Gateway
	if ipv6 {
		var err error
		if gw, err = c.host.linkLocal(hostIface); err != nil {
			return err
		}
	}
	index := link.Attrs().Index
	routes := []*netlink.Route{
		{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(gw, gw.BitLen())), Scope: unix.RT_SCOPE_LINK},
		{LinkIndex: index, Gw: gw.AsSlice(), Flags: int(netlink.FLAG_ONLINK)},
	}
	for _, r := range routes {
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("route %v: %w", r, err)
		}
	}
	return nil
}

// linkLocal is the link-local IPv6 address of an interface.
func (h *Host) linkLocal(iface string) (netip.Addr, error) {
	var out netip.Addr
	var err error
	h.Do(func() {
		var link netlink.Link
		if link, err = netlink.LinkByName(iface); err != nil {
			return
		}
		var addrs []netlink.Addr
		addrs, err = netlink.AddrList(link, unix.AF_INET6)
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsLinkLocalUnicast() {
				out = ip
			}
		}
	})
	if err == nil && !out.IsValid() {
		err = fmt.Errorf("%s has no link-local address", iface)
	}
	return out, err
}

// Remove takes the container's interface away, and with it the host's end, as when
// an engine removes a container.
func (c *Container) Remove() {
	c.t.Helper()
	c.do(c.t, "remove the interface", func() error {
		link, err := netlink.LinkByName(containerIface)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}
