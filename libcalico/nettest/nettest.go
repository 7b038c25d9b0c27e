// Package nettest gives tests several hosts on one machine: each host is a network
// namespace, and a bridge in a namespace of its own joins them. It is for tests only.
//
//	      fabric (a namespace with a bridge)
//	       h0 ┬────────┬ h1
//	     eth0 │        │ eth0
//	    host a         host b
//	cali…(pair)│
//	     cali0 │
//	    container
//
// The namespaces have no names and are held open by file descriptors of the test's
// process, so that nothing is left when it ends, however it ends, and tests of
// several packages do not meet. Nothing is touched in the namespace that the test
// was started in.
//
// A namespace belongs to a thread. [Space.Do] moves the calling goroutine's thread
// into one and back; goroutines that the function starts are not in it.
package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostSpec describes a host.
type HostSpec struct {
	Name string
	// Addrs are the addresses of its interface eth0 on the fabric.
	Addrs []netip.Prefix
	// Default are gateways of default routes, one a family; none means that the host
	// has no default route.
	Default []netip.Addr
}

// Net is a number of hosts and the fabric that joins them.
type Net struct {
	t      testing.TB
	fabric *Space
	hosts  map[string]*Host
}

// Host is a network namespace that plays a machine. Its interface on the fabric is
// eth0; it forwards packets.
type Host struct {
	*Space
	Spec HostSpec
	net  *Net
}

// New makes hosts and joins them. The test is skipped, with what is missing by name,
// where that is not permitted or the kernel cannot do it.
func New(t testing.TB, specs ...HostSpec) *Net {
	t.Helper()
	n := &Net{t: t, fabric: newSpace(t, "fabric", &flows{}), hosts: map[string]*Host{}}
	n.fabric.do(t, "make the fabric", func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		bridge.Name = bridgeName
		off := false
		bridge.MulticastSnooping = &off
		if err := netlink.LinkAdd(bridge); err != nil {
			return missing("bridge interfaces", err)
		}
		return netlink.LinkSetUp(bridge)
	})
	var hosts []*Host
	for _, spec := range specs {
		hosts = append(hosts, n.add(spec))
	}
	for _, h := range hosts {
		h.await("eth0")
	}
	return n
}

const bridgeName = "fabric"

// AddHost adds a host and joins it to the fabric.
func (n *Net) AddHost(spec HostSpec) *Host {
	n.t.Helper()
	h := n.add(spec)
	h.await("eth0")
	return h
}

func (n *Net) add(spec HostSpec) *Host {
	n.t.Helper()
	if n.hosts[spec.Name] != nil {
		n.t.Fatalf("nettest: there are two hosts named %q", spec.Name)
	}
	h := &Host{Space: newSpace(n.t, spec.Name, n.fabric.flows), Spec: spec, net: n}
	port := fmt.Sprintf("h%d", len(n.hosts))
	n.fabric.do(n.t, "join host "+spec.Name, func() error { return n.plug(port, h) })
	h.do(n.t, "set up host "+spec.Name, h.setUp)
	n.hosts[spec.Name] = h
	return h
}

// plug makes the cable between the fabric's bridge and a host, from the fabric's side.
func (n *Net) plug(port string, h *Host) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = port, bridge.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.fd),
	}); err != nil {
		return missing("veth pairs", err)
	}
	return setUp(port)
}

func (h *Host) setUp() error {
	for _, setting := range []struct{ path, value string }{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv6/conf/all/forwarding", "1"},
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/eth0/accept_dad", "0"},
	} {
		if err := setSysctl(setting.path, setting.value); err != nil {
			return err
		}
	}
	if err := errors.Join(setUp("lo"), setUp("eth0")); err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, p := range h.Spec.Addrs {
		if err := addAddr(eth0, p); err != nil {
			return err
		}
	}
	for _, gw := range h.Spec.Default {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("default route by %s: %w", gw, err)
		}
	}
	return nil
}

// await waits until the kernel has done what follows from a link's coming up, up to a second
// later on a busy machine: it would pass for something that the test did.
func (s *Space) await(name string) {
	s.t.Helper()
	Eventually(s.t, commandTimeout, func() (err error) {
		s.Do(func() { err = linkReady(name) })
		return err
	})
}

// linkReady says what a link still lacks: its carrier, or that its IPv6 addresses, of which
// the kernel gives it one, are in use.
func linkReady(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if link.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
		return fmt.Errorf("%s has no carrier", name)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	local := false
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			return fmt.Errorf("%s is not in use on %s yet", a.IP, name)
		}
		if a.IP.IsLinkLocalUnicast() {
			local = true
			continue
		}
		// Until a worker has made the route, packets to the address are lost, whatever its flags.
		route, err := netlink.RouteGet(a.IP)
		if err != nil {
			return err
		}
		if len(route) == 0 || route[0].Type != unix.RTN_LOCAL {
			return fmt.Errorf("packets to %s are not taken yet", a.IP)
		}
	}
	if !local {
		return fmt.Errorf("%s has no link-local address yet", name)
	}
	return nil
}

// Host returns a host by name.
func (n *Net) Host(name string) *Host {
	n.t.Helper()
	h := n.hosts[name]
	if h == nil {
		n.t.Fatalf("nettest: there is no host %q", name)
	}
	return h
}

// Addr is the host's first address of a family on the fabric; the test fails when it
// has none.
func (h *Host) Addr(ipv6 bool) netip.Addr {
	h.t.Helper()
	for _, p := range h.Spec.Addrs {
		if p.Addr().Is6() == ipv6 {
			return p.Addr()
		}
	}
	h.t.Fatalf("nettest: host %s has no address of that family (ipv6=%v)", h.Name, ipv6)
	return netip.Addr{}
}

// SetFabricPort takes the host's cable to the fabric out (false) or plugs it in.
func (h *Host) SetFabricPort(up bool) {
	h.t.Helper()
	h.do(h.t, "set the cable", func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		peer := eth0.Attrs().ParentIndex
		var port error
		h.net.fabric.Do(func() {
			link, err := netlink.LinkByIndex(peer)
			switch {
			case err != nil:
				port = err
			case up:
				port = netlink.LinkSetUp(link)
			default:
				port = netlink.LinkSetDown(link)
			}
		})
		return port
	})
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

func addAddr(link netlink.Link, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("address %s on %s: %w", p, link.Attrs().Name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
