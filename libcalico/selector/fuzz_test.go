package selector_test

import (
	"slices"
	"testing"

	"calico.internal/libcalico/selector"
)

// FuzzParse checks on any text that parsing ends, that the canonical text of what
// parses is stable and means the same, and that restrictions never demand too much.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		``, `all()`, `a == "b"`, `a != 'b' && has(c)`, `!(a in {"x","y"} || b not in {})`,
		`a contains "x" || b starts with 'y' && c ends with "z"`, `global()`, `((a == "b"))`, `a == "`, `!!has(a)`,
		`in in {"in"}`, `a == 'say "x"'`, `a = "b"`,
	} {
		f.Add(s, "a", "b")
	}
	f.Fuzz(func(t *testing.T, in, name, value string) {
		s, err := selector.Parse(in)
		if err != nil {
			return
		}
		again, err := selector.Parse(s.String())
		if err != nil {
			t.Fatalf("canonical text %q of %q: %v", s, in, err)
		}
		if again.String() != s.String() || again.ID() != s.ID() {
			t.Fatalf("canonical text of %q: %q became %q", in, s, again)
		}
		for _, labels := range labelSets(s, name, value) {
			matched := s.Match(labels)
			if matched != again.Match(labels) {
				t.Fatalf("%q and %q differ for %v", in, s, labels)
			}
			if matched && !allowed(s.Restrictions(), labels) {
				t.Fatalf("%q matches %v but its restrictions do not", in, labels)
			}
		}
	})
}

// labelSets makes labels from what the selector looks at.
func labelSets(s *selector.Selector, name, value string) []selector.Map {
	sets := []selector.Map{{}, {name: value}}
	all, some := selector.Map{}, selector.Map{}
	for i, n := range s.LabelNames() {
		all[n] = value
		if i%2 == 0 {
			some[n] = value
		}
		for _, v := range s.Restrictions()[n].Values {
			one := selector.Map{n: v}
			sets = append(sets, one)
		}
	}
	return append(sets, all, some)
}

func allowed(rs selector.Restrictions, labels selector.Map) bool {
	for name, r := range rs {
		v, ok := labels[name]
		if r.Present && !ok || r.Absent && ok {
			return false
		}
		if r.Values != nil && !slices.Contains(r.Values, v) {
			return false
		}
	}
	return true
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := selector.Parse(`role == "web" && env in {"lab", "test"} || !has(debug)`); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	s := parse(b, `role == "web" && env in {"lab", "test"} || has(debug)`)
	labels := selector.Map{"role": "web", "env": "prod", "tier": "a"}
	for b.Loop() {
		s.Match(labels)
	}
}
