package v3

import (
	"net/netip"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
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

// asWritten is how the dialect writes rules.
var asWritten = dialect.Rules{
	Show: func(r model.Rule) any { return encodeRule(r) },
	Lost: func(r model.Rule) (lost []string) {
		for _, tag := range []struct{ selector, tag, operator string }{
			{r.Source.Selector, r.Source.Tag, and},
			{r.Source.NotSelector, r.Source.NotTag, or},
			{r.Destination.Selector, r.Destination.Tag, and},
			{r.Destination.NotSelector, r.Destination.NotTag, or},
		} {
			if _, ok := withTag(tag.selector, tag.tag, tag.operator); !ok {
				lost = append(lost, "tag "+strconv.Quote(tag.tag))
			}
		}
		if r.LogPrefix != "" {
			lost = append(lost, "log prefix")
		}
		return lost
	},
	Blurred: func(stored, made model.Rule) (lost []string) {
		for _, was := range []model.Match{stored.Source, stored.Destination} {
			for _, is := range []model.Match{made.Source, made.Destination} {
				if blurred(was, is) {
					lost = append(lost, "selector and tag "+strconv.Quote(was.Tag)+BothApart)
				}
			}
		}
		return lost
	},
}

// BothApart ends what is said of a selector and a tag that would become one selector.
const BothApart = " as two conditions (apiVersion v1 can)"

// blurred says whether a selector was made of the text that stood for a selector and a tag.
// Felix takes those as two sets with the address in both: one of them may have it of a
// network set, the other of an endpoint. One selector asks both of the same, so it chooses
// less, and a deny with it can be none. Negated, the two mean the same.
func blurred(was, is model.Match) bool {
	if was.Selector == "" || was.Tag == "" || is.Tag != "" {
		return false
	}
	has, err1 := selector.Parse("has(" + was.Tag + ")")
	made, err2 := selector.Parse(is.Selector)
	return err1 == nil && err2 == nil && made.String() != has.String() && strings.Contains(made.String(), has.String())
}

// The operators that join a selector and a tag.
const (
	and = " && "
	or  = " || "
)

// withTag is the selector that stands for a selector and a tag, which the dialect does not
// have: for a rule, a tag is the label of that name. ok is false when there is none,
// because the tag is no name of a label or the whole is nested too deep.
func withTag(sel, tag, operator string) (text string, ok bool) {
	if tag == "" {
		return sel, true
	}
	has := "has(" + tag + ")"
	if parsed, err := selector.Parse(has); err != nil || parsed.String() != has {
		return sel, false
	}
	if sel == "" {
		return has, true
	}
	text = "(" + sel + ")" + operator + has
	_, err1 := selector.Parse(sel)
	_, err2 := selector.Parse(text)
	if err1 != nil || err2 != nil {
		return sel, false
	}
	return text, true
}

func encodeRules(path string, in []model.Rule, lost *[]string) []Rule {
	*lost = append(*lost, asWritten.LostOf(path, in)...)
	var out []Rule
	for _, rule := range in {
		out = append(out, encodeRule(rule))
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
	out := EntityRule{Nets: encodeNets(in.Nets), NotNets: encodeNets(in.NotNets)}
	out.Selector, _ = withTag(in.Selector, in.Tag, and)
	out.NotSelector, _ = withTag(in.NotSelector, in.NotTag, or)
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
