package v3

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// PolicySpec is what the specifications of both kinds of policy have in common.
type PolicySpec struct {
	Tier     string      `json:"tier,omitempty"`
	Order    *float64    `json:"order,omitempty"`
	Selector string      `json:"selector,omitempty"`
	Types    []Direction `json:"types,omitempty"`
	Ingress  []Rule      `json:"ingress,omitempty"`
	Egress   []Rule      `json:"egress,omitempty"`

	ServiceAccountSelector scalar.Kubernetes `json:"serviceAccountSelector,omitzero"`
	PerformanceHints       scalar.Inert      `json:"performanceHints,omitzero"`
}

// GlobalNetworkPolicySpec is the specification of a global policy.
type GlobalNetworkPolicySpec struct {
	PolicySpec

	DoNotTrack        bool              `json:"doNotTrack,omitempty"`
	PreDNAT           bool              `json:"preDNAT,omitempty"`
	ApplyOnForward    bool              `json:"applyOnForward,omitempty"`
	NamespaceSelector scalar.Kubernetes `json:"namespaceSelector,omitzero"`
}

// NetworkPolicySpec is the specification of a policy in a namespace.
type NetworkPolicySpec struct {
	PolicySpec
}

// namespacePrefix is what the names of resources in the namespace begin with in keys.
const namespacePrefix = model.DefaultNamespace + "/"

func inNamespace(k model.Key) bool {
	switch k := k.(type) {
	case model.PolicyKey:
		return strings.HasPrefix(k.Name, namespacePrefix)
	case model.NetworkSetKey:
		return strings.HasPrefix(k.Name, namespacePrefix)
	}
	return false
}

func notInNamespace(k model.Key) bool { return !inNamespace(k) }

func policyName(k model.Key, _ *model.Policy) string {
	key, _ := k.(model.PolicyKey)
	return strings.TrimPrefix(key.Name, namespacePrefix)
}

var policyPlaces = map[string]string{"metadata.tier": "spec.tier"}

func globalNetworkPolicyKind() dialect.Kind {
	return conversion[GlobalNetworkPolicySpec, *model.Policy]{
		kind: model.KindPolicy, name: "GlobalNetworkPolicy",
		aliases: []string{"globalnetworkpolicy", "globalnetworkpolicies", "globalnetworkpol", "globalnetworkpols", "gnp", "gnps"},
		owns:    notInNamespace, nameOf: policyName, keyOf: func(name string) model.Key { return model.NewPolicyKey("", name) },
		places: policyPlaces,
		decode: func(r *tree.Report, m ObjectMeta, s GlobalNetworkPolicySpec) (model.Key, *model.Policy) {
			p := decodePolicy(r, s.PolicySpec)
			p.DoNotTrack, p.PreDNAT, p.ApplyOnForward = s.DoNotTrack, s.PreDNAT, s.ApplyOnForward
			if (s.DoNotTrack || s.PreDNAT) && !s.ApplyOnForward && !r.Doubts("spec.applyOnForward") {
				r.Add("spec.applyOnForward", "must be true with doNotTrack or preDNAT")
			}
			if len(p.Types) == 0 {
				p.Types = defaultTypes(p)
			}
			return model.NewPolicyKey(s.Tier, m.Name), p
		},
		encode: func(k model.Key, p *model.Policy) (s GlobalNetworkPolicySpec, lost []string) {
			s.PolicySpec = encodePolicy(k, p, &lost)
			s.DoNotTrack, s.PreDNAT = p.DoNotTrack, p.PreDNAT
			s.ApplyOnForward = p.ApplyOnForward || p.DoNotTrack || p.PreDNAT
			return s, lost
		},
		columns: policyColumns(func(s GlobalNetworkPolicySpec) PolicySpec { return s.PolicySpec }),
		short:   []string{"NAME", "TIER"}, wide: []string{"NAME", "TIER", "ORDER", "SELECTOR"},
	}.dialectKind()
}

func networkPolicyKind() dialect.Kind {
	return conversion[NetworkPolicySpec, *model.Policy]{
		kind: model.KindPolicy, name: "NetworkPolicy", namespaced: true,
		aliases: []string{
			"networkpolicy", "networkpolicies", "networkpol", "networkpols", "np", "nps",
			"policy", "policies", "pol", "pols",
		},
		owns: inNamespace, nameOf: policyName, keyOf: func(name string) model.Key { return model.NewPolicyKey("", namespacePrefix+name) },
		places: policyPlaces,
		decode: func(r *tree.Report, m ObjectMeta, s NetworkPolicySpec) (model.Key, *model.Policy) {
			p := decodePolicy(r, s.PolicySpec)
			if len(p.Types) == 0 {
				p.Types = defaultTypes(p)
			}
			return model.NewPolicyKey(s.Tier, namespacePrefix+m.Name), p
		},
		encode: func(k model.Key, p *model.Policy) (s NetworkPolicySpec, lost []string) {
			s.PolicySpec = encodePolicy(k, p, &lost)
			for _, flag := range []struct {
				name string
				set  bool
			}{{"doNotTrack", p.DoNotTrack}, {"preDNAT", p.PreDNAT}, {"applyOnForward", p.ApplyOnForward && !p.PreDNAT && !p.DoNotTrack}} {
				if flag.set {
					lost = append(lost, flag.name)
				}
			}
			return s, lost
		},
		columns: policyColumns(func(s NetworkPolicySpec) PolicySpec { return s.PolicySpec }),
		short:   []string{"NAME", "TIER"}, wide: []string{"NAME", "TIER", "ORDER", "SELECTOR"},
	}.dialectKind()
}

func policyColumns[S any](spec func(S) PolicySpec) []dialect.Column {
	text := func(heading string, show func(PolicySpec) string) dialect.Column {
		return column(heading, func(d *Resource[S]) string { return show(spec(d.Spec)) })
	}
	return []dialect.Column{
		nameColumn[S](),
		text("TIER", func(s PolicySpec) string { return s.Tier }),
		text("ORDER", func(s PolicySpec) string { return orderText(s.Order) }),
		text("SELECTOR", func(s PolicySpec) string { return s.Selector }),
	}
}

func orderText(order *float64) string {
	if order == nil {
		return ""
	}
	return strconv.FormatFloat(*order, 'g', -1, 64)
}

func decodePolicy(r *tree.Report, s PolicySpec) *model.Policy {
	p := &model.Policy{
		Order: s.Order, Selector: s.Selector,
		InboundRules:  decodeRules(r, "spec.ingress", s.Ingress),
		OutboundRules: decodeRules(r, "spec.egress", s.Egress),
	}
	for _, t := range s.Types {
		p.Types = append(p.Types, strings.ToLower(string(t)))
	}
	return p
}

// defaultTypes is the directions of a policy that names none: those for which it has
// rules, or ingress.
func defaultTypes(p *model.Policy) []string {
	switch {
	case len(p.OutboundRules) == 0 || p.PreDNAT:
		return []string{model.PolicyTypeIngress}
	case len(p.InboundRules) == 0:
		return []string{model.PolicyTypeEgress}
	}
	return []string{model.PolicyTypeIngress, model.PolicyTypeEgress}
}

func encodePolicy(k model.Key, p *model.Policy, lost *[]string) PolicySpec {
	key, _ := k.(model.PolicyKey)
	s := PolicySpec{
		Tier: cmp.Or(key.Tier, model.DefaultTier), Order: p.Order, Selector: p.Selector,
		Ingress: encodeRules("spec.ingress", p.InboundRules, lost),
		Egress:  encodeRules("spec.egress", p.OutboundRules, lost),
	}
	types := p.Types
	if len(types) == 0 { // what an empty list means in the store
		types = []string{model.PolicyTypeIngress, model.PolicyTypeEgress}
		if p.PreDNAT {
			types = types[:1]
		}
	}
	for _, t := range types {
		d := Direction(t)
		_ = d.UnmarshalText([]byte(t))
		s.Types = append(s.Types, d)
	}
	return s
}

// TierSpec is the specification of a tier.
type TierSpec struct {
	Order         *float64   `json:"order,omitempty"`
	DefaultAction TierAction `json:"defaultAction,omitempty"`
}

func tierKind() dialect.Kind {
	return conversion[TierSpec, *model.Tier]{
		kind: model.KindTier, name: "Tier", aliases: []string{"tier", "tiers"},
		decode: func(r *tree.Report, m ObjectMeta, s TierSpec) (model.Key, *model.Tier) {
			if strings.Contains(m.Name, ".") {
				r.AddIfNew("metadata.name", "%q: the name of a tier has no dots", m.Name)
			}
			if m.Name == model.DefaultTier && s.DefaultAction == model.TierPass {
				r.Add("spec.defaultAction", "must be Deny for the tier %s", model.DefaultTier)
			}
			return model.TierKey{Name: m.Name}, &model.Tier{Order: s.Order, DefaultAction: string(s.DefaultAction)}
		},
		encode: func(_ model.Key, t *model.Tier) (TierSpec, []string) {
			return TierSpec{Order: t.Order, DefaultAction: TierAction(cmp.Or(t.DefaultAction, model.TierDeny))}, nil
		},
		nameOf: func(k model.Key, _ *model.Tier) string { return k.(model.TierKey).Name },
		keyOf:  func(name string) model.Key { return model.TierKey{Name: name} },
		compare: func(a, b *Resource[TierSpec]) int {
			return cmp.Or(cmp.Compare(deref(a.Spec.Order, math.Inf(1)), deref(b.Spec.Order, math.Inf(1))),
				cmp.Compare(a.Metadata.Name, b.Metadata.Name))
		},
		columns: []dialect.Column{
			nameColumn[TierSpec](),
			column("ORDER", func(d *Resource[TierSpec]) string { return orderText(d.Spec.Order) }),
			column("DEFAULTACTION", func(d *Resource[TierSpec]) string { return string(d.Spec.DefaultAction) }),
		},
		short: []string{"NAME", "ORDER"}, wide: []string{"NAME", "ORDER"},
	}.dialectKind()
}

// ProfileSpec is the specification of a profile.
type ProfileSpec struct {
	Ingress       []Rule            `json:"ingress,omitempty"`
	Egress        []Rule            `json:"egress,omitempty"`
	LabelsToApply map[string]string `json:"labelsToApply,omitempty"`
}

func profileKind() dialect.Kind {
	return conversion[ProfileSpec, *model.Profile]{
		kind: model.KindProfile, name: "Profile", aliases: []string{"profile", "profiles", "pro", "pros"},
		decode: func(r *tree.Report, m ObjectMeta, s ProfileSpec) (model.Key, *model.Profile) {
			return model.ProfileKey{Name: m.Name}, &model.Profile{
				Labels:        s.LabelsToApply,
				InboundRules:  decodeRules(r, "spec.ingress", s.Ingress),
				OutboundRules: decodeRules(r, "spec.egress", s.Egress),
			}
		},
		encode: func(_ model.Key, p *model.Profile) (s ProfileSpec, lost []string) {
			if len(p.Tags) > 0 {
				lost = append(lost, "tags")
			}
			return ProfileSpec{
				LabelsToApply: p.Labels,
				Ingress:       encodeRules("spec.ingress", p.InboundRules, &lost),
				Egress:        encodeRules("spec.egress", p.OutboundRules, &lost),
			}, lost
		},
		nameOf: func(k model.Key, _ *model.Profile) string { return k.(model.ProfileKey).Name },
		keyOf:  func(name string) model.Key { return model.ProfileKey{Name: name} },
		columns: []dialect.Column{
			nameColumn[ProfileSpec](),
			column("LABELS", func(d *Resource[ProfileSpec]) string { return labelText(d.Spec.LabelsToApply) }),
		},
		short: []string{"NAME"}, wide: []string{"NAME", "LABELS"},
	}.dialectKind()
}

func labelText(labels map[string]string) string {
	var words []string
	for name, value := range labels {
		words = append(words, name+"="+value)
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}
