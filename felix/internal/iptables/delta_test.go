package iptables

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffTurnsOneChainIntoTheOther(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	word := func() []string {
		out := make([]string, random.IntN(12))
		for i := range out {
			out[i] = string(rune('a' + random.IntN(6)))
		}
		return out
	}
	for range 5000 {
		have, want := word(), word()
		got := play(t, have, diff(rulesOf(have...), rulesOf(want...)))
		if d := cmp.Diff(want, got); d != "" && len(want)+len(got) > 0 {
			t.Fatalf("from %q to %q gives %q", have, want, got)
		}
	}
}

func TestDiffLeavesCommonRulesAlone(t *testing.T) {
	for _, c := range []struct {
		name       string
		have, want []string
		edits      int
	}{
		{"nothing changes", []string{"a", "b", "c"}, []string{"a", "b", "c"}, 0},
		{"a rule is added at the end", []string{"a", "b"}, []string{"a", "b", "c"}, 1},
		{"a rule is added before the last", []string{"a", "z"}, []string{"a", "m", "z"}, 1},
		{"a rule is added in front", []string{"b", "c"}, []string{"a", "b", "c"}, 1},
		{"two rules are added in different places", []string{"b", "d", "z"}, []string{"a", "b", "c", "d", "z"}, 2},
		{"a rule is removed", []string{"a", "b", "c"}, []string{"a", "c"}, 1},
		{"a rule is replaced", []string{"a", "b", "c"}, []string{"a", "x", "c"}, 2},
		{"equal rules are told apart by their place", []string{"a", "r", "b", "r"}, []string{"a", "r", "c", "r", "b", "r"}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			edits := diff(rulesOf(c.have...), rulesOf(c.want...))
			if len(edits) != c.edits {
				t.Errorf("%d edits, want %d: %+v", len(edits), c.edits, edits)
			}
			if got := play(t, c.have, edits); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDiffOfAVeryLongChainReplacesItsMiddle(t *testing.T) {
	var have, want []string
	for i := range 3000 {
		have = append(have, "h"+string(rune(i+1000)))
		want = append(want, "w"+string(rune(i+1000)))
	}
	have, want = append(have, "end"), append(want, "end")
	if got := play(t, have, diff(rulesOf(have...), rulesOf(want...))); !slices.Equal(got, want) {
		t.Error("the chain is not what was wanted")
	}
}

func rulesOf(hashes ...string) []Rule {
	out := make([]Rule, len(hashes))
	for i, h := range hashes {
		out[i].Hash = h
	}
	return out
}

// play makes the edits as iptables-restore would.
func play(t *testing.T, chain []string, edits []edit) []string {
	t.Helper()
	chain = slices.Clone(chain)
	for _, e := range edits {
		switch {
		case e.atEnd:
			chain = append(chain, e.rule.Hash)
		case e.position < 1 || e.position > len(chain):
			t.Fatalf("edit %+v of a chain of %d rules", e, len(chain))
		case e.remove:
			chain = slices.Delete(chain, e.position-1, e.position)
		default:
			chain = slices.Insert(chain, e.position-1, e.rule.Hash)
		}
	}
	return chain
}
