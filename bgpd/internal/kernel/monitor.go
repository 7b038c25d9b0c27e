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
	// Hosts has the single addresses to which a route of another appeared or vanished.
	Hosts map[netip.Prefix]HostRoute
	// Lost: notifications were lost, so that everything must be looked at again.
	Lost bool
}

// HostRoute is whether there is a route to a single address, and whether it leads to a
// container.
type HostRoute struct{ Present, Container bool }

// Empty reports whether nothing happened.
func (c Changes) Empty() bool { return !c.Ours && !c.NextHops && !c.Lost && len(c.Hosts) == 0 }

// monitor turns notifications into Changes.
type monitor struct {
	fib     *FIB
	sock    *socket
	mu      sync.Mutex
	changes Changes
	links   map[int]link
}

// link is what is known of a link, so that only those that come up or go down count.
type link struct {
	flags uint32
	// container says that it leads to a container, port that it is, or was, one of a bridge:
	// neither leads to a next hop, but that a port was made an uplink, and has routes of ours.
	container, port bool
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
	m := &monitor{fib: f, sock: sock, links: map[int]link{}}
	links, err := net.Interfaces()
	if err != nil {
		sock.close()
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		m.links[l.Index] = link{flags: linkFlags(l.Flags), container: isContainer(l.Name)}
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
		c.Hosts = map[netip.Prefix]HostRoute{e.prefix: {msg.Header.Type == unix.RTM_NEWROUTE, m.leadsToContainer(e)}}
	case !isLinkLocal(e.prefix):
		c.NextHops = true
	}
	return c
}

// link notices links that are switched on or off, and those with routes of ours that lose
// or find their carrier: the kernel drops the routes of a link that goes down without
// telling. The interfaces of containers, ours and those behind a bridge, come and go all
// the time and lead nowhere.
func (m *monitor) link(msg syscall.NetlinkMessage) Changes {
	if len(msg.Data) < unix.SizeofIfInfomsg {
		return Changes{}
	}
	info := nl.DeserializeIfInfomsg(msg.Data)
	before, now := m.noteLink(int(info.Index), info.Flags, msg)
	changed := now.flags ^ before.flags
	if changed == 0 || now.container {
		return Changes{}
	}
	used := m.fib.uses(int(info.Index))
	if now.port && !used {
		return Changes{}
	}
	return Changes{Ours: used, NextHops: used || changed&unix.IFF_UP != 0}
}

func (m *monitor) noteLink(index int, flags uint32, msg syscall.NetlinkMessage) (before, now link) {
	name, port := linkNames(msg.Data)
	m.mu.Lock()
	defer m.mu.Unlock()
	before = m.links[index]
	now = link{flags: flags & (unix.IFF_UP | unix.IFF_RUNNING), container: isContainer(name), port: port || before.port}
	if msg.Header.Type == unix.RTM_DELLINK {
		now.flags = 0
		delete(m.links, index)
	} else {
		m.links[index] = now
	}
	return before, now
}

// isContainer reports whether a link leads to a container.
func (m *monitor) isContainer(index int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.links[index].container
}

func (m *monitor) leadsToContainer(e entry) bool {
	return len(e.hops) == 1 && m.isContainer(e.hops[0].Link)
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

// linkNames reads a link's name, and whether it belongs to another one, as a bridge's port
// does.
func linkNames(data []byte) (name string, port bool) {
	_ = attributes(data[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			name = unix.ByteSliceToString(value)
		case unix.IFLA_MASTER:
			port = true
		}
		return nil
	})
	return name, port
}

// isContainer knows the interfaces of containers by felix's prefix.
func isContainer(name string) bool { return strings.HasPrefix(name, "cali") }
