package iptables

import (
	"fmt"
	"strings"
	"testing"

	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
)

// byTable sorts samples by the tables where the kernel takes them.
func (f family) byTable() map[rules.Table][]sample {
	out := map[rules.Table][]sample{}
	for _, s := range append(f.matchSamples(), f.actionSamples()...) {
		if s.table == "" {
			s.table = rules.Filter
		}
		out[s.table] = append(out[s.table], s)
	}
	return out
}

// TestEachMatchAndActionComesBackFromTheKernel writes a rule of each kind and compares what
// iptables-save prints of it with literal text; what felix reads is what it wrote, and to write it
// again writes nothing.
func TestEachMatchAndActionComesBackFromTheKernel(t *testing.T) {
	for _, variant := range []string{Legacy, NFT} {
		for _, f := range printFamilies {
			t.Run(fmt.Sprintf("%s IPv%d", variant, f.Family), func(t *testing.T) {
				targets := openTargets(t, variant)
				nettest.Run(t, "ipset", "create", f.set, "hash:ip,port", "family", map[rules.Family]string{rules.V4: "inet", rules.V6: "inet6"}[f.Family])
				for table, samples := range f.byTable() {
					k := kernel{variant, f.Family, table}
					target, err := targets.Target(f.Family, table)
					if err != nil {
						t.Fatal(err)
					}
					k.roundTrip(t, target, samples)
				}
			})
		}
	}
}

func (k kernel) roundTrip(t *testing.T, target *Target, samples []sample) {
	t.Helper()
	var list []rules.Rule
	for _, s := range samples {
		list = append(list, s.rule)
	}
	chains := []reconcile.Item[string, Chain]{k.chain(t, "cali-a", list...), k.chain(t, "cali-other")}
	apply(t, target, chains...)
	var lines []string
	for line := range strings.Lines(k.save(t)) {
		if rest, ours := strings.CutPrefix(line, "-A cali-a "); ours {
			lines = append(lines, strings.TrimSpace(rest))
		}
	}
	if len(lines) != len(samples) {
		t.Fatalf("%d rules of %d are in the kernel", len(lines), len(samples))
	}
	for i, s := range samples {
		want := s.saved
		if want == "" {
			want = s.text
		}
		mark := fmt.Sprintf(`-m comment --comment "cali:%s" `, chains[0].Value.Rules[i].Hash)
		if got := strings.Replace(lines[i], mark, "", 1); got != want || !strings.Contains(lines[i], mark) {
			t.Errorf("%v: rule %d came back as\n%s\nwant\n%s", k, i+1, got, want)
		}
	}
	have, err := target.List(t.Context())
	if err != nil || !Equal(chains[0].Value, have["cali-a"]) || len(have) != 2 {
		t.Errorf("%v: read is %d chains, %+v, %v", k, len(have), have["cali-a"], err)
	}
	again := &writes{commands: target.cmd}
	target.cmd = again
	apply(t, target, chains...)
	if drifted, err := target.Drifted(); len(again.inputs) > 0 || drifted || err != nil {
		t.Errorf("%v: written again is %q; drifted is %v, %v", k, again.inputs, drifted, err)
	}
}

// TestValuesAtTheirLimitsAreTakenByTheKernel writes what just fits by felix's limits.
func TestValuesAtTheirLimitsAreTakenByTheKernel(t *testing.T) {
	for _, variant := range []string{Legacy, NFT} {
		for _, f := range printFamilies {
			t.Run(fmt.Sprintf("%s IPv%d", variant, f.Family), func(t *testing.T) {
				k := kernel{variant, f.Family, rules.Filter}
				target := k.open(t)
				chain := "cali-" + strings.Repeat("x", maxChainName-len("cali-"))
				set := strings.Repeat("s", maxSetName)
				nettest.Run(t, "ipset", "create", set, "hash:ip", "family", map[rules.Family]string{rules.V4: "inet", rules.V6: "inet6"}[f.Family])
				ports := portRanges(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15)
				c := k.chain(t, chain,
					rules.Rule{Comment: strings.Repeat("c", maxComment), Action: rules.Action{Verb: rules.Log, Prefix: strings.Repeat("p", maxLogPrefix)}},
					rules.Rule{Match: rules.Match{In: rules.Interface{Name: strings.Repeat("i", maxInterface)}, Sets: []rules.Set{{Name: set}}}},
					rules.Rule{Match: rules.Match{Protocol: 6, Ports: []rules.Ports{{Ranges: ports}, {Side: rules.Dst, Ranges: ports}}}})
				apply(t, target, c, k.hooks(t, "OUTPUT", jumpTo(chain)))
				text := k.save(t)
				for _, want := range []string{
					strings.Repeat("c", maxComment), strings.Repeat("p", maxLogPrefix), "-i " + strings.Repeat("i", maxInterface) + " ", "--match-set " + set + " src",
					"--sports 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15 ", "--dports 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15 ", "-j " + chain,
				} {
					if !strings.Contains(text, want) {
						t.Errorf("%q is not in\n%s", want, text)
					}
				}
				have, err := target.List(t.Context())
				if err != nil || !Equal(c.Value, have[chain]) {
					t.Errorf("read is %+v, %v", have[chain], err)
				}
			})
		}
	}
}

// TestTextsOfPeopleComeBackAsOneWord writes comments and prefixes that could end a word, a line or
// a table.
func TestTextsOfPeopleComeBackAsOneWord(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		var list []rules.Rule
		for _, text := range []string{"a b", "-j ACCEPT", "\nCOMMIT\n*nat\n", `" -j ACCEPT "`, `\`, "$(id) ; `id`", "cali:abc", "# x", "%s%n", "ü", "[0:0]"} {
			list = append(list, rules.Rule{Action: back, Comment: text}, rules.Rule{Action: rules.Action{Verb: rules.Log, Prefix: text}, Comment: text})
		}
		c := k.chain(t, "cali-a", list...)
		apply(t, target, c)
		have, err := target.List(t.Context())
		if err != nil || !Equal(c.Value, have["cali-a"]) || len(have) != 1 {
			t.Errorf("read is %+v, %v", have, err)
		}
		text := k.save(t)
		if strings.Contains(text, "-j ACCEPT\n") || strings.Count(text, "-j RETURN\n") != len(list)/2 || strings.Count(text, "COMMIT\n") != 1 {
			t.Errorf("the table is\n%s", text)
		}
	})
}

// TestTheNextFelixFindsWhatTheFormerLeft opens the kernel a second time: what is wanted is not
// written again, what was cut is completed, and what is not wanted any more can be deleted.
func TestTheNextFelixFindsWhatTheFormerLeft(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		former := openTargets(t, k.variant)
		target, err := former.Target(k.family, k.table)
		if err != nil {
			t.Fatal(err)
		}
		kept, old := k.chain(t, "cali-kept", marked(1, back), marked(2, back)), k.chain(t, "cali-old", marked(3, back))
		hooks := k.hooks(t, "OUTPUT", jumpTo("cali-kept"), rules.Hook{Rule: marked(9, accept), Position: rules.Last})
		k.run(t, "-A", "OUTPUT", "-j", "RETURN")
		apply(t, target, kept, old, hooks)
		target.Close()
		former.Close()

		next, err := Open(former.backend, former.standIns)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if target, err = next.Target(k.family, k.table); err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		steps := &writes{commands: target.cmd}
		target.cmd = steps
		apply(t, target, kept, hooks)
		if len(steps.inputs) > 0 || target.Native() != "" || target.Empty() {
			t.Errorf("written is %q", steps.inputs)
		}
		k.run(t, "-D", "cali-kept", "1")
		have, err := target.List(t.Context())
		if err != nil || len(have) != 3 || Equal(kept.Value, have["cali-kept"]) || !Equal(old.Value, have["cali-old"]) || !Equal(hooks.Value, have["OUTPUT"]) {
			t.Fatalf("read is %+v, %v", have, err)
		}
		if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Set: []reconcile.Item[string, Chain]{kept}, Delete: []string{"cali-old"}}); err != nil {
			t.Fatal(err)
		}
		k.expectRules(t, "cali-kept", "0x1/0xff -j RETURN", "0x2/0xff -j RETURN")
		k.expectRules(t, "OUTPUT", "-j cali-kept", "-j RETURN", "0x9/0xff -j ACCEPT")
		if len(steps.inputs) != 1 || strings.Contains(k.save(t), "cali-old") {
			t.Errorf("written is %q", steps.inputs)
		}
	})
}
