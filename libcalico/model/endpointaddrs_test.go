package model_test

import (
	"net/netip"
	"slices"
	"testing"

	"calico.internal/libcalico/model"
)

// TestEndpointAddrs finds what decoding the whole finds.
func TestEndpointAddrs(t *testing.T) {
	k := model.WorkloadEndpointKey{Node: "n", Orchestrator: "o", Workload: "w", Name: "e"}
	for _, value := range []string{
		`{"state":"active","name":"cali0","ipv4_nets":["10.0.0.1/32","10.0.0.2/32"],"ipv6_nets":["fd00::1/128"],"labels":{"ipv4_nets":"x"}}`,
		`{"ipv6_nets":["FD00:0::1/128","::ffff:10.0.0.3/128"]}`,
		`{"ipv4_nets":["10.0.0.1\/32"],"newer":{"ipv4_nets":["10.9.9.9/32"]}}`,
		`{"ipv4_nets":null}`,
		`{"ipv4_nets":["10.0.0.1"]}`,
		`{`,
		`[]`,
		``,
	} {
		var want []netip.Addr
		if r, err := model.Decode(k, map[string][]byte{model.Paths(k)[0]: []byte(value)}); err == nil {
			ep := r.(*model.WorkloadEndpoint)
			for _, n := range slices.Concat(ep.IPv4Nets, ep.IPv6Nets) {
				want = append(want, n.Addr().Unmap())
			}
		}
		if got := model.EndpointAddrs([]byte(value)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, decoded %v", value, got, want)
		}
	}
}
