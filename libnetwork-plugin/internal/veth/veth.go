// Package veth makes and removes the pair of interfaces that joins a container to
// its host (edge: netlink and /proc/sys).
//
// One end stays on the host, is named cali and 11 characters of the endpoint's id,
// and carries no IPv4 address: felix answers ARP on it. The other, temp and the same
// 11 characters, is moved into the container and renamed by Docker's engine.
package veth

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The beginnings of the names of a pair's two ends.
const (
	HostPrefix = "cali"
	peerPrefix = "temp"
)

// idLength is how much of an endpoint's id a name holds; an interface's name has at
// most 15 characters.
const idLength = 11

// State tells where the two ends of a pair are.
type State int

const (
	// Absent means that the host has no such pair.
	Absent State = iota
	// Idle means that both ends are on the host: no container uses the pair yet, or
	// any more.
	Idle
	// InUse means that the far end is in a container.
	InUse
)

// Pair is what the two ends of an endpoint shall be like.
type Pair struct {
	Endpoint string
	// MTU is that of both ends; 0 leaves the kernel's default.
	MTU int
	// MAC is the container's. The host's end never has it: the same address on both
	// ends would fail the container's duplicate address detection.
	MAC net.HardwareAddr
	// HostIPv6 is a link-local address for the host's end, which serves as the
	// container's IPv6 gateway; the zero Addr gives none.
	HostIPv6 netip.Addr
}

// HostName is the name of the host's end of an endpoint's pair.
func HostName(endpoint string) string { return HostPrefix + short(endpoint) }

// PeerName is the name of the container's end before the engine moves it.
func PeerName(endpoint string) string { return peerPrefix + short(endpoint) }

// short is the part of an endpoint's id that names hold.
func short(endpoint string) string { return endpoint[:min(len(endpoint), idLength)] }

// Links works on the pairs of one network namespace.
type Links struct {
	nl *netlink.Handle
	// sysctl is the folder of the namespace's settings.
	sysctl string
}

// New returns the pairs of the network namespace that the caller runs in.
func New() (*Links, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Links{nl: h, sysctl: "/proc/sys/net"}, nil
}

// Close gives up the namespace.
func (l *Links) Close() { l.nl.Close() }

// Ensure makes the pair, both ends up. One that a container uses is left as it is,
// an idle one is adapted. created tells that there was none before; on an error
// nothing of a pair just made is left.
func (l *Links) Ensure(p Pair) (created bool, err error) {
	host, state, err := l.find(p.Endpoint)
	if err != nil || state == InUse {
		return false, err
	}
	if state == Absent {
		if host, err = l.add(p); err != nil {
			return false, err
		}
	}
	if err := l.configure(host, p); err != nil {
		if state == Absent {
			err = errors.Join(err, l.delete(host))
		}
		return false, err
	}
	return state == Absent, nil
}

// Remove deletes the pair of an endpoint. removed tells whether there was one.
func (l *Links) Remove(endpoint string) (removed bool, err error) {
	host, state, err := l.find(endpoint)
	if err != nil || state == Absent {
		return false, err
	}
	return true, l.delete(host)
}

// RemoveIdle deletes the pair with the given name of the host's end, unless a container
// uses it.
func (l *Links) RemoveIdle(host string) error {
	link, state, err := l.find(strings.TrimPrefix(host, HostPrefix))
	if err != nil || state != Idle {
		return err
	}
	return l.delete(link)
}

// MTUOf is the MTU of the interface that has one of the addresses, the smallest if there are
// several; 0 if there is none.
func (l *Links) MTUOf(addrs ...netip.Addr) (mtu int, err error) {
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		list, err := l.nl.AddrList(nil, family(a))
		if err != nil {
			return 0, fmt.Errorf("list addresses: %w", err)
		}
		for _, have := range list {
			if !have.IP.Equal(a.AsSlice()) {
				continue
			}
			link, err := l.nl.LinkByIndex(have.LinkIndex)
			if err != nil {
				return 0, fmt.Errorf("interface with %s: %w", a, err)
			}
			if m := link.Attrs().MTU; mtu == 0 || m < mtu {
				mtu = m
			}
		}
	}
	return mtu, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// State tells where the pair of an endpoint is.
func (l *Links) State(endpoint string) (State, error) {
	_, state, err := l.find(endpoint)
	return state, err
}

// List returns the state of every pair of the host, by the host's interface name. Only
// what carries our names counts, so that no other interface can be taken for ours.
func (l *Links) List() (map[string]State, error) {
	links, err := l.all()
	if err != nil {
		return nil, err
	}
	peers := make(map[string]bool)
	for _, link := range links {
		peers[link.Attrs().Name] = true
	}
	pairs := make(map[string]State)
	for _, link := range links {
		name := link.Attrs().Name
		id, ok := strings.CutPrefix(name, HostPrefix)
		if !ok || len(id) != idLength || link.Type() != "veth" {
			continue
		}
		switch {
		case elsewhere(link):
			pairs[name] = InUse
		case peers[peerPrefix+id]:
			pairs[name] = Idle
		}
	}
	return pairs, nil
}

// find looks the host's end of a pair up.
func (l *Links) find(endpoint string) (netlink.Link, State, error) {
	name := HostName(endpoint)
	link, err := l.nl.LinkByName(name)
	if absent := (netlink.LinkNotFoundError{}); errors.As(err, &absent) {
		return nil, Absent, nil
	}
	if err != nil {
		return nil, Absent, fmt.Errorf("look up %s: %w", name, err)
	}
	if link.Type() != "veth" {
		return nil, Absent, fmt.Errorf("interface %s is a %s and not ours: remove or rename it", name, link.Type())
	}
	if elsewhere(link) {
		return link, InUse, nil
	}
	return link, Idle, nil
}

// add makes a new pair, both ends down.
func (l *Links) add(p Pair) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = HostName(p.Endpoint)
	attrs.MTU = p.MTU
	pair := netlink.NewVeth(attrs)
	pair.PeerName = PeerName(p.Endpoint)
	pair.PeerHardwareAddr = p.MAC
	pair.PeerMTU = uint32(p.MTU)
	if err := l.nl.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("create pair %s and %s: %w", attrs.Name, pair.PeerName, err)
	}
	link, err := l.nl.LinkByName(attrs.Name)
	if err != nil {
		return nil, fmt.Errorf("look up new %s: %w", attrs.Name, err)
	}
	return link, nil
}

// configure gives both ends what p asks for and brings them up, the host's first:
// felix cannot put a route on a link that is down.
func (l *Links) configure(host netlink.Link, p Pair) error {
	peer, err := l.nl.LinkByName(PeerName(p.Endpoint))
	if err != nil {
		return fmt.Errorf("look up %s: %w", PeerName(p.Endpoint), err)
	}
	steps := []func() error{
		func() error { return l.setPeerMAC(peer, p.MAC) },
		func() error { return l.setMTU(p.MTU, host, peer) },
		// The kernel delays proxy ARP answers by up to 0.8 s otherwise, and the first
		// packet of each container with them.
		func() error { return l.write("0", "ipv4", "neigh", host.Attrs().Name, "proxy_delay") },
		func() error { return l.setHostIPv6(host, p.HostIPv6) },
		func() error { return l.nl.LinkSetUp(host) },
		func() error { return l.nl.LinkSetUp(peer) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("configure %s: %w", host.Attrs().Name, err)
		}
	}
	return nil
}

// setPeerMAC gives the container's end its address.
func (l *Links) setPeerMAC(peer netlink.Link, mac net.HardwareAddr) error {
	if mac == nil || peer.Attrs().HardwareAddr.String() == mac.String() {
		return nil
	}
	return l.nl.LinkSetHardwareAddr(peer, mac)
}

// setMTU gives all links the MTU, if there is one to give.
func (l *Links) setMTU(mtu int, links ...netlink.Link) error {
	for _, link := range links {
		if mtu == 0 || link.Attrs().MTU == mtu {
			continue
		}
		if err := l.nl.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("MTU %d: %w", mtu, err)
		}
	}
	return nil
}

// setHostIPv6 puts the gateway's address on the host's end. It is usable at once: no
// duplicate address detection is done for it.
func (l *Links) setHostIPv6(host netlink.Link, addr netip.Addr) error {
	if !addr.IsValid() {
		return nil
	}
	if err := l.write("0", "ipv6", "conf", host.Attrs().Name, "disable_ipv6"); err != nil {
		return err
	}
	err := l.nl.AddrReplace(host, &netlink.Addr{
		IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(64, 128)},
		Flags: unix.IFA_F_NODAD,
		Scope: unix.RT_SCOPE_LINK,
	})
	if err != nil {
		return fmt.Errorf("address %s: %w", addr, err)
	}
	return nil
}

// delete removes a pair; the far end goes with the near one, wherever it is.
func (l *Links) delete(host netlink.Link) error {
	err := l.nl.LinkDel(host)
	if err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("remove %s: %w", host.Attrs().Name, err)
	}
	return nil
}

// all lists the interfaces. A list that changed while it was read is read again.
func (l *Links) all() ([]netlink.Link, error) {
	var err error
	for range 10 {
		var links []netlink.Link
		links, err = l.nl.LinkList()
		if err == nil {
			return links, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("list interfaces: %w", err)
}

// write sets a kernel parameter below /proc/sys/net. A value that is right already is
// not written, as the folder may be read-only.
func (l *Links) write(value string, path ...string) error {
	file := filepath.Join(append([]string{l.sysctl}, path...)...)
	if now, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(now)) == value {
		return nil
	}
	return os.WriteFile(file, []byte(value), 0)
}

// elsewhere reports whether the other end of a veth is in another namespace.
func elsewhere(link netlink.Link) bool { return link.Attrs().NetNsID >= 0 }
