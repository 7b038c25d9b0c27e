package iptables

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
)

// everything is a rule that drops and asks for all that a kernel can lack.
func everything(f family) rules.Rule {
	return rules.Rule{
		Action: rules.Action{Verb: rules.Reject},
		Match: rules.Match{
			Protocol: f.icmp, ICMP: []rules.ICMP{{Type: 8}}, Mark: rules.Mark{Mask: 1}, Conn: rules.New, DNAT: rules.Yes,
			Sets: []rules.Set{{Name: "x"}}, RPFilterFails: true, SourceLocal: rules.Yes, DestinationLocal: rules.Yes, Socket: true,
		},
	}
}

// TestWhatDeniesDeniesMoreWhereTheKernelLacksSomething takes each extension from a rule: nothing of
// it is asked for then, all else still is, and the rule can be printed.
func TestWhatDeniesDeniesMoreWhereTheKernelLacksSomething(t *testing.T) {
	t.Parallel()
	for _, f := range printFamilies {
		r := everything(f)
		whole, err := printed(f.Family, r)
		if err != nil {
			t.Fatal(err)
		}
		all := needs(&r)
		for _, e := range all {
			c, err := Lacks{e: true}.Around(rules.Chain{ChainID: rules.ChainID{Name: "cali-x"}, Rules: []rules.Rule{r}})
			if err != nil || len(c.Rules) != 1 {
				t.Errorf("without the %s: %+v, %v", e, c, err)
				continue
			}
			want := slices.DeleteFunc(slices.Clone(all), func(x extension) bool { return x == e })
			if got := needs(&c.Rules[0]); !slices.Equal(got, want) {
				t.Errorf("without the %s, the rule needs %v, want %v", e, got, want)
			}
			if text, err := printed(f.Family, c.Rules[0]); err != nil || len(text) >= len(whole) || strings.HasSuffix(text, " -j DROP") != (e == targetReject) {
				t.Errorf("without the %s, the rule is %q, %v", e, text, err)
			}
		}
		none := Lacks{}
		for _, e := range all {
			none[e] = true
		}
		c, err := none.Around(rules.Chain{ChainID: rules.ChainID{Name: "cali-x"}, Rules: []rules.Rule{r}})
		if text, printErr := printed(f.Family, c.Rules[0]); err != nil || printErr != nil || strings.Contains(text, "-m ") || !strings.HasSuffix(text, "-j DROP") {
			t.Errorf("without all, the rule is %q, %v, %v", text, err, printErr)
		}
		if again, err := printed(f.Family, r); err != nil || again != whole {
			t.Errorf("the rule that was given is %q by now, %v", again, err)
		}
	}
}

// TestWhatAllowsIsNeverWidened takes each extension from rules that allow, translate or mark.
func TestWhatAllowsIsNeverWidened(t *testing.T) {
	t.Parallel()
	for _, f := range printFamilies {
		r := everything(f)
		for v := rules.Drop; v <= rules.SNAT; v++ {
			if v == rules.Drop || v == rules.Reject {
				continue
			}
			r.Action = rules.Action{Verb: v, Chain: "cali-y", Mark: 1, To: netip.MustParsePrefix(f.host).Addr()}
			for _, e := range needs(&r) {
				c, err := Lacks{e: true}.Around(rules.Chain{ChainID: rules.ChainID{Name: "cali-x"}, Rules: []rules.Rule{r, {}}})
				spare := slices.Contains(spared, v)
				switch {
				case spare && (err != nil || len(c.Rules) != 1 || c.Rules[0].Action.Verb != rules.Drop):
					t.Errorf("action %d without the %s: left is %+v, %v", v, e, c.Rules, err)
				case !spare && (err == nil || !strings.Contains(err.Error(), "chain cali-x: rule 1 needs what the kernel lacks: "+e.String())):
					t.Errorf("action %d without the %s: got %v", v, e, err)
				}
			}
		}
	}
	// What the other family's rules need is not missed.
	ping := rules.Rule{Match: rules.Match{Protocol: desired.ICMPv6, ICMP: []rules.ICMP{{Type: 128}}}, Action: accept}
	if c, err := (Lacks{matchICMP: true}).Around(rules.Chain{Rules: []rules.Rule{ping}}); err != nil || len(c.Rules) != 1 {
		t.Errorf("left is %+v, %v", c, err)
	}
}

// TestLacksSayWhatToDo has literal texts, and each lack in one of two lists.
func TestLacksSayWhatToDo(t *testing.T) {
	t.Parallel()
	l := Lacks{targetLog: true, matchMultiport: true, matchSet: true}
	if err := l.Err(); err == nil || err.Error() != "the kernel lacks the match set of iptables: nothing can be filtered; load its module" {
		t.Errorf("got %v", err)
	}
	want := []string{
		"the kernel lacks the match multiport of iptables: what allows ports allows nothing, and policies and profiles with ports are closed; load its module and restart felix",
		"the kernel lacks the target LOG of iptables: rules that log are left out; load its module and restart felix",
	}
	if got := l.Problems(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if err := (Lacks{}).Err(); err != nil || len(Lacks(nil).Problems()) > 0 {
		t.Errorf("nothing lacks, and it says %v", err)
	}
	for v, e := range targets {
		if costs[e] == "" || !e.target {
			t.Errorf("action %d needs the %s, of which nothing is said", v, e)
		}
	}
}

func TestWhatTheKernelAnswersToTheQuestionForAnExtension(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err       error
		there, ok bool
	}{
		{nil, true, true},
		{syscall.Errno(0), true, true},
		{unix.EPROTONOSUPPORT, true, true},
		{unix.ENOENT, false, true},
		{unix.EPERM, false, false},
		{unix.EINVAL, false, false},
		{errors.New("cut"), false, false},
	} {
		there, err := isThere(c.err)
		if there != c.there || (err == nil) != c.ok {
			t.Errorf("%v: %v, %v", c.err, there, err)
		}
	}
}

// TestAVariantIsChosen among what is installed, where Docker is nowhere.
func TestAVariantIsChosen(t *testing.T) {
	legacy, nft := Backend{Variant: Legacy}, Backend{Variant: NFT}
	t.Setenv("PATH", t.TempDir()) // Docker's chains cannot be asked for
	for _, c := range []struct {
		name   string
		found  map[string]Backend
		system string
		want   string
		why    string
	}{
		{"both", map[string]Backend{Legacy: legacy, NFT: nft}, NFT, "iptables-nft", "the system's default"},
		{"both, and the other is the system's", map[string]Backend{Legacy: legacy, NFT: nft}, Legacy, "iptables-legacy", "the system's default"},
		{"one, which is not the system's", map[string]Backend{Legacy: legacy}, NFT, "iptables-legacy", "the only variant that is installed"},
		{"one, and no system's", map[string]Backend{NFT: nft}, "", "iptables-nft", "the only variant that is installed"},
	} {
		if b := choose(c.found, c.system); b.String() != c.want || b.Why != c.why || b.OtherInUse {
			t.Errorf("%s: chosen is %+v", c.name, b)
		}
	}
}
