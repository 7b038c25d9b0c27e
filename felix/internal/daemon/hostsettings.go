package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/felix/internal/sysctls"
	"calico.internal/libcalico/logattr"
)

// hostLook is how often felix looks at the host's own settings, of which the kernel tells
// only for some that they changed.
const hostLook = 5 * time.Second

// hostSettings is what the host's own settings, which are its owner's and which felix does
// not change, do to containers.
type hostSettings struct {
	problems []statusapi.Problem
	// noARP says why no container finds its IPv4 gateway; empty when they do.
	noARP string
}

// lookAtHost reads the host's own settings, and tells of those that newly do harm. It
// reports whether anything is other than before.
func (d *dataplane) lookAtHost() (changed bool) {
	var now hostSettings
	for _, look := range []func() []statusapi.Problem{d.reversePaths, d.silentGateways, d.hostWithoutIPv6, d.deafInterfaces, d.heldGateways} {
		now.problems = append(now.problems, look()...)
	}
	if d.reads(sysctls.ARPIgnoreAll, arpNever) {
		now.noARP = "setting " + string(sysctls.ARPIgnoreAll) + " " + arpNeverHarm
	}
	for _, p := range now.problems {
		if !slices.Contains(d.host.problems, p) {
			d.log.Warn("the host's own settings concern containers", logattr.Key, p.Object, "reason", p.Reason)
		}
	}
	changed = now.noARP != d.host.noARP || !slices.Equal(now.problems, d.host.problems)
	d.host = now
	return changed
}

// reads reports whether a setting has a value.
func (d *dataplane) reads(k sysctls.Key, value string) bool {
	have, err := d.settings.Read(k)
	return err == nil && have == value
}

func settingProblem(k sysctls.Key, reason string) []statusapi.Problem {
	return []statusapi.Problem{{Object: "setting " + string(k), Reason: reason}}
}

func (d *dataplane) reversePaths() []statusapi.Problem {
	value, err := d.settings.Read(sysctls.RPFilterAll)
	if err != nil || value == "0" {
		return nil
	}
	return settingProblem(sysctls.RPFilterAll, "is "+value+": the kernel checks sources on all interfaces by its own routes too, which drops packets of containers with several networks; 0 is enough where felix runs")
}

// arpNever is the one value of arp_ignore that a workload's interface cannot outdo.
const (
	arpNever     = "8"
	arpNeverHarm = "is 8: the kernel answers no ARP request on any interface, so that no container finds its gateway; set it to 0, 1, 2 or 3"
)

func (d *dataplane) silentGateways() []statusapi.Problem {
	if !d.reads(sysctls.ARPIgnoreAll, arpNever) {
		return nil
	}
	return settingProblem(sysctls.ARPIgnoreAll, arpNeverHarm)
}

func (d *dataplane) hostWithoutIPv6() []statusapi.Problem {
	if len(d.workloads.ipv6) == 0 || !d.reads(sysctls.DisableIPv6All, "1") {
		return nil
	}
	return settingProblem(sysctls.DisableIPv6All, "is 1: the host has switched IPv6 off, so that IPv6 of its containers ends at this host; set it to 0 for the interfaces that lead to other hosts")
}

// deafInterfaces are the host's interfaces whose IPv4 packets for containers are dropped.
func (d *dataplane) deafInterfaces() (out []statusapi.Problem) {
	if !d.reads(sysctls.ForwardIPv4, "1") {
		return nil // which felix is about to mend, for all interfaces
	}
	for name, addrs := range d.hostAddrs {
		link, known := d.links.ByName(name)
		k := sysctls.ForwardIPv4Of(name)
		if known && link.Up && slices.ContainsFunc(addrs, netip.Addr.Is4) && !isLoopback(name) && d.reads(k, "0") {
			out = append(out, settingProblem(k, "is 0: packets for containers that come in by "+name+" are dropped; set it to 1 if containers are to be reached by it")...)
		}
	}
	slices.SortFunc(out, statusapi.Problem.Compare)
	return out
}

// heldGateways are the gateways that a network of the host holds.
func (d *dataplane) heldGateways() (out []statusapi.Problem) {
	for a, by := range d.gateways.held {
		reason := "this host has the address for its containers, so that it reaches no other machine by it; give a machine there that has it another one"
		if isLeft(by.Prefix) {
			reason = fmt.Sprintf("the address may be another machine's there, and felix leaves it to that network. Containers reach everything as before, but for the gateway itself, by ping or for names; to have that too, give %s a network outside of %s",
				by.Interface, gatewayRange)
		}
		out = append(out, statusapi.Problem{
			Object: "gateway " + a.String(),
			Reason: fmt.Sprintf("interface %s has the network %s: %s", by.Interface, by.Prefix.Masked(), reason),
		})
	}
	slices.SortFunc(out, statusapi.Problem.Compare)
	return out
}

// gatewayFault says why an endpoint's IPv4 gateway does not answer.
func (d *dataplane) gatewayFault(e *desired.Endpoint) string {
	if d.host.noARP != "" {
		return d.host.noARP
	}
	gateway := gatewayKey(d.gatewaysOf(e).v4)
	if _, wanted := d.addresses.Desired(gateway); !wanted {
		return "" // a network of the host holds it
	}
	if why := missing(d.addresses, gateway); why != "" {
		return "gateway " + gateway.String() + why
	}
	return ""
}

// hostFault says what of the host's settings keeps an endpoint from being in force.
func (d *dataplane) hostFault(e *desired.Endpoint) string {
	for _, n := range e.Nets {
		forward := sysctls.ForwardIPv4
		if n.Addr().Is6() {
			forward = sysctls.ForwardIPv6
		} else if why := d.gatewayFault(e); why != "" {
			return why
		}
		if _, wanted := d.sysctls.Desired(forward); !wanted || n.Addr().Is6() && d.chains.without(rules.V6) {
			continue // this family is not handled
		}
		if why := missing(d.sysctls, forward); why != "" {
			return "setting " + string(forward) + why
		}
	}
	return ""
}
