package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
)

// displace does what Docker does when it puts its jump first again: nothing is more or less
// than before.
func (k kernel) displace(t *testing.T) {
	t.Helper()
	k.run(t, "-D", "FORWARD", "-j", "DOCKER-USER")
	k.run(t, "-I", "FORWARD", "-j", "DOCKER-USER")
}

// legacyKernels are the filter tables of the legacy variant.
var legacyKernels = []kernel{{Legacy, rules.V4, rules.Filter}, {Legacy, rules.V6, rules.Filter}}

// TestADisplacedHookIsDrift has Docker's rule and felix's hook change places, at which no number
// of the table's fingerprint changes, also where thousands of rules stand behind.
func TestADisplacedHookIsDrift(t *testing.T) {
	for _, many := range []int{0, 3000} {
		for _, k := range legacyKernels {
			t.Run(fmt.Sprintf("%v with %d rules", k, many), func(t *testing.T) {
				target := k.open(t)
				k.run(t, "-N", "DOCKER-USER")
				k.run(t, "-A", "FORWARD", "-j", "DOCKER-USER")
				if _, err := target.List(t.Context()); err != nil {
					t.Fatal(err)
				}
				hooks := k.hooks(t, "FORWARD", jumpTo("cali-FORWARD"))
				chains := []reconcile.Item[string, Chain]{hooks, k.chain(t, "cali-FORWARD")}
				for i := range many / 100 {
					list := make([]rules.Rule, 100)
					for j := range list {
						list[j] = marked(uint32(j), accept)
					}
					chains = append(chains, k.chain(t, fmt.Sprintf("cali-pi-%d", i), list...))
				}
				apply(t, target, chains...)
				expect := func(when string, want bool) {
					t.Helper()
					if drifted, err := target.Drifted(); drifted != want || err != nil {
						t.Fatalf("drifted = %v, %v %s, want %v", drifted, err, when, want)
					}
				}
				expect("after own writes", false)
				k.run(t, "-L", "FORWARD")
				expect("after another program looked", false)
				before := target.mark.info
				k.displace(t)
				if now, err := target.ledger.(*legacyLedger).info(); now != before || err != nil {
					t.Logf("the numbers show it: %+v, %v, before %+v", now, err, before)
				}
				expect("after the places are changed", true)
				have, err := target.List(t.Context())
				if err != nil || Equal(hooks.Value, have["FORWARD"]) {
					t.Fatalf("the displaced hook counts as in place: %+v, %v", have["FORWARD"], err)
				}
				apply(t, target, hooks)
				k.expectRules(t, "FORWARD", "-j cali-FORWARD", "-j DOCKER-USER")
				expect("after it is mended", false)
			})
		}
	}
}

// meanwhile has another program write when felix does: before the restore or behind it.
type meanwhile struct {
	commands

	before, behind func()
}

func (m *meanwhile) restore(ctx context.Context, input []byte) error {
	m.before()
	defer m.behind()
	return m.commands.restore(ctx, input)
}

// TestAWriteOfAnotherAtTheSameMomentIsDrift has another program write between felix's look at
// the table and its own write, and right behind that: what it wrote is never taken for felix's
// own.
func TestAWriteOfAnotherAtTheSameMomentIsDrift(t *testing.T) {
	for _, k := range legacyKernels {
		insert := func(t *testing.T) { k.run(t, "-I", "FORWARD", "-j", "RETURN") }
		for what, write := range map[string]func(*testing.T){"a rule is inserted": insert, "places are changed": k.displace} {
			for _, when := range []string{"before", "behind", "after the check"} {
				t.Run(fmt.Sprintf("%v %s %s", k, what, when), func(t *testing.T) {
					target := k.open(t)
					k.run(t, "-N", "DOCKER-USER")
					k.run(t, "-A", "FORWARD", "-j", "DOCKER-USER")
					if _, err := target.List(t.Context()); err != nil {
						t.Fatal(err)
					}
					apply(t, target, k.hooks(t, "FORWARD", jumpTo("cali-FORWARD")), k.chain(t, "cali-FORWARD"))
					if drifted, err := target.Drifted(); drifted || err != nil {
						t.Fatalf("drifted = %v, %v from the start", drifted, err)
					}
					m := &meanwhile{target.cmd, func() {}, func() {}}
					target.cmd = m
					switch when {
					case "before":
						m.before = func() { write(t) }
					case "behind":
						m.behind = func() { write(t) }
					}
					c := k.chain(t, "cali-FORWARD", marked(1, accept))
					if when == "after the check" {
						write(t)
						if err := target.write(t.Context(), []named{{c.Key, c.Value}}, nil); err != nil {
							t.Fatal(err)
						}
					} else {
						apply(t, target, c)
					}
					if drifted, err := target.Drifted(); !drifted || err != nil {
						t.Errorf("drifted = %v, %v", drifted, err)
					}
				})
			}
		}
	}
}

// TestALockFileThatIsReplacedIsWatchedOn deletes the file of the lock.
func TestALockFileThatIsReplacedIsWatchedOn(t *testing.T) {
	k := legacyKernels[0]
	target := k.open(t)
	apply(t, target, k.chain(t, "cali-a"))
	watch := target.ledger.(*legacyLedger).watch
	if before, now := watch.turns(), watch.turns(); before != now {
		t.Fatal("there are turns although nobody had the lock")
	}
	for range 2 {
		if err := os.Remove(lockPath()); err != nil {
			t.Fatal(err)
		}
		_ = watch.turns()
		before := watch.turns()
		nettest.Run(t, k.command(), "-w", "-N", "other")
		nettest.Run(t, k.command(), "-w", "-X", "other")
		if watch.turns() == before {
			t.Error("a turn in a new file is not noticed")
		}
	}
	unwatched := watchLock(t.TempDir() + "/absent/lock")
	if before, now := unwatched.turns(), unwatched.turns(); before == now {
		t.Error("a lock that cannot be watched counts as never taken")
	}
}

// TestTheBeginningOfATableIsReadWhateverPagesAre asks for less than ends with a page, as the
// first read does where pages are large.
func TestTheBeginningOfATableIsReadWhateverPagesAre(t *testing.T) {
	for _, k := range legacyKernels {
		target := k.open(t)
		apply(t, target, k.chain(t, "cali-a", slices.Repeat([]rules.Rule{marked(1, accept)}, 100)...))
		ledger := target.ledger.(*legacyLedger)
		info, err := ledger.info()
		if err != nil {
			t.Fatal(err)
		}
		page := os.Getpagesize()
		if int(info.Size) < 3*page {
			t.Fatalf("the table has %d bytes only", info.Size)
		}
		whole, err := ledger.readEntries(info, int(info.Size)+entriesHead)
		if err != nil {
			t.Fatal(err)
		}
		for _, most := range []int{page / 2, page, page + page/2} {
			got, err := ledger.readEntries(info, most)
			if err != nil || len(got) < most-entriesHead || len(got) > most+page || !bytes.Equal(got, whole[:len(got)]) {
				t.Errorf("%v: asked for %d bytes, got %d, %v", k, most, len(got), err)
			}
		}
	}
}

// TestATableThatAnotherReplacesMeanwhileIsReadAgain has another program replace a table by larger
// and smaller ones while it is read over and over.
func TestATableThatAnotherReplacesMeanwhileIsReadAgain(t *testing.T) {
	for _, k := range legacyKernels {
		ledger := k.open(t).ledger.(*legacyLedger)
		done := make(chan error, 1)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf(`for i in $(seq 150); do %[1]s-restore <<END
*filter
:other - [0:0]
-A other -j ACCEPT
COMMIT
END
%[1]s-restore <<END
*filter
COMMIT
END
done`, k.command()))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { done <- cmd.Wait() }()
		for reads := 0; ; reads++ {
			ledger.lead = nil
			if _, _, err := ledger.read(); err != nil {
				t.Errorf("%v: read %d: %v", k, reads, err)
				<-done
				break
			}
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
				t.Logf("%v: %d reads", k, reads)
			default:
				continue
			}
			break
		}
	}
}

// BenchmarkDrifted looks whether others have written to a legacy table of 10,000 rules.
func BenchmarkDrifted(b *testing.B) {
	k := legacyKernels[0]
	target := k.open(b)
	var changes reconcile.Changes[string, Chain]
	for i := range 1000 {
		list := make([]rules.Rule, 10)
		for j := range list {
			list[j] = marked(1, accept)
		}
		changes.Set = append(changes.Set, k.chain(b, fmt.Sprintf("cali-pi-%d", i), list...))
	}
	if _, err := target.List(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := target.Apply(b.Context(), changes); err != nil {
		b.Fatal(err)
	}
	for _, turn := range []bool{false, true} {
		b.Run(fmt.Sprintf("lock-given-back-%v", turn), func(b *testing.B) {
			for b.Loop() {
				if turn {
					target.ledger.(*legacyLedger).lead = nil
				}
				if drifted, err := target.Drifted(); drifted || err != nil {
					b.Fatalf("drifted = %v, %v", drifted, err)
				}
			}
		})
	}
}
