package v1

import (
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// PolicyMetadata is the metadata of a policy.
type PolicyMetadata struct {
	Name        string            `json:"name,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// PolicySpec is the specification of a policy.
type PolicySpec struct {
	Order        *float64    `json:"order,omitempty"`
	IngressRules []Rule      `json:"ingress,omitempty"`
	EgressRules  []Rule      `json:"egress,omitempty"`
	Selector     string      `json:"selector"`
	DoNotTrack   bool        `json:"doNotTrack,omitempty"`
	PreDNAT      bool        `json:"preDNAT,omitempty"`
	Types        []Direction `json:"types,omitempty"`
}

// Policy is the document of a policy.
type Policy = Resource[PolicyMetadata, PolicySpec]

func policyKind() dialect.Kind {
	return conversion[PolicyMetadata, PolicySpec, *model.Policy]{
		kind:    model.KindPolicy,
		aliases: []string{"policy", "policies", "pol", "pols"},
		key: func(r *tree.Report, m PolicyMetadata) model.Key {
			need(r, "name", m.Name)
			return model.NewPolicyKey("", m.Name)
		},
		decode: decodePolicy,
		encode: encodePolicy,
		owns:   inDefaultTier,
		columns: []dialect.Column{
			column("NAME", func(p *Policy, _ dialect.Cluster) string { return p.Metadata.Name }),
			column("ORDER", func(p *Policy, _ dialect.Cluster) string { return orderText(p.Spec.Order) }),
			column("SELECTOR", func(p *Policy, _ dialect.Cluster) string { return p.Spec.Selector }),
		},
		short: []string{"NAME"},
		wide:  []string{"NAME", "ORDER", "SELECTOR"},
	}.dialectKind()
}

// inDefaultTier tells the policies that the dialect can name: it has no tiers.
func inDefaultTier(k model.Key) bool {
	key, ok := k.(model.PolicyKey)
	return ok && (key.Tier == "" || key.Tier == model.DefaultTier)
}

func orderText(order *float64) string {
	if order == nil {
		return ""
	}
	return strconv.FormatFloat(*order, 'g', -1, 64)
}

func decodePolicy(r *tree.Report, m PolicyMetadata, s PolicySpec) *model.Policy {
	p := &model.Policy{
		Meta:          model.Meta{Annotations: m.Annotations},
		Order:         s.Order,
		InboundRules:  decodeRules(r, "spec.ingress", s.IngressRules),
		OutboundRules: decodeRules(r, "spec.egress", s.EgressRules),
		Selector:      s.Selector,
		DoNotTrack:    s.DoNotTrack,
		PreDNAT:       s.PreDNAT,
	}
	for _, t := range s.Types {
		p.Types = append(p.Types, string(t))
	}
	if len(p.Types) == 0 {
		p.Types = defaultTypes(p)
	}
	return p
}

// defaultTypes is the directions of a policy that names none: those for which it has
// rules, or ingress. (A preDNAT policy has no egress.)
func defaultTypes(p *model.Policy) []string {
	switch {
	case len(p.OutboundRules) == 0 || p.PreDNAT:
		return []string{model.PolicyTypeIngress}
	case len(p.InboundRules) == 0:
		return []string{model.PolicyTypeEgress}
	}
	return []string{model.PolicyTypeIngress, model.PolicyTypeEgress}
}

func encodePolicy(k model.Key, p *model.Policy) (m PolicyMetadata, s PolicySpec, lost []string) {
	key, _ := k.(model.PolicyKey)
	m = PolicyMetadata{Name: key.Name, Annotations: p.Annotations}
	s = PolicySpec{
		Order:        p.Order,
		IngressRules: encodeRules("spec.ingress", p.InboundRules, &lost),
		EgressRules:  encodeRules("spec.egress", p.OutboundRules, &lost),
		Selector:     p.Selector,
		DoNotTrack:   p.DoNotTrack,
		PreDNAT:      p.PreDNAT,
	}
	types := p.Types
	if len(types) == 0 { // what an empty list means in the store is not what it means in a document
		types = []string{model.PolicyTypeIngress, model.PolicyTypeEgress}
		if p.PreDNAT {
			types = types[:1]
		}
	}
	for _, t := range types {
		s.Types = append(s.Types, Direction(strings.ToLower(t)))
	}
	if !inDefaultTier(key) {
		lost = append(lost, "tier "+key.Tier)
	}
	if p.ApplyOnForward {
		lost = append(lost, "applyOnForward")
	}
	return m, s, lost
}
