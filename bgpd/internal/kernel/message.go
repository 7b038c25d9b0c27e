package kernel

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/bgpd/internal/calc"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ipv6Metric is what the kernel makes of an IPv6 route's metric when none is given
// (IP6_RT_PRIO_USER). IPv4 has none then.
const ipv6Metric = 1024

// entry is one route of the kernel.
type entry struct {
	prefix   netip.Prefix
	table    uint32
	protocol uint8
	kind     uint8 // RTN_…
	metric   uint32
	tos      uint8
	cloned   bool // a cached exception, not a route of the table
	hops     []calc.Hop
}

// metricOf is the metric of our routes to p.
func metricOf(p netip.Prefix) uint32 {
	if p.Addr().Is6() {
		return ipv6Metric
	}
	return 0
}

// single reports whether e is a plain route to one address, as a container's is.
func (e entry) single() bool {
	return e.prefix.IsSingleIP() && e.kind == unix.RTN_UNICAST
}

// route is the entry as a desired state would be.
func (e entry) route() calc.Route {
	if e.kind == unix.RTN_BLACKHOLE {
		return calc.Route{Type: calc.Blackhole}
	}
	hops := slices.Clone(e.hops)
	slices.SortFunc(hops, calc.CompareHops)
	return calc.Route{Hops: hops}
}

// encode makes a route message for RTM_NEWROUTE.
func (f *FIB) encode(p netip.Prefix, r calc.Route) []byte {
	m := f.header(p)
	m.Type = unix.RTN_UNICAST
	var attrs []*nl.RtAttr
	switch {
	case r.Type == calc.Blackhole:
		m.Type = unix.RTN_BLACKHOLE
	case len(r.Hops) == 1:
		h := r.Hops[0]
		m.Flags = hopFlags(h)
		attrs = []*nl.RtAttr{gateway(p, h), nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(h.Link)))}
	default:
		attrs = []*nl.RtAttr{nl.NewRtAttr(unix.RTA_MULTIPATH, multipath(p, r.Hops))}
	}
	return f.serialize(m, p, attrs)
}

// encodeDelete makes a route message for RTM_DELROUTE. It names our protocol, so that
// the kernel itself refuses to remove another's.
func (f *FIB) encodeDelete(p netip.Prefix, metric uint32) []byte {
	m := f.header(p)
	m.Scope = unix.RT_SCOPE_NOWHERE
	var attrs []*nl.RtAttr
	if metric != 0 {
		attrs = []*nl.RtAttr{nl.NewRtAttr(unix.RTA_PRIORITY, nl.Uint32Attr(metric))}
	}
	return f.serialize(m, p, attrs)
}

func (f *FIB) header(p netip.Prefix) *nl.RtMsg {
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	return &nl.RtMsg{RtMsg: unix.RtMsg{
		Family:   uint8(family),
		Dst_len:  uint8(p.Bits()),
		Table:    tableByte(f.opts.Table),
		Protocol: f.opts.Protocol,
		Scope:    unix.RT_SCOPE_UNIVERSE,
	}}
}

// tableByte is a table's number where it has but one byte; greater ones stand in an
// attribute.
func tableByte(table uint32) uint8 {
	if table > 255 {
		return unix.RT_TABLE_UNSPEC
	}
	return uint8(table)
}

func (f *FIB) serialize(m *nl.RtMsg, p netip.Prefix, attrs []*nl.RtAttr) []byte {
	out := m.Serialize()
	out = append(out, nl.NewRtAttr(unix.RTA_DST, p.Addr().AsSlice()).Serialize()...)
	if f.opts.Table > 255 {
		out = append(out, nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(f.opts.Table)).Serialize()...)
	}
	for _, a := range attrs {
		out = append(out, a.Serialize()...)
	}
	return out
}

func hopFlags(h calc.Hop) uint32 {
	if h.OnLink {
		return unix.RTNH_F_ONLINK
	}
	return 0
}

// gateway names the router of a route to p, which may be of the other family (RFC 8950).
func gateway(p netip.Prefix, h calc.Hop) *nl.RtAttr {
	if h.Gateway.Is4() == p.Addr().Is4() {
		return nl.NewRtAttr(unix.RTA_GATEWAY, h.Gateway.AsSlice())
	}
	family := uint16(unix.AF_INET)
	if h.Gateway.Is6() {
		family = unix.AF_INET6
	}
	return nl.NewRtAttr(unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, family), h.Gateway.AsSlice()...))
}

// readGateway reads either attribute.
func readGateway(kind uint16, value []byte) (a netip.Addr) {
	const family = 2 // bytes before the address of RTA_VIA
	if kind == unix.RTA_VIA {
		value = value[min(len(value), family):]
	}
	a, _ = netip.AddrFromSlice(value)
	return a
}

func multipath(p netip.Prefix, hops []calc.Hop) []byte {
	var out []byte
	for _, h := range hops {
		gw := gateway(p, h).Serialize()
		out = binary.NativeEndian.AppendUint16(out, uint16(unix.SizeofRtNexthop+len(gw)))
		out = append(out, uint8(hopFlags(h)), 0)
		out = binary.NativeEndian.AppendUint32(out, uint32(h.Link))
		out = append(out, gw...)
	}
	return out
}

var errShort = errors.New("message too short")

// attrTypeMask leaves out NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const attrTypeMask = 0x3fff

// attributes calls f for each attribute; one that does not fit is an error. The parser
// of package nl reads beyond the end of such a message.
func attributes(b []byte, f func(kind uint16, value []byte) error) error {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return errShort
		}
		kind := binary.NativeEndian.Uint16(b[2:]) & attrTypeMask
		if err := f(kind, b[unix.SizeofRtAttr:size]); err != nil {
			return err
		}
		b = b[min(len(b), align(size)):]
	}
	return nil
}

// decode reads the route message of RTM_NEWROUTE or RTM_DELROUTE.
func decode(b []byte) (entry, error) {
	if len(b) < unix.SizeofRtMsg {
		return entry{}, errShort
	}
	m := nl.DeserializeRtMsg(b)
	e := entry{
		table:    uint32(m.Table),
		protocol: m.Protocol,
		kind:     m.Type,
		tos:      m.Tos,
		cloned:   m.Flags&unix.RTM_F_CLONED != 0,
	}
	dst := netip.IPv4Unspecified()
	if m.Family == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	hop := calc.Hop{OnLink: m.Flags&unix.RTNH_F_ONLINK != 0}
	err := attributes(b[unix.SizeofRtMsg:], func(kind uint16, value []byte) (err error) {
		switch kind {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			hop.Gateway = readGateway(kind, value)
		case unix.RTA_OIF:
			hop.Link = int(number(value))
		case unix.RTA_PRIORITY:
			e.metric = number(value)
		case unix.RTA_TABLE:
			e.table = number(value)
		case unix.RTA_MULTIPATH:
			e.hops, err = decodeMultipath(value)
		}
		return err
	})
	if err != nil {
		return entry{}, fmt.Errorf("attributes: %w", err)
	}
	if e.prefix, err = dst.Prefix(int(m.Dst_len)); err != nil || !dst.IsValid() {
		return entry{}, fmt.Errorf("destination: %w", cmp.Or(err, errShort))
	}
	if e.hops == nil && hop.Link != 0 && e.kind == unix.RTN_UNICAST {
		e.hops = []calc.Hop{hop}
	}
	return e, nil
}

func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func decodeMultipath(b []byte) ([]calc.Hop, error) {
	var hops []calc.Hop
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			return nil, fmt.Errorf("multipath: %w", errShort)
		}
		hop := calc.Hop{Link: int(binary.NativeEndian.Uint32(b[4:])), OnLink: b[2]&unix.RTNH_F_ONLINK != 0}
		dead := b[2]&unix.RTNH_F_DEAD != 0
		err := attributes(b[unix.SizeofRtNexthop:size], func(kind uint16, value []byte) error {
			if kind == unix.RTA_GATEWAY || kind == unix.RTA_VIA {
				hop.Gateway = readGateway(kind, value)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("multipath: %w", err)
		}
		if !dead { // its link is down
			hops = append(hops, hop)
		}
		b = b[min(len(b), align(size)):]
	}
	return hops, nil
}

// decodeAddress reads the message of RTM_NEWADDR: the address, not the other end's, with the
// length of its subnet.
func decodeAddress(b []byte) (link int, subnet netip.Prefix, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, netip.Prefix{}, false
	}
	m := nl.DeserializeIfAddrmsg(b)
	var addr, local netip.Addr
	err := attributes(b[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(value)
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		}
		return nil
	})
	if local.IsValid() {
		addr = local
	}
	subnet = netip.PrefixFrom(addr, int(m.Prefixlen))
	return int(m.Index), subnet, err == nil && subnet.IsValid()
}

// align rounds up to netlink's boundary.
func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
