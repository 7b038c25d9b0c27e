package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/ifmonitor"
)

// Timeout is how long the kernel may take for an answer.
const Timeout = 10 * time.Second

// listTries is how often a list is read again that changed while it was read.
const listTries = 5

// Interfaces finds interfaces; [ifmonitor.Links] does.
type Interfaces interface {
	ByName(name string) (ifmonitor.Link, bool)
	ByIndex(index int) (ifmonitor.Link, bool)
}

// Config says which routes are felix's.
type Config struct {
	// Prefixes are the beginnings of workload interfaces' names.
	Prefixes []string
	// Protocol is that of felix's routes, by which they are known without RemoveExternal.
	Protocol int
	// RemoveExternal makes routes over workload interfaces felix's whatever their protocol,
	// so that those which are not wanted are removed.
	RemoveExternal bool
	// IPv6 is false where only IPv4 is handled.
	IPv6 bool
	// Interfaces are the host's interfaces.
	Interfaces Interfaces
}

// Kernel is the netlink connection that the targets share. It belongs to one goroutine.
type Kernel struct {
	cfg    Config
	handle *netlink.Handle
}

// Open connects to the kernel in the network namespace of the calling thread.
func Open(cfg Config) (*Kernel, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := handle.SetSocketTimeout(Timeout); err != nil {
		handle.Close()
		return nil, fmt.Errorf("set time-out of netlink socket: %w", err)
	}
	return &Kernel{cfg: cfg, handle: handle}, nil
}

// Close ends the connection; routes stay.
func (k *Kernel) Close() { k.handle.Close() }

// Configure replaces what can change while felix runs.
func (k *Kernel) Configure(protocol int, removeExternal bool) {
	k.cfg.Protocol, k.cfg.RemoveExternal = protocol, removeExternal
}

// ours reports whether an interface is a workload's, by its name.
func (k *Kernel) ours(name string) bool {
	for _, p := range k.cfg.Prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func (k *Kernel) families() []int {
	if k.cfg.IPv6 {
		return []int{netlink.FAMILY_V4, netlink.FAMILY_V6}
	}
	return []int{netlink.FAMILY_V4}
}

// index finds an interface that is up.
func (k *Kernel) index(name string) (int, error) {
	link, ok := k.cfg.Interfaces.ByName(name)
	if !ok {
		return 0, fmt.Errorf("interface %s: %w", name, unix.ENODEV)
	}
	if !link.Up {
		return 0, fmt.Errorf("interface %s: %w", name, unix.ENETDOWN)
	}
	return link.Index, nil
}

func (k *Kernel) routeOf(key Key, r Route) (*netlink.Route, error) {
	index, err := k.index(r.Interface)
	if err != nil {
		return nil, err
	}
	if r.Encap != NoEncap {
		return nil, fmt.Errorf("encapsulation %q: %w", r.Encap, errors.ErrUnsupported)
	}
	out := &netlink.Route{
		LinkIndex: index,
		Dst:       ipNet(key.Prefix),
		Table:     key.Table,
		Protocol:  netlink.RouteProtocol(r.Protocol),
		Type:      unix.RTN_UNICAST,
		Scope:     netlink.SCOPE_LINK,
	}
	if r.Gateway.IsValid() {
		out.Gw = r.Gateway.AsSlice()
		out.Scope = netlink.SCOPE_UNIVERSE
		out.Flags = int(netlink.FLAG_ONLINK)
	}
	return out, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet, family int) netip.Prefix {
	if n == nil {
		if family == netlink.FAMILY_V6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if family == netlink.FAMILY_V4 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, bits)
}

// gone reports that what was to be deleted is not there.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENXIO)
}

func again[T any](list func() ([]T, error)) (out []T, err error) {
	for range listTries {
		out, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}
