package endpoint

import (
	"net/netip"

	"calico.internal/libcalico/model"
)

// Gateway is the address that the nth network of a container (from 1) routes to:
// 169.254.1.1, .2 and so on. A container's networks must differ in it, as the engine
// cannot add one route twice.
func Gateway(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{169, 254, 1, byte(n)})
}

// GatewayIPv6 is the same for IPv6: the link-local address with the bytes of the IPv4
// one, fe80::a9fe:101.
func GatewayIPv6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 12: 169, 13: 254, 14: 1, 15: byte(n)})
}

// MaxGateways is how many networks a container can have.
const MaxGateways = 254

// SetGateway notes that an endpoint is its container's nth. The first, which nearly all
// are, is the rule and not noted.
func SetGateway(ep *model.WorkloadEndpoint, n int) {
	ep.IPv4Gateway, ep.IPv6Gateway = netip.Addr{}, netip.Addr{}
	if n == 1 {
		return
	}
	if len(ep.IPv4Nets) > 0 {
		ep.IPv4Gateway = Gateway(n)
	}
	if len(ep.IPv6Nets) > 0 {
		ep.IPv6Gateway = GatewayIPv6(n)
	}
}

// GatewayOf tells which of its container's endpoints this one is.
func GatewayOf(ep *model.WorkloadEndpoint) int {
	for _, gw := range []netip.Addr{ep.IPv4Gateway, ep.IPv6Gateway} {
		if gw.IsValid() {
			b := gw.AsSlice()
			return int(b[len(b)-1])
		}
	}
	return 1
}
