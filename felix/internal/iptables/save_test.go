package iptables

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/rules"
)

const saved = `# Warning: iptables-legacy tables present, use iptables-legacy-save to see them
*nat
:PREROUTING ACCEPT [0:0]
:cali-other - [0:0]
COMMIT
*filter
:INPUT ACCEPT [12:34]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:cali-A - [0:0]
:cali-B - [0:0]
-A FORWARD -m comment --comment "cali:hook1" -j cali-A
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment "cali:last" -j ACCEPT
-A INPUT -m comment --comment "not cali:x" -j ACCEPT
-A INPUT -m comment --comment "cali:bad hash" -j ACCEPT
-A cali-A -m comment --comment "cali:one" -m comment --comment "a \"b\" cali:two" -j DROP
-A cali-A -j RETURN
COMMIT
`

func TestParseSave(t *testing.T) {
	c, err := parseSave(rules.Filter, []byte(saved))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Chain{}
	for name := range c {
		if chain, ok := c.chain(name); ok {
			got[name] = chain
		}
	}
	want := map[string]Chain{
		"FORWARD": {Rules: rulesOf("hook1", "last"), Lead: 1},
		"cali-A":  {Rules: rulesOf("one", "")},
		"cali-B":  {},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestParseSaveRefusesHalfATable(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "another table": "*nat\nCOMMIT\n", "no end": "*filter\n:INPUT ACCEPT [0:0]\n",
	} {
		if _, err := parseSave(rules.Filter, []byte(text)); !errors.Is(err, errIncomplete) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestInterfacesOfDockersRules(t *testing.T) {
	text := `*filter
:DOCKER - [0:0]
-A FORWARD -i eth0 -j DOCKER-FORWARD
-A DOCKER -d 172.17.0.2/32 ! -i web0 -o web0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-USER -i eth1 -j DROP
-A DOCKERS
COMMIT
`
	if got, want := dockerIn([]byte(text)), []string{"docker0", "web0"}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

// FuzzParseSave feeds texts to the parser; whatever is read must be safe to plan with:
// only rules with felix's mark are ever deleted from a chain of others.
func FuzzParseSave(f *testing.F) {
	f.Add(saved)
	f.Add("*filter\n-A \n:\n-A x -m comment --comment \"cali:\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, text string) {
		have, err := parseSave(rules.Filter, []byte(text))
		if err != nil {
			return
		}
		var names []string
		for name := range have {
			names = append(names, name)
		}
		p, err := newPlan(rules.Filter, have, nil, names)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(p.input)) {
			if strings.HasPrefix(line, "-D ") && !strings.Contains(line, `"cali:`) {
				t.Errorf("line %q deletes another one's rule", line)
			}
			if strings.HasPrefix(line, "-X ") && !strings.HasPrefix(line, "-X cali-") {
				t.Errorf("line %q deletes another one's chain", line)
			}
		}
	})
}

func TestHooksAreEqualOnlyInTheirPlace(t *testing.T) {
	want := Chain{Rules: rulesOf("a", "b"), Lead: 1}
	for name, c := range map[string]struct {
		have Chain
		want bool
	}{
		"in place":                   {Chain{Rules: rulesOf("a", "b"), Lead: 1}, true},
		"nobody else there":          {Chain{Rules: rulesOf("a", "b"), Lead: 2}, true},
		"behind another one's rule":  {Chain{Rules: rulesOf("a", "b"), Lead: 0}, false},
		"another order":              {Chain{Rules: rulesOf("b", "a"), Lead: 1}, false},
		"one is missing":             {Chain{Rules: rulesOf("a"), Lead: 1}, false},
		"one is there a second time": {Chain{Rules: rulesOf("a", "b", "b"), Lead: 1}, false},
	} {
		if got := Equal(want, c.have); got != c.want {
			t.Errorf("%s: equal is %v", name, got)
		}
	}
}
