package manifest

import (
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/libcalico/model"
)

// Unserved is something that a resource asks for and that nothing acts on yet. Since it
// would change traffic, it is refused where it is new; what is stored already stays.
type Unserved string

// What is unserved.
const (
	UnservedIPIP        Unserved = "IP-in-IP is not served yet: pools are routed directly; leave it off"
	unservedVXLAN       Unserved = "VXLAN is not served: pools are routed directly; leave it off"
	unservedFilter      Unserved = "spec: bgpd does not apply filters yet: all routes would be exchanged as without it"
	unservedPeerFilters Unserved = "spec.filters: bgpd does not apply filters yet: all routes would be exchanged as without them; leave them out"
	unservedReflector   Unserved = "spec.bgp.routeReflectorClusterID: bgpd is no route reflector yet: the node would stay a member of the mesh like any other; leave it out"
)

// UnservedBy lists what a resource asks for in vain.
func UnservedBy(v model.Resource) []Unserved {
	var out []Unserved
	add := func(asked bool, u Unserved) {
		if asked {
			out = append(out, u)
		}
	}
	switch v := v.(type) {
	case *model.IPPool:
		add(v.IPIPDevice != "", UnservedIPIP)
		add(v.VXLANMode != "", unservedVXLAN)
	case *settings.Settings:
		add(v.Of == settings.KindFelix && strings.EqualFold(v.Values["IpInIpEnabled"], "true"), UnservedIPIP)
	case *model.BGPPeer:
		add(len(v.Filters) > 0, unservedPeerFilters)
	case *model.BGPFilter:
		rules := slices.Concat(v.ExportV4, v.ImportV4, v.ExportV6, v.ImportV6)
		add(len(rules) > 0, unservedFilter)
	case *model.Node:
		add(v.RouteReflectorClusterID != "", unservedReflector)
	}
	return out
}
