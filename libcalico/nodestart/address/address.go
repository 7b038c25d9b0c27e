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
	Name string
	Up   bool
	// Tunnel says that it leads to one other end only.
	Tunnel   bool
	Prefixes []netip.Prefix
	// Passing are those of its addresses that will not last, or are not in use yet: temporary
	// and deprecated ones of IPv6, and those that are still being checked.
	Passing map[netip.Addr]bool
}

// Candidate is an address that could be the host's.
type Candidate struct {
	Interface string
	// Prefix is the address, unmasked, with the length of its subnet.
	Prefix netip.Prefix
	// Method is how it was found.
	Method string

	rank int
}

// String names the address and its interface.
func (c Candidate) String() string { return c.Prefix.String() + " (" + c.Interface + ")" }

// Ranks of addresses. One of a lower rank is taken only where there is none of a higher.
const (
	lasting = iota
	passing
	// virtual is an address without a network, as those that move from host to host have. On
	// some clouds a host has no other.
	virtual
)

// Method chooses one address of a host.
type Method struct {
	text   string
	choose func(context.Context, []Interface, int) (Candidate, error)
}

// String is the method as it was written; empty for [Default].
func (m Method) String() string { return m.text }

// Choose picks the host's address of a family (4 or 6). Its error says what was
// looked for, and what there is.
func (m Method) Choose(ctx context.Context, interfaces []Interface, family int) (Candidate, error) {
	c, err := m.choose(ctx, interfaces, family)
	if err != nil {
		return Candidate{}, fmt.Errorf("%w (there is %s)", err, describe(interfaces, family))
	}
	if c.Method == "" {
		c.Method = m.text
	}
	return c, nil
}

// others matches whole names of interfaces that containers, bridges and tunnels use:
// their addresses are not how other hosts reach this one.
var others = regexp.MustCompile(`^(lo|dummy.*|ifb.*|nodelocaldns|veth.*|cali.*|lxc.*|` +
	// Bridges of containers and virtual machines.
	`docker.*|br-.*|cbr.*|cni.*|podman.*|virbr.*|lxcbr.*|lxdbr.*|incusbr.*|vmnet.*|vboxnet.*|weave|cilium_.*|kube-.*|ovs-system|` +
	// Tunnels.
	`tunl.*|flannel.*|vxlan.*|geneve.*|wireguard.*|wg[0-9]*|tun[0-9]+|tap[0-9]+|gre[0-9]+|gretap[0-9]+|erspan[0-9]+|` +
	`sit[0-9]+|ip6tnl[0-9]+|ip6gre[0-9]+|ip_vti[0-9]+|ip6_vti[0-9]+|tailscale[0-9]*|zt[a-z0-9]{8,}|nebula[0-9]*)$`)

// uplinkBridge matches bridges that a host may have for its uplink. Docker's own, of a network,
// are called br- and 12 hexadecimal digits.
var uplinkBridge, dockerBridge = regexp.MustCompile(`^br-.*$`), regexp.MustCompile(`^br-[0-9a-f]{12}$`)

// foreign says that the addresses of an interface are not how other hosts reach this one.
func foreign(i Interface) bool {
	return others.MatchString(i.Name) || i.Tunnel && !strings.HasPrefix(i.Name, "ppp")
}

// elsewhere is foreign for an interface that is known to lead to other hosts.
func elsewhere(i Interface) bool {
	return foreign(i) && (!uplinkBridge.MatchString(i.Name) || dockerBridge.MatchString(i.Name))
}

// Candidates are the addresses of a family that could be the host's, the first choice first.
func Candidates(interfaces []Interface, family int) []Candidate {
	return among(interfaces, family, func(i Interface) bool { return !foreign(i) })
}

// among lists the usable addresses of the wanted interfaces that are up.
func among(interfaces []Interface, family int, wanted func(Interface) bool) []Candidate {
	var out []Candidate
	for _, i := range interfaces {
		if !i.Up || !wanted(i) {
			continue
		}
		for _, p := range i.Prefixes {
			if usable(p.Addr(), family) {
				out = append(out, Candidate{Interface: i.Name, Prefix: p, rank: rank(i, p)})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Candidate) int { return a.rank - b.rank })
	return out
}

func rank(i Interface, p netip.Prefix) int {
	switch {
	case p.IsSingleIP():
		return virtual
	case i.Passing[p.Addr()]:
		return passing
	}
	return lasting
}

// describe says what addresses there are.
func describe(interfaces []Interface, family int) string {
	var names []string
	for _, i := range interfaces {
		for _, p := range i.Prefixes {
			if usable(p.Addr(), family) {
				state := ""
				if !i.Up {
					state = ", which is down"
				}
				names = append(names, p.String()+" on "+i.Name+state)
			}
		}
	}
	if len(names) == 0 {
		return fmt.Sprintf("no IPv%d address but local ones", family)
	}
	return strings.Join(names, ", ")
}

// Default is the method when none is chosen: the address with which the host reaches one of
// some other hosts, by name or address, which are etcd's; if it is of no use for others, as
// where etcd runs on this host, or in a container, the first that is found.
func Default(hosts []string) Method {
	return Method{"", func(ctx context.Context, interfaces []Interface, family int) (Candidate, error) {
		usual := among(interfaces, family, func(i Interface) bool { return !elsewhere(i) })
		for _, host := range hosts {
			found, err := canReach(host)(ctx, interfaces, family)
			if err != nil {
				continue // by this family etcd is not reached
			}
			same := func(c Candidate) bool { return c.Prefix == found.Prefix && c.Interface == found.Interface }
			if i := slices.IndexFunc(usual, same); i >= 0 && usual[i].rank == lasting {
				found.Method = "can-reach=" + host
				return found, nil
			}
		}
		found, err := firstFound(func(i Interface) bool { return !foreign(i) })(ctx, interfaces, family)
		found.Method = "first-found"
		return found, err
	}}
}

// Parse reads a method: first-found, interface=REGEX[,…], skip-interface=REGEX[,…],
// can-reach=HOST or cidr=CIDR[,…]. Expressions are not anchored, as users know them.
func Parse(text string) (Method, error) {
	name, value, _ := strings.Cut(text, "=")
	switch {
	case text == "first-found":
		return Method{text, firstFound(func(i Interface) bool { return !foreign(i) })}, nil
	case name == "interface" && value != "":
		match, err := anyOf(value)
		return Method{text, firstFound(func(i Interface) bool { return match(i.Name) })}, err
	case name == "skip-interface" && value != "":
		skip, err := anyOf(value)
		return Method{text, firstFound(func(i Interface) bool { return !foreign(i) && !skip(i.Name) })}, err
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

func firstFound(wanted func(Interface) bool) func(context.Context, []Interface, int) (Candidate, error) {
	return func(_ context.Context, interfaces []Interface, family int) (Candidate, error) {
		if all := among(interfaces, family, wanted); len(all) > 0 {
			return all[0], nil
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
		for _, c := range among(interfaces, family, func(Interface) bool { return true }) {
			if slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(c.Prefix.Addr()) }) {
				return c, nil
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
				return Candidate{Interface: i.Name, Prefix: p, rank: rank(i, p)}, nil
			}
		}
	}
	return Candidate{}, fmt.Errorf("address %s: %w", a, ErrNotHere)
}
