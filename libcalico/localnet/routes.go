package localnet

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// protocolBGP is the number under which bgpd puts routes into the kernel.
const protocolBGP = 12

// Route is a route of the kernel that leads to containers.
type Route struct {
	Prefix netip.Prefix
	// Elsewhere says that it leads to another host. One that does not is a block of this
	// host, or the way to one of its containers.
	Elsewhere bool
	// Link is the host's end of the pair that it leads to; empty when it leads to none.
	Link string
}

// Routes lists the routes that lead to containers: those that bgpd has put there, and those
// to the ends of this host's containers.
func Routes() ([]Route, error) {
	pairs, err := pairsByIndex()
	if err != nil {
		return nil, err
	}
	var out []Route
	for _, family := range []int{syscall.AF_INET, syscall.AF_INET6} {
		table, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, family)
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(table)
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		for _, m := range messages {
			if r, ok := toContainers(m, pairs); ok {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// Running names what shows that this host has containers: their links, and its blocks.
func Running() ([]string, error) {
	pairs, err := pairsByIndex()
	if err != nil {
		return nil, err
	}
	routes, err := Routes()
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Values(pairs))
	for _, r := range routes {
		if !r.Elsewhere && !r.Prefix.IsSingleIP() {
			names = append(names, "block "+r.Prefix.String())
		}
	}
	return names, nil
}

// pairsByIndex lists the host's ends of the pairs of containers, by index.
func pairsByIndex() (map[int]string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	out := map[int]string{}
	for _, link := range links {
		if strings.HasPrefix(link.Name, "cali") {
			out[link.Index] = link.Name
		}
	}
	return out, nil
}

// toContainers reads one message about a route.
func toContainers(m syscall.NetlinkMessage, pairs map[int]string) (r Route, ok bool) {
	if m.Header.Type != syscall.RTM_NEWROUTE || len(m.Data) < syscall.SizeofRtMsg {
		return r, false
	}
	// struct rtmsg: the family, the length of the destination, two that do not matter here,
	// the table, the protocol, the scope and the type.
	family, bits, table, protocol, kind := m.Data[0], int(m.Data[1]), m.Data[4], m.Data[5], m.Data[7]
	if table == syscall.RT_TABLE_LOCAL {
		return r, false
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return r, false
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case syscall.RTA_DST:
			if addr, valid := netip.AddrFromSlice(a.Value); valid && addr.Is4() == (family == syscall.AF_INET) {
				r.Prefix = netip.PrefixFrom(addr, bits)
			}
		case syscall.RTA_OIF:
			r.Link = pairs[int(binary.NativeEndian.Uint32(a.Value))]
		}
	}
	toPair := r.Link != ""
	r.Elsewhere = protocol == protocolBGP && kind == syscall.RTN_UNICAST && !toPair
	return r, r.Prefix.IsValid() && (toPair && !r.Prefix.Addr().IsLinkLocalUnicast() || protocol == protocolBGP)
}
