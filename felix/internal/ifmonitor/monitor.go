// Package ifmonitor tells what happens to the host's interfaces, and to the routes,
// neighbour entries and settings on them, by the kernel's netlink notifications. It
// subscribes before it lists, so that nothing falls between; when the kernel says that
// notifications were lost, it lists again. It never lists because of a single event.
package ifmonitor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// bufferSize is what the kernel may keep for felix while felix is busy.
const bufferSize = 4 * 1024 * 1024

// listTries is how often a list is read again that changed while it was read.
const listTries = 5

// Event is what one read from the kernel brought.
type Event struct {
	// Snapshot is set on the first event, and on one after notifications were lost: Links
	// and Addrs are complete, and whatever else is on the interfaces must be read again.
	Snapshot bool
	Links    []Link
	Addrs    []Addr
	Routes   []Route
	Neighs   []Neigh
	// Settings are the indexes of interfaces of which a setting below
	// /proc/sys/net/{ipv4,ipv6}/conf changed. AllInterfaces stands for "all".
	Settings []int
}

// AllInterfaces is the index by which [Event.Settings] names the settings of "all".
const AllInterfaces = -1

// Link is an interface.
type Link struct {
	Index int
	Name  string
	// Up says that the interface is up as its administrator wants it.
	Up bool
	// Bridge says that it is one of the kernel's own bridges.
	Bridge bool
	MAC    net.HardwareAddr
	Gone   bool
}

// Addr is an address of an interface.
type Addr struct {
	Index  int
	Prefix netip.Prefix
	Gone   bool
}

// Route is a change of a route in the main table.
type Route struct {
	Index  int
	Prefix netip.Prefix
	Gone   bool
}

// Neigh is a change of a neighbour entry.
type Neigh struct {
	Index     int
	Addr      netip.Addr
	MAC       net.HardwareAddr
	Permanent bool
	Gone      bool
}

// Monitor watches the network namespace of the thread that made it.
type Monitor struct {
	sock *nl.NetlinkSocket
	list *netlink.Handle
}

// New subscribes to the kernel's notifications.
func New() (*Monitor, error) { return newMonitor(bufferSize) }

func newMonitor(buffer int) (*Monitor, error) {
	sock, err := nl.SubscribeAt(netns.None(), netns.None(), unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return nil, fmt.Errorf("subscribe to network changes: %w", err)
	}
	// Without the right to force it the buffer stays as large as the system allows.
	_ = sock.SetReceiveBufferSize(buffer, true)
	list, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		sock.Close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Monitor{sock: sock, list: list}, nil
}

// Close ends the subscription of a monitor that does not run.
func (m *Monitor) Close() {
	m.sock.Close()
	m.list.Close()
}

// String names the task.
func (m *Monitor) String() string { return "interface monitor" }

// Run sends events until the context ends. It closes the monitor.
func (m *Monitor) Run(ctx context.Context, out chan<- Event) error {
	defer m.list.Close()
	stop := context.AfterFunc(ctx, m.sock.Close)
	defer func() {
		if stop() {
			m.sock.Close()
		}
	}()
	relist := true
	for {
		var (
			e   Event
			err error
		)
		if relist {
			e, err = m.Snapshot()
		} else {
			e, err = m.receive()
		}
		relist = false
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			relist = true
			continue
		case err != nil:
			return fmt.Errorf("watch network changes: %w", err)
		}
		if e.empty() {
			continue
		}
		select {
		case out <- e:
		case <-ctx.Done():
			return nil
		}
	}
}

func (e *Event) empty() bool {
	return !e.Snapshot && len(e.Links)+len(e.Addrs)+len(e.Routes)+len(e.Neighs)+len(e.Settings) == 0
}

// Snapshot lists the interfaces and their addresses.
func (m *Monitor) Snapshot() (Event, error) {
	e := Event{Snapshot: true}
	links, err := again(m.list.LinkList)
	if err != nil {
		return Event{}, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		e.Links = append(e.Links, linkOf(l))
	}
	addrs, err := again(func() ([]netlink.Addr, error) { return m.list.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return Event{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			e.Addrs = append(e.Addrs, Addr{Index: a.LinkIndex, Prefix: p})
		}
	}
	return e, nil
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

func (m *Monitor) receive() (Event, error) {
	msgs, from, err := m.sock.Receive()
	if err != nil {
		return Event{}, err
	}
	var e Event
	if from.Pid != nl.PidKernel {
		return e, nil
	}
	for _, msg := range msgs {
		e.add(msg)
	}
	return e, nil
}

// add takes over one notification.
func (e *Event) add(msg syscall.NetlinkMessage) {
	switch msg.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if l, ok := parseLink(msg); ok {
			e.Links = append(e.Links, l)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if a, ok := parseAddr(msg); ok {
			e.Addrs = append(e.Addrs, a)
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if r, ok := parseRoute(msg); ok {
			e.Routes = append(e.Routes, r)
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if n, ok := parseNeigh(msg); ok {
			e.Neighs = append(e.Neighs, n)
		}
	case unix.RTM_NEWNETCONF:
		if index, ok := parseNetconf(msg); ok {
			e.Settings = append(e.Settings, index)
		}
	}
}

func linkOf(l netlink.Link) Link {
	a := l.Attrs()
	// The address is part of the kernel's whole answer, which could not be let go.
	return Link{Index: a.Index, Name: a.Name, Up: a.Flags&net.FlagUp != 0, Bridge: l.Type() == "bridge", MAC: bytes.Clone(a.HardwareAddr)}
}

func parseLink(msg syscall.NetlinkMessage) (Link, bool) {
	if len(msg.Data) < unix.SizeofIfInfomsg {
		return Link{}, false
	}
	if info := nl.DeserializeIfInfomsg(msg.Data); info.Family != unix.AF_UNSPEC {
		// A bridge tells of its ports in the same group; that is not about the link.
		return Link{}, false
	}
	parsed, err := netlink.LinkDeserialize((*unix.NlMsghdr)(&msg.Header), msg.Data)
	if err != nil {
		return Link{}, false
	}
	l := linkOf(parsed)
	l.Gone = msg.Header.Type == unix.RTM_DELLINK
	return l, true
}

func parseAddr(msg syscall.NetlinkMessage) (Addr, bool) {
	if len(msg.Data) < unix.SizeofIfAddrmsg {
		return Addr{}, false
	}
	info := nl.DeserializeIfAddrmsg(msg.Data)
	a := Addr{Index: int(info.Index), Gone: msg.Header.Type == unix.RTM_DELADDR}
	attributes(msg.Data[unix.SizeofIfAddrmsg:], func(typ uint16, value []byte) {
		// IFA_LOCAL, where there is one, is the interface's own address.
		if typ != unix.IFA_LOCAL && (typ != unix.IFA_ADDRESS || a.Prefix.IsValid()) {
			return
		}
		if addr, ok := netip.AddrFromSlice(value); ok {
			a.Prefix = netip.PrefixFrom(addr, int(info.Prefixlen))
		}
	})
	return a, a.Prefix.IsValid()
}

func parseRoute(msg syscall.NetlinkMessage) (Route, bool) {
	if len(msg.Data) < unix.SizeofRtMsg {
		return Route{}, false
	}
	info := nl.DeserializeRtMsg(msg.Data)
	if info.Table != unix.RT_TABLE_MAIN || info.Flags&unix.RTM_F_CLONED != 0 || info.Type != unix.RTN_UNICAST {
		return Route{}, false
	}
	r := Route{Gone: msg.Header.Type == unix.RTM_DELROUTE}
	attributes(msg.Data[unix.SizeofRtMsg:], func(typ uint16, value []byte) {
		switch typ {
		case unix.RTA_DST:
			if addr, ok := netip.AddrFromSlice(value); ok {
				r.Prefix = netip.PrefixFrom(addr, int(info.Dst_len))
			}
		case unix.RTA_OIF:
			if len(value) >= 4 {
				r.Index = int(binary.NativeEndian.Uint32(value))
			}
		}
	})
	return r, r.Prefix.IsValid()
}

func parseNeigh(msg syscall.NetlinkMessage) (Neigh, bool) {
	parsed, err := netlink.NeighDeserialize(msg.Data)
	if err != nil {
		return Neigh{}, false
	}
	addr, ok := netip.AddrFromSlice(parsed.IP)
	if !ok {
		return Neigh{}, false
	}
	return Neigh{
		Index:     parsed.LinkIndex,
		Addr:      addr.Unmap(),
		MAC:       parsed.HardwareAddr,
		Permanent: parsed.State&netlink.NUD_PERMANENT != 0,
		Gone:      msg.Header.Type == unix.RTM_DELNEIGH,
	}, true
}

const (
	// netconfHeader is the length of struct netconfmsg, with its padding.
	netconfHeader = 4
	// netconfaIndex is NETCONFA_IFINDEX.
	netconfaIndex = 1
)

func parseNetconf(msg syscall.NetlinkMessage) (index int, ok bool) {
	if len(msg.Data) < netconfHeader {
		return 0, false
	}
	attributes(msg.Data[netconfHeader:], func(typ uint16, value []byte) {
		if typ == netconfaIndex && len(value) >= 4 {
			index, ok = int(int32(binary.NativeEndian.Uint32(value))), true
		}
	})
	return index, ok
}

func attributes(b []byte, each func(typ uint16, value []byte)) {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return
	}
	for _, a := range attrs {
		each(a.Attr.Type, a.Value)
	}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if !ok {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), bits), true
}
