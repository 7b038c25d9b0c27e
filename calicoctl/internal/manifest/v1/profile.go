package v1

import (
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// ProfileMetadata is the metadata of a profile.
type ProfileMetadata struct {
	Name   string            `json:"name,omitempty"`
	Tags   []string          `json:"tags,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// ProfileSpec is the specification of a profile.
type ProfileSpec struct {
	IngressRules []Rule `json:"ingress,omitempty"`
	EgressRules  []Rule `json:"egress,omitempty"`
}

// Profile is the document of a profile.
type Profile = Resource[ProfileMetadata, ProfileSpec]

func profileKind() dialect.Kind {
	return conversion[ProfileMetadata, ProfileSpec, *model.Profile]{
		kind:    model.KindProfile,
		aliases: []string{"profile", "profiles", "pro", "pros"},
		key: func(r *tree.Report, m ProfileMetadata) model.Key {
			need(r, "name", m.Name)
			return model.ProfileKey{Name: m.Name}
		},
		decode: func(r *tree.Report, m ProfileMetadata, s ProfileSpec) *model.Profile {
			return &model.Profile{
				Tags:          m.Tags,
				Labels:        m.Labels,
				InboundRules:  decodeRules(r, "spec.ingress", s.IngressRules),
				OutboundRules: decodeRules(r, "spec.egress", s.EgressRules),
			}
		},
		encode: func(k model.Key, p *model.Profile) (m ProfileMetadata, s ProfileSpec, lost []string) {
			key, _ := k.(model.ProfileKey)
			m = ProfileMetadata{Name: key.Name, Tags: p.Tags, Labels: p.Labels}
			s = ProfileSpec{
				IngressRules: encodeRules("spec.ingress", p.InboundRules, &lost),
				EgressRules:  encodeRules("spec.egress", p.OutboundRules, &lost),
			}
			return m, s, lost
		},
		columns: []dialect.Column{
			column("NAME", func(p *Profile, _ dialect.Cluster) string { return p.Metadata.Name }),
			column("TAGS", func(p *Profile, _ dialect.Cluster) string { return strings.Join(p.Metadata.Tags, ",") }),
		},
		short: []string{"NAME"},
		wide:  []string{"NAME", "TAGS"},
	}.dialectKind()
}
