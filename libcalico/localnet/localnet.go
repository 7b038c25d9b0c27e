// Package localnet lists what this host's network has taken: the networks that it is
// connected to, Docker's bridges among them, its own addresses, and the gateways that it
// sends to. No container may get an address from there. It also lists the host's routes to
// containers, which say what is in use when etcd does not. It is an edge: it asks the kernel.
package localnet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Place is a network, or a single address, that is taken.
type Place struct {
	Prefix netip.Prefix
	// What says what is there, such as "network of eth0".
	What string
}

// String names the network or address and what is there.
func (p Place) String() string {
	if p.Prefix.IsSingleIP() {
		return p.Prefix.Addr().String() + " (" + p.What + ")"
	}
	return p.Prefix.String() + " (" + p.What + ")"
}

// Across finds the first of the places that shares an address with a range.
func Across(places []Place, within netip.Prefix) (Place, bool) {
	i := slices.IndexFunc(places, func(p Place) bool { return p.Prefix.Overlaps(within) })
	if i < 0 {
		return Place{}, false
	}
	return places[i], true
}

// fewNames is how many places a message names.
const fewNames = 3

// Overlap names those of the places that share an address with one of the ranges, but
// for those that lie in one that is named; it is empty when none does.
func Overlap(places []Place, ranges ...netip.Prefix) string {
	var named []Place
	for _, p := range places {
		_, within := Across(named, p.Prefix)
		if !within && slices.ContainsFunc(ranges, p.Prefix.Overlaps) {
			named = append(named, p)
		}
	}
	var names []string
	for _, p := range named[:min(len(named), fewNames)] {
		names = append(names, p.String())
	}
	if more := len(named) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more of the hosts' own", more))
	}
	if last := len(names) - 1; last > 0 {
		return strings.Join(names[:last], ", ") + " and " + names[last]
	}
	return strings.Join(names, "")
}

// Interface is an interface with its addresses, each with the length of its subnet.
type Interface struct {
	Name     string
	Prefixes []netip.Prefix
}

// List lists what is taken on this host now.
func List() ([]Place, error) {
	interfaces, err := interfaces()
	if err != nil {
		return nil, err
	}
	gateways, err := Gateways()
	if err != nil {
		return nil, err
	}
	return append(OfInterfaces(interfaces), gateways...), nil
}

// OfInterfaces is what interfaces take. The ends of containers' pairs and IP-in-IP's
// tunnel do not count: their addresses are the pools' own.
func OfInterfaces(list []Interface) []Place {
	var out []Place
	for _, i := range list {
		if ours(i.Name) {
			continue
		}
		for _, p := range i.Prefixes {
			if a := p.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || p.Bits() == 0 {
				continue
			}
			out = append(out, Place{p.Masked(), what(i.Name, p)})
		}
	}
	return out
}

func ours(name string) bool {
	return strings.HasPrefix(name, "cali") || strings.HasPrefix(name, "veth") || strings.HasPrefix(name, "tunl")
}

func what(name string, p netip.Prefix) string {
	switch {
	case IsDockerBridge(name):
		return "network of Docker's bridge " + name
	case p.IsSingleIP():
		return "address of " + name
	}
	return "network of " + name
}

// interfaces asks for the addresses of those interfaces only that count, because each
// question makes the kernel list all.
func interfaces() ([]Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	var out []Interface
	for _, link := range links {
		if ours(link.Name) {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue // the interface went away meanwhile
		}
		i := Interface{Name: link.Name}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				i.Prefixes = append(i.Prefixes, p)
			}
		}
		out = append(out, i)
	}
	return out, nil
}

// Gateways lists the next hops of the routes of the kernel's main tables, of a route with
// several the first. Most lie in a connected network; the others are what this is for.
func Gateways() ([]Place, error) {
	var out []Place
	for _, family := range []struct {
		file string
		next func(fields []string) (netip.Addr, bool)
	}{{"/proc/thread-self/net/route", gateway4}, {"/proc/thread-self/net/ipv6_route", gateway6}} {
		text, err := os.ReadFile(family.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without the family
		}
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		seen := map[netip.Addr]bool{}
		for line := range strings.Lines(string(text)) {
			a, ok := family.next(strings.Fields(line))
			if !ok || seen[a] || a.IsUnspecified() || a.IsLinkLocalUnicast() {
				continue
			}
			seen[a] = true
			out = append(out, Place{netip.PrefixFrom(a, a.BitLen()), "gateway of a route"})
		}
	}
	return out, nil
}

// gateway4 reads a line of /proc/net/route, whose third field is the next hop, its bytes
// the other way round.
func gateway4(fields []string) (netip.Addr, bool) {
	if len(fields) < 3 {
		return netip.Addr{}, false
	}
	b, err := hex.DecodeString(fields[2])
	if err != nil || len(b) != 4 {
		return netip.Addr{}, false // the headings
	}
	slices.Reverse(b)
	a, ok := netip.AddrFromSlice(b)
	return a, ok
}

// gateway6 reads a line of /proc/net/ipv6_route, whose fifth field is the next hop.
func gateway6(fields []string) (netip.Addr, bool) {
	if len(fields) < 5 {
		return netip.Addr{}, false
	}
	b, err := hex.DecodeString(fields[4])
	if err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(b)
}
