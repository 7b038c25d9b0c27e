package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/libcalico/model"
)

func TestGatewaysOfEndpoints(t *testing.T) {
	addr := netip.MustParseAddr
	key := model.WorkloadEndpointKey{Node: "here", Orchestrator: "o", Workload: "w", Name: "e"}
	second := gatewayPair{v4: addr("169.254.1.2"), v6: addr("fe80::a9fe:102")}
	g := gateways{byKey: map[model.WorkloadEndpointKey]gatewayPair{}}
	for _, c := range []struct {
		name    string
		value   *model.WorkloadEndpoint
		want    *gatewayPair // nil where it has the usual ones
		changed bool
	}{
		{"the usual ones", &model.WorkloadEndpoint{}, nil, false},
		{"the usual ones, said", &model.WorkloadEndpoint{IPv4Gateway: firstGateway.v4, IPv6Gateway: firstGateway.v6}, nil, false},
		{"the second network's", &model.WorkloadEndpoint{IPv4Gateway: second.v4, IPv6Gateway: second.v6}, &second, true},
		{"again", &model.WorkloadEndpoint{IPv4Gateway: second.v4, IPv6Gateway: second.v6}, &second, false},
		{"without IPv6", &model.WorkloadEndpoint{IPv4Gateway: second.v4}, &gatewayPair{v4: second.v4, v6: firstGateway.v6}, true},
		{
			"somebody else's, which is not felix's to keep", &model.WorkloadEndpoint{IPv4Gateway: addr("10.0.0.1"), IPv6Gateway: addr("fe80::1")},
			&gatewayPair{v4: firstGateway.v4}, true,
		},
		{"the usual ones again", &model.WorkloadEndpoint{}, nil, true},
		{"the second network's, once more", &model.WorkloadEndpoint{IPv4Gateway: second.v4, IPv6Gateway: second.v6}, &second, true},
		{"it goes", nil, nil, true},
		{"it is gone", nil, nil, false},
	} {
		g.set(key, c.value)
		want := map[model.WorkloadEndpointKey]gatewayPair{}
		if c.want != nil {
			want[key] = *c.want
		}
		if d := cmp.Diff(want, g.byKey, cmp.AllowUnexported(gatewayPair{}), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
		if changed := g.takeChanged(); changed != c.changed {
			t.Errorf("%s: changed is %v", c.name, changed)
		}
	}
}
