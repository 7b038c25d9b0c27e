package v1

import (
	"fmt"
	"net/netip"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// WorkloadEndpointMetadata is the metadata of a workload endpoint.
type WorkloadEndpointMetadata struct {
	Name             string            `json:"name,omitempty"`
	Workload         string            `json:"workload,omitempty"`
	Orchestrator     string            `json:"orchestrator,omitempty"`
	Node             string            `json:"node,omitempty"`
	ActiveInstanceID string            `json:"activeInstanceID,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`
}

// WorkloadEndpointSpec is the specification of a workload endpoint.
type WorkloadEndpointSpec struct {
	IPNetworks    []IPNet  `json:"ipNetworks,omitempty"`
	IPNATs        []IPNAT  `json:"ipNATs,omitempty"`
	IPv4Gateway   IP       `json:"ipv4Gateway,omitzero"`
	IPv6Gateway   IP       `json:"ipv6Gateway,omitzero"`
	Profiles      []string `json:"profiles,omitempty"`
	InterfaceName string   `json:"interfaceName,omitempty"`
	MAC           MAC      `json:"mac,omitempty"`
}

// IPNAT is a floating address: traffic to ExternalIP reaches InternalIP.
type IPNAT struct {
	InternalIP IP `json:"internalIP"`
	ExternalIP IP `json:"externalIP"`
}

// String is the pair as tables show it.
func (n IPNAT) String() string { return fmt.Sprintf("%s/%s", n.InternalIP, n.ExternalIP) }

// WorkloadEndpoint is the document of a workload endpoint.
type WorkloadEndpoint = Resource[WorkloadEndpointMetadata, WorkloadEndpointSpec]

// stateActive is the state of an endpoint that gets traffic.
const stateActive = "active"

func workloadEndpointKind() dialect.Kind {
	return conversion[WorkloadEndpointMetadata, WorkloadEndpointSpec, *model.WorkloadEndpoint]{
		kind:    model.KindWorkloadEndpoint,
		aliases: []string{"workloadendpoint", "workloadendpoints", "wep", "weps"},
		key:     workloadEndpointKey,
		decode:  decodeWorkloadEndpoint,
		encode:  encodeWorkloadEndpoint,
		columns: workloadEndpointColumns(),
		short:   []string{"NODE", "ORCHESTRATOR", "WORKLOAD", "NAME"},
		wide:    []string{"NODE", "ORCHESTRATOR", "WORKLOAD", "NAME", "NETWORKS", "NATS", "INTERFACE", "PROFILES"},
	}.dialectKind()
}

func workloadEndpointColumns() []dialect.Column {
	text := func(heading string, show func(*WorkloadEndpoint) string) dialect.Column {
		return column(heading, func(e *WorkloadEndpoint, _ dialect.Cluster) string { return show(e) })
	}
	return []dialect.Column{
		text("NODE", func(e *WorkloadEndpoint) string { return e.Metadata.Node }),
		text("ORCHESTRATOR", func(e *WorkloadEndpoint) string { return e.Metadata.Orchestrator }),
		text("WORKLOAD", func(e *WorkloadEndpoint) string { return e.Metadata.Workload }),
		text("NAME", func(e *WorkloadEndpoint) string { return e.Metadata.Name }),
		text("NETWORKS", func(e *WorkloadEndpoint) string { return joined(e.Spec.IPNetworks) }),
		text("NATS", func(e *WorkloadEndpoint) string { return joined(e.Spec.IPNATs) }),
		text("INTERFACE", func(e *WorkloadEndpoint) string { return e.Spec.InterfaceName }),
		text("PROFILES", func(e *WorkloadEndpoint) string { return strings.Join(e.Spec.Profiles, ",") }),
		text("IPV4GATEWAY", func(e *WorkloadEndpoint) string { return gatewayText(e.Spec.IPv4Gateway) }),
		text("IPV6GATEWAY", func(e *WorkloadEndpoint) string { return gatewayText(e.Spec.IPv6Gateway) }),
		text("MAC", func(e *WorkloadEndpoint) string { return string(e.Spec.MAC) }),
	}
}

func gatewayText(ip IP) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
}

func workloadEndpointKey(r *tree.Report, m WorkloadEndpointMetadata) model.Key {
	for _, id := range []struct{ field, value string }{
		{"node", m.Node}, {"orchestrator", m.Orchestrator}, {"workload", m.Workload}, {"name", m.Name},
	} {
		need(r, id.field, id.value)
	}
	return model.WorkloadEndpointKey{Node: m.Node, Orchestrator: m.Orchestrator, Workload: m.Workload, Name: m.Name}
}

func decodeWorkloadEndpoint(r *tree.Report, m WorkloadEndpointMetadata, s WorkloadEndpointSpec) *model.WorkloadEndpoint {
	e := &model.WorkloadEndpoint{
		State:     stateActive,
		Interface: s.InterfaceName, ActiveInstanceID: m.ActiveInstanceID, MAC: string(s.MAC),
		Profiles: s.Profiles, Labels: m.Labels,
		IPv4Gateway: s.IPv4Gateway.Addr, IPv6Gateway: s.IPv6Gateway.Addr,
	}
	for _, n := range s.IPNetworks {
		switch {
		case !n.IsValid():
		case n.Addr().Is4():
			e.IPv4Nets = append(e.IPv4Nets, n.Prefix)
		default:
			e.IPv6Nets = append(e.IPv6Nets, n.Prefix)
		}
	}
	for i, n := range s.IPNATs {
		decodeNAT(r, tree.Index("spec.ipNATs", i), n, e)
	}
	return e
}

func decodeNAT(r *tree.Report, path string, n IPNAT, e *model.WorkloadEndpoint) {
	if !n.InternalIP.IsValid() || !n.ExternalIP.IsValid() {
		if !r.Has(path) {
			r.Add(path, "needs an internalIP and an externalIP")
		}
		return
	}
	if n.InternalIP.Is4() != n.ExternalIP.Is4() {
		r.Add(path, "%s and %s are of different IP versions", n.InternalIP, n.ExternalIP)
	}
	nat := model.NAT{Internal: n.InternalIP.Addr, External: n.ExternalIP.Addr}
	if nat.Internal.Is4() {
		e.IPv4NAT = append(e.IPv4NAT, nat)
	} else {
		e.IPv6NAT = append(e.IPv6NAT, nat)
	}
}

func encodeWorkloadEndpoint(k model.Key, e *model.WorkloadEndpoint) (m WorkloadEndpointMetadata, s WorkloadEndpointSpec, lost []string) {
	key, _ := k.(model.WorkloadEndpointKey)
	m = WorkloadEndpointMetadata{
		Name: key.Name, Workload: key.Workload, Orchestrator: key.Orchestrator, Node: key.Node,
		ActiveInstanceID: e.ActiveInstanceID, Labels: e.Labels,
	}
	s = WorkloadEndpointSpec{
		InterfaceName: e.Interface, MAC: MAC(e.MAC), Profiles: e.Profiles,
		IPv4Gateway: IP{Addr: e.IPv4Gateway}, IPv6Gateway: IP{Addr: e.IPv6Gateway},
	}
	for _, list := range [][]netip.Prefix{e.IPv4Nets, e.IPv6Nets} {
		s.IPNetworks = append(s.IPNetworks, encodeNets(list)...)
	}
	for _, list := range [][]model.NAT{e.IPv4NAT, e.IPv6NAT} {
		for _, n := range list {
			s.IPNATs = append(s.IPNATs, IPNAT{InternalIP: IP{Addr: n.Internal}, ExternalIP: IP{Addr: n.External}})
		}
	}
	if e.State != stateActive && e.State != "" {
		lost = append(lost, "state "+e.State)
	}
	if len(e.Ports) > 0 {
		lost = append(lost, "ports")
	}
	return m, s, lost
}
