package v3

import (
	"encoding/json"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
)

// TestTags holds how a selector and a tag are written, which felix takes as two selectors
// that must both hold, and of which, negated, none may.
func TestTags(t *testing.T) {
	deep := "has(x)"
	for i := range 100 {
		deep = "(has(y)" + []string{and, or}[i%2] + deep + ")"
	}
	for _, tc := range []struct {
		name                  string
		match                 model.Match
		selector, notSelector string
		lost                  string
	}{
		{"tag", model.Match{Tag: "net1"}, "has(net1)", "", ""},
		{"tag and selector", model.Match{Tag: "net1", Selector: "a == 'b' || has(c)"}, "(a == 'b' || has(c)) && has(net1)", "", ""},
		{"not the tag", model.Match{NotTag: "net1"}, "", "has(net1)", ""},
		{"neither", model.Match{NotTag: "net1", NotSelector: "a == 'b' && has(c)"}, "", "(a == 'b' && has(c)) || has(net1)", ""},
		{"words of the language", model.Match{Tag: "in", NotTag: "all"}, "has(in)", "has(all)", ""},
		{"dots and hyphens", model.Match{Tag: "a.b-c_d"}, "has(a.b-c_d)", "", ""},
		{"no label's name", model.Match{Tag: "a b"}, "", "", `tag "a b"`},
		{"a way out of the parenthesis", model.Match{Tag: "a) || has(b"}, "", "", `tag "a) || has(b"`},
		{"selector that is none", model.Match{Tag: "a", Selector: "x) || (y"}, "x) || (y", "", `tag "a"`},
		{"nested to the limit", model.Match{Tag: "a", Selector: deep}, deep, "", `tag "a"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := model.Rule{Action: model.ActionAllow, Source: tc.match}
			doc := encodeRule(r)
			if doc.Source.Selector != tc.selector || doc.Source.NotSelector != tc.notSelector {
				t.Errorf("written as %q and %q", doc.Source.Selector, doc.Source.NotSelector)
			}
			if lost := strings.Join(asWritten.Lost(r), "; "); lost != tc.lost {
				t.Errorf("lost %q, want %q", lost, tc.lost)
			}
		})
	}
}

// TestEditedTag checks that a rule with a tag that is edited keeps it, wherever it went, and
// that one whose selector is edited has what the document says.
func TestEditedTag(t *testing.T) {
	kind := kindNamed(t, "Profile")
	key := model.ProfileKey{Name: "net1"}
	old := &model.Profile{Tags: []string{"net1"}, InboundRules: []model.Rule{
		{Action: model.ActionAllow, Source: model.Match{Tag: "net1"}},
		{Action: model.ActionAllow, Source: model.Match{Tag: "net2", Selector: "a == 'b'"}},
		{Action: model.ActionDeny},
	}, OutboundRules: []model.Rule{{Action: model.ActionAllow}}}
	const apart = `spec.ingress[1] selector and tag "net2" as two conditions (apiVersion v1 can)`
	for _, tc := range []struct {
		name, from, to string
		want           []model.Match
		lost           string
	}{
		{
			"protocol", `{"action":"Allow","source":{"selector":"has(net1)"}`, `{"action":"Allow","protocol":"TCP","source":{"selector":"has(net1)"}`,
			[]model.Match{{Tag: "net1"}, {Tag: "net2", Selector: "a == 'b'"}, {}},
			"",
		},
		{ // felix takes selector and tag as two sets, which a network set and an endpoint can be in
			"selector beside the tag", `(a == 'b') \u0026\u0026`, `(a == 'c') \u0026\u0026`,
			[]model.Match{{Tag: "net1"}, {Selector: "(a == 'c') && has(net2)"}, {}},
			apart,
		},
		{
			"copied", `"ingress":[`, `"ingress":[{"action":"Log","source":{"selector":"(a == 'b') && has(net2)"}},`,
			[]model.Match{{Selector: "(a == 'b') && has(net2)"}, {Tag: "net1"}, {Tag: "net2", Selector: "a == 'b'"}, {}},
			apart,
		},
		{
			"copied to the other list", `"egress":[`, `"egress":[{"action":"Log","source":{"selector":"(a == 'b') && has(net2)"}},`,
			[]model.Match{{Tag: "net1"}, {Tag: "net2", Selector: "a == 'b'"}, {}},
			apart,
		},
		{
			"end of the rule", `"selector":"(a == 'b') \u0026\u0026 has(net2)"`, `"selector":"(a == 'b') \u0026\u0026 has(net2)","nets":["10.0.0.0/8"]`,
			[]model.Match{{Tag: "net1"}, {Tag: "net2", Selector: "a == 'b'"}, {}},
			"",
		},
		{
			"selector", `(a == 'b') \u0026\u0026 has(net2)`, `(a == 'b')`,
			[]model.Match{{Tag: "net1"}, {Selector: "(a == 'b')"}, {}},
			"",
		},
		{
			"first rule deleted", `{"action":"Allow","source":{"selector":"has(net1)"},"destination":{}},`, "",
			[]model.Match{{Tag: "net2", Selector: "a == 'b'"}, {}},
			"",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			doc, lost := kind.Encode(key, old)
			if len(lost) != 1 || lost[0] != "tags" {
				t.Errorf("lost %v", lost)
			}
			text, err := json.Marshal(doc)
			if err != nil || !strings.Contains(string(text), tc.from) {
				t.Fatalf("%s, error %v", text, err)
			}
			_, next, faults := decode(t, kind, strings.Replace(string(text), tc.from, tc.to, 1))
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			value, gone, err := kind.Carry(key, old, next)
			if err != nil || strings.Join(gone, "; ") != tc.lost {
				t.Fatalf("lost %v, error %v", gone, err)
			}
			p := value.(*model.Profile)
			if len(p.Tags) != 1 || len(p.InboundRules) != len(tc.want) {
				t.Fatalf("stored is %+v", p)
			}
			for i, want := range tc.want {
				if got := p.InboundRules[i].Source; got.Tag != want.Tag || got.Selector != want.Selector {
					t.Errorf("rule %d has %+v, want %+v", i, got, want)
				}
			}
		})
	}
}
