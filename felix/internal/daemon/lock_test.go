package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// holdLock takes the lock that all programs which write legacy tables of this host share,
// until the function that it returns is called or the test ends.
func (h *host) holdLock() (release func()) {
	h.w.Helper()
	f, err := os.OpenFile(h.lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		h.w.Fatal(err)
	}
	h.w.Cleanup(func() { _ = f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		h.w.Fatal(err)
	}
	return func() { _ = f.Close() }
}

// awaitProblem waits until felix reports a problem with a text in it.
func (h *host) awaitProblem(text string) {
	h.w.Helper()
	nettest.Eventually(h.w, patience, func() error {
		st, err := h.status()
		if err != nil {
			return err
		}
		for _, p := range st.GetProblems() {
			if strings.Contains(p.GetReason(), text) {
				return nil
			}
		}
		return fmt.Errorf("%q is not among the problems %v", text, st.GetProblems())
	})
}

// idle is the share of a processor, in percent, that felix may take while it waits: 4 to 8
// are what it takes, by machine; one that tries without a pause takes all.
const idle = 10

// expectLittleWork fails the test when felix and the programs that it runs take more than
// so many percent of a processor while pings from a container to another go on for some
// seconds, or when any of these is lost.
func (h *host) expectLittleWork(percent int, from, to *endpoint) {
	h.w.Helper()
	const duration = 3 * time.Second
	ctx, cancel := context.WithTimeout(h.w.Context(), duration)
	defer cancel()
	before := h.cpuTime()
	if lost := pingUntil(ctx, from, to.addr); lost > 0 {
		h.w.Errorf("%d pings were lost", lost)
	}
	if used := h.cpuTime() - before; used > duration*time.Duration(percent)/100 {
		h.w.Errorf("felix worked %v in %v", used, duration)
	}
}

// cpuTime is the processor time of felix and of the programs that it ran.
func (h *host) cpuTime() time.Duration {
	h.w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.felix.Process.Pid))
	if err != nil {
		h.w.Fatal(err)
	}
	// The name, in parentheses, is field 2; fields 14 to 17 are times in ticks.
	_, rest, _ := strings.Cut(string(text), ") ")
	const tick = 10 * time.Millisecond
	var sum time.Duration
	for _, field := range strings.Fields(rest)[11:15] {
		n, err := strconv.Atoi(field)
		if err != nil {
			h.w.Fatal(err)
		}
		sum += time.Duration(n) * tick
	}
	return sum
}

func TestWhileAnotherHoldsTheLockAllStaysAndFelixSaysSo(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.Legacy)
	w.network("net1")
	w.network("net2")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	c := h.container("cccc", "net2", "192.168.0.3")
	d := h.attach("dddd", "net1", "192.168.0.4")
	labelled := w.put(model.NewPolicyKey("", "labelled"), &model.Policy{
		Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
		InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: "role == 'x'"}}},
	})
	if err := h.wait(c, labelled, patience); err != nil {
		t.Fatal(err)
	}
	w.cannotReach(b, c)
	release := h.holdLock()
	rev := w.opening()
	last := w.put(d.key, d.value)
	if st, err := h.status(); err != nil || st.GetRevision() >= rev {
		t.Errorf("felix claims revision %d, %v", st.GetRevision(), err)
	}
	h.awaitProblem("xtables lock")
	h.refuses(c, rev, codes.DeadlineExceeded, "xtables lock")
	w.canReach(a, b)
	w.cannotReach(a, c)
	h.expectLittleWork(idle, a, b)
	if have := h.Run("ip", "route"); strings.Contains(have, "calidddd") {
		t.Errorf("a container without rules has a route: %s", have)
	}
	// What needs no lock goes on: an endpoint gets a label, and is let in.
	b.value.Labels = map[string]string{"role": "x"}
	w.put(b.key, b.value)
	const patient = 4 * time.Second // a pass tries both families, for a second each
	nettest.Eventually(t, patient, func() error { return b.UDP(netip.AddrPortFrom(c.addr, udpPort), noAnswer) })

	release()
	if err := errors.Join(h.wait(c, last, recovery), h.wait(d, last, time.Second)); err != nil {
		t.Fatal(err)
	}
	w.canReach(a, c)
	w.canReach(a, d)
	if st, err := h.status(); err != nil || len(st.GetProblems()) > 0 {
		t.Errorf("problems are %v, %v", st.GetProblems(), err)
	}
}

// TestCleanupWaitsForTheLock removes everything while another program holds the lock for a moment.
func TestCleanupWaitsForTheLock(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.Legacy)
	w.network("net1")
	h.startInSync()
	h.container("aaaa", "net1", "192.168.0.1")
	h.felix.Kill()
	release := h.holdLock()
	const held = 500 * time.Millisecond
	time.AfterFunc(held, release)
	start := time.Now()
	out, err := h.command("cleanup").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "waiting") {
		t.Errorf("cleanup says %s, %v", out, err)
	}
	if took := time.Since(start); took < held {
		t.Errorf("it took %v only", took)
	}
	if left := h.dump(); strings.Contains(left, "cali-") || strings.Contains(left, "cali4-") || strings.Contains(left, "169.254.1.1") {
		t.Errorf("left is %s", left)
	}
}

// TestABusyIptablesIsTriedEverySecond has iptables-restore refuse as it does when it could
// not get the lock, so often that a growing pause would have become long.
func TestABusyIptablesIsTriedEverySecond(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.Legacy)
	w.network("net1")
	w.network("net2")
	busy := filepath.Join(t.TempDir(), "busy")
	calls := h.shimRestore("if [ -e " + busy + " ]; then exit 4; fi")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	c := h.container("cccc", "net2", "192.168.0.3")
	if err := os.WriteFile(busy, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := calls()
	start := time.Now()
	rev := w.opening()
	// Each pass tries both families.
	const passes = 8
	nettest.Eventually(t, patience, func() error {
		if n := calls() - before; n < 2*passes {
			return fmt.Errorf("iptables-restore was tried %d times", n)
		}
		return nil
	})
	if took := time.Since(start); took < passes/2*time.Second {
		t.Errorf("%d passes within %v", passes, took)
	}
	if err := os.Remove(busy); err != nil {
		t.Fatal(err)
	}
	if err := h.wait(c, rev, recovery); err != nil {
		t.Error(err)
	}
	w.canReach(a, c)
}

// TestFelixIsNoOtherProgramToItself has so much to write at the start that it takes long, in both
// families: a write of felix's own that holds the lock is not taken for another program's.
func TestFelixIsNoOtherProgramToItself(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net2")
		w.manyPolicies(5000)
		a := h.attach("aaaa", "net2", "192.168.0.1")
		w.put(a.key, a.value)
		dir := t.TempDir()
		busy, met := filepath.Join(dir, "busy"), filepath.Join(dir, "met")
		h.shimRestore(fmt.Sprintf("if mkdir %[1]s; then sleep 0.2; rmdir %[1]s; else touch %[2]s; fi", busy, met))
		h.startInSync("LOGSEVERITYSCREEN=WARNING")
		h.await(a)
		_, err := os.Stat(met)
		if together := err == nil; together != (variant == iptables.NFT) {
			t.Errorf("both families are written at once: %t", together)
		}
	})
}
