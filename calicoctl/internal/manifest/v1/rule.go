package v1

import (
	"net/netip"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// Rule matches packets and says what becomes of them.
type Rule struct {
	Action      Action      `json:"action"`
	IPVersion   *int        `json:"ipVersion,omitempty"`
	Protocol    *Protocol   `json:"protocol,omitempty"`
	ICMP        *ICMPFields `json:"icmp,omitempty"`
	NotProtocol *Protocol   `json:"notProtocol,omitempty"`
	NotICMP     *ICMPFields `json:"notICMP,omitempty"`
	Source      EntityRule  `json:"source"`
	Destination EntityRule  `json:"destination"`
}

// ICMPFields matches an ICMP message.
type ICMPFields struct {
	Type *int `json:"type,omitempty"`
	Code *int `json:"code,omitempty"`
}

// EntityRule is what a rule asks of one end of a packet.
type EntityRule struct {
	Tag         string  `json:"tag,omitempty"`
	Net         *IPNet  `json:"net,omitempty"`
	Nets        []IPNet `json:"nets,omitempty"`
	Selector    string  `json:"selector,omitempty"`
	Ports       []Port  `json:"ports,omitempty"`
	NotTag      string  `json:"notTag,omitempty"`
	NotNet      *IPNet  `json:"notNet,omitempty"`
	NotNets     []IPNet `json:"notNets,omitempty"`
	NotSelector string  `json:"notSelector,omitempty"`
	NotPorts    []Port  `json:"notPorts,omitempty"`
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
		r.Add(path+".action", "missing; expected allow, deny, log or pass")
	}
	out := model.Rule{
		Action:      string(in.Action),
		Protocol:    model.Protocol(deref(in.Protocol)),
		NotProtocol: model.Protocol(deref(in.NotProtocol)),
		ICMP:        decodeICMP(r, path+".icmp", in.ICMP),
		NotICMP:     decodeICMP(r, path+".notICMP", in.NotICMP),
		Source:      decodeEntity(r, path+".source", in.Source),
		Destination: decodeEntity(r, path+".destination", in.Destination),
	}
	if in.Action == "pass" {
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

func decodeEntity(r *tree.Report, path string, in EntityRule) model.Match {
	if (in.Net != nil || in.NotNet != nil) && (in.Nets != nil || in.NotNets != nil) {
		r.Add(path, "only one of net and nets may be used")
	}
	return model.Match{
		Tag: in.Tag, NotTag: in.NotTag,
		Selector: in.Selector, NotSelector: in.NotSelector,
		Nets: decodeNets(in.Net, in.Nets), NotNets: decodeNets(in.NotNet, in.NotNets),
		Ports: decodePorts(in.Ports), NotPorts: decodePorts(in.NotPorts),
	}
}

func decodeNets(one *IPNet, many []IPNet) []netip.Prefix {
	var out []netip.Prefix
	if one != nil && one.IsValid() {
		out = append(out, one.Prefix)
	}
	for _, n := range many {
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

// asWritten is how the dialect writes rules.
var asWritten = dialect.Rules{
	Show: func(r model.Rule) any { return encodeRule(r) },
	Lost: func(r model.Rule) (lost []string) {
		if r.LogPrefix != "" {
			lost = append(lost, "log prefix")
		}
		if len(r.Annotations) > 0 {
			lost = append(lost, "annotations")
		}
		return lost
	},
}

func encodeRules(path string, in []model.Rule, lost *[]string) []Rule {
	*lost = append(*lost, asWritten.LostOf(path, in)...)
	out := make([]Rule, len(in))
	for i, rule := range in {
		out[i] = encodeRule(rule)
	}
	return out
}

func encodeRule(in model.Rule) Rule {
	out := Rule{
		Action:      Action(in.Action),
		Protocol:    ref(Protocol(in.Protocol)),
		NotProtocol: ref(Protocol(in.NotProtocol)),
		ICMP:        encodeICMP(in.ICMP),
		NotICMP:     encodeICMP(in.NotICMP),
		Source:      encodeEntity(in.Source),
		Destination: encodeEntity(in.Destination),
		IPVersion:   ref(in.IPVersion),
	}
	if in.Action == model.ActionPass {
		out.Action = "pass"
	}
	return out
}

func encodeICMP(in *model.ICMP) *ICMPFields {
	if in == nil {
		return nil
	}
	return &ICMPFields{Type: &in.Type, Code: in.Code}
}

func encodeEntity(in model.Match) EntityRule {
	return EntityRule{
		Tag: in.Tag, NotTag: in.NotTag,
		Selector: in.Selector, NotSelector: in.NotSelector,
		Nets: encodeNets(in.Nets), NotNets: encodeNets(in.NotNets),
		Ports: encodePorts(in.Ports), NotPorts: encodePorts(in.NotPorts),
	}
}

func encodeNets(in []netip.Prefix) []IPNet {
	var out []IPNet
	for _, p := range in {
		out = append(out, IPNet{Prefix: p})
	}
	return out
}

func encodePorts(in []model.Port) []Port {
	var out []Port
	for _, p := range in {
		out = append(out, Port(p))
	}
	return out
}

// deref is the value of a pointer, or the zero value.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// ref is a pointer to a value, or nil for the zero value.
func ref[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
