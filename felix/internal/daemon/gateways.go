package daemon

import (
	"maps"
	"net/netip"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/routes"
	"calico.internal/libcalico/model"
)

// gatewayRange and gatewayRange6 hold the addresses that containers have as gateway. One
// that has several networks has one for each; firstGateway is always there.
var (
	gatewayRange  = netip.MustParsePrefix("169.254.1.0/24")
	gatewayRange6 = netip.MustParsePrefix("fe80::a9fe:100/120")
	firstGateway  = gatewayPair{v4: netip.MustParseAddr("169.254.1.1"), v6: netip.MustParseAddr("fe80::a9fe:101")}
)

// gatewayPair are the gateways of one endpoint.
type gatewayPair struct{ v4, v6 netip.Addr }

// gateways are the gateways of those of this host's endpoints that have others than
// nearly all.
type gateways struct {
	byKey   map[model.WorkloadEndpointKey]gatewayPair
	changed bool
}

// set takes over an endpoint; nil stands for none.
func (g *gateways) set(key model.WorkloadEndpointKey, e *model.WorkloadEndpoint) {
	now := firstGateway
	if e != nil && gatewayRange.Contains(e.IPv4Gateway) {
		now.v4 = e.IPv4Gateway
	}
	if e != nil && e.IPv6Gateway.IsValid() {
		// One that is not of this range is somebody else's to keep.
		now.v6 = netip.Addr{}
		if gatewayRange6.Contains(e.IPv6Gateway) {
			now.v6 = e.IPv6Gateway
		}
	}
	old, known := g.byKey[key]
	if now == firstGateway {
		delete(g.byKey, key)
		g.changed = g.changed || known
		return
	}
	g.byKey[key] = now
	g.changed = g.changed || now != old
}

// takeChanged reports whether anything changed since the last call.
func (g *gateways) takeChanged() bool {
	changed := g.changed
	g.changed = false
	return changed
}

// hostGateways are the gateways as they are on the host.
type hostGateways struct {
	byKey map[model.WorkloadEndpointKey]gatewayPair
	// wanted are the addresses that lo is to have.
	wanted map[netip.Addr]struct{}
	// held are those that a network of the host holds, by the host's address in it.
	held map[netip.Addr]routes.AddrKey
}

// linkLocal is the network in which machines choose addresses by themselves, and give way
// to one that is taken.
var linkLocal = netip.MustParsePrefix("169.254.0.0/16")

// isLeft reports whether a network of the host that holds a gateway's address is left that
// address: one that somebody chose, in which a machine may have it on purpose.
func isLeft(network netip.Prefix) bool { return network.Bits() > linkLocal.Bits() }

// setGateways takes over the endpoints' gateways.
func (d *dataplane) setGateways(byKey map[model.WorkloadEndpointKey]gatewayPair) {
	old := d.gateways.byKey
	d.gateways.byKey = maps.Clone(byKey)
	d.placeGateways()
	for key, one := range d.workloads.byKey {
		if old[key].v6 != byKey[key].v6 {
			d.workloads.want(one)
		}
	}
}

// placeGateways puts the first gateway and those of the endpoints on lo. One that a network
// of the host holds may be left to that network, where another machine may have it: the
// route to that network makes the kernel answer containers just as well.
func (d *dataplane) placeGateways() (changed bool) {
	wanted := map[netip.Addr]struct{}{firstGateway.v4: {}}
	for _, g := range d.gateways.byKey {
		wanted[g.v4] = struct{}{}
	}
	held := map[netip.Addr]routes.AddrKey{}
	for a := range wanted {
		if iface, prefix, ok := d.links.NetworkOf(a, d.isOwn); ok {
			held[a] = routes.AddrKey{Interface: iface, Prefix: prefix}
			if isLeft(prefix) {
				delete(wanted, a)
			}
		}
	}
	for a := range d.gateways.wanted {
		if _, still := wanted[a]; !still {
			d.addresses.Delete(gatewayKey(a))
			changed = true
		}
	}
	for a := range wanted {
		_, before := d.gateways.wanted[a]
		d.addresses.Set(gatewayKey(a), struct{}{})
		changed = changed || !before
	}
	d.gateways.wanted, d.gateways.held = wanted, held
	return changed
}

// gatewayAddresses says which addresses are felix's to keep.
func (d *dataplane) gatewayAddresses() routes.AddressRanges {
	return routes.AddressRanges{IPv4: gatewayRange, IPv6: gatewayRange6, Wanted: func(k routes.AddrKey) bool {
		_, wanted := d.addresses.Desired(k)
		return wanted
	}}
}

// gatewaysOf are the gateways of an endpoint.
func (d *dataplane) gatewaysOf(e *desired.Endpoint) gatewayPair {
	if key, ok := e.Key.(model.WorkloadEndpointKey); ok {
		if g, other := d.gateways.byKey[key]; other {
			return g
		}
	}
	return firstGateway
}

func gatewayKey(a netip.Addr) routes.AddrKey { return addressOn(routes.Loopback, a) }

func addressOn(iface string, a netip.Addr) routes.AddrKey {
	return routes.AddrKey{Interface: iface, Prefix: netip.PrefixFrom(a, a.BitLen())}
}

func isLoopback(iface string) bool { return iface == routes.Loopback }
