package v3

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// DockerNetworkSpec is what all hosts know of a Docker network, in the engine's texts. The
// network's labels are those of the metadata.
type DockerNetworkSpec struct {
	Subnets     []DockerSubnet    `json:"subnets,omitempty"`
	Options     map[string]string `json:"options,omitempty"`
	IPAMDriver  string            `json:"ipamDriver,omitempty"`
	IPAMOptions map[string]string `json:"ipamOptions,omitempty"`
	Internal    bool              `json:"internal,omitempty"`
	Attachable  bool              `json:"attachable,omitempty"`
	IPv6        bool              `json:"ipv6,omitempty"`
	NoIPv4      bool              `json:"noIPv4,omitempty"`
	Scope       string            `json:"scope,omitempty"`
	// Removed says that the network was removed on one host, and goes from the others.
	Removed bool                `json:"removed,omitempty"`
	Hosts   []DockerNetworkHost `json:"hosts,omitempty"`
}

// DockerSubnet is a subnet of a Docker network.
type DockerSubnet struct {
	Subnet   string            `json:"subnet"`
	Range    string            `json:"range,omitempty"`
	Reserved map[string]string `json:"reserved,omitempty"`
}

// DockerNetworkHost is a host that has the network, or why it has not.
type DockerNetworkHost struct {
	Node string `json:"node"`
	// ID is the engine's.
	ID      string `json:"id,omitempty"`
	Problem string `json:"problem,omitempty"`
}

func dockerNetworkKind() dialect.Kind {
	type doc = *Resource[DockerNetworkSpec]
	return conversion[DockerNetworkSpec, *model.DockerNetwork]{
		kind: model.KindDockerNetwork, name: "DockerNetwork",
		aliases:  []string{"network", "networks", "net", "nets", "dockernetwork", "dockernetworks"},
		readOnly: "a DockerNetwork is Docker's and can only be read: docker network create or docker network rm on any host, and all hosts follow",
		anyName:  true,
		decode: func(_ *tree.Report, m ObjectMeta, _ DockerNetworkSpec) (model.Key, *model.DockerNetwork) {
			return model.DockerNetworkKey{Name: m.Name}, &model.DockerNetwork{} // never called: read only
		},
		encode: func(_ model.Key, v *model.DockerNetwork) (DockerNetworkSpec, []string) { return showNetwork(v), nil },
		// The values hold the names of networks that no key can be made of.
		nameOf: func(k model.Key, v *model.DockerNetwork) string {
			if v != nil && v.Name != "" {
				return v.Name
			}
			return k.(model.DockerNetworkKey).Name
		},
		labels: func(v *model.DockerNetwork) *map[string]string { return &v.Labels },
		columns: []dialect.Column{
			nameColumn[DockerNetworkSpec](),
			column("SUBNETS", func(d doc) string {
				var list []string
				for _, s := range d.Spec.Subnets {
					list = append(list, s.Subnet)
				}
				return strings.Join(list, ",")
			}),
			column("HOSTS", func(d doc) string { return strconv.Itoa(len(d.Spec.having())) }),
			column("STATE", func(d doc) string { return d.Spec.state() }),
			column("OPTIONS", func(d doc) string {
				var list []string
				for _, name := range slices.Sorted(maps.Keys(d.Spec.Options)) {
					list = append(list, oneLine(name+"="+d.Spec.Options[name]))
				}
				return strings.Join(list, ",")
			}),
			column("INTERNAL", func(d doc) string { return strconv.FormatBool(d.Spec.Internal) }),
			column("IPV6", func(d doc) string { return strconv.FormatBool(d.Spec.IPv6) }),
			column("ON", func(d doc) string { return strings.Join(d.Spec.having(), ",") }),
			column("PROBLEMS", func(d doc) string {
				var list []string
				for _, h := range d.Spec.Hosts {
					if h.Problem != "" {
						list = append(list, fmt.Sprintf("%s: %s", h.Node, oneLine(h.Problem)))
					}
				}
				return strings.Join(list, "; ")
			}),
		},
		short: []string{"NAME", "SUBNETS", "HOSTS", "STATE"},
		wide:  []string{"NAME", "SUBNETS", "HOSTS", "STATE", "OPTIONS", "INTERNAL", "IPV6", "ON", "PROBLEMS"},
	}.dialectKind()
}

func showNetwork(v *model.DockerNetwork) DockerNetworkSpec {
	s := DockerNetworkSpec{
		Options: v.Options, Internal: v.Internal, Attachable: v.Attachable, IPv6: v.IPv6, NoIPv4: v.NoIPv4,
		Scope: v.Scope, Removed: v.Removed,
	}
	if v.IPAM != nil {
		s.IPAMDriver, s.IPAMOptions = v.IPAM.Driver, v.IPAM.Options
		for _, n := range v.IPAM.Subnets {
			s.Subnets = append(s.Subnets, DockerSubnet{Subnet: n.Subnet, Range: n.Range, Reserved: n.Reserved})
		}
	}
	if len(s.Subnets) == 0 { // a record of an older program
		for _, pool := range []string{v.IPv4Pool, v.IPv6Pool} {
			if pool != "" {
				s.Subnets = append(s.Subnets, DockerSubnet{Subnet: pool})
			}
		}
	}
	nodes := slices.Sorted(maps.Keys(v.IDs))
	for node := range v.Problems {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	for _, node := range slices.Compact(nodes) {
		s.Hosts = append(s.Hosts, DockerNetworkHost{Node: node, ID: v.IDs[node], Problem: v.Problems[node]})
	}
	return s
}

// having are the nodes whose engine has the network, and not another of its name.
func (s *DockerNetworkSpec) having() []string {
	return s.nodes(func(h DockerNetworkHost) bool { return h.ID != "" && h.Problem == "" })
}

func (s *DockerNetworkSpec) nodes(that func(DockerNetworkHost) bool) (list []string) {
	for _, h := range s.Hosts {
		if that(h) {
			list = append(list, h.Node)
		}
	}
	return list
}

// state says what is still to happen, or what stands against it.
func (s *DockerNetworkSpec) state() string {
	troubled := s.nodes(func(h DockerNetworkHost) bool { return h.Problem != "" })
	switch {
	case s.Removed && len(s.Hosts) > 0:
		return "removed, waiting for " + strings.Join(s.nodes(func(DockerNetworkHost) bool { return true }), ",")
	case s.Removed:
		return "removed"
	case len(troubled) > 0:
		return "differs on " + strings.Join(troubled, ",")
	}
	return "ok"
}

// oneLine keeps what others wrote from breaking a table.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
