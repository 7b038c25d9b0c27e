package daemon

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
)

// concernsHost reports whether an event is about the host's own interfaces or settings.
func (d *dataplane) concernsHost(e ifmonitor.Event, changed []ifmonitor.Link) bool {
	return d.concernsHostAddrs(e, changed) || slices.ContainsFunc(e.Settings, func(index int) bool {
		link, known := d.links.ByIndex(index)
		return index == ifmonitor.AllInterfaces || known && d.isOwn(link.Name)
	})
}

// hostAddrsChanged tells the trackers the addresses of the host's own interfaces, by which
// host endpoints without an interface's name are found, if an event is about such
// interfaces, and puts the gateways where they then belong. It reports whether a pass is due.
func (d *dataplane) hostAddrsChanged(e ifmonitor.Event, changed []ifmonitor.Link) bool {
	if !d.concernsHostAddrs(e, changed) {
		return false
	}
	moved := d.placeGateways()
	return d.setHostAddrs() || moved
}

func (d *dataplane) concernsHostAddrs(e ifmonitor.Event, changed []ifmonitor.Link) bool {
	return e.Snapshot ||
		slices.ContainsFunc(changed, func(l ifmonitor.Link) bool { return d.isOwn(l.Name) }) ||
		slices.ContainsFunc(e.Addrs, func(a ifmonitor.Addr) bool {
			link, known := d.links.ByIndex(a.Index)
			return known && d.isOwn(link.Name)
		})
}

// isOwn reports whether an interface is the host's own, not a workload's.
func (d *dataplane) isOwn(iface string) bool {
	return !slices.ContainsFunc(d.cfg.InterfacePrefix, func(p string) bool { return strings.HasPrefix(iface, p) })
}

func (d *dataplane) setHostAddrs() (changed bool) {
	addrs := d.links.Addrs(d.isOwn)
	if maps.EqualFunc(addrs, d.hostAddrs, slices.Equal[[]netip.Addr]) {
		return false
	}
	d.hostAddrs = addrs
	d.changeChains(func(t *rules.Tracker) rules.ChainChanges { return t.SetInterfaces(addrs) })
	d.setEtcdPorts()
	return true
}

// unboundHosts are the host endpoints that no interface has.
func (d *dataplane) unboundHosts() []statusapi.Problem {
	var out []statusapi.Problem
	for _, k := range d.trackers[d.families[0]].Unbound() {
		out = append(out, statusapi.Problem{Object: k.String(), Reason: "no interface of this host has one of its expected addresses; it is not in force"})
	}
	return out
}
