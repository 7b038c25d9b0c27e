package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
)

// nthFails has the restore of a number, counted from 1, and all behind it, fail.
type nthFails struct {
	commands

	nth, count int
	err        error
}

func (n *nthFails) restore(ctx context.Context, input []byte) error {
	if n.count++; n.count >= n.nth {
		return n.err
	}
	return n.commands.restore(ctx, input)
}

// manyWithAFault are chains of single objects, of which one is refused.
func (k kernel) manyWithAFault(t *testing.T, count, fault int) (set []reconcile.Item[string, Chain]) {
	t.Helper()
	for i := range count {
		set = append(set, k.chain(t, fmt.Sprintf("cali-pi-%03d", i), marked(uint32(i), accept)))
	}
	set[fault] = k.chain(t, set[fault].Key, marked(1, accept), k.refused())
	return set
}

func faultsOf(err error) []string {
	var faults *reconcile.KeyErrors[string]
	if !errors.As(err, &faults) {
		return nil
	}
	return slices.Sorted(maps.Keys(faults.Errs))
}

// TestAFaultIsFoundInFewSteps counts the writes by which one chain of many is found, wherever it
// stands: one for all, one for the stand-ins, two for each halving, and one to close it.
func TestAFaultIsFoundInFewSteps(t *testing.T) {
	const count, halvings = 64, 6
	onKernels(t, func(t *testing.T, k kernel) {
		for _, fault := range []int{0, 37, count - 1} {
			target := k.open(t)
			steps := &writes{commands: target.cmd}
			target.cmd = steps
			set := k.manyWithAFault(t, count, fault)
			err := target.Apply(t.Context(), changesOf(set...))
			if got := faultsOf(err); !slices.Equal(got, []string{set[fault].Key}) {
				t.Fatalf("fault %d: got %v", fault, err)
			}
			if most := 1 + 1 + 1 + 2*halvings + 1; len(steps.inputs) > most {
				t.Errorf("fault %d: found in %d steps, want at most %d", fault, len(steps.inputs), most)
			}
			have, err := target.List(t.Context())
			if err != nil || len(have) != count {
				t.Fatalf("fault %d: %d chains, %v", fault, len(have), err)
			}
			for i, s := range set {
				want := s.Value
				if i == fault {
					want = target.standIn(s.Key).chain
				}
				if !Equal(want, have[s.Key]) {
					t.Errorf("fault %d: chain %s is %+v", fault, s.Key, have[s.Key])
				}
			}
		}
	})
}

// TestWhoIsStoppedWhileAFaultIsSought has iptables become busy, or felix end, at each step of the
// search: no chain is blamed that is not at fault, none allows more than it should, and the next
// try comes to the end.
func TestWhoIsStoppedWhileAFaultIsSought(t *testing.T) {
	for _, k := range []kernel{{Legacy, rules.V4, rules.Filter}, {NFT, rules.V6, rules.Filter}} {
		for nth := 1; ; nth++ {
			target := k.open(t)
			cmd := &nthFails{target.cmd, nth, 0, fmt.Errorf("%w: no memory", errBusy)}
			target.cmd = cmd
			set := append(k.manyWithAFault(t, 6, 3), k.hooks(t, "OUTPUT", jumpTo("cali-OUTPUT")), k.chain(t, "cali-OUTPUT", rules.Rule{Action: rules.Action{Verb: rules.Jump, Chain: "cali-pi-003"}}))
			err := target.Apply(t.Context(), changesOf(set...))
			if cmd.count < nth {
				if !slices.Equal(faultsOf(err), []string{"cali-pi-003"}) || nth < 8 {
					t.Errorf("%v: got %v in %d steps", k, err, cmd.count)
				}
				break
			}
			if !IsBusy(err) || faultsOf(err) != nil || cmd.count != nth {
				t.Fatalf("%v, step %d of %d: got %v", k, nth, cmd.count, err)
			}
			if text := k.save(t); strings.Contains(text, "-A OUTPUT") && !strings.Contains(text, "-A cali-OUTPUT") {
				t.Errorf("%v, step %d: the hook leads to nothing:\n%s", k, nth, text)
			}
			target.cmd = cmd.commands
			if err := target.Apply(t.Context(), changesOf(set...)); !slices.Equal(faultsOf(err), []string{"cali-pi-003"}) {
				t.Fatalf("%v, behind step %d: got %v", k, nth, err)
			}
			k.expectRules(t, "cali-pi-003", "-j DROP")
			k.expectRules(t, "cali-pi-005", "--mark 0x5/0xff -j ACCEPT")
			k.expectRules(t, "OUTPUT", "-j cali-OUTPUT")
		}
	}
}

// ending ends the context at a restore, which is refused.
type ending struct {
	commands

	end context.CancelFunc
}

func (e ending) restore(context.Context, []byte) error {
	e.end()
	return errors.New("refused")
}

// TestAFelixThatEndsBlamesNobody has felix end while a write is refused.
func TestAFelixThatEndsBlamesNobody(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		apply(t, target, k.chain(t, "cali-old", marked(1, back)))
		ctx, cancel := context.WithCancel(t.Context())
		target.cmd = ending{target.cmd, cancel}
		before := k.save(t)
		err := target.Apply(ctx, reconcile.Changes[string, Chain]{Set: k.manyWithAFault(t, 4, 1), Delete: []string{"cali-old"}})
		if err == nil || faultsOf(err) != nil {
			t.Errorf("got %v", err)
		}
		if now := k.save(t); now != before {
			t.Errorf("the table is\n%s\nand was\n%s", now, before)
		}
	})
}

// TestAStandInThatIsRefusedIsAnError: nothing closes the chain then, and it stays out of the kernel
// with all that leads to it.
func TestAStandInThatIsRefusedIsAnError(t *testing.T) {
	k := kernel{NFT, rules.V4, rules.Filter}
	target := k.open(t)
	apply(t, target, k.chain(t, "cali-pi-a", marked(1, accept)))
	bad := k.chain(t, "cali-pi-a", k.refused())
	target.standIns = func(rules.Family, rules.ChainID) Chain { return bad.Value }
	err := target.Apply(t.Context(), changesOf(bad, k.chain(t, "cali-pi-b")))
	if err == nil || faultsOf(err) != nil {
		t.Fatalf("got %v", err)
	}
	target.standIns = nil // who only deletes has none
	if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Delete: []string{"cali-pi-a", "cali-pi-b"}}); err != nil {
		t.Error(err)
	}
	if text := k.save(t); strings.Contains(text, "cali-") {
		t.Errorf("left is %s", text)
	}
}

// TestManyDeletesThatAreRefusedAreFound has another program's rules lead to some of the chains.
func TestManyDeletesThatAreRefusedAreFound(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		var set []reconcile.Item[string, Chain]
		var names, used []string
		for i := range 17 {
			c := k.chain(t, fmt.Sprintf("cali-%02d", i), marked(1, back))
			set, names = append(set, c), append(names, c.Key)
		}
		apply(t, target, set...)
		for _, i := range []int{0, 8, 16} {
			k.run(t, "-A", "OUTPUT", "-j", names[i])
			used = append(used, names[i])
		}
		for range 2 {
			err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Delete: names})
			if got := faultsOf(err); !slices.Equal(got, used) {
				t.Fatalf("refused are %v, want %v: %v", got, used, err)
			}
		}
		have, err := target.List(t.Context())
		if got := slices.Sorted(maps.Keys(have)); err != nil || !slices.Equal(got, used) {
			t.Errorf("left are %v, %v", got, err)
		}
		k.expectRules(t, "OUTPUT", "-j cali-00", "-j cali-08", "-j cali-16")
	})
}

// TestAChainOfOthersWithFelixsNameIsFelixs has another program make a chain of felix's prefix, with
// rules of its own, and such as only look like felix's.
func TestAChainOfOthersWithFelixsNameIsFelixs(t *testing.T) {
	onKernels(t, func(t *testing.T, k kernel) {
		target := k.open(t)
		wanted := k.chain(t, "cali-a", marked(1, back), marked(2, back))
		k.run(t, "-N", "cali-a")
		k.run(t, "-N", "cali-stray")
		k.run(t, "-A", "cali-a", "-j", "ACCEPT")
		k.run(t, "-A", "cali-a", "-m", "comment", "--comment", "cali:"+wanted.Value.Rules[1].Hash, "-m", "mark", "--mark", "2/0xff", "-j", "RETURN")
		k.run(t, "-A", "cali-a", "-m", "comment", "--comment", "cali:"+wanted.Value.Rules[0].Hash+"x", "-j", "ACCEPT")
		k.run(t, "-A", "OUTPUT", "-m", "comment", "--comment", "cali: not felix's", "-j", "RETURN")
		have, err := target.List(t.Context())
		if err != nil || len(have) != 2 || len(have["cali-a"].Rules) != 3 || Equal(wanted.Value, have["cali-a"]) {
			t.Fatalf("read is %+v, %v", have, err)
		}
		if err := target.Apply(t.Context(), reconcile.Changes[string, Chain]{Set: []reconcile.Item[string, Chain]{wanted}, Delete: []string{"OUTPUT", "cali-stray"}}); err != nil {
			t.Fatal(err)
		}
		k.expectRules(t, "cali-a", "0x1/0xff -j RETURN", "0x2/0xff -j RETURN")
		k.expectRules(t, "OUTPUT", "-j RETURN")
		if text := k.save(t); strings.Contains(text, "cali-stray") || strings.Contains(text, "-j ACCEPT") {
			t.Errorf("the table is\n%s", text)
		}
	})
}

// TestADeletedLegacyTableIsMadeAnew has another program flush what felix wrote, and replace it.
func TestADeletedLegacyTableIsMadeAnew(t *testing.T) {
	for _, k := range legacyKernels {
		for _, input := range []string{"*filter\nCOMMIT\n", "*filter\n:cali-a - [0:0]\n-A OUTPUT -j cali-a\nCOMMIT\n"} {
			target := k.open(t)
			hooks, chain := k.hooks(t, "OUTPUT", jumpTo("cali-a")), k.chain(t, "cali-a", marked(1, back))
			apply(t, target, chain, hooks)
			nettest.Feed(t, input, k.command()+"-restore")
			if drifted, err := target.Drifted(); !drifted || err != nil {
				t.Errorf("%v: drifted is %v, %v", k, drifted, err)
			}
			apply(t, target, chain, hooks)
			k.expectRules(t, "cali-a", "0x1/0xff -j RETURN")
			have, err := target.List(t.Context())
			if err != nil || !Equal(hooks.Value, have["OUTPUT"]) {
				t.Errorf("%v: the hook is %+v, %v", k, have["OUTPUT"], err)
			}
		}
	}
}
