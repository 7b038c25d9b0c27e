package localnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
)

// Sandbox is a container as the kernel knows it: a pair whose host's end is here and whose
// other end is in another network namespace.
type Sandbox struct {
	// Link is the host's end, such as cali0123456789a.
	Link string
	// Addrs are those that the routes send there.
	Addrs []netip.Addr
}

// Sandboxes lists the containers that this host has, whatever any engine says.
func Sandboxes() ([]Sandbox, error) {
	links, err := pairsIntoSandboxes()
	if err != nil || len(links) == 0 {
		return nil, err
	}
	routes, err := Routes()
	if err != nil {
		return nil, err
	}
	addrs := map[string][]netip.Addr{}
	for _, r := range routes {
		if r.Link != "" && r.Prefix.IsSingleIP() {
			addrs[r.Link] = append(addrs[r.Link], r.Prefix.Addr())
		}
	}
	out := make([]Sandbox, len(links))
	for i, link := range links {
		out[i] = Sandbox{link, addrs[link]}
	}
	return out, nil
}

const (
	// attrLinkNetNSID is IFLA_LINK_NETNSID of linux/if_link.h: the kernel gives it only for
	// a link whose other end is in another namespace.
	attrLinkNetNSID = 37
	// dumpInterrupted is NLM_F_DUMP_INTR of linux/netlink.h: what was listed changed
	// meanwhile, so that something may be missing.
	dumpInterrupted = 0x10
	// listAttempts is how often an interrupted list is made anew.
	listAttempts = 10
)

// pairsIntoSandboxes lists the host's ends of pairs whose other end is in another
// namespace.
func pairsIntoSandboxes() ([]string, error) {
	for range listAttempts {
		table, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
		if err != nil {
			return nil, fmt.Errorf("list the interfaces: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(table)
		if err != nil {
			return nil, fmt.Errorf("list the interfaces: %w", err)
		}
		if names, whole := intoSandboxes(messages); whole {
			return names, nil
		}
	}
	return nil, errors.New("list the interfaces: they changed each time while they were listed; try again")
}

// intoSandboxes reads a list of interfaces; whole is false when it was interrupted.
func intoSandboxes(messages []syscall.NetlinkMessage) (names []string, whole bool) {
	for _, m := range messages {
		if m.Header.Flags&dumpInterrupted != 0 {
			return nil, false
		}
		if m.Header.Type != syscall.RTM_NEWLINK {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			continue
		}
		name, elsewhere := "", false
		for _, a := range attrs {
			switch a.Attr.Type {
			case syscall.IFLA_IFNAME:
				name = strings.TrimRight(string(a.Value), "\x00")
			case attrLinkNetNSID:
				elsewhere = true
			}
		}
		if elsewhere && strings.HasPrefix(name, "cali") {
			names = append(names, name)
		}
	}
	return names, true
}
