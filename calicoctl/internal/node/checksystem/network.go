package checksystem

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"calico.internal/libcalico/nodestart/address"
)

// network is what the host's network is like.
func (h Host) network() []Finding {
	out := []Finding{uplink(), h.names(), h.port()}
	if comm := strings.TrimSpace(readText(h.Root, "proc/1/comm")); comm != "" {
		out = append(out, service(comm))
	}
	return out
}

// protocolRA is that of routes by advertisement (RTPROT_RA).
const protocolRA = 9

// advertisedDefaults are the interfaces of default routes that came by advertisement.
func advertisedDefaults() ([]string, error) {
	return defaults(syscall.AF_INET6, func(r *routeHeader) bool { return r.Protocol == protocolRA })
}

// routeHeader is the kernel's struct rtmsg.
type routeHeader struct{ Family, DstLen, SrcLen, Tos, Table, Protocol, Scope, Type uint8 }

// defaults are the interfaces of a family's default routes that are wanted.
func defaults(fam int, wanted func(*routeHeader) bool) ([]string, error) {
	data, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, fam)
	if err != nil {
		return nil, fmt.Errorf("routes cannot be listed: %w", err)
	}
	list, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return nil, fmt.Errorf("routes cannot be read: %w", err)
	}
	var names []string
	for _, m := range list {
		if m.Header.Type != syscall.RTM_NEWROUTE || len(m.Data) < syscall.SizeofRtMsg {
			continue
		}
		r := routeHeader{m.Data[0], m.Data[1], m.Data[2], m.Data[3], m.Data[4], m.Data[5], m.Data[6], m.Data[7]}
		if r.Type != syscall.RTN_UNICAST || r.DstLen != 0 || !wanted(&r) {
			continue
		}
		if name := outInterface(&m); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

func outInterface(m *syscall.NetlinkMessage) string {
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return ""
	}
	for _, a := range attrs {
		if a.Attr.Type == syscall.RTA_OIF && len(a.Value) >= 4 {
			if link, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(a.Value))); err == nil {
				return link.Name
			}
		}
	}
	return ""
}

// minMTU is the least that IPv6 allows (RFC 8200).
const minMTU = 1280

// uplink is the interface by which the host reaches the world.
func uplink() Finding {
	f := Finding{Check: "MTU", Tried: "read that of the interface with the default route"}
	names, err := defaults(syscall.AF_INET, func(*routeHeader) bool { return true })
	if err == nil && len(names) == 0 {
		names, err = defaults(syscall.AF_INET6, func(*routeHeader) bool { return true })
	}
	if err != nil || len(names) == 0 {
		return f.is(Untried, "", "there is no default route that tells which interface that is")
	}
	link, err := net.InterfaceByName(names[0])
	if err != nil {
		return f.is(Untried, "", "%v", err)
	}
	if link.MTU < minMTU {
		return f.is(Warning, fmt.Sprintf("set it to %d at least, or use no IPv6", minMTU), "%s has %d: too little for IPv6", link.Name, link.MTU)
	}
	return f.ok("%s has %d, as interfaces of containers will", link.Name, link.MTU)
}

// names looks for a name server that containers cannot ask.
func (h Host) names() Finding {
	f := Finding{Check: "DNS", Tried: "read the name servers of /etc/resolv.conf"}
	own := ownAddresses()
	var local, all []string
	for scan := bufio.NewScanner(strings.NewReader(readText(h.Root, "etc/resolv.conf"))); scan.Scan(); {
		words := strings.Fields(scan.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(words[1])
		if err != nil {
			continue
		}
		all = append(all, words[1])
		// What stands on a loopback address the engine asks itself, from the host.
		if own[a.WithZone("").Unmap()] && !a.IsLoopback() {
			local = append(local, words[1])
		}
	}
	switch {
	case len(local) > 0:
		return f.is(Warning, `name another server for containers: "dns": ["ADDRESS"] in /etc/docker/daemon.json, or docker run --dns; or allow port 53 of the host by a host endpoint's policy`,
			"%s is an address of this host, and felix drops what containers send to their host: they get no names", strings.Join(local, ", "))
	case len(all) == 0:
		return f.is(Warning, "name a server", "there is none")
	}
	return f.ok("%s", strings.Join(all, ", "))
}

// resolver is where Docker's plugin answers names of containers of all hosts.
const resolver = "169.254.1.1"

// NamesOfContainers looks whether the engine's containers ask the plugin for names of other
// hosts' containers. What the engine was given as arguments cannot be seen. root is the root of
// the host's files; shared says that the engine knows those names by a cluster store.
func NamesOfContainers(root fs.FS, shared bool) Finding {
	f := Finding{Check: "names of containers", Tried: "read /etc/docker/daemon.json and the options of /etc/resolv.conf"}
	if shared {
		return f.ok("the engines tell each other by their cluster store")
	}
	var daemon struct {
		DNS     []string `json:"dns"`
		Options []string `json:"dns-opts"`
	}
	text := readText(root, "etc/docker/daemon.json")
	if err := json.Unmarshal([]byte(text), &daemon); err != nil && text != "" {
		return f.is(Fault, "correct it: the engine does not start with it", "/etc/docker/daemon.json: %v", err)
	}
	if !slices.Contains(daemon.DNS, resolver) {
		return f.is(Warning, fmt.Sprintf(`put "dns": [%q] into /etc/docker/daemon.json and restart the engine, unless dockerd has --dns=%s`, resolver, resolver),
			"containers do not ask %s, and find no names of other hosts' containers", resolver)
	}
	options := strings.Join(daemon.Options, " ")
	if options == "" {
		options = resolverOptions(readText(root, "etc/resolv.conf"))
	}
	if strings.Contains(options, "ndots:") {
		return f.is(Warning, `put "dns-opts": ["attempts:2"], or others without ndots, into /etc/docker/daemon.json and restart the engine`,
			"an engine whose containers have the option ndots passes on no name without a dot")
	}
	return f.ok("containers ask %s", resolver)
}

// resolverOptions are the options of a resolv.conf file.
func resolverOptions(text string) string {
	var options []string
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == "options" {
			options = append(options, words[1:]...)
		}
	}
	return strings.Join(options, " ")
}

func ownAddresses() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	interfaces, err := address.Host()
	if err != nil {
		return out
	}
	for _, i := range interfaces {
		for _, p := range i.Prefixes {
			out[p.Addr().Unmap()] = true
		}
	}
	return out
}

func (h Host) port() Finding {
	f := Finding{Check: "port 179", Tried: "looked who listens there"}
	who := h.BGPPort()
	if who == "" {
		return f.ok("it is free")
	}
	if _, err := os.Stat(h.RunDir + "/bgpd.sock"); err == nil {
		return f.ok("%s has it, as it should", who)
	}
	return f.is(Fault, "stop it, or run the node with --backend=none", "taken by %s, and BGP needs it", who)
}

// service says what an engine's restart is like.
func service(comm string) Finding {
	f := Finding{Check: "process 1", Tried: "read its name"}
	if comm != "systemd" {
		return f.ok("%s", comm)
	}
	return f.ok("systemd: `calicoctl node run --dryrun -o systemd` writes a unit for calico-node, which starts after Docker's")
}
