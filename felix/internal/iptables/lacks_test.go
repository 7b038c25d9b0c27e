package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
)

// TestWhatTheKernelHasIsFound asks for what felix needs, all of which the kernel of these
// tests has, and for what no kernel has. Nothing may be written by that.
func TestWhatTheKernelHasIsFound(t *testing.T) {
	for _, variant := range []string{Legacy, NFT} {
		for _, f := range rules.Families {
			t.Run(fmt.Sprintf("%s IPv%d", variant, f), func(t *testing.T) {
				targets := openTargets(t, variant)
				lacks, err := targets.Lacks(f)
				if err != nil || len(lacks) > 0 || lacks.Err() != nil {
					t.Errorf("the kernel lacks %v, %v", lacks, err)
				}
				no, never := extension{name: "nosuchmatch"}, extension{"NOSUCHTARGET", true}
				lacks, err = targets.lacksOf(f, []extension{matchComment, no, targetLog, never})
				if d := cmp.Diff(Lacks{no: true, never: true}, lacks, cmp.AllowUnexported(extension{})); err != nil || d != "" {
					t.Errorf("(-want +got): %s, %v", d, err)
				}
				if tables := slices.Concat(LegacyTables(rules.V4), LegacyTables(rules.V6)); len(tables) > 0 {
					t.Errorf("tables %v were made", tables)
				}
				if got := nettest.Run(t, "nft", "list", "ruleset"); got != "" {
					t.Errorf("written was %s", got)
				}
			})
		}
	}
}

func TestRulesAroundWhatTheKernelLacks(t *testing.T) {
	t.Parallel()
	drop, log := rules.Action{Verb: rules.Drop}, rules.Action{Verb: rules.Log}
	port := rules.Match{Protocol: desired.TCP, Ports: []rules.Ports{{Ranges: []desired.PortRange{{First: 80, Last: 80}}}}}
	spoofed := rules.Match{RPFilterFails: true, Mark: rules.Mark{Value: 1, Mask: 1}}
	only := func(lacks Lacks, list ...rules.Rule) (string, error) {
		c, err := lacks.Around(rules.Chain{ChainID: rules.ChainID{Table: rules.Filter, Name: "cali-x"}, Rules: list})
		if err != nil {
			return "", err
		}
		chain, err := NewChain(rules.V4, c)
		var texts []string
		for _, r := range chain.Rules {
			_, text, _ := strings.Cut(r.Text, hashClosing)
			texts = append(texts, text)
		}
		return strings.Join(texts, "; "), err
	}
	for _, c := range []struct {
		name  string
		lacks Lacks
		list  []rules.Rule
		want  string
		fault string
	}{
		{"nothing", nil, []rules.Rule{{Match: spoofed, Action: drop}}, "-m mark --mark 0x1/0x1 -m rpfilter --validmark --invert -j DROP", ""},
		{"something else", Lacks{targetCT: true}, []rules.Rule{{Match: port, Action: accept}}, "-p 6 -m multiport --sports 80 -j ACCEPT", ""},
		{"a question of what denies", Lacks{matchRPFilter: true}, []rules.Rule{{Match: spoofed, Action: drop}}, "-m mark --mark 0x1/0x1 -j DROP", ""},
		{"the target of what denies", Lacks{targetReject: true}, []rules.Rule{{Match: port, Action: rules.Action{Verb: rules.Reject}}}, "-p 6 -m multiport --sports 80 -j DROP", ""},
		{"a question of what allows", Lacks{matchMultiport: true}, []rules.Rule{{Match: port, Action: accept}, {Action: drop}}, "-j DROP", ""},
		{"the log", Lacks{targetLog: true}, []rules.Rule{{Match: port, Action: log}, {Match: port, Action: accept}}, "-p 6 -m multiport --sports 80 -j ACCEPT", ""},
		{"a question of a mark", Lacks{matchMultiport: true}, []rules.Rule{{Match: port, Action: rules.Action{Verb: rules.SetMark, Mark: 1}}}, "", "rule 1 needs what the kernel lacks: match multiport"},
		{"a question of a jump", Lacks{matchConntrack: true}, []rules.Rule{{}, {Match: rules.Match{DNAT: rules.No}, Action: rules.Action{Verb: rules.Jump, Chain: "cali-y"}}}, "", "rule 2 needs what the kernel lacks: match conntrack"},
		{
			"what keeps from being tracked",
			Lacks{matchSocket: true},
			[]rules.Rule{{Match: rules.Match{Socket: true}, Action: rules.Action{Verb: rules.NoTrack}}, {Action: accept}},
			"-j ACCEPT", "",
		},
		{
			"what rewrites an address",
			Lacks{targetMasq: true, targetDNAT: true, targetSNAT: true},
			[]rules.Rule{
				{Action: rules.Action{Verb: rules.Masquerade}},
				{Action: rules.Action{Verb: rules.DNAT, To: netip.MustParseAddr("10.0.0.1")}},
				{Action: rules.Action{Verb: rules.SNAT, To: netip.MustParseAddr("10.0.0.1")}},
				{Action: rules.Action{Verb: rules.Return}},
			},
			"-j RETURN", "",
		},
	} {
		got, err := only(c.lacks, c.list...)
		if got != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: got %q, %v, want %q, %q", c.name, got, err, c.want, c.fault)
		}
	}
	for e := range costs {
		lacks := Lacks{e: true}
		if (lacks.Err() != nil) == (len(lacks.Problems()) > 0) {
			t.Errorf("%s: %v, %v", e, lacks.Err(), lacks.Problems())
		}
	}
}
