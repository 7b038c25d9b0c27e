package selector_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/selector"
)

func TestCanonicalText(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, in, want string }{
		{"empty selects everything", "", "all()"},
		{"blank selects everything", " \t ", "all()"},
		{"all with spacing", " all ( ) ", "all()"},
		{"all in parentheses", "((all()))", "all()"},
		{"global", "global( )", "global()"},
		{"has", "has( a.b/c-d_e )", "has(a.b/c-d_e)"},
		{"equal", `role=='web'`, `role == "web"`},
		{"not equal", `role  !=	"web"`, `role != "web"`},
		{"single quotes stay where the value has double ones", `a == 'say "x"'`, `a == 'say "x"'`},
		{"empty value", `a == ""`, `a == ""`},
		{"set is sorted, each value once", `role in {"db","web","db"}`, `role in {"db", "web"}`},
		{"empty set", `role in {}`, `role in {}`},
		{"comma after the last value", `role in {"b", "a",}`, `role in {"a", "b"}`},
		{"not in", `role not  in{ 'a' }`, `role not in {"a"}`},
		{"notin", `role notin {"a"}`, `role not in {"a"}`},
		{"contains", `a contains 'x'`, `a contains "x"`},
		{"contains without space", `a contains"x"`, `a contains "x"`},
		{"starts with", `a starts  with 'x'`, `a starts with "x"`},
		{"startswith", `a startswith 'x'`, `a starts with "x"`},
		{"ends with", `a ends with 'x'`, `a ends with "x"`},
		{
			"labels named like operators", `in in {"in"} && not not in {"x"} && has == "y" && all != "z"`,
			`(in in {"in"} && not not in {"x"} && has == "y" && all != "z")`,
		},
		{"and binds tighter than or", `has(a) || has(b) && has(c)`, `(has(a) || (has(b) && has(c)))`},
		{"parentheses change the order", `(has(a)||has(b))&&has(c)`, `((has(a) || has(b)) && has(c))`},
		{"nested and is one and", `has(a) && (has(b) && has(c))`, `(has(a) && has(b) && has(c))`},
		{"nested or is one or", `(has(a) || has(b)) || has(c)`, `(has(a) || has(b) || has(c))`},
		{"not", `! has(a)`, `!has(a)`},
		{"double not", `!!has(a)`, `has(a)`},
		{"triple not", `!!!has(a)`, `!has(a)`},
		{"double not by parentheses", `!(!(has(a)))`, `has(a)`},
		{"not of a comparison", `!a == "b"`, `!(a == "b")`},
		{"not of a group", `!(has(a) && has(b))`, `!(has(a) && has(b))`},
		{"not binds tighter than and", `!has(a) && has(b)`, `(!has(a) && has(b))`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := parse(t, tc.in)
			if got := s.String(); got != tc.want {
				t.Fatalf("canonical text of %q:\n got %s\nwant %s", tc.in, got, tc.want)
			}
			again := parse(t, s.String())
			if again.String() != s.String() || again.ID() != s.ID() {
				t.Errorf("canonical text is not stable: %s became %s", s, again)
			}
		})
	}
}

func TestIDFollowsCanonicalText(t *testing.T) {
	t.Parallel()
	a := parse(t, `role in {"b","a"}`)
	b := parse(t, `( role in { 'a' , "b" } )`)
	c := parse(t, `role in {"a"}`)
	if a.ID() != b.ID() {
		t.Errorf("equal selectors have ids %s and %s", a.ID(), b.ID())
	}
	if a.ID() == c.ID() {
		t.Errorf("different selectors share the id %s", a.ID())
	}
	if !strings.HasPrefix(a.ID(), "s:") || len(a.ID()) != 40 {
		t.Errorf("unexpected form of id %q", a.ID())
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	labels := selector.Map{"role": "frontend", "env": "lab", "empty": ""}
	for in, want := range map[string]bool{
		``:                         true,
		`all()`:                    true,
		`!all()`:                   false,
		`global()`:                 true,
		`has(role)`:                true,
		`has(missing)`:             false,
		`has(empty)`:               true,
		`role == "frontend"`:       true,
		`role == "front"`:          false,
		`missing == ""`:            false,
		`empty == ""`:              true,
		`role != "frontend"`:       false,
		`role != "x"`:              true,
		`missing != "x"`:           true,
		`role in {"a","frontend"}`: true,
		`role in {}`:               false,
		`missing in {"a"}`:         false,
		`role not in {"frontend"}`: false,
		`role not in {"a"}`:        true,
		`role not in {}`:           true,
		`missing not in {"a"}`:     true,
		`role contains "onte"`:     true,
		`role contains "x"`:        false,
		`missing contains ""`:      false,
		`role starts with "front"`: true,
		`role starts with "end"`:   false,
		`missing starts with ""`:   false,
		`role ends with "end"`:     true,
		`role ends with "front"`:   false,
		`missing ends with ""`:     false,
		`!role == "frontend"`:      false,
		`!missing == "x"`:          true,
		`has(missing) && has(role) || env == "lab"`:   true,
		`has(missing) && (has(role) || env == "lab")`: false,
		`has(role) && env == "lab"`:                   true,
		`has(a) || has(b) || has(env)`:                true,
		`has(a) || has(b)`:                            false,
	} {
		if got := parse(t, in).Match(labels); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
	if parse(t, "global()").Match(selector.Map{selector.NamespaceLabel: "default"}) {
		t.Error("global() selects an object of a namespace")
	}
}

func TestSyntaxErrorsNameThePosition(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in       string
		offset   int
		expected string
	}{
		{`a = 'b'`, 2, "an operator"},
		{`a`, 1, "an operator"},
		{`a ==`, 4, "a value in quotes"},
		{`a == b`, 5, "a value in quotes"},
		{`a == "b`, 7, "a closing \""},
		{`a == 'b' c`, 9, `"&&", "||" or the end`},
		{`a == 'b' &&`, 11, "a label"},
		{`a == 'b' & c`, 9, `"&&", "||" or the end`},
		{`(a == 'b'`, 9, `"&&", "||" or ")"`},
		{`a == 'b')`, 8, "the end"},
		{`()`, 1, "a label"},
		{`!`, 1, "a label"},
		{`has()`, 4, "a label"},
		{`has(a`, 5, `")"`},
		{`all(a)`, 4, `")"`},
		{`any()`, 0, "has(…), all() or global()"},
		{`a in "b"`, 5, `"{"`},
		{`a in {b}`, 6, "a value in quotes or"},
		{`a in {"b" "c"}`, 10, `"," or "}"`},
		{`a in {"b"`, 9, `"," or "}"`},
		{`a not {"b"}`, 2, "an operator"},
		{`a starts "b"`, 2, "an operator"},
		{`a containsx "b"`, 2, "an operator"},
		{"a == 'b'\n&& has(c)", 8, `"&&", "||" or the end`},
		{`ä == "b"`, 0, "a label"},
		{strings.Repeat("x", 513) + ` == "b"`, 0, "at most 512"},
	} {
		_, err := selector.Parse(tc.in)
		var se *selector.SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%q: got %v, want a SyntaxError", tc.in, err)
			continue
		}
		if se.Offset != tc.offset || !strings.Contains(se.Expected, tc.expected) || se.Input != tc.in {
			t.Errorf("%q: got offset %d, expected %q; want offset %d, expected %q",
				tc.in, se.Offset, se.Expected, tc.offset, tc.expected)
		}
	}
}

func TestSyntaxErrorText(t *testing.T) {
	t.Parallel()
	_, err := selector.Parse(`a = 'b'`)
	want := `selector "a = 'b'": character 3: expected an operator (==, !=, in, not in, contains, starts with, ends with), found "="`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestHostileNestingIsRefused(t *testing.T) {
	t.Parallel()
	const n = 10_000
	alternating := strings.Builder{}
	for range n {
		alternating.WriteString("has(a) && (has(b) || (")
	}
	for name, in := range map[string]string{
		"open parentheses":      strings.Repeat("(", n),
		"balanced parentheses":  strings.Repeat("(", n) + "all()" + strings.Repeat(")", n),
		"negated parentheses":   strings.Repeat("!(", n) + "all()" + strings.Repeat(")", n),
		"alternating operators": alternating.String(),
	} {
		if _, err := selector.Parse(in); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	s := parse(t, strings.Repeat("!", n)+"has(a)")
	if s.String() != "has(a)" {
		t.Errorf("%d negations gave %s", n, s)
	}
	wide := parse(t, strings.Repeat("has(a) && ", n)+"has(a)")
	if !wide.Match(selector.Map{"a": ""}) {
		t.Error("a wide selector does not match")
	}
}

func TestDeepestNestingIsStable(t *testing.T) {
	t.Parallel()
	in := `has(a)`
	for i := range 99 {
		if i%2 == 0 {
			in = `!(` + in + ` && b == "c")`
		} else {
			in = `(` + in + ` || b == "c")`
		}
		s, err := selector.Parse(in)
		if err != nil {
			return // the limit is reached
		}
		if again := parse(t, s.String()); again.String() != s.String() {
			t.Fatalf("canonical text of depth %d is not stable", i)
		}
	}
	t.Error("the limit was never reached")
}

func TestRestrictions(t *testing.T) {
	t.Parallel()
	type rs = selector.Restrictions
	one := func(values ...string) selector.Restriction {
		return selector.Restriction{Present: true, Values: values}
	}
	has := selector.Restriction{Present: true}
	hasNot := selector.Restriction{Absent: true}
	for in, want := range map[string]rs{
		`all()`:                                nil,
		`a == "x"`:                             {"a": one("x")},
		`a != "x"`:                             nil,
		`!a != "x"`:                            {"a": one("x")},
		`!a == "x"`:                            nil,
		`a in {"y","x"}`:                       {"a": one("x", "y")},
		`a in {}`:                              {"a": {Present: true, Values: []string{}}},
		`a not in {"x"}`:                       nil,
		`!a not in {"x"}`:                      {"a": one("x")},
		`has(a)`:                               {"a": has},
		`!has(a)`:                              {"a": hasNot},
		`a contains "x"`:                       {"a": has},
		`!a contains "x"`:                      nil,
		`global()`:                             {selector.NamespaceLabel: hasNot},
		`!global()`:                            {selector.NamespaceLabel: has},
		`a == "x" && has(b)`:                   {"a": one("x"), "b": has},
		`a in {"x","y"} && a in {"y","z"}`:     {"a": one("y")},
		`a == "x" && has(a)`:                   {"a": one("x")},
		`a == "x" || a == "y"`:                 {"a": one("x", "y")},
		`a == "x" || has(a)`:                   {"a": has},
		`a == "x" || has(b)`:                   {},
		`a == "x" || !has(a)`:                  {},
		`has(a) && b == "y" || has(a)`:         {"a": has},
		`!(a != "x" || !has(b))`:               {"a": one("x"), "b": has},
		`!(a != "x" && a != "y")`:              {"a": one("x", "y")},
		`has(a) && !has(a)`:                    {"a": {Present: true, Absent: true}},
		`(a == "x" || a == "y") && b in {"z"}`: {"a": one("x", "y"), "b": one("z")},
	} {
		got := parse(t, in).Restrictions()
		if len(got) == 0 && len(want) == 0 {
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
	}
}

func TestLabelNamesAndDialect(t *testing.T) {
	t.Parallel()
	s := parse(t, `b == "x" && (has(a) || !b in {"y"}) && !c != "z"`)
	if diff := cmp.Diff([]string{"a", "b", "c"}, s.LabelNames()); diff != "" {
		t.Errorf("label names (-want +got):\n%s", diff)
	}
	if !s.V1() {
		t.Errorf("%s is not taken for v1", s)
	}
	for _, in := range []string{`global()`, `a contains "x"`, `has(b) || !a ends with "y"`, `a starts with "z"`} {
		if parse(t, in).V1() {
			t.Errorf("%s is taken for v1", in)
		}
	}
}

func parse(t testing.TB, in string) *selector.Selector {
	t.Helper()
	s, err := selector.Parse(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestReserved holds which labels are nobody's to give: that by which global() goes is one.
func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{
		selector.NamespaceLabel: true, "projectcalico.org/name": true, "projectcalico.org/role": false, "projectcalico.org/": false, "projectcalico.org": false, "role": false, "org.projectcalico/x": false,
	} {
		if got := selector.Reserved(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
