// Package conntrack removes tracked connections of addresses that change hands. An
// established connection passes felix's rules without being asked again, so the
// connections of the address's former owner must be gone before a new one can be reached
// at it.
package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
)

// getStats is a message that package nl does not name, IPCTNL_MSG_CT_GET_STATS.
const getStats = 5

// Attributes of connection messages that package nl does not name.
const (
	ctaFilter           = 25 // CTA_FILTER
	ctaFilterOrigFlags  = 1  // CTA_FILTER_ORIG_FLAGS
	ctaFilterReplyFlags = 2  // CTA_FILTER_REPLY_FLAGS
	filterSource        = 1  // CTA_FILTER_FLAG(CTA_IP_SRC)
)

// scanWorth is the number of connections that cost as much to read as the kernel's walk
// through its (mostly empty) table of buckets, of which the kernel makes one per question.
const scanWorth = 8000

// countPath shows the number of connections in this network namespace.
const countPath = "/proc/sys/net/netfilter/nf_conntrack_count"

// Cleaner removes connections. It belongs to one goroutine.
type Cleaner struct {
	conn *nlconn.Conn
	// unfiltered is set on kernels that cannot filter.
	unfiltered bool
	// scanWorth is the constant, but for tests.
	scanWorth int
}

// Open connects to the kernel in the network namespace of the calling thread. The error
// says what the kernel lacks.
func Open() (*Cleaner, error) {
	conn, err := nlconn.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	stats := nlconn.Request{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | getStats, Flags: unix.NLM_F_ACK, Body: nlconn.Netfilter(unix.AF_UNSPEC)}
	if err := conn.Do(stats, nil); err != nil {
		conn.Close()
		return nil, fmt.Errorf("the kernel does not tell of connections (module nf_conntrack_netlink): %w", err)
	}
	return &Cleaner{conn: conn, scanWorth: scanWorth}, nil
}

// Close ends the connection to the kernel.
func (c *Cleaner) Close() { c.conn.Close() }

// Remove deletes all connections that one of the addresses has begun or answers, and
// returns their number.
func (c *Cleaner) Remove(addrs ...netip.Addr) (int, error) {
	if len(addrs) == 0 {
		return 0, nil
	}
	wanted := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		wanted[a] = true
	}
	found, err := c.find(addrs, wanted)
	if err != nil {
		return 0, fmt.Errorf("list connections: %w", err)
	}
	if len(found) == 0 {
		return 0, nil
	}
	return c.remove(found)
}

// Addresses returns the addresses that have begun, or answer, any connection.
func (c *Cleaner) Addresses() (map[netip.Addr]struct{}, error) {
	out := map[netip.Addr]struct{}{}
	err := c.dump(dumpRequest(unix.AF_UNSPEC, nil), func(body []byte) {
		nlconn.Attrs(body[nlconn.NetfilterHeader:], func(typ uint16, value []byte) {
			if typ == nl.CTA_TUPLE_ORIG || typ == nl.CTA_TUPLE_REPLY {
				out[sourceOf(value)] = struct{}{}
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	return out, nil
}

// find asks for the connections of each address where there are very many, and else for
// all of them at once.
func (c *Cleaner) find(addrs []netip.Addr, wanted map[netip.Addr]bool) ([]nlconn.Request, error) {
	var found []nlconn.Request
	n, known := count()
	if known && n == 0 {
		return nil, nil
	}
	if !c.unfiltered && n > c.scanWorth*len(addrs) {
		var err error
		for _, a := range addrs {
			err = errors.Join(err,
				c.list(filterRequest(a, false), wanted, &found),
				c.list(filterRequest(a, true), wanted, &found))
		}
		if err == nil || !unsupported(err) {
			return found, err
		}
		c.unfiltered, found = true, nil
	}
	err := c.list(dumpRequest(unix.AF_UNSPEC, nil), wanted, &found)
	return found, err
}

// count is the number of connections; known is false when it cannot be read.
func count() (n int, known bool) {
	text, err := os.ReadFile(countPath)
	if err != nil {
		return 0, false
	}
	n, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return n, err == nil
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// list collects a delete request for each connection of the addresses.
func (c *Cleaner) list(r nlconn.Request, wanted map[netip.Addr]bool, found *[]nlconn.Request) error {
	return c.dump(r, func(body []byte) {
		if req, ok := match(body, wanted); ok {
			*found = append(*found, req)
		}
	})
}

// dump hands the attributes of each connection to each. A table that changes while it is
// read loses no entry that is there all the time.
func (c *Cleaner) dump(r nlconn.Request, each func(body []byte)) error {
	err := c.conn.Do(r, func(body []byte) error {
		if len(body) > nlconn.NetfilterHeader {
			each(body)
		}
		return nil
	})
	if errors.Is(err, nl.ErrDumpInterrupted) {
		return nil
	}
	return err
}

func (c *Cleaner) remove(found []nlconn.Request) (int, error) {
	results, err := c.conn.Batch(found)
	if err != nil {
		return 0, fmt.Errorf("delete connections: %w", err)
	}
	removed := 0
	var fault error
	for _, err := range results {
		switch {
		case err == nil:
			removed++
		case errors.Is(err, unix.ENOENT):
			// It ended by itself, or was found twice.
		case fault == nil:
			fault = fmt.Errorf("delete connections: %w", err)
		}
	}
	return removed, fault
}

func dumpRequest(family uint8, attrs []byte) nlconn.Request {
	return nlconn.Request{
		Type:  unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_GET,
		Flags: unix.NLM_F_DUMP,
		Body:  append(nlconn.Netfilter(family), attrs...),
	}
}

// filterRequest asks for the connections whose source, in the direction of their first
// packet or of the replies, is the address.
func filterRequest(a netip.Addr, reply bool) nlconn.Request {
	source := uint16(nl.CTA_IP_V4_SRC)
	if a.Is6() {
		source = nl.CTA_IP_V6_SRC
	}
	tuple, origFlags, replyFlags := uint16(nl.CTA_TUPLE_ORIG), uint32(filterSource), uint32(0)
	if reply {
		tuple, origFlags, replyFlags = nl.CTA_TUPLE_REPLY, 0, filterSource
	}
	ip := nlconn.Attr(nil, nl.CTA_TUPLE_IP|nlconn.Nested, nlconn.Attr(nil, source, a.AsSlice()))
	attrs := nlconn.Attr(nil, tuple|nlconn.Nested, ip)
	flags := nlconn.Attr(nil, ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, origFlags))
	flags = nlconn.Attr(flags, ctaFilterReplyFlags, binary.NativeEndian.AppendUint32(nil, replyFlags))
	return dumpRequest(family(a), nlconn.Attr(attrs, ctaFilter|nlconn.Nested, flags))
}

// match looks whether a connection is one of the addresses'; if so the request deletes
// it by its tuple, its zone and its id, so that a new connection with the same tuple
// survives.
func match(body []byte, wanted map[netip.Addr]bool) (nlconn.Request, bool) {
	hit := false
	attrs := nlconn.Netfilter(body[0])
	nlconn.Attrs(body[nlconn.NetfilterHeader:], func(typ uint16, value []byte) {
		switch typ {
		case nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_REPLY:
			hit = hit || wanted[sourceOf(value)]
			if typ == nl.CTA_TUPLE_ORIG {
				attrs = nlconn.Attr(attrs, typ|nlconn.Nested, value)
			}
		case nl.CTA_ID, nl.CTA_ZONE:
			attrs = nlconn.Attr(attrs, typ, value)
		}
	})
	return nlconn.Request{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_DELETE, Body: attrs}, hit
}

func sourceOf(tuple []byte) (a netip.Addr) {
	nlconn.Attrs(tuple, func(typ uint16, value []byte) {
		if typ != nl.CTA_TUPLE_IP {
			return
		}
		nlconn.Attrs(value, func(typ uint16, raw []byte) {
			if typ == nl.CTA_IP_V4_SRC || typ == nl.CTA_IP_V6_SRC {
				a, _ = netip.AddrFromSlice(raw)
			}
		})
	})
	return a
}

func family(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
