package v3

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// EndpointPort gives a port of an endpoint a name that rules can use.
type EndpointPort struct {
	Name     string   `json:"name"`
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
}

func decodeEndpointPorts(in []EndpointPort) []model.EndpointPort {
	var out []model.EndpointPort
	for _, p := range in {
		out = append(out, model.EndpointPort{Name: p.Name, Protocol: model.Protocol(p.Protocol), Port: p.Port})
	}
	return out
}

func encodeEndpointPorts(in []model.EndpointPort) []EndpointPort {
	var out []EndpointPort
	for _, p := range in {
		out = append(out, EndpointPort{p.Name, Protocol(p.Protocol), p.Port})
	}
	return out
}

// HostEndpointSpec is the specification of a host endpoint.
type HostEndpointSpec struct {
	Node          string         `json:"node,omitempty"`
	InterfaceName string         `json:"interfaceName,omitempty"`
	ExpectedIPs   []scalar.IP    `json:"expectedIPs,omitempty"`
	Profiles      []string       `json:"profiles,omitempty"`
	Ports         []EndpointPort `json:"ports,omitempty"`
}

// HostEndpoint is the document of a host endpoint.
type HostEndpoint = Resource[HostEndpointSpec]

func hostEndpointKind() dialect.Kind {
	return conversion[HostEndpointSpec, *model.HostEndpoint]{
		kind: model.KindHostEndpoint, name: "HostEndpoint", aliases: []string{"hostendpoint", "hostendpoints", "hep", "heps"},
		decode: decodeHostEndpoint, encode: encodeHostEndpoint,
		nameOf: func(k model.Key, _ *model.HostEndpoint) string {
			key, _ := k.(model.HostEndpointKey)
			return key.Node + "." + key.Name
		},
		labels: func(e *model.HostEndpoint) *map[string]string { return &e.Labels },
		places: map[string]string{"metadata.node": "spec.node"},
		columns: []dialect.Column{
			nameColumn[HostEndpointSpec](),
			column("NODE", func(e *HostEndpoint) string { return e.Spec.Node }),
			column("INTERFACE", func(e *HostEndpoint) string { return e.Spec.InterfaceName }),
			column("IPS", func(e *HostEndpoint) string { return joined(e.Spec.ExpectedIPs) }),
			column("PROFILES", func(e *HostEndpoint) string { return strings.Join(e.Spec.Profiles, ",") }),
		},
		short: []string{"NAME", "NODE"}, wide: []string{"NAME", "NODE", "INTERFACE", "IPS", "PROFILES"},
	}.dialectKind()
}

// decodeHostEndpoint knows by its name an endpoint that the dialect v1 made: that is
// its node and its name there with a dot between.
func decodeHostEndpoint(r *tree.Report, m ObjectMeta, s HostEndpointSpec) (model.Key, *model.HostEndpoint) {
	need(r, "node", s.Node)
	key := model.HostEndpointKey{Node: s.Node, Name: m.Name}
	e := &model.HostEndpoint{
		Meta: model.Meta{V3Name: m.Name}, Interface: s.InterfaceName, Profiles: s.Profiles, Ports: decodeEndpointPorts(s.Ports),
	}
	if name, ok := strings.CutPrefix(m.Name, s.Node+"."); ok && name != "" {
		key.Name = name
	}
	for _, ip := range s.ExpectedIPs {
		switch {
		case ip.Is4():
			e.ExpectedIPv4Addrs = append(e.ExpectedIPv4Addrs, ip.Addr)
		case ip.IsValid():
			e.ExpectedIPv6Addrs = append(e.ExpectedIPv6Addrs, ip.Addr)
		}
	}
	return key, e
}

func encodeHostEndpoint(k model.Key, e *model.HostEndpoint) (HostEndpointSpec, []string) {
	key, _ := k.(model.HostEndpointKey)
	s := HostEndpointSpec{Node: key.Node, InterfaceName: e.Interface, Profiles: e.Profiles, Ports: encodeEndpointPorts(e.Ports)}
	for _, list := range [][]netip.Addr{e.ExpectedIPv4Addrs, e.ExpectedIPv6Addrs} {
		for _, ip := range list {
			s.ExpectedIPs = append(s.ExpectedIPs, scalar.IP{Addr: ip})
		}
	}
	return s, nil
}

// WorkloadEndpointSpec is the specification of a workload endpoint.
type WorkloadEndpointSpec struct {
	Orchestrator  string         `json:"orchestrator,omitempty"`
	Workload      string         `json:"workload,omitempty"`
	Node          string         `json:"node,omitempty"`
	ContainerID   string         `json:"containerID,omitempty"`
	Endpoint      string         `json:"endpoint,omitempty"`
	IPNetworks    []scalar.IPNet `json:"ipNetworks,omitempty"`
	IPNATs        []IPNAT        `json:"ipNATs,omitempty"`
	IPv4Gateway   scalar.IP      `json:"ipv4Gateway,omitzero"`
	IPv6Gateway   scalar.IP      `json:"ipv6Gateway,omitzero"`
	Profiles      []string       `json:"profiles,omitempty"`
	InterfaceName string         `json:"interfaceName,omitempty"`
	MAC           scalar.MAC     `json:"mac,omitempty"`
	Ports         []EndpointPort `json:"ports,omitempty"`

	Pod                scalar.Kubernetes `json:"pod,omitzero"`
	ServiceAccountName scalar.Kubernetes `json:"serviceAccountName,omitzero"`
	Spoofed            scalar.Elsewhere  `json:"allowSpoofedSourcePrefixes,omitzero"`
	QoSControls        scalar.Elsewhere  `json:"qosControls,omitzero"`
}

// IPNAT is a floating address: traffic to ExternalIP reaches InternalIP.
type IPNAT struct {
	InternalIP scalar.IP `json:"internalIP"`
	ExternalIP scalar.IP `json:"externalIP"`
}

// String is the pair as tables show it.
func (n IPNAT) String() string { return fmt.Sprintf("%s/%s", n.InternalIP, n.ExternalIP) }

// WorkloadEndpoint is the document of a workload endpoint.
type WorkloadEndpoint = Resource[WorkloadEndpointSpec]

// stateActive is the state of an endpoint that gets traffic.
const stateActive = "active"

func workloadEndpointKind() dialect.Kind {
	text := func(heading string, show func(WorkloadEndpointSpec) string) dialect.Column {
		return column(heading, func(e *WorkloadEndpoint) string { return show(e.Spec) })
	}
	return conversion[WorkloadEndpointSpec, *model.WorkloadEndpoint]{
		kind: model.KindWorkloadEndpoint, name: "WorkloadEndpoint", namespaced: true, anyName: true,
		aliases: []string{"workloadendpoint", "workloadendpoints", "wep", "weps"},
		decode:  decodeWorkloadEndpoint, encode: encodeWorkloadEndpoint,
		nameOf: func(k model.Key, _ *model.WorkloadEndpoint) string {
			return endpointName(k.(model.WorkloadEndpointKey))
		},
		keyOf:  func(name string) model.Key { return endpointKey(name) },
		labels: func(e *model.WorkloadEndpoint) *map[string]string { return &e.Labels },
		places: map[string]string{
			"metadata.node": "spec.node", "metadata.orchestrator": "spec.orchestrator",
			"metadata.workload": "spec.workload", "metadata.name": "spec.endpoint",
		},
		columns: []dialect.Column{
			nameColumn[WorkloadEndpointSpec](),
			text("WORKLOAD", func(s WorkloadEndpointSpec) string { return s.Workload }),
			text("NODE", func(s WorkloadEndpointSpec) string { return s.Node }),
			text("NETWORKS", func(s WorkloadEndpointSpec) string { return joined(s.IPNetworks) }),
			text("INTERFACE", func(s WorkloadEndpointSpec) string { return s.InterfaceName }),
			text("PROFILES", func(s WorkloadEndpointSpec) string { return strings.Join(s.Profiles, ",") }),
			text("NATS", func(s WorkloadEndpointSpec) string { return joined(s.IPNATs) }),
			text("ORCHESTRATOR", func(s WorkloadEndpointSpec) string { return s.Orchestrator }),
			text("ENDPOINT", func(s WorkloadEndpointSpec) string { return s.Endpoint }),
			text("MAC", func(s WorkloadEndpointSpec) string { return string(s.MAC) }),
		},
		short: []string{"WORKLOAD", "NODE", "NETWORKS", "INTERFACE"},
		wide:  []string{"NAME", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS"},
	}.dialectKind()
}

// endpointName is the name that follows from what identifies an endpoint.
func endpointName(k model.WorkloadEndpointKey) string {
	parts := []string{k.Node, k.Orchestrator, k.Workload, k.Name}
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(p, "-", "--")
	}
	return strings.Join(parts, "-")
}

// endpointKey is what identifies the endpoint of a name. Another that has the same name, as
// one with parts that begin or end with a dash may, is not found by it; then it says nil.
func endpointKey(name string) model.Key {
	var parts []string
	part := ""
	for rest := name; rest != ""; {
		i := strings.IndexByte(rest, '-')
		if i < 0 {
			part += rest
			break
		}
		part += rest[:i]
		dashes := len(rest[i:]) - len(strings.TrimLeft(rest[i:], "-"))
		rest = rest[i+dashes:]
		switch {
		case dashes == 1:
			parts, part = append(parts, part), ""
		case dashes%2 == 1:
			return nil // one of them is between parts, but which?
		default:
			part += strings.Repeat("-", dashes/2)
		}
	}
	parts = append(parts, part)
	if len(parts) != 4 || slices.Contains(parts, "") {
		return nil
	}
	return model.WorkloadEndpointKey{Node: parts[0], Orchestrator: parts[1], Workload: parts[2], Name: parts[3]}
}

func decodeWorkloadEndpoint(r *tree.Report, m ObjectMeta, s WorkloadEndpointSpec) (model.Key, *model.WorkloadEndpoint) {
	key := model.WorkloadEndpointKey{Node: s.Node, Orchestrator: s.Orchestrator, Workload: s.Workload, Name: s.Endpoint}
	for _, id := range []struct{ field, value string }{
		{"node", s.Node}, {"orchestrator", s.Orchestrator}, {"workload", s.Workload}, {"endpoint", s.Endpoint},
	} {
		need(r, id.field, id.value)
	}
	if want := endpointName(key); m.Name != "" && m.Name != want && !r.Has("spec") {
		r.Add("metadata.name", "%q: must be %s, which follows from node, orchestrator, workload and endpoint", m.Name, want)
	}
	e := &model.WorkloadEndpoint{
		State: stateActive, Interface: s.InterfaceName, ActiveInstanceID: s.ContainerID, MAC: string(s.MAC),
		Profiles: s.Profiles, IPv4Gateway: s.IPv4Gateway.Addr, IPv6Gateway: s.IPv6Gateway.Addr, Ports: decodeEndpointPorts(s.Ports),
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
	return key, e
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

func encodeWorkloadEndpoint(k model.Key, e *model.WorkloadEndpoint) (s WorkloadEndpointSpec, lost []string) {
	key, _ := k.(model.WorkloadEndpointKey)
	s = WorkloadEndpointSpec{
		Orchestrator: key.Orchestrator, Workload: key.Workload, Node: key.Node, Endpoint: key.Name,
		ContainerID: e.ActiveInstanceID, InterfaceName: e.Interface, MAC: scalar.MAC(e.MAC), Profiles: e.Profiles,
		IPv4Gateway: scalar.IP{Addr: e.IPv4Gateway}, IPv6Gateway: scalar.IP{Addr: e.IPv6Gateway},
		Ports: encodeEndpointPorts(e.Ports),
	}
	for _, list := range [][]netip.Prefix{e.IPv4Nets, e.IPv6Nets} {
		s.IPNetworks = append(s.IPNetworks, encodeNets(list)...)
	}
	for _, list := range [][]model.NAT{e.IPv4NAT, e.IPv6NAT} {
		for _, n := range list {
			s.IPNATs = append(s.IPNATs, IPNAT{scalar.IP{Addr: n.Internal}, scalar.IP{Addr: n.External}})
		}
	}
	if e.State != stateActive && e.State != "" {
		lost = append(lost, "state "+e.State)
	}
	return s, lost
}
