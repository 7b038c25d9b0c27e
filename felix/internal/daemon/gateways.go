package daemon

import (
	"net/netip"

	"calico.internal/felix/internal/routes"
	"calico.internal/libcalico/model"
)

// gatewayRange holds the addresses that containers have as gateway. One that has several
// networks has one for each; firstGateway is always there.
var (
	gatewayRange = netip.MustParsePrefix("169.254.1.0/24")
	firstGateway = netip.MustParseAddr("169.254.1.1")
)

// gateways are the gateways that this host's endpoints ask for.
type gateways struct {
	byKey   map[model.WorkloadEndpointKey]netip.Addr
	changed bool
}

// set takes over an endpoint; nil stands for none.
func (g *gateways) set(key model.WorkloadEndpointKey, e *model.WorkloadEndpoint) {
	var now netip.Addr
	if e != nil && gatewayRange.Contains(e.IPv4Gateway) {
		now = e.IPv4Gateway
	}
	if g.byKey[key] == now {
		return
	}
	g.changed = true
	if now.IsValid() {
		g.byKey[key] = now
	} else {
		delete(g.byKey, key)
	}
}

// takeChanged reports whether anything changed since the last call.
func (g *gateways) takeChanged() bool {
	changed := g.changed
	g.changed = false
	return changed
}

// setGateways makes the first gateway and the given ones the addresses that are wanted.
func (d *dataplane) setGateways(byKey map[model.WorkloadEndpointKey]netip.Addr) {
	wanted := map[netip.Addr]struct{}{firstGateway: {}}
	for _, a := range byKey {
		wanted[a] = struct{}{}
	}
	for a := range d.gateways {
		if _, still := wanted[a]; !still {
			d.addresses.Delete(gatewayKey(a))
		}
	}
	for a := range wanted {
		d.addresses.Set(gatewayKey(a), struct{}{})
	}
	d.gateways = wanted
}

func gatewayKey(a netip.Addr) routes.AddrKey {
	return routes.AddrKey{Interface: routes.Loopback, Prefix: netip.PrefixFrom(a, a.BitLen())}
}
