package dialect

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
)

// shown hides the log prefixes of rules.
var shown = Rules{
	Show: func(r model.Rule) any {
		r.LogPrefix = ""
		return r
	},
	Lost: func(r model.Rule) []string {
		if r.LogPrefix == "" {
			return nil
		}
		return []string{"log prefix " + r.LogPrefix}
	},
}

// list makes a rule of each word: an action, with a protocol and selectors of the source and
// the destination after slashes, and with a log prefix after a colon.
func list(words ...string) (out []model.Rule) {
	for _, w := range words {
		said, prefix, _ := strings.Cut(w, ":")
		parts := append(strings.Split(said, "/"), "", "", "")
		out = append(out, model.Rule{
			Action: parts[0], Protocol: model.Protocol(parts[1]), LogPrefix: prefix,
			Source: model.Match{Selector: parts[2]}, Destination: model.Match{Selector: parts[3]},
		})
	}
	return out
}

func words(rules []model.Rule) (out []string) {
	for _, r := range rules {
		w := strings.TrimRight(r.Action+"/"+string(r.Protocol)+"/"+r.Source.Selector+"/"+r.Destination.Selector, "/")
		if r.LogPrefix != "" {
			w += ":" + r.LogPrefix
		}
		out = append(out, w)
	}
	return out
}

// TestRulesKeepTheirPlace holds which stored rule a rule of a document is.
func TestRulesKeepTheirPlace(t *testing.T) {
	type w = []string
	for _, tc := range []struct {
		name            string
		old, next, want w
		lost            w
	}{
		{"same", w{"a:1", "b:2"}, w{"a", "b"}, w{"a:1", "b:2"}, nil},
		{"moved", w{"a:1", "b:2", "c"}, w{"c", "b", "a"}, w{"c", "b:2", "a:1"}, nil},
		{"deleted", w{"a:1", "b:2"}, w{"b"}, w{"b:2"}, nil},
		{"all deleted", w{"a:1"}, w{}, nil, nil},
		{"inserted", w{"a:1", "b:2"}, w{"x", "a", "y", "b", "z"}, w{"x", "a:1", "y", "b:2", "z"}, nil},
		{"edited", w{"a:1", "b:2", "c:3"}, w{"a", "x", "c"}, w{"a:1", "x:2", "c:3"}, nil},
		{"edited and moved", w{"a/tcp/s:1", "b:2", "c:3"}, w{"b", "c", "a/tcp/s/d"}, w{"b:2", "c:3", "a/tcp/s/d:1"}, nil},
		{"deleted, and another added", w{"a:1", "b:2", "c:3"}, w{"b", "c", "x"}, w{"b:2", "c:3", "x"}, w{"r[0] log prefix 1"}},
		{"deleted, and one much the same added", w{"a/tcp:1", "a/udp", "c"}, w{"a/udp", "a/sctp", "c"}, w{"a/udp", "a/sctp", "c"}, w{"r[0] log prefix 1"}},
		{"deleted, others swapped, one added", w{"a:1", "b", "c"}, w{"c", "x", "b"}, w{"c", "x", "b"}, w{"r[0] log prefix 1"}},
		{"deleted with nothing to lose, and another added", w{"a", "b:2"}, w{"b", "x"}, w{"b:2", "x"}, nil},
		{"two edited", w{"a:1", "b:2", "c:3"}, w{"x", "b", "y"}, w{"x:1", "b:2", "y:3"}, nil},
		{"edited and one more", w{"a:1", "b"}, w{"x", "y", "b"}, w{"x", "y", "b"}, w{"r[0] log prefix 1"}},
		{"edited and one less", w{"a", "b:2", "c"}, w{"x", "c"}, w{"x", "c"}, w{"r[1] log prefix 2"}},
		{"one in its place, one elsewhere", w{"a:1", "b", "c:3"}, w{"x", "b", "c", "y"}, w{"x:1", "b", "c:3", "y"}, nil},
		{"alike", w{"a:1", "a:2"}, w{"a", "a"}, w{"a:1", "a:2"}, nil},
		{"alike, one copied", w{"a:1", "a:2"}, w{"a", "a", "a"}, w{"a:1", "a:2", "a"}, nil},
		{"alike, one deleted", w{"a:1", "a:2"}, w{"a"}, w{"a:1"}, w{"r[0] log prefix 1", "r[1] log prefix 2"}},
		{"alike, one edited", w{"a:1", "a:2"}, w{"a", "x"}, w{"a:1", "x:2"}, w{"r[0] log prefix 1", "r[1] log prefix 2"}},
		{"the same, one deleted", w{"a:1", "a:1"}, w{"a"}, w{"a:1"}, nil},
		{"the same, one edited", w{"a:1", "b", "a:1"}, w{"a", "b", "x"}, w{"a:1", "b", "x:1"}, nil},
		{"edited to be like another, or a copy of it", w{"x:1", "b", "a:2"}, w{"a", "b", "a"}, w{"a", "b", "a:2"}, w{"r[0] log prefix 1"}},
		{"copied to the front", w{"x:1", "a:2"}, w{"a", "x", "a"}, w{"a", "x:1", "a:2"}, nil},
		{"nothing hidden", w{"a", "b", "c"}, w{"x", "c", "y"}, w{"x", "c", "y"}, nil},
		{"neighbours edited", w{"a/tcp/s:1", "a/tcp/t:2"}, w{"a/udp/s", "a/udp/t"}, w{"a/udp/s:1", "a/udp/t:2"}, nil},
		{"neighbours swapped and edited", w{"a/tcp/s:1", "b/tcp/t:2"}, w{"b/udp/t", "a/udp/s"}, w{"b/udp/t:2", "a/udp/s:1"}, nil},
		{"one deleted, the next edited, another added", w{"a/tcp/s:1", "a/tcp/t:2"}, w{"a/udp/t", "b/udp/u"}, w{"a/udp/t:2", "b/udp/u"}, w{"r[0] log prefix 1"}},
		{"order lost", w{"a:1", "b", "c", "d:4"}, w{"c", "b", "x", "y"}, w{"c", "b", "x", "y"}, w{"r[0] log prefix 1", "r[3] log prefix 4"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old, base := list(tc.old...), list(tc.old...)
			for i := range base {
				base[i].LogPrefix = ""
			}
			rules := &ruleList{rs: shown, path: "r", old: old, base: base, next: list(tc.next...)}
			lost := carryLists([]*ruleList{rules})
			if got := words(rules.next); !slices.Equal(got, tc.want) {
				t.Errorf("carried as %v, want %v", got, tc.want)
			}
			if !slices.Equal(lost, tc.lost) {
				t.Errorf("lost %v, want %v", lost, tc.lost)
			}
		})
	}
}

// TestRulesMoveToOtherLists holds which stored rule a rule is that stands in the other list
// of a policy now.
func TestRulesMoveToOtherLists(t *testing.T) {
	type w = []string
	for _, tc := range []struct {
		name                    string
		in, out, toIn, toOut    w
		wantIn, wantOut, orlost w
	}{
		{"moved", w{"a:1", "b"}, w{"c:3"}, w{"b"}, w{"a", "c"}, w{"b"}, w{"a:1", "c:3"}, nil},
		{"moved into the place of another", w{"a:1", "b"}, w{"c:3"}, w{"b"}, w{"a"}, w{"b"}, w{"a:1"}, nil},
		{"exchanged", w{"a:1"}, w{"c:3"}, w{"c"}, w{"a"}, w{"c:3"}, w{"a:1"}, nil},
		{"copied", w{"a:1"}, w{"c:3"}, w{"a"}, w{"a", "c"}, w{"a:1"}, w{"a", "c:3"}, nil},
		{"copied into the place of another", w{"a:1"}, w{"c:3"}, w{"a"}, w{"a"}, w{"a:1"}, w{"a"}, w{"spec.egress[0] log prefix 3"}},
		{"moved beside one that looks alike", w{"a:1"}, w{"a:3"}, w{}, w{"a", "a"}, nil, w{"a:3", "a:1"}, nil},
		{"one of two that look alike moved", w{"a:1", "a:2"}, w{}, w{"a"}, w{"a"}, w{"a:1"}, w{"a:2"}, w{"spec.ingress[0] log prefix 1", "spec.ingress[1] log prefix 2"}},
		{"moved, and the next edited", w{"a:1", "b:2"}, w{}, w{"x"}, w{"a"}, w{"x:2"}, w{"a:1"}, nil},
		{"deleted", w{"a:1"}, w{"c:3"}, w{}, w{"c"}, nil, w{"c:3"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			next, lost := carried(&model.Policy{InboundRules: list(tc.in...), OutboundRules: list(tc.out...)}, list(tc.toIn...), list(tc.toOut...))
			if in, out := words(next.InboundRules), words(next.OutboundRules); !slices.Equal(in, tc.wantIn) || !slices.Equal(out, tc.wantOut) {
				t.Errorf("carried as %v and %v, want %v and %v", in, out, tc.wantIn, tc.wantOut)
			}
			if !slices.Equal(lost, tc.orlost) {
				t.Errorf("lost %v, want %v", lost, tc.orlost)
			}
		})
	}
}

// carried is the policy that is stored for a document with these rules.
func carried(old *model.Policy, in, out []model.Rule) (*model.Policy, []string) {
	bare := func(rules []model.Rule) []model.Rule {
		rules = slices.Clone(rules)
		for i := range rules {
			rules[i].LogPrefix = ""
		}
		return rules
	}
	base := &model.Policy{InboundRules: bare(old.InboundRules), OutboundRules: bare(old.OutboundRules)}
	next := &model.Policy{InboundRules: bare(in), OutboundRules: bare(out)}
	lost := carryRules(shown, reflect.ValueOf(old).Elem(), reflect.ValueOf(base).Elem(), reflect.ValueOf(next).Elem())
	return next, lost
}

// TestNothingIsLostInSilence edits random rules, each of which can be told by its selectors
// whatever else is edited, and moves them about, also to the other list: what is hidden of
// each stays with it, or is named as lost, unless it was deleted.
func TestNothingIsLostInSilence(t *testing.T) {
	d := rand.New(rand.NewPCG(1, 2))
	for round := range 20_000 {
		old := &model.Policy{}
		for i := range d.IntN(6) {
			r := list(fmt.Sprintf("a/tcp/s%d/d%d:%d", i, i, i))[0]
			if d.IntN(3) == 0 {
				old.OutboundRules = append(old.OutboundRules, r)
			} else {
				old.InboundRules = append(old.InboundRules, r)
			}
		}
		lists := [2][]model.Rule{slices.Clone(old.InboundRules), slices.Clone(old.OutboundRules)}
		moves := d.IntN(2) == 0
		for range 1 + d.IntN(4) {
			edit(d, &lists, moves)
		}
		next, lost := carried(old, lists[0], lists[1])
		hidden := map[string]string{} // by what a rule can be told by
		for _, r := range slices.Concat(next.InboundRules, next.OutboundRules) {
			hidden[r.Source.Selector] = r.LogPrefix
		}
		for at, rules := range map[string][]model.Rule{"spec.ingress": old.InboundRules, "spec.egress": old.OutboundRules} {
			for i, r := range rules {
				has, there := hidden[r.Source.Selector]
				said := slices.Contains(lost, fmt.Sprintf("%s[%d] log prefix %s", at, i, r.LogPrefix))
				if there && has != r.LogPrefix && !said {
					t.Fatalf("round %d: %v and %v, edited to %v and %v, are carried as %v and %v: rule %s has %q; lost are %v", round,
						words(old.InboundRules), words(old.OutboundRules), words(lists[0]), words(lists[1]),
						words(next.InboundRules), words(next.OutboundRules), r.Source.Selector, has, lost)
				}
			}
		}
	}
}

// edit changes a rule in one field of four, deletes it, or moves it within its list or, when moves, to
// the other.
func edit(d *rand.Rand, lists *[2][]model.Rule, moves bool) {
	n := d.IntN(2)
	of := &lists[n]
	if len(*of) == 0 {
		return
	}
	i := d.IntN(len(*of))
	r := (*of)[i]
	switch d.IntN(4) {
	case 0:
		if r.Protocol == "tcp" {
			(*of)[i].Action = "x"
		}
	case 1:
		if r.Action == "a" {
			(*of)[i].Protocol = "udp"
		}
	case 2:
		*of = slices.Delete(*of, i, i+1)
	case 3:
		*of = slices.Delete(*of, i, i+1)
		if to := &lists[1-n]; moves {
			*to = slices.Insert(*to, d.IntN(len(*to)+1), r)
		} else {
			*of = slices.Insert(*of, d.IntN(len(*of)+1), r)
		}
	}
}
