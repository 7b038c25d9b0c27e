package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

// kernel is one variant, family and table for which the kernel tests run.
type kernel struct {
	variant string
	family  rules.Family
	table   rules.Table
}

func (k kernel) String() string { return fmt.Sprintf("%s IPv%d %s", k.variant, k.family, k.table) }

// command is the name of the variant's iptables.
func (k kernel) command() string {
	if k.family == rules.V6 {
		return "ip6tables-" + k.variant
	}
	return "iptables-" + k.variant
}

func (k kernel) run(t *testing.T, args ...string) string {
	t.Helper()
	return nettest.Run(t, k.command(), append([]string{"-w", "-t", string(k.table)}, args...)...)
}

func (k kernel) save(t *testing.T) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(nettest.Run(t, k.command()+"-save", "-t", string(k.table))) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// openTargets opens a variant in a network namespace of the test's own.
func openTargets(t testing.TB, variant string) *Targets {
	t.Helper()
	nettest.Isolate(t)
	b, err := Detect(t.Context(), variant)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rules.NewRenderer(rules.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	targets, err := Open(b, func(f rules.Family, id rules.ChainID) Chain {
		c, err := NewChain(f, r.StandIn(id))
		if err != nil {
			t.Error(err)
		}
		return c
	})
	if err != nil {
		t.Fatal(err)
	}
	return targets
}

func (k kernel) open(t testing.TB) *Target {
	t.Helper()
	target, err := openTargets(t, k.variant).Target(k.family, k.table)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// onKernels runs a test for both variants, and for tables that differ from each other.
func onKernels(t *testing.T, test func(t *testing.T, k kernel)) {
	t.Helper()
	for _, variant := range []string{Legacy, NFT} {
		for _, k := range []kernel{{variant, rules.V4, rules.Filter}, {variant, rules.V6, rules.Filter}, {variant, rules.V4, rules.NAT}} {
			t.Run(k.String(), func(t *testing.T) { test(t, k) })
		}
	}
}

func marked(mark uint32, a rules.Action) rules.Rule {
	return rules.Rule{Match: rules.Match{Mark: rules.Mark{Value: mark, Mask: 0xff}}, Action: a}
}

func (k kernel) chain(t testing.TB, name string, list ...rules.Rule) reconcile.Item[string, Chain] {
	t.Helper()
	c, err := NewChain(k.family, rules.Chain{ChainID: rules.ChainID{Table: k.table, Name: name}, Rules: list})
	if err != nil {
		t.Fatal(err)
	}
	return reconcile.Item[string, Chain]{Key: name, Value: c}
}

func (k kernel) hooks(t *testing.T, chain string, hooks ...rules.Hook) reconcile.Item[string, Chain] {
	t.Helper()
	for i := range hooks {
		hooks[i].ChainID = rules.ChainID{Table: k.table, Name: chain}
	}
	c, err := NewHooks(k.family, hooks)
	if err != nil {
		t.Fatal(err)
	}
	return reconcile.Item[string, Chain]{Key: chain, Value: c}
}

func jumpTo(chain string) rules.Hook {
	return rules.Hook{Rule: rules.Rule{Action: rules.Action{Verb: rules.Jump, Chain: chain}}}
}

var (
	accept = rules.Action{Verb: rules.Accept}
	back   = rules.Action{Verb: rules.Return}
)

func TestTargetsKeepTheContract(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		targettest.Run(t, func(t *testing.T) targettest.Subject[string, Chain] {
			target := k.open(t)
			bad := k.chain(t, "cali-zz-bad", rules.Rule{Action: rules.Action{Verb: rules.Jump, Chain: "cali-absent"}})
			return targettest.Subject[string, Chain]{
				Target:  closing{target},
				Compare: strings.Compare,
				Equal:   Equal,
				Items: []reconcile.Item[string, Chain]{
					k.chain(t, "cali-a", marked(1, back), marked(2, accept), marked(1, back)),
					k.chain(t, "cali-b"),
					k.chain(t, "cali-c", marked(3, back)),
				},
				Changed: k.chain(t, "cali-a", marked(4, accept), marked(2, accept)).Value,
				Remove: func(t *testing.T, name string) {
					k.run(t, "-F", name)
					k.run(t, "-X", name)
				},
				Alter:      func(t *testing.T, name string) { k.run(t, "-A", name, "-j", "RETURN") },
				AddForeign: k.foreign,
				Bad:        &bad,
			}
		})
	})
}

// closing hides from the contract's test that a chain at fault is left with a rule that
// drops: to the test it is not there.
type closing struct{ *Target }

func (c closing) List(ctx context.Context) (map[string]Chain, error) {
	out, err := c.Target.List(ctx)
	for name, chain := range out {
		if Owned(name) && Equal(c.standIn(name).chain, chain) && name != "cali-b" {
			delete(out, name)
		}
	}
	return out, err
}

func (k kernel) foreign(t *testing.T) func(t *testing.T) {
	t.Helper()
	k.run(t, "-N", "OTHERS")
	k.run(t, "-A", "OTHERS", "-m", "comment", "--comment", "not cali:abc", "-j", "RETURN")
	k.run(t, "-A", "OUTPUT", "-j", "OTHERS")
	k.run(t, "-N", "caliban")
	pick := func() (lines []string) {
		for line := range strings.Lines(k.save(t)) {
			if strings.Contains(line, "OTHERS") || strings.Contains(line, "caliban") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	before := pick()
	return func(t *testing.T) {
		t.Helper()
		if d := cmp.Diff(before, pick()); d != "" {
			t.Errorf("the rules of others changed: %s", d)
		}
	}
}

func apply(t *testing.T, target *Target, set ...reconcile.Item[string, Chain]) {
	t.Helper()
	slices.SortFunc(set, func(a, b reconcile.Item[string, Chain]) int { return strings.Compare(a.Key, b.Key) })
	if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Set: set}); err != nil {
		t.Fatal(err)
	}
}

func TestHooksStandFirstAndLastAroundTheRulesOfOthers(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		k.run(t, "-A", "OUTPUT", "-m", "mark", "--mark", "0x7", "-j", "RETURN")
		hooks := k.hooks(t, "OUTPUT",
			rules.Hook{Rule: marked(9, accept), Position: rules.Last}, jumpTo("cali-OUTPUT"))
		apply(t, target, k.chain(t, "cali-OUTPUT"), hooks)
		want := []string{"-j cali-OUTPUT", "--mark 0x7 -j RETURN", "--mark 0x9/0xff -j ACCEPT"}
		k.expectRules(t, "OUTPUT", want...)

		// Another program comes in front, and behind.
		k.run(t, "-I", "OUTPUT", "-m", "mark", "--mark", "0x6", "-j", "RETURN")
		k.run(t, "-A", "OUTPUT", "-m", "mark", "--mark", "0x8", "-j", "RETURN")
		have, err := target.List(t.Context())
		if err != nil || Equal(hooks.Value, have["OUTPUT"]) {
			t.Fatalf("the displaced hook counts as in place: %+v, %v", have["OUTPUT"], err)
		}
		apply(t, target, hooks)
		k.expectRules(t, "OUTPUT", "-j cali-OUTPUT", "--mark 0x6 -j RETURN", "--mark 0x7 -j RETURN",
			"--mark 0x8 -j RETURN", "--mark 0x9/0xff -j ACCEPT")
		have, err = target.List(t.Context())
		if err != nil || !Equal(hooks.Value, have["OUTPUT"]) {
			t.Fatalf("the hook is not in place: %+v, %v", have["OUTPUT"], err)
		}

		if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Delete: []string{"OUTPUT", "cali-OUTPUT"}}); err != nil {
			t.Fatal(err)
		}
		k.expectRules(t, "OUTPUT", "--mark 0x6 -j RETURN", "--mark 0x7 -j RETURN", "--mark 0x8 -j RETURN")
	})
}

// expectRules compares the ends of a chain's rules with what they should be.
func (k kernel) expectRules(t *testing.T, chain string, want ...string) {
	t.Helper()
	var have []string
	for line := range strings.Lines(k.save(t)) {
		if strings.HasPrefix(line, "-A "+chain+" ") {
			have = append(have, strings.TrimSpace(line))
		}
	}
	ok := len(have) == len(want)
	for i := range min(len(have), len(want)) {
		ok = ok && strings.HasSuffix(have[i], want[i])
	}
	if !ok {
		t.Errorf("chain %s has the rules\n%s\nwant\n%s", chain, strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

func TestAHookInAnAbsentChainWaitsForIt(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		hook := jumpTo("cali-x")
		hook.IfExists = true
		hooks := k.hooks(t, "DOCKER-USER", hook)
		apply(t, target, k.chain(t, "cali-x"), hooks)
		have, err := target.List(t.Context())
		if err != nil || !Equal(hooks.Value, have["DOCKER-USER"]) {
			t.Fatalf("the hook in an absent chain counts as missing: %v", err)
		}
		k.run(t, "-N", "DOCKER-USER")
		if drifted, err := target.Drifted(); !drifted || err != nil {
			t.Fatalf("drifted = %v, %v", drifted, err)
		}
		have, err = target.List(t.Context())
		if _, ok := have["DOCKER-USER"]; ok || err != nil {
			t.Fatalf("the hook counts as in place: %v", err)
		}
		apply(t, target, hooks)
		k.expectRules(t, "DOCKER-USER", "-j cali-x")
	})
}

func TestAHookInAMissingKernelChainIsAnError(t *testing.T) {
	k := kernel{NFT, rules.V4, rules.Filter}
	target := k.open(t)
	err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Set: []reconcile.Item[string, Chain]{
		k.chain(t, "cali-x", marked(1, accept)), k.hooks(t, "NOWHERE", jumpTo("cali-x")),
	}})
	var faults *reconcile.KeyErrors[string]
	if !errors.As(err, &faults) || len(faults.Errs) != 1 || faults.Errs["NOWHERE"] == nil {
		t.Fatalf("got %v, want an error of NOWHERE alone", err)
	}
	k.expectRules(t, "cali-x", "-j ACCEPT")
}

func TestAChainAtFaultFailsClosedAndTheRestIsIn(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		apply(t, target, k.chain(t, "cali-pi-m", marked(1, accept)))
		var set []reconcile.Item[string, Chain]
		for i := range 20 {
			name := fmt.Sprintf("cali-pi-%02d", i)
			set = append(set, k.chain(t, name, marked(uint32(i), accept), rules.Rule{Action: rules.Action{Verb: rules.Jump, Chain: "cali-pi-m"}}))
		}
		noSet := rules.Rule{Match: rules.Match{Sets: []rules.Set{{Name: "cali4-absent"}}}, Action: accept}
		set[7] = k.chain(t, "cali-pi-07", noSet)
		set = append(set, k.chain(t, "cali-pi-m", marked(1, accept), noSet))
		err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Set: set})
		var faults *reconcile.KeyErrors[string]
		if !errors.As(err, &faults) || len(faults.Errs) != 2 || faults.Errs["cali-pi-07"] == nil || faults.Errs["cali-pi-m"] == nil {
			t.Fatalf("got %v, want errors of cali-pi-07 and cali-pi-m", err)
		}
		if text := faults.Errs["cali-pi-07"].Error(); !strings.Contains(text, "cali4-absent") {
			t.Errorf("the error %q does not say what is wrong", text)
		}
		closed := []string{"-j DROP"}
		if k.table == rules.NAT {
			closed = nil
		}
		k.expectRules(t, "cali-pi-07", closed...)
		k.expectRules(t, "cali-pi-m", closed...)
		k.expectRules(t, "cali-pi-06", "--mark 0x6/0xff -j ACCEPT", "-j cali-pi-m")
		k.expectRules(t, "cali-pi-08", "--mark 0x8/0xff -j ACCEPT", "-j cali-pi-m")
	})
}

// writes keeps what iptables-restore is given.
type writes struct {
	commands

	inputs []string
}

func (w *writes) restore(ctx context.Context, input []byte) error {
	w.inputs = append(w.inputs, string(input))
	return w.commands.restore(ctx, input)
}

// TestAFaultNeverCutsOffTheHost has a chain of the frame and one of a policy be refused at a
// first write. After each step, nothing is hooked whose content is still to come, and what
// stands in drops packets of workloads alone.
func TestAFaultNeverCutsOffTheHost(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		if k.table == rules.NAT {
			return // which drops nothing
		}
		target := k.open(t)
		steps := &writes{commands: target.cmd}
		target.cmd = steps
		to := func(chain string) rules.Rule { return rules.Rule{Action: rules.Action{Verb: rules.Jump, Chain: chain}} }
		err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Set: []reconcile.Item[string, Chain]{
			k.hooks(t, "INPUT", jumpTo("cali-INPUT")), k.hooks(t, "OUTPUT", jumpTo("cali-OUTPUT")),
			k.chain(t, "cali-INPUT", to("cali-from-host-endpoint"), k.refused()), k.chain(t, "cali-OUTPUT", to("cali-to-host-endpoint")),
			k.chain(t, "cali-from-host-endpoint", to("cali-fh-eth0")), k.chain(t, "cali-to-host-endpoint"),
			k.chain(t, "cali-failsafe-in", marked(1, accept)), k.chain(t, "cali-fh-eth0", to("cali-pi-a"), k.refused()), k.chain(t, "cali-pi-a", marked(1, accept)),
		}})
		var faults *reconcile.KeyErrors[string]
		if !errors.As(err, &faults) || !slices.Equal(slices.Sorted(maps.Keys(faults.Errs)), []string{"cali-INPUT", "cali-fh-eth0"}) {
			t.Fatalf("got %v, want errors of what is refused alone", err)
		}
		k.expectRules(t, "cali-INPUT", "-j DROP", "-j DROP")
		for line := range strings.Lines(k.save(t)) {
			if strings.HasPrefix(line, "-A cali-INPUT ") && !strings.Contains(line, "cali+") {
				t.Errorf("of what stands in for a chain of the frame, a rule drops packets of the host: %s", line)
			}
		}
		k.expectRules(t, "cali-fh-eth0", "-j cali-failsafe-in", "-j DROP")
		k.expectRules(t, "cali-OUTPUT", "-j cali-to-host-endpoint")
		k.expectRules(t, "INPUT", "-j cali-INPUT")
		for i, input := range steps.inputs[1:] { // the first is refused
			if hooks := strings.Contains(input, "-I INPUT"); hooks && i != len(steps.inputs)-2 {
				t.Errorf("hooks are put in before the last step: %s", input)
			}
		}
	})
}

// refused is a rule that iptables-restore takes and the kernel refuses: its target belongs
// into another table.
func (k kernel) refused() rules.Rule {
	if k.table == rules.NAT {
		return rules.Rule{Action: rules.Action{Verb: rules.NoTrack}}
	}
	return rules.Rule{Action: rules.Action{Verb: rules.Masquerade}}
}

// TestWhatOnlyTheKernelRefusesHoldsUpNothingElse has the kernel refuse a chain's rule, and the
// deletion of chains to which another program's rule leads.
func TestWhatOnlyTheKernelRefusesHoldsUpNothingElse(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		apply(t, target, k.chain(t, "cali-block"), k.chain(t, "cali-gone", marked(1, accept)), k.chain(t, "cali-used", marked(1, accept)))
		for _, used := range []string{"cali-block", "cali-used"} {
			k.run(t, "-A", "OUTPUT", "-j", used)
		}
		err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{
			Set:    []reconcile.Item[string, Chain]{k.chain(t, "cali-bad", k.refused()), k.chain(t, "cali-good", marked(2, accept))},
			Delete: []string{"cali-block", "cali-gone", "cali-used"},
		})
		var faults *reconcile.KeyErrors[string]
		if !errors.As(err, &faults) || !slices.Equal(slices.Sorted(maps.Keys(faults.Errs)), []string{"cali-bad", "cali-block", "cali-used"}) {
			t.Fatalf("got %v, want errors of what is refused alone", err)
		}
		k.expectRules(t, "cali-good", "--mark 0x2/0xff -j ACCEPT")
		if text := k.save(t); strings.Contains(text, ":cali-gone ") || !strings.Contains(text, ":cali-bad ") {
			t.Errorf("the table is\n%s", text)
		}
		k.run(t, "-F", "OUTPUT")
		if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Delete: []string{"cali-block", "cali-used"}}); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIptablesSaysWhenItCannotTry(t *testing.T) {
	t.Parallel()
	for stderr, want := range map[string]bool{
		"": true,
		"Another app is currently holding the xtables lock; still 0s 0us time ahead to have a chance to grab the lock...": true,
		"Fatal: can't open lock file /run/xtables.lock: Permission denied":                                                true,
		"iptables-nft-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: No buffer space available":      true,
		"line 4: RULE_APPEND failed (Cannot allocate memory): rule in chain cali-x":                                       true,
		"line 4: CHAIN_DEL failed (Device or resource busy): chain cali-pi-default/block":                                 false,
		"line 4: RULE_APPEND failed (No such file or directory): rule in chain cali-x":                                    false,
	} {
		if got := couldNotTry(stderr); got != want {
			t.Errorf("%q: got %v", stderr, got)
		}
	}
}

func TestOnlyWritesOfOthersAreDrift(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		if _, err := target.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect := func(when string, want bool) {
			t.Helper()
			if drifted, err := target.Drifted(); drifted != want || err != nil {
				t.Fatalf("drifted = %v, %v %s, want %v", drifted, err, when, want)
			}
		}
		expect("after a list", false)
		apply(t, target, k.chain(t, "cali-a", marked(1, back), marked(2, back)), k.chain(t, "cali-b", rules.Rule{Action: rules.Action{Verb: rules.Goto, Chain: "cali-a"}}))
		expect("after two chains", false)
		apply(t, target, k.chain(t, "cali-a", marked(3, back), marked(1, back), marked(2, back)), k.hooks(t, "OUTPUT", jumpTo("cali-b")))
		expect("after an insert and a hook", false)
		apply(t, target, k.chain(t, "cali-a", marked(3, back)))
		expect("after deletes", false)
		k.run(t, "-F", "cali-a")
		expect("after a flush", true)
		// A write starts from what is there and does not hide the drift of other chains.
		apply(t, target, k.chain(t, "cali-b", marked(5, back)))
		expect("after a write", true)
		k.expectRules(t, "cali-b", "--mark 0x5/0xff -j RETURN")
		if _, err := target.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect("after the next list", false)
		if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Delete: []string{"OUTPUT", "cali-a", "cali-b"}}); err != nil {
			t.Fatal(err)
		}
		expect("after all is deleted", false)
	})
}

func TestUnchangedRulesKeepTheirCounters(t *testing.T) {
	for _, variant := range []string{Legacy, NFT} {
		t.Run(variant, func(t *testing.T) {
			k := kernel{variant, rules.V4, rules.Filter}
			target := k.open(t)
			mark := marked(0, rules.Action{Verb: rules.ClearMark, Mark: 0xff})
			first := k.chain(t, "cali-a", mark, marked(0, accept))
			second := k.chain(t, "cali-a", mark, marked(7, accept), marked(0, accept))
			apply(t, target, first, k.hooks(t, "OUTPUT", jumpTo("cali-a")))
			nettest.Run(t, "ping", "-c", "2", "-i", "0.01", "127.0.0.1")
			counters := func() (out []string) {
				for line := range strings.Lines(nettest.Run(t, k.command()+"-save", "-c", "-t", "filter")) {
					if strings.Contains(line, "-A cali-a") && strings.Contains(line, "0x0/0xff") {
						out = append(out, line)
					}
				}
				return out
			}
			before := counters()
			if len(before) != 2 || strings.HasPrefix(before[0], "[0:") {
				t.Fatalf("the rules did not count: %q", before)
			}
			apply(t, target, second)
			if d := cmp.Diff(before, counters()); d != "" {
				t.Errorf("counters changed: %s", d)
			}
			k.expectRules(t, "cali-a", "0x0/0xff", "--mark 0x7/0xff -j ACCEPT", "--mark 0x0/0xff -j ACCEPT")
		})
	}
}

func TestEveryKindOfRuleIsTakenByTheKernel(t *testing.T) {
	for _, variant := range []string{Legacy, NFT} {
		for _, f := range rules.Families {
			t.Run(fmt.Sprintf("%s IPv%d", variant, f), func(t *testing.T) {
				targets := openTargets(t, variant)
				r, err := rules.NewRenderer(rules.DefaultConfig())
				if err != nil {
					t.Fatal(err)
				}
				name := fmt.Sprintf("cali%d-", f)
				family := map[rules.Family]string{rules.V4: "inet", rules.V6: "inet6"}[f]
				for set, kind := range map[string]string{
					"all-ipam-pools": "hash:net", "masq-ipam-pools": "hash:net", "etcd-endpoints": "hash:ip,port", "all-hosts": "hash:ip",
				} {
					nettest.Run(t, "ipset", "create", name+set, kind, "family", family)
				}
				byTable := map[rules.Table][]reconcile.Item[string, Chain]{}
				for _, c := range slices.Concat(r.Static(f), r.OfBridges([]string{"docker0", "docker_gwbridge", "br-0123456789ab"}), []rules.Chain{
					{ChainID: rules.ChainID{Table: rules.Filter, Name: "cali-from-wl-dispatch"}},
					{ChainID: rules.ChainID{Table: rules.Filter, Name: "cali-to-wl-dispatch"}},
				}) {
					chain, err := NewChain(f, c)
					if err != nil {
						t.Fatal(err)
					}
					byTable[c.Table] = append(byTable[c.Table], reconcile.Item[string, Chain]{Key: c.Name, Value: chain})
				}
				for _, table := range rules.Tables {
					target, err := targets.Target(f, table)
					if err != nil {
						t.Fatal(err)
					}
					apply(t, target, byTable[table]...)
					if _, err := target.List(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

func TestAFailingCommandChangesNothing(t *testing.T) {
	k := kernel{Legacy, rules.V4, rules.Filter}
	target := k.open(t)
	k.run(t, "-N", "others") // a table without any rule is not asked for
	target.reader = &saveReader{cmd: programs{"false", "false"}}
	if _, err := target.List(t.Context()); err == nil {
		t.Error("a list by a failing command succeeded")
	}
	target.reader = &saveReader{cmd: programs{"true", "true"}}
	if _, err := target.List(t.Context()); !errors.Is(err, errIncomplete) {
		t.Errorf("a list by a command that prints nothing: got %v", err)
	}
	target.reader = &saveReader{cmd: programs{"no-such-program", "no-such-program"}}
	if _, err := target.List(t.Context()); !errors.Is(err, errBusy) || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a list by a command that is not installed: got %v", err)
	}
}

// TestATableIsKnownToBeEmpty asks of a table what is known of it while its content cannot be read.
func TestATableIsKnownToBeEmpty(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		targets := openTargets(t, k.variant)
		target, err := targets.Target(k.family, k.table)
		if err != nil {
			t.Fatal(err)
		}
		expect := func(when string, empty bool) {
			t.Helper()
			if target.Empty() != empty {
				t.Errorf("%s: empty is %t", when, !empty)
			}
		}
		unreadable := func() {
			if k.variant == Legacy {
				target.reader = &saveReader{cmd: programs{"false", "false"}}
			}
		}
		expect("before it was read", false)
		unreadable()
		if _, err := target.List(t.Context()); err != nil {
			t.Errorf("a table without any rule cannot be read: %v", err)
		}
		expect("without any rule", true)
		if target, err = targets.Target(k.family, k.table); err != nil {
			t.Fatal(err)
		}
		k.run(t, "-N", "others")
		k.run(t, "-A", "others", "-j", "ACCEPT")
		if _, err := target.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect("with rules of others", true)
		if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Set: []reconcile.Item[string, Chain]{k.chain(t, "cali-x")}}); err != nil {
			t.Fatal(err)
		}
		expect("with a chain", false)
		if k.variant != Legacy {
			return
		}
		if target, err = targets.Target(k.family, k.table); err != nil {
			t.Fatal(err)
		}
		unreadable()
		if _, err := target.List(t.Context()); err == nil {
			t.Error("what was written cannot be read, and there is no error")
		}
		expect("not read", false)
	})
}

// mute is a ledger of which nothing can be read.
type mute struct{ ledger }

func (mute) read() (mark, bool, error) { return mark{}, false, errors.New("no answer") }

// TestWhatCouldNotBeAskedIsAskedAgain has a table not answer when another program has just written
// to it. nf_tables says only once for all tables that somebody wrote.
func TestWhatCouldNotBeAskedIsAskedAgain(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		targets := openTargets(t, k.variant)
		target, err := targets.Target(k.family, k.table)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := target.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		apply(t, target, k.chain(t, "cali-a", marked(1, back)))
		targets.Quiet()
		audit := func() (bool, error) {
			if targets.Quiet() && !target.Suspect() {
				return false, nil
			}
			return target.Drifted()
		}
		if drifted, err := audit(); drifted || err != nil {
			t.Fatalf("drifted = %v, %v from the start", drifted, err)
		}
		k.run(t, "-F", "cali-a")
		answering := target.ledger
		target.ledger = mute{answering}
		if _, err := audit(); err == nil {
			t.Fatal("the table answered")
		}
		target.ledger = answering
		if drifted, err := audit(); !drifted || err != nil {
			t.Errorf("drifted = %v, %v", drifted, err)
		}
	})
}

// changesOf sets chains.
func changesOf(set ...reconcile.Item[string, Chain]) reconcile.Changes[string, Chain] {
	return reconcile.Changes[string, Chain]{Set: set}
}
