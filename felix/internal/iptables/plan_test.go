package iptables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/rules"
)

// chainOf is a chain whose rules have their hashes for texts.
func chainOf(hashes ...string) Chain {
	c := Chain{Rules: rulesOf(hashes...)}
	for i := range c.Rules {
		c.Rules[i].Text = c.Rules[i].Hash
	}
	return c
}

func readOf(hashes ...string) readChain { return readChain{rules: chainOf(hashes...).Rules} }

// TestPlans compares what iptables-restore is given, and the change of the number of entries by
// which writes of others are noticed, with literal ones.
func TestPlans(t *testing.T) {
	t.Parallel()
	hooks := func(lead int, hashes ...string) Chain {
		c := chainOf(hashes...)
		c.Lead = lead
		return c
	}
	foreign := readChain{rules: []Rule{{Hash: "h1", Text: "h1"}, {}, {Hash: "h2", Text: "h2"}}}
	byHandle := readChain{rules: []Rule{{Hash: "h1", Handle: 7}, {Handle: 8}, {Hash: "h2", Handle: 9}}}
	for _, c := range []struct {
		name        string
		have        contents
		sets        []named
		deletes     []string
		want        string
		entries     int
		first, then []hookRef
	}{
		{name: "nothing"},
		{name: "a new chain", sets: []named{{"cali-a", chainOf("x", "y")}}, want: ":cali-a - -;-A cali-a x;-A cali-a y", entries: 4},
		{name: "a new empty chain", sets: []named{{"cali-a", chainOf()}}, want: ":cali-a - -", entries: 2},
		{name: "a chain that is there", have: contents{"cali-a": readOf("x")}, sets: []named{{"cali-a", chainOf("x")}}},
		{name: "an empty chain that is there", have: contents{"cali-a": {}}, sets: []named{{"cali-a", chainOf()}}},
		{name: "a chain that becomes empty", have: contents{"cali-a": readOf("x", "y")}, sets: []named{{"cali-a", chainOf()}}, want: "-D cali-a 2;-D cali-a 1", entries: -2},
		{name: "a rule in the middle", have: contents{"cali-a": readOf("x", "z")}, sets: []named{{"cali-a", chainOf("x", "y", "z")}}, want: "-I cali-a 2 y", entries: 1},
		{name: "a rule of another program in felix's chain", have: contents{"cali-a": readOf("x", "", "y")}, sets: []named{{"cali-a", chainOf("x", "y")}}, want: "-D cali-a 2", entries: -1},
		{name: "chains that lead to each other", sets: []named{{"cali-a", chainOf("to b")}, {"cali-b", chainOf("to a")}}, want: ":cali-a - -;:cali-b - -;-A cali-a to b;-A cali-b to a", entries: 6},
		{name: "a chain that goes", have: contents{"cali-a": readOf("x", "")}, deletes: []string{"cali-a"}, want: ":cali-a - -;-X cali-a", entries: -4},
		{name: "an empty chain that goes", have: contents{"cali-a": {}}, deletes: []string{"cali-a"}, want: "-X cali-a", entries: -2},
		{name: "a chain that is gone already", deletes: []string{"cali-a", "OUTPUT"}},
		{
			name: "a chain comes and one goes", have: contents{"cali-b": readOf("x")}, sets: []named{{"cali-a", chainOf("y")}}, deletes: []string{"cali-b"},
			want: ":cali-a - -;:cali-b - -;-A cali-a y;-X cali-b", entries: 0,
		},
		{name: "first hooks", have: contents{"OUTPUT": readOf("")}, sets: []named{{"OUTPUT", hooks(1, "f", "l")}}, want: "-I OUTPUT 1 f;-A OUTPUT l", entries: 2},
		{name: "hooks that are in place", have: contents{"OUTPUT": readOf("f", "", "l")}, sets: []named{{"OUTPUT", hooks(1, "f", "l")}}},
		{name: "a hook that is displaced", have: contents{"OUTPUT": readOf("", "f")}, sets: []named{{"OUTPUT", hooks(1, "f")}}, want: "-D OUTPUT f;-I OUTPUT 1 f", entries: 0},
		{name: "a hook that is there twice", have: contents{"OUTPUT": readOf("f", "f")}, sets: []named{{"OUTPUT", hooks(1, "f")}}, want: "-D OUTPUT f;-D OUTPUT f;-I OUTPUT 1 f", entries: -1},
		{name: "no hooks any more", have: contents{"OUTPUT": foreign}, sets: []named{{"OUTPUT", hooks(0)}}, want: "-D OUTPUT h1;-D OUTPUT h2", entries: -2},
		{name: "no hooks wanted and none there", have: contents{"OUTPUT": readOf("")}, sets: []named{{"OUTPUT", hooks(0)}}},
		{name: "hooks are deleted", have: contents{"OUTPUT": foreign}, deletes: []string{"OUTPUT"}, want: "-D OUTPUT h1;-D OUTPUT h2", entries: -2},
		{name: "nothing of felix's to delete", have: contents{"OUTPUT": readOf("", "")}, deletes: []string{"OUTPUT"}},
		{name: "a chain of others is not deleted", have: contents{"caliban": readOf("")}, deletes: []string{"caliban"}},
		{
			name: "hooks are replaced by handle, behind", have: contents{"OUTPUT": byHandle}, sets: []named{{"OUTPUT", hooks(1, "h1", "h3")}},
			want: "-I OUTPUT 1 h1;-A OUTPUT h3", entries: 2, then: []hookRef{{"OUTPUT", 7}, {"OUTPUT", 9}},
		},
		{name: "hooks are taken away by handle, first", have: contents{"OUTPUT": byHandle}, sets: []named{{"OUTPUT", hooks(0)}}, first: []hookRef{{"OUTPUT", 7}, {"OUTPUT", 9}}},
		{
			name: "hooks are deleted by handle, before their chain", have: contents{"OUTPUT": byHandle, "cali-a": {}}, deletes: []string{"OUTPUT", "cali-a"},
			want: "-X cali-a", entries: -2, first: []hookRef{{"OUTPUT", 7}, {"OUTPUT", 9}},
		},
		{name: "a hook that waits for its chain", sets: []named{{"DOCKER-USER", Chain{Rules: rulesOf("x"), IfExists: true}}}},
	} {
		p, err := newPlan(rules.Filter, c.have, c.sets, c.deletes)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := ""
		if c.want != "" {
			want = "*filter\n" + strings.ReplaceAll(c.want, ";", "\n") + "\nCOMMIT\n"
		}
		if d := cmp.Diff(want, string(p.input)); d != "" || p.entries != c.entries {
			t.Errorf("%s: %d entries, want %d; (-want +got):\n%s", c.name, p.entries, c.entries, d)
		}
		all := cmp.AllowUnexported(hookRef{})
		if d := cmp.Diff(c.first, p.first, all) + cmp.Diff(c.then, p.then, all); d != "" {
			t.Errorf("%s: by handle (-want +got):\n%s", c.name, d)
		}
		if idle := want == "" && c.first == nil && c.then == nil; p.empty() != idle {
			t.Errorf("%s: empty is %v", c.name, p.empty())
		}
	}
}

// TestAPlanInForceIsNotMadeAgain takes each plan as carried out; what it was made of needs nothing
// more then.
func TestAPlanInForceIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	have := contents{"OUTPUT": readOf("", "f", ""), "INPUT": readOf("f"), "cali-a": readOf("x", "", "y"), "cali-gone": readOf("x")}
	hook := chainOf("f", "g", "l")
	hook.Lead = 2
	sets := []named{{"OUTPUT", hook}, {"INPUT", chainOf()}, {"cali-a", chainOf("y", "x")}, {"cali-new", chainOf("z")}}
	deletes := []string{"cali-gone"}
	p, err := newPlan(rules.Filter, have, sets, deletes)
	if err != nil || p.empty() {
		t.Fatalf("%+v, %v", p, err)
	}
	have.take(p)
	again, err := newPlan(rules.Filter, have, sets, deletes)
	if err != nil || !again.empty() || len(again.input) > 0 {
		t.Errorf("there is more to do: %s, %v", again.input, err)
	}
	want := map[string][]string{"OUTPUT": {"f", "g", "", "", "l"}, "INPUT": {}, "cali-a": {"y", "x"}, "cali-new": {"z"}}
	if d := cmp.Diff(want, hashes(have)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestAPlanWithAMissingChainSaysWhich has a hook in a chain of the kernel's that is not there.
func TestAPlanWithAMissingChainSaysWhich(t *testing.T) {
	t.Parallel()
	_, err := newPlan(rules.Raw, newContents(rules.Raw), []named{{"cali-a", chainOf("x")}, {"FORWARD", chainOf("x")}}, nil)
	if want := "chain FORWARD: no such chain in table raw"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}
