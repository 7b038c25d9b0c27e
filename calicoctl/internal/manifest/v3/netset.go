package v3

import (
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// NetworkSetSpec is the specification of a set of networks, global or in a namespace.
type NetworkSetSpec struct {
	Nets []scalar.IPNet `json:"nets,omitempty"`
}

func globalNetworkSetKind() dialect.Kind {
	c := networkSet("GlobalNetworkSet", "globalnetworkset", "globalnetworksets", "gns")
	c.owns = notInNamespace
	c.keyOf = func(name string) model.Key { return model.NetworkSetKey{Name: name} }
	return c.dialectKind()
}

func networkSetKind() dialect.Kind {
	c := networkSet("NetworkSet", "networkset", "networksets", "netset", "netsets")
	c.owns, c.namespaced = inNamespace, true
	c.keyOf = func(name string) model.Key { return model.NetworkSetKey{Name: namespacePrefix + name} }
	return c.dialectKind()
}

func networkSet(name string, aliases ...string) conversion[NetworkSetSpec, *model.NetworkSet] {
	return conversion[NetworkSetSpec, *model.NetworkSet]{
		kind: model.KindNetworkSet, name: name, aliases: aliases,
		decode: func(_ *tree.Report, m ObjectMeta, s NetworkSetSpec) (model.Key, *model.NetworkSet) {
			key := model.NetworkSetKey{Name: m.Name}
			if name == "NetworkSet" {
				key.Name = namespacePrefix + m.Name
			}
			return key, &model.NetworkSet{Nets: decodeNets(s.Nets)}
		},
		encode: func(_ model.Key, v *model.NetworkSet) (NetworkSetSpec, []string) {
			return NetworkSetSpec{encodeNets(v.Nets)}, nil
		},
		nameOf: func(k model.Key, _ *model.NetworkSet) string {
			return strings.TrimPrefix(k.(model.NetworkSetKey).Name, namespacePrefix)
		},
		labels: func(v *model.NetworkSet) *map[string]string { return &v.Labels },
		columns: []dialect.Column{
			nameColumn[NetworkSetSpec](),
			column("NETS", func(d *Resource[NetworkSetSpec]) string { return cut(joined(d.Spec.Nets)) }),
		},
		short: []string{"NAME"}, wide: []string{"NAME", "NETS"},
	}
}

// maxCell is how much of a long list a table shows.
const maxCell = 80

func cut(cell string) string {
	if len(cell) <= maxCell {
		return cell
	}
	return cell[:maxCell-3] + "..."
}
