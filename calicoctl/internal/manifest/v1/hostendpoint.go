package v1

import (
	"net/netip"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// HostEndpointMetadata is the metadata of a host endpoint.
type HostEndpointMetadata struct {
	Name   string            `json:"name,omitempty"`
	Node   string            `json:"node,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// HostEndpointSpec is the specification of a host endpoint.
type HostEndpointSpec struct {
	InterfaceName string   `json:"interfaceName,omitempty"`
	ExpectedIPs   []IP     `json:"expectedIPs,omitempty"`
	Profiles      []string `json:"profiles,omitempty"`
}

// HostEndpoint is the document of a host endpoint.
type HostEndpoint = Resource[HostEndpointMetadata, HostEndpointSpec]

func hostEndpointKind() dialect.Kind {
	return conversion[HostEndpointMetadata, HostEndpointSpec, *model.HostEndpoint]{
		kind:    model.KindHostEndpoint,
		aliases: []string{"hostendpoint", "hostendpoints", "hep", "heps"},
		key: func(r *tree.Report, m HostEndpointMetadata) model.Key {
			need(r, "node", m.Node)
			need(r, "name", m.Name)
			return model.HostEndpointKey{Node: m.Node, Name: m.Name}
		},
		decode: decodeHostEndpoint,
		encode: encodeHostEndpoint,
		columns: []dialect.Column{
			column("NODE", func(e *HostEndpoint, _ dialect.Cluster) string { return e.Metadata.Node }),
			column("NAME", func(e *HostEndpoint, _ dialect.Cluster) string { return e.Metadata.Name }),
			column("INTERFACE", func(e *HostEndpoint, _ dialect.Cluster) string { return e.Spec.InterfaceName }),
			column("IPS", func(e *HostEndpoint, _ dialect.Cluster) string { return joined(e.Spec.ExpectedIPs) }),
			column("PROFILES", func(e *HostEndpoint, _ dialect.Cluster) string { return strings.Join(e.Spec.Profiles, ",") }),
		},
		short: []string{"NODE", "NAME"},
		wide:  []string{"NODE", "NAME", "INTERFACE", "IPS", "PROFILES"},
	}.dialectKind()
}

func decodeHostEndpoint(_ *tree.Report, m HostEndpointMetadata, s HostEndpointSpec) *model.HostEndpoint {
	e := &model.HostEndpoint{Interface: s.InterfaceName, Labels: m.Labels, Profiles: s.Profiles}
	for _, ip := range s.ExpectedIPs {
		switch {
		case ip.Is4():
			e.ExpectedIPv4Addrs = append(e.ExpectedIPv4Addrs, ip.Addr)
		case ip.IsValid():
			e.ExpectedIPv6Addrs = append(e.ExpectedIPv6Addrs, ip.Addr)
		}
	}
	return e
}

func encodeHostEndpoint(k model.Key, e *model.HostEndpoint) (m HostEndpointMetadata, s HostEndpointSpec, lost []string) {
	key, _ := k.(model.HostEndpointKey)
	m = HostEndpointMetadata{Name: key.Name, Node: key.Node, Labels: e.Labels}
	s = HostEndpointSpec{InterfaceName: e.Interface, Profiles: e.Profiles}
	for _, list := range [][]netip.Addr{e.ExpectedIPv4Addrs, e.ExpectedIPv6Addrs} {
		for _, ip := range list {
			s.ExpectedIPs = append(s.ExpectedIPs, IP{Addr: ip})
		}
	}
	if len(e.Ports) > 0 {
		lost = append(lost, "ports")
	}
	return m, s, lost
}
