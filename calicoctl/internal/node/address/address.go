// Package address chooses the address by which a host is known to the others. What
// it chooses from, the host's interfaces, is handed in (pure); [Host] lists them.
package address

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Interface is an interface of the host with its addresses, each with the length of
// its subnet.
type Interface struct {
	Name     string
	Up       bool
	Prefixes []netip.Prefix
}

// Candidate is an address that could be the host's.
type Candidate struct {
	Interface string
	// Prefix is the address, unmasked, with the length of its subnet.
	Prefix netip.Prefix
}

// Method chooses one address of a host.
type Method struct {
	text   string
	choose func(context.Context, []Interface, int) (Candidate, error)
}

// String is the method as it was written.
func (m Method) String() string { return m.text }

// Choose picks the host's address of a family (4 or 6). Its error says what was
// looked for.
func (m Method) Choose(ctx context.Context, interfaces []Interface, family int) (Candidate, error) {
	return m.choose(ctx, interfaces, family)
}

// others matches whole names of interfaces that containers, bridges and tunnels use:
// their addresses are not how other hosts reach this one.
var others = regexp.MustCompile(`^(docker.*|br-.*|cbr.*|dummy.*|virbr.*|lxcbr.*|veth.*|lo|cali.*|tunl.*|flannel.*|kube-ipvs.*|cni.*|podman.*|nodelocaldns|vxlan\.calico|wireguard\.cali)$`)

// Parse reads a method: first-found, interface=REGEX[,…], skip-interface=REGEX[,…],
// can-reach=HOST or cidr=CIDR[,…]. Expressions are not anchored, as users know them.
func Parse(text string) (Method, error) {
	name, value, _ := strings.Cut(text, "=")
	switch {
	case text == "" || text == "first-found":
		return Method{"first-found", firstFound(func(name string) bool { return !others.MatchString(name) })}, nil
	case name == "interface" && value != "":
		match, err := anyOf(value)
		return Method{text, firstFound(match)}, err
	case name == "skip-interface" && value != "":
		skip, err := anyOf(value)
		return Method{text, firstFound(func(name string) bool { return !others.MatchString(name) && !skip(name) })}, err
	case name == "can-reach" && value != "":
		return Method{text, canReach(value)}, nil
	case name == "cidr" && value != "":
		choose, err := inside(value)
		return Method{text, choose}, err
	}
	return Method{}, fmt.Errorf("invalid IP autodetection method: %s: use first-found, interface=REGEX, skip-interface=REGEX, can-reach=HOST or cidr=CIDR", text)
}

func anyOf(list string) (func(string) bool, error) {
	var all []*regexp.Regexp
	for expr := range strings.SplitSeq(list, ",") {
		re, err := regexp.Compile(expr)
		if err != nil {
			return nil, fmt.Errorf("invalid interface regex specified for IP autodetection: %s: %w", expr, err)
		}
		all = append(all, re)
	}
	return func(name string) bool {
		return slices.ContainsFunc(all, func(re *regexp.Regexp) bool { return re.MatchString(name) })
	}, nil
}

func firstFound(wanted func(string) bool) func(context.Context, []Interface, int) (Candidate, error) {
	return func(_ context.Context, interfaces []Interface, family int) (Candidate, error) {
		for _, i := range interfaces {
			if !i.Up || !wanted(i.Name) {
				continue
			}
			for _, p := range i.Prefixes {
				if usable(p.Addr(), family) {
					return Candidate{i.Name, p}, nil
				}
			}
		}
		return Candidate{}, fmt.Errorf("no interface that is up and may be used has a global IPv%d address", family)
	}
}

func inside(list string) (func(context.Context, []Interface, int) (Candidate, error), error) {
	var nets []netip.Prefix
	for text := range strings.SplitSeq(list, ",") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid CIDR specified for IP autodetection: %s", text)
		}
		nets = append(nets, p)
	}
	return func(_ context.Context, interfaces []Interface, family int) (Candidate, error) {
		for _, i := range interfaces {
			for _, p := range i.Prefixes {
				in := func(n netip.Prefix) bool { return n.Contains(p.Addr()) }
				if i.Up && usable(p.Addr(), family) && slices.ContainsFunc(nets, in) {
					return Candidate{i.Name, p}, nil
				}
			}
		}
		return Candidate{}, fmt.Errorf("no interface that is up has an IPv%d address in %s", family, list)
	}, nil
}

// canReach asks the kernel by which address it would send to a destination; a UDP
// socket is connected, and nothing is sent.
func canReach(destination string) func(context.Context, []Interface, int) (Candidate, error) {
	return func(ctx context.Context, interfaces []Interface, family int) (Candidate, error) {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		conn, err := dialer.DialContext(ctx, fmt.Sprintf("udp%d", family), net.JoinHostPort(destination, "80"))
		if err != nil {
			return Candidate{}, fmt.Errorf("find the way to %s: %w", destination, err)
		}
		defer conn.Close() //nolint:errcheck // nothing was written
		local, err := netip.ParseAddrPort(conn.LocalAddr().String())
		if err != nil {
			return Candidate{}, fmt.Errorf("find the way to %s: %w", destination, err)
		}
		return Find(interfaces, local.Addr())
	}
}

func usable(a netip.Addr, family int) bool {
	return a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() && (family == 4) == a.Is4()
}

// ErrNotHere says that no interface of the host has an address.
var ErrNotHere = errors.New("no interface of this host has it")

// Find is the interface and subnet of an address of the host.
func Find(interfaces []Interface, a netip.Addr) (Candidate, error) {
	for _, i := range interfaces {
		for _, p := range i.Prefixes {
			if p.Addr() == a {
				return Candidate{i.Name, p}, nil
			}
		}
	}
	return Candidate{}, fmt.Errorf("address %s: %w", a, ErrNotHere)
}

// Host lists the interfaces of this host in the kernel's order.
func Host() ([]Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	var all []Interface
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			continue // the interface went away meanwhile
		}
		i := Interface{Name: link.Name, Up: link.Flags&net.FlagUp != 0}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				i.Prefixes = append(i.Prefixes, p)
			}
		}
		all = append(all, i)
	}
	return all, nil
}
