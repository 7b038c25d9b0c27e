package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Changes is what others did to the kernel since the last look.
type Changes struct {
	// Ours: a route of ours was changed or removed, or may have been.
	Ours bool
	// NextHops: links, addresses or routes changed; next hops may be reached otherwise.
	NextHops bool
	// Hosts has the single addresses to which a route of another appeared (true) or
	// vanished.
	Hosts map[netip.Prefix]bool
	// Lost: notifications were lost, so that everything must be looked at again.
	Lost bool
}

// Empty reports whether nothing happened.
func (c Changes) Empty() bool { return !c.Ours && !c.NextHops && !c.Lost && len(c.Hosts) == 0 }

// monitor turns notifications into Changes.
type monitor struct {
	fib  *FIB
	sock *socket
	// links has the flags of each link, so that only those that come up or go down count.
	links map[int32]uint32

	mu      sync.Mutex
	changes Changes
}

func newMonitor(f *FIB, requests *socket) (*monitor, error) {
	sock, err := openSocket(unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := sock.ignore(requests); err != nil {
		sock.close()
		return nil, err
	}
	m := &monitor{fib: f, sock: sock, links: map[int32]uint32{}}
	links, err := net.Interfaces()
	if err != nil {
		sock.close()
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		m.links[int32(l.Index)] = linkFlags(l.Flags)
	}
	return m, nil
}

// linkFlags are the flags that we watch, in the kernel's bits.
func linkFlags(f net.Flags) (out uint32) {
	if f&net.FlagUp != 0 {
		out |= unix.IFF_UP
	}
	if f&net.FlagRunning != 0 {
		out |= unix.IFF_RUNNING
	}
	return out
}

// Changes takes what happened since it was last called.
func (f *FIB) Changes() Changes {
	m := f.monitor
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.changes
	m.changes = Changes{}
	return c
}

func (m *monitor) run(ctx context.Context) error {
	for {
		msgs, _, err := m.sock.s.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			m.note(Changes{Lost: true})
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("follow the kernel's routes: %w", err)
		}
		for _, msg := range msgs {
			m.note(m.read(msg))
		}
	}
}

// note adds to what there is to tell.
func (m *monitor) note(c Changes) {
	if c.Empty() {
		return
	}
	m.mu.Lock()
	all := &m.changes
	all.Ours = all.Ours || c.Ours
	all.NextHops = all.NextHops || c.NextHops
	all.Lost = all.Lost || c.Lost
	if all.Hosts == nil {
		all.Hosts = c.Hosts
	} else {
		maps.Copy(all.Hosts, c.Hosts)
	}
	m.mu.Unlock()
	m.fib.opts.Notify()
}

func (m *monitor) read(msg syscall.NetlinkMessage) Changes {
	switch msg.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return m.route(msg)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return m.link(msg)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return m.addr(msg)
	}
	return Changes{}
}

func (m *monitor) route(msg syscall.NetlinkMessage) Changes {
	e, err := decode(msg.Data)
	if err != nil || e.cloned || e.table != m.fib.opts.Table {
		return Changes{}
	}
	c := Changes{Ours: e.protocol == m.fib.opts.Protocol || m.fib.isOurs(e.prefix)}
	switch {
	case e.protocol == m.fib.opts.Protocol:
	case e.single():
		c.Hosts = map[netip.Prefix]bool{e.prefix: msg.Header.Type == unix.RTM_NEWROUTE}
	default:
		c.NextHops = true
	}
	return c
}

// link notices links that come up or go down. The kernel drops the routes of a link that
// goes down without telling. Containers' interfaces lead to no next hop.
func (m *monitor) link(msg syscall.NetlinkMessage) Changes {
	if len(msg.Data) < unix.SizeofIfInfomsg {
		return Changes{}
	}
	info := nl.DeserializeIfInfomsg(msg.Data)
	flags := info.Flags & (unix.IFF_UP | unix.IFF_RUNNING)
	before, known := m.links[info.Index]
	if msg.Header.Type == unix.RTM_DELLINK {
		flags = 0
		delete(m.links, info.Index)
	} else {
		m.links[info.Index] = flags
	}
	if flags == before && (known || flags == 0) || isContainer(linkName(msg.Data)) {
		return Changes{}
	}
	return Changes{Ours: true, NextHops: true}
}

// addr notices addresses other than link-local ones, which every link has.
func (m *monitor) addr(msg syscall.NetlinkMessage) Changes {
	if len(msg.Data) < unix.SizeofIfAddrmsg {
		return Changes{}
	}
	var c Changes
	_ = attributes(msg.Data[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) error {
		if addr, ok := netip.AddrFromSlice(value); ok && kind == unix.IFA_ADDRESS && !addr.IsLinkLocalUnicast() {
			c = Changes{Ours: true, NextHops: true}
		}
		return nil
	})
	return c
}

func linkName(data []byte) (name string) {
	_ = attributes(data[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		if kind == unix.IFLA_IFNAME {
			name = unix.ByteSliceToString(value)
		}
		return nil
	})
	return name
}

// isContainer knows the interfaces of containers by felix's prefix.
func isContainer(name string) bool { return strings.HasPrefix(name, "cali") }
