package v3

import (
	"net/netip"
	"reflect"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// Rule matches packets and says what becomes of them.
type Rule struct {
	Metadata    *RuleMetadata     `json:"metadata,omitempty"`
	Action      Action            `json:"action"`
	IPVersion   *int              `json:"ipVersion,omitempty"`
	Protocol    *Protocol         `json:"protocol,omitempty"`
	ICMP        *ICMPFields       `json:"icmp,omitempty"`
	NotProtocol *Protocol         `json:"notProtocol,omitempty"`
	NotICMP     *ICMPFields       `json:"notICMP,omitempty"`
	Source      EntityRule        `json:"source"`
	Destination EntityRule        `json:"destination"`
	HTTP        scalar.Kubernetes `json:"http,omitzero"`
}

// RuleMetadata is what a rule says about itself.
type RuleMetadata struct {
	Annotations map[string]string `json:"annotations,omitempty"`
}

// ICMPFields matches an ICMP message.
type ICMPFields struct {
	Type *int `json:"type,omitempty"`
	Code *int `json:"code,omitempty"`
}

// EntityRule is what a rule asks of one end of a packet.
type EntityRule struct {
	Nets        []scalar.IPNet `json:"nets,omitempty"`
	NotNets     []scalar.IPNet `json:"notNets,omitempty"`
	Selector    string         `json:"selector,omitempty"`
	NotSelector string         `json:"notSelector,omitempty"`
	Ports       []Port         `json:"ports,omitempty"`
	NotPorts    []Port         `json:"notPorts,omitempty"`

	NamespaceSelector scalar.Kubernetes `json:"namespaceSelector,omitzero"`
	ServiceAccounts   scalar.Kubernetes `json:"serviceAccounts,omitzero"`
	Services          scalar.Kubernetes `json:"services,omitzero"`
}

func decodeRules(r *tree.Report, path string, in []Rule) []model.Rule {
	var out []model.Rule
	for i, rule := range in {
		out = append(out, decodeRule(r, tree.Index(path, i), rule))
	}
	return out
}

func decodeRule(r *tree.Report, path string, in Rule) model.Rule {
	if in.Action == "" && !r.Doubts(path+".action") {
		r.Add(path+".action", "missing; expected Allow, Deny, Log or Pass")
	}
	out := model.Rule{
		Action:      strings.ToLower(string(in.Action)),
		Protocol:    model.Protocol(deref(in.Protocol, "")),
		NotProtocol: model.Protocol(deref(in.NotProtocol, "")),
		ICMP:        decodeICMP(r, path+".icmp", in.ICMP),
		NotICMP:     decodeICMP(r, path+".notICMP", in.NotICMP),
		Source:      decodeEntity(in.Source),
		Destination: decodeEntity(in.Destination),
		Annotations: deref(in.Metadata, RuleMetadata{}).Annotations,
	}
	if in.Action == "Pass" {
		out.Action = model.ActionPass
	}
	if in.IPVersion != nil {
		out.IPVersion = *in.IPVersion
		if out.IPVersion == 0 { // the model's word for both
			r.Add(path+".ipVersion", "must be 4 or 6")
		}
	}
	return out
}

func decodeICMP(r *tree.Report, path string, in *ICMPFields) *model.ICMP {
	if in == nil {
		return nil
	}
	if in.Type == nil {
		if !r.Has(path) {
			r.Add(path, "needs a type")
		}
		return nil
	}
	return &model.ICMP{Type: *in.Type, Code: in.Code}
}

func decodeEntity(in EntityRule) model.Match {
	return model.Match{
		Selector: in.Selector, NotSelector: in.NotSelector,
		Nets: decodeNets(in.Nets), NotNets: decodeNets(in.NotNets),
		Ports: decodePorts(in.Ports), NotPorts: decodePorts(in.NotPorts),
	}
}

func decodeNets(in []scalar.IPNet) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range in {
		if n.IsValid() {
			out = append(out, n.Prefix)
		}
	}
	return out
}

func decodePorts(in []Port) []model.Port {
	var out []model.Port
	for _, p := range in {
		if p != (Port{}) {
			out = append(out, model.Port(p))
		}
	}
	return out
}

func encodeRules(path string, in []model.Rule, lost *[]string) []Rule {
	var out []Rule
	for i, rule := range in {
		out = append(out, encodeRule(rule))
		if rule.Source.Tag+rule.Source.NotTag+rule.Destination.Tag+rule.Destination.NotTag != "" {
			*lost = append(*lost, tree.Index(path, i)+" tags")
		}
		if rule.LogPrefix != "" {
			*lost = append(*lost, tree.Index(path, i)+" log prefix")
		}
	}
	return out
}

func encodeRule(in model.Rule) Rule {
	out := Rule{
		Action:      Action(in.Action),
		IPVersion:   nonZero(in.IPVersion),
		Protocol:    nonZero(Protocol(in.Protocol)),
		NotProtocol: nonZero(Protocol(in.NotProtocol)),
		Source:      encodeEntity(in.Source),
		Destination: encodeEntity(in.Destination),
	}
	_ = out.Action.UnmarshalText([]byte(in.Action))
	if in.Action == model.ActionPass {
		out.Action = "Pass"
	}
	if in.ICMP != nil {
		out.ICMP = &ICMPFields{Type: &in.ICMP.Type, Code: in.ICMP.Code}
	}
	if in.NotICMP != nil {
		out.NotICMP = &ICMPFields{Type: &in.NotICMP.Type, Code: in.NotICMP.Code}
	}
	if len(in.Annotations) > 0 {
		out.Metadata = &RuleMetadata{in.Annotations}
	}
	return out
}

func encodeEntity(in model.Match) EntityRule {
	out := EntityRule{
		Selector: in.Selector, NotSelector: in.NotSelector,
		Nets: encodeNets(in.Nets), NotNets: encodeNets(in.NotNets),
	}
	for _, p := range in.Ports {
		out.Ports = append(out.Ports, Port(p))
	}
	for _, p := range in.NotPorts {
		out.NotPorts = append(out.NotPorts, Port(p))
	}
	return out
}

func encodeNets(in []netip.Prefix) []scalar.IPNet {
	var out []scalar.IPNet
	for _, p := range in {
		out = append(out, scalar.IPNet{Prefix: p})
	}
	return out
}

// carryRules keeps the tags and log prefixes of rules that are otherwise as they were.
func carryRules(old, next []model.Rule) {
	dialect.CarryRules(old, next, func(a, b model.Rule) bool { return reflect.DeepEqual(encodeRule(a), encodeRule(b)) })
}
