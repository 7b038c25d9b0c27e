package iptables

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"calico.internal/felix/internal/nlconn"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
)

// nftKernels are all tables of the nft variant.
func nftKernels() (all []kernel) {
	for _, f := range rules.Families {
		for _, t := range rules.Tables {
			all = append(all, kernel{NFT, f, t})
		}
	}
	return all
}

// native adds a rule that iptables' own tools do not understand.
func (k kernel) native(t *testing.T, verb, chain string) {
	t.Helper()
	family := map[rules.Family]string{rules.V4: "ip", rules.V6: "ip6"}[k.family]
	rule := []string{"ct", "state", "established", "counter", "accept"}
	nettest.Run(t, "nft", append([]string{verb, "rule", family, string(k.table), chain}, rule...)...)
}

// TestNativeRulesOfOthersHoldUpNothing has rules of nft's own stand before and behind a hook
// and in a chain of felix's, while all that felix does to a table is done.
func TestNativeRulesOfOthersHoldUpNothing(t *testing.T) {
	for _, k := range nftKernels() {
		t.Run(k.String(), func(t *testing.T) {
			target := k.open(t)
			apply(t, target, k.chain(t, "cali-a", marked(1, accept)), k.hooks(t, "OUTPUT", jumpTo("cali-a")))
			for _, chain := range []string{"OUTPUT", "cali-a"} {
				k.native(t, "add", chain)
				k.native(t, "insert", chain)
			}
			expect := func(want ...reconcile.Item[string, Chain]) {
				t.Helper()
				have, err := target.List(t.Context())
				if err != nil || len(have) != len(want) {
					t.Fatalf("have %v, %v, want %v", have, err, want)
				}
				for _, w := range want {
					if !Equal(w.Value, have[w.Key]) {
						t.Errorf("%s is %+v, want %+v", w.Key, have[w.Key], w.Value)
					}
				}
			}
			if _, err := target.List(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := target.Native(); !strings.Contains(got, `chain OUTPUT, handle `) || !strings.Contains(got, `with "ct"`) {
				t.Errorf("the other's rule is described as %q", got)
			}
			a := k.chain(t, "cali-a", marked(2, accept), rules.Rule{Action: rules.Action{Verb: rules.Jump, Chain: "cali-b"}}, marked(1, accept))
			b := k.chain(t, "cali-b", marked(3, accept))
			first := k.hooks(t, "OUTPUT", jumpTo("cali-a"))
			apply(t, target, a, b, first)
			expect(a, b, first)
			both := k.hooks(t, "OUTPUT", jumpTo("cali-b"), rules.Hook{Rule: marked(9, accept), Position: rules.Last})
			apply(t, target, both)
			expect(a, b, both)
			if drifted, err := target.Drifted(); drifted || err != nil {
				t.Errorf("drifted = %v, %v after own writes", drifted, err)
			}
			if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Delete: []string{"OUTPUT", "cali-a", "cali-b"}}); err != nil {
				t.Fatal(err)
			}
			expect()
			family := map[rules.Family]string{rules.V4: "ip", rules.V6: "ip6"}[k.family]
			if left := nettest.Run(t, "nft", "list", "chain", family, string(k.table), "OUTPUT"); strings.Count(left, "established") != 2 {
				t.Errorf("of the other's rules is left: %s", left)
			}
		})
	}
}

// TestAHookThatWasDeletedMeanwhileIsNoFault has another program delete the hook that felix is
// about to replace.
func TestAHookThatWasDeletedMeanwhileIsNoFault(t *testing.T) {
	k := kernel{NFT, rules.V4, rules.Filter}
	target := k.open(t)
	apply(t, target, k.chain(t, "cali-a"), k.hooks(t, "OUTPUT", jumpTo("cali-a")))
	nft := target.reader.(*nftReader)
	gone := hookRef{"OUTPUT", target.have["OUTPUT"].rules[0].Handle}
	k.run(t, "-F", "OUTPUT")
	if err := target.deleteRules([]hookRef{gone}); err != nil {
		t.Error(err)
	}
	if err := nft.deleteRule(k.table, hookRef{"NOWHERE", 1}); err == nil {
		t.Error("a rule of a chain that does not exist was deleted")
	}
}

// TestReadingByNetlinkIsReadingBySave compares what both ways read of rules of many kinds.
func TestReadingByNetlinkIsReadingBySave(t *testing.T) {
	for _, k := range nftKernels() {
		t.Run(k.String(), func(t *testing.T) {
			target := k.open(t)
			k.run(t, "-A", "OUTPUT", "-m", "comment", "--comment", "of somebody", "-j", "RETURN")
			long := rules.Rule{Action: back, Comment: strings.Repeat("a long comment ", 13)}
			apply(t, target, k.chain(t, "cali-a", marked(1, accept), long, marked(2, back)), k.chain(t, "cali-empty"),
				k.hooks(t, "OUTPUT", jumpTo("cali-a"), rules.Hook{Rule: marked(9, accept), Position: rules.Last}))
			k.run(t, "-A", "cali-a", "-p", "tcp", "-j", "RETURN")
			cmd := target.cmd
			saved, err := (&saveReader{cmd: cmd}).read(t.Context(), k.table)
			if err != nil {
				t.Fatal(err)
			}
			read, err := target.reader.read(t.Context(), k.table)
			if err != nil {
				t.Fatal(err)
			}
			if k.table == rules.Filter {
				for _, chain := range []string{"DOCKER", "DOCKER-USER"} {
					k.run(t, "-N", chain)
					k.run(t, "-A", chain, "!", "-i", "if-"+chain[len(chain)-4:], "-o", "of-"+chain[len(chain)-4:], "-p", "tcp", "--dport", "80", "-j", "ACCEPT")
				}
				byText := &saveReader{cmd: cmd}
				for _, r := range []reader{byText, target.reader} {
					if _, err := r.read(t.Context(), k.table); err != nil {
						t.Fatal(err)
					}
					if got, want := r.docker(), []string{"if-CKER", "of-CKER"}; !slices.Equal(got, want) {
						t.Errorf("Docker's rules name %v, want %v", got, want)
					}
				}
			}
			if target.Native() != "" {
				t.Errorf("a rule of iptables' own counts as native: %s", target.Native())
			}
			if d := cmp.Diff(hashes(saved), hashes(read)); d != "" {
				t.Errorf("(-save +netlink):\n%s", d)
			}
		})
	}
}

func hashes(c contents) map[string][]string {
	out := map[string][]string{}
	for name, chain := range c {
		out[name] = []string{}
		for _, r := range chain.rules {
			out[name] = append(out[name], r.Hash)
		}
	}
	return out
}

func TestACommentInTheUsersDataOfARule(t *testing.T) {
	t.Parallel()
	const hash = "cali:abcdefgh-_123456\x00"
	data := slices.Concat([]byte{7, 2, 'x', 'y', userDataComment, byte(len(hash))}, []byte(hash))
	rule := readRule(nlconn.Attr(nil, unix.NFTA_RULE_USERDATA, data))
	if got := string(rule.hash); got != "abcdefgh-_123456" {
		t.Errorf("read %q", got)
	}
	for _, bad := range [][]byte{nil, {0}, {0, 200, 'c'}, slices.Concat([]byte{1, byte(len(hash))}, []byte(hash)), []byte("\x00\x05cali:"), []byte("\x00\x07cali: x")} {
		if rule := readRule(nlconn.Attr(nil, unix.NFTA_RULE_USERDATA, bad)); rule.hash != nil {
			t.Errorf("%q: read %q", bad, rule.hash)
		}
	}
}

// BenchmarkRead reads a table of 10,000 rules.
func BenchmarkRead(b *testing.B) {
	for _, variant := range []string{Legacy, NFT} {
		k := kernel{variant, rules.V4, rules.Filter}
		b.Run(variant, func(b *testing.B) {
			target := k.open(b)
			var changes reconcile.Changes[string, Chain]
			for i := range 1000 {
				changes.Set = append(changes.Set, k.chain(b, fmt.Sprintf("cali-pi-%d", i), slices.Repeat([]rules.Rule{marked(1, accept)}, 10)...))
			}
			if err := target.Apply(b.Context(), changes); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if have, err := target.List(b.Context()); err != nil || len(have) != len(changes.Set) {
					b.Fatalf("read %d chains, %v", len(have), err)
				}
			}
		})
	}
}
