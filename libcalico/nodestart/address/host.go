package address

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Host lists the interfaces of this host in the kernel's order.
func Host() ([]Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	// Without IPv6 in the kernel there is no such file.
	flags, _ := os.ReadFile("/proc/thread-self/net/if_inet6")
	unsettled := passingOf(string(flags))
	var all []Interface
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			continue // the interface went away meanwhile
		}
		i := Interface{
			Name: link.Name, Up: link.Flags&net.FlagUp != 0, Tunnel: link.Flags&net.FlagPointToPoint != 0,
			Passing: unsettled[link.Name],
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				i.Prefixes = append(i.Prefixes, p)
			}
		}
		all = append(all, i)
	}
	return all, nil
}

// The flags of an IPv6 address that will not last, or is not in use yet (linux/if_addr.h):
// temporary, failed in the check for duplicates, deprecated, tentative.
const notLasting = 0x01 | 0x08 | 0x20 | 0x40

// passingOf reads /proc/net/if_inet6, whose fields are the address, the interface's number,
// the length of the network, the scope, the flags and the interface's name.
func passingOf(text string) map[string]map[netip.Addr]bool {
	out := map[string]map[netip.Addr]bool{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		flags, err := strconv.ParseUint(fields[4], 16, 32)
		if err != nil || flags&notLasting == 0 {
			continue
		}
		b, err := hex.DecodeString(fields[0])
		if err != nil {
			continue
		}
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			continue
		}
		name := fields[5]
		if out[name] == nil {
			out[name] = map[netip.Addr]bool{}
		}
		out[name][a] = true
	}
	return out
}
