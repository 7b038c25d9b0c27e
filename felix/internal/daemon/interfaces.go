package daemon

import (
	"errors"

	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/sysctls"
	"calico.internal/libcalico/logattr"
)

// interfacesChanged follows what happened on the host's interfaces, and reports whether
// a pass is due. Notifications of felix's own writes come back here; they agree with what
// is desired and lead to nothing.
func (d *dataplane) interfacesChanged(e ifmonitor.Event, changed []ifmonitor.Link) (due bool) {
	if e.Snapshot {
		d.resyncRoutes()
		d.sysctls.Resync()
		due = true
	}
	for _, l := range changed {
		due = d.workloads.linkChanged(l) || due
	}
	due = d.hostAddrsChanged(e, changed) || due
	due = d.bridgesChanged(e, changed) || due
	for _, r := range e.Routes {
		due = d.routeChanged(r) || due
	}
	for _, n := range e.Neighs {
		due = d.neighChanged(n) || due
	}
	for _, a := range e.Addrs {
		due = d.addrChanged(a) || due
	}
	for _, index := range e.Settings {
		due = d.settingChanged(index) || due
	}
	return due
}

func (d *dataplane) resyncRoutes() {
	d.routes.Resync()
	d.neighbours.Resync()
	d.addresses.Resync()
}

// routeChanged has a route of felix's written again that was deleted or replaced, and the
// routes read again when somebody put another one on a workload's interface.
func (d *dataplane) routeChanged(r ifmonitor.Route) bool {
	key := routes.Key{Table: routes.MainTable, Prefix: r.Prefix}
	want, wanted := d.routes.Desired(key)
	link, known := d.links.ByIndex(r.Index)
	mine := wanted && known && link.Name == want.Interface
	foreign := !r.Gone && known && d.workloads.byIface[link.Name] != nil && !r.Prefix.Addr().IsLinkLocalUnicast() && !r.Prefix.Addr().IsMulticast()
	switch {
	case mine && r.Gone, wanted && !mine && !r.Gone:
		d.routes.Forget(key)
	case !wanted && foreign:
		d.routes.Resync()
	default:
		return false
	}
	d.log.Debug("route changed", logattr.Prefix, r.Prefix.String())
	return true
}

func (d *dataplane) neighChanged(n ifmonitor.Neigh) bool {
	link, known := d.links.ByIndex(n.Index)
	if !known {
		return false
	}
	key := routes.NeighKey{Interface: link.Name, Addr: n.Addr}
	_, wanted := d.neighbours.Desired(key)
	if !wanted || (!n.Gone && n.Permanent && !d.neighbourDiffers(link.Name, n)) {
		return false
	}
	d.neighbours.Forget(key)
	return true
}

// neighbourDiffers says whether an entry that was written has another address than wanted.
func (d *dataplane) neighbourDiffers(iface string, n ifmonitor.Neigh) bool {
	want, _ := d.neighbours.Desired(routes.NeighKey{Interface: iface, Addr: n.Addr})
	have, ok := routes.MACOf(n.MAC)
	return !ok || have != want
}

func (d *dataplane) addrChanged(a ifmonitor.Addr) bool {
	link, known := d.links.ByIndex(a.Index)
	if !known {
		return false
	}
	key := addressOn(link.Name, a.Prefix.Addr())
	_, wanted := d.addresses.Desired(key)
	switch {
	case wanted && a.Gone:
		d.addresses.Forget(key)
		// The kernel tells only in this way that IPv6 was switched off on an interface.
		d.settingChanged(a.Index)
	case !wanted && !a.Gone && isLoopback(link.Name) && gatewayRange.Contains(a.Prefix.Addr()):
		d.addresses.Resync()
	default:
		return false
	}
	return true
}

// settingChanged looks at the settings of one interface.
func (d *dataplane) settingChanged(index int) (due bool) {
	wanted := map[sysctls.Key]string{}
	if index == ifmonitor.AllInterfaces {
		for _, key := range []sysctls.Key{sysctls.ForwardIPv4, sysctls.ForwardIPv6} {
			if want, ok := d.sysctls.Desired(key); ok {
				wanted[key] = want
			}
		}
	} else if link, known := d.links.ByIndex(index); known {
		if one := d.workloads.byIface[link.Name]; one != nil {
			wanted = one.settings
		}
	}
	return d.differ(wanted)
}

// sampledInterfaces is how many workloads' interfaces are looked at with the host's
// settings.
const sampledInterfaces = 4

// sampleSettings looks at the settings of some interfaces: of those that the kernel does
// not tell about, a program that changes one mostly changes it on all.
func (d *dataplane) sampleSettings() (due bool) {
	left := sampledInterfaces
	for _, one := range d.workloads.byIface { // which begins anywhere
		if left == 0 || due {
			break
		}
		left--
		due = d.differ(one.settings)
	}
	if due {
		d.sysctls.Resync()
	}
	return due
}

// differ has those of the given settings written again that were changed.
func (d *dataplane) differ(wanted map[sysctls.Key]string) (due bool) {
	for key, want := range wanted {
		if have, err := d.settings.Read(key); err == nil && have != want && d.sysctls.InForce(key) {
			d.sysctls.Forget(key)
			due = true
		}
	}
	return due
}

// audit looks cheaply whether others wrote to what does not notify, and has that read
// again.
func (d *dataplane) audit(withSets bool) (drifted []string, err error) {
	drifted, err = d.chains.audit(d.iptables.Quiet())
	if !withSets {
		return drifted, err
	}
	changed, setErr := d.ipsets.Drifted()
	if changed {
		d.sets.Resync()
		d.members.Resync()
		drifted = append(drifted, d.sets.Name())
	}
	return drifted, errors.Join(err, setErr)
}
