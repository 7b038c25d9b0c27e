package checksystem

import (
	"os"
	"path/filepath"
	"strings"
)

// settings are the host's own, which felix leaves as they are or has to write.
func (h Host) settings() []Finding {
	return []Finding{h.forwarding(), h.arpIgnore(), h.reversePaths(), h.advertisements()}
}

// forwarding opens the setting for writing, and writes nothing.
func (h Host) forwarding() Finding {
	f := Finding{Check: "sysctl of the host", Tried: "opened ip_forward for writing"}
	const name = "net/ipv4/ip_forward"
	file, err := os.OpenFile(filepath.Join(h.Sys, name), os.O_WRONLY, 0)
	switch {
	case os.IsPermission(err) && os.Geteuid() != 0:
		return f.is(Untried, "run the command as root", "it is %s", readSetting(h.Sys, name))
	case err != nil && readSetting(h.Sys, name) != "1":
		return f.is(Fault, "set it to 1, or make /proc/sys writable for root", "it is not 1, and felix cannot set it: %v", err)
	case err != nil:
		return f.is(Warning, "make /proc/sys writable for root", "it is 1, and felix cannot keep it so: %v", err)
	}
	_ = file.Close() // nothing was written
	return f.ok("it is %s; felix sets it to 1", readSetting(h.Sys, name))
}

func (h Host) arpIgnore() Finding {
	f := Finding{Check: "arp_ignore", Tried: "read net.ipv4.conf.all.arp_ignore"}
	switch now := readSetting(h.Sys, "net/ipv4/conf/all/arp_ignore"); now {
	case "":
		return f.is(Untried, "", "it cannot be read")
	case "8":
		return f.is(Fault, "sysctl -w net.ipv4.conf.all.arp_ignore=0 (or 1, 2, 3), there and in /etc/sysctl.d",
			"it is 8: the kernel answers no ARP request, so that no container finds its gateway")
	case "0":
		return f.ok("it is 0")
	default:
		return f.ok("it is %s, with which felix copes: it sets 3 on interfaces of containers", now)
	}
}

func (h Host) reversePaths() Finding {
	f := Finding{Check: "rp_filter", Tried: "read net.ipv4.conf.all.rp_filter"}
	switch now := readSetting(h.Sys, "net/ipv4/conf/all/rp_filter"); now {
	case "":
		return f.is(Untried, "", "it cannot be read")
	case "1":
		return f.is(Warning, "sysctl -w net.ipv4.conf.all.rp_filter=0: felix checks sources of containers itself",
			"it is 1: the kernel drops packets of containers with several networks")
	default:
		return f.ok("it is %s", now)
	}
}

// advertisements says what becomes of routes that routers have advertised when the host
// forwards IPv6.
func (h Host) advertisements() Finding {
	f := Finding{Check: "router advertisements", Tried: "read accept_ra and the default routes of IPv6"}
	routes, err := advertisedDefaults()
	if err != nil {
		return f.is(Untried, "", "%v", err)
	}
	var lost, ignored []string
	for _, iface := range routes {
		if readSetting(h.Sys, "net/ipv6/conf/"+iface+"/accept_ra") != "1" {
			continue
		}
		if readSetting(h.Sys, "net/ipv6/conf/"+iface+"/forwarding") == "1" {
			ignored = append(ignored, iface)
		} else {
			lost = append(lost, iface)
		}
	}
	switch {
	case len(ignored) > 0:
		return f.is(Warning, "sysctl -w net.ipv6.conf."+ignored[0]+".accept_ra=2, and in /etc/sysctl.d",
			"the host forwards IPv6 and no longer takes advertisements on %s: its default route there will run out", strings.Join(ignored, ", "))
	case len(lost) > 0:
		return f.is(Warning, "sysctl -w net.ipv6.conf."+lost[0]+".accept_ra=2, and in /etc/sysctl.d",
			"the default route by %s comes from a router's advertisement, and accept_ra=1 loses it once the host forwards IPv6. felix sets 2 before it switches that on; another program may not", strings.Join(lost, ", "))
	case len(routes) > 0:
		return f.ok("the default route by %s stays when the host forwards IPv6", strings.Join(routes, ", "))
	}
	return f.ok("no default route comes from one")
}
