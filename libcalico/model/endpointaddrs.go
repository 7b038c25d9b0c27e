package model

import (
	"encoding/json"
	"net/netip"
)

// EndpointAddrs reads the addresses of a stored workload endpoint and nothing else of it, for
// a fraction of what it takes to decode it. Of a value that cannot be read there are none.
func EndpointAddrs(value []byte) []netip.Addr {
	var nets struct {
		IPv4 []netip.Prefix `json:"ipv4_nets"`
		IPv6 []netip.Prefix `json:"ipv6_nets"`
	}
	if err := json.Unmarshal(value, &nets); err != nil {
		return nil
	}
	addrs := make([]netip.Addr, 0, len(nets.IPv4)+len(nets.IPv6))
	for _, list := range [][]netip.Prefix{nets.IPv4, nets.IPv6} {
		for _, n := range list {
			addrs = append(addrs, n.Addr().Unmap())
		}
	}
	return addrs
}
