package daemon_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// denial is a policy that denies what has a label, and allows all else, on the endpoints of
// a network: without the members of its set it opens.
func (w *world) denial(selector string) int64 {
	w.Helper()
	return w.put(model.NewPolicyKey("", "denial"), &model.Policy{
		Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
		InboundRules: []model.Rule{{Action: model.ActionDeny, Source: model.Match{Selector: selector}}, {Action: model.ActionAllow}},
	})
}

// denied is a host with a container that all but one reach, by a denial.
type denied struct {
	*world
	h             *host
	a, bad, guard *endpoint
}

func newDenied(t *testing.T, variant string) *denied {
	w := newWorld(t, nil)
	x := &denied{world: w, h: w.addHost(0, variant)}
	w.network("net1")
	w.network("net2")
	x.h.startInSync()
	rev := w.denial("role == 'bad'")
	x.a = x.h.container("aaaa", "net1", "192.168.0.1")
	x.bad = x.h.attach("bbbb", "net1", "192.168.0.2")
	x.bad.value.Labels = map[string]string{"role": "bad"}
	w.put(x.bad.key, x.bad.value)
	x.h.await(x.bad)
	x.guard = x.h.container("cccc", "net2", "192.168.0.3")
	if err := x.h.wait(x.guard, rev, patience); err != nil {
		t.Fatal(err)
	}
	x.expect("before the restart")
	return x
}

// expect probes both families.
func (x *denied) expect(when string) {
	x.Helper()
	x.Log(when)
	x.canReach(x.a, x.guard)
	x.cannotReach(x.bad, x.guard)
}

// watch sends packets that are to be denied all the time, and fails the test at its end when
// one of them was answered.
func (x *denied) watch() (stop func()) {
	x.Helper()
	var passed atomic.Int32
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, a := range []netip.Addr{x.guard.addr, x.guard.addr6} {
				if err := x.bad.UDP(netip.AddrPortFrom(a, udpPort), noAnswer/10); err == nil {
					passed.Add(1)
				}
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		close(done)
		<-ended
		if n := passed.Load(); n > 0 {
			x.Errorf("%d packets passed that were to be denied", n)
		}
	})
	x.Cleanup(stop)
	return stop
}

// routed says whether the host has a route to the address.
func (h *host) routed(a netip.Addr, want bool) error {
	family := "-4"
	if a.Is6() {
		family = "-6"
	}
	if list := h.Run("ip", family, "route"); strings.Contains(list, a.String()+" ") != want {
		return fmt.Errorf("routes are %s", list)
	}
	return nil
}

// TestARestartThatLosesIPv6OpensNothing starts felix again where ip6tables is not installed any
// more, and installs it later.
func TestARestartThatLosesIPv6OpensNothing(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		x := newDenied(t, variant)
		h := x.h
		gone := h.container("dddd", "net1", "192.168.0.4")
		h.felix.Kill()
		x.remove(gone.key)
		stop := x.watch()
		h.links("iptables-"+variant+"-save", "iptables-"+variant+"-restore")
		h.startInSync()
		h.awaitProblemOf("IPv6 chains of filter", "ip6tables-"+variant)
		nettest.Eventually(t, patience, func() error { return h.ready(false) })
		x.expect("without ip6tables")
		if err := errors.Join(h.routed(gone.addr, false), h.routed(gone.addr6, false)); err != nil {
			t.Errorf("an endpoint that was deleted: %v", err)
		}
		// What changes without a rule goes on, and IPv4 as a whole.
		x.a.value.Labels = map[string]string{"role": "bad"}
		if err := h.wait(x.a, x.put(x.a.key, x.a.value), patience); err != nil {
			t.Error(err)
		}
		x.cannotReach(x.a, x.guard)
		fresh := h.container("eeee", "net1", "192.168.0.5")
		if _, err := x.a.Ping(fresh.addr, answer); err != nil {
			t.Error(err)
		}
		if err := h.routed(fresh.addr6, false); err != nil {
			t.Errorf("IPv6 is routed and not filtered: %v", err)
		}
		x.a.value.Labels = nil
		x.put(x.a.key, x.a.value)
		for _, name := range []string{"ip6tables-" + variant + "-save", "ip6tables-" + variant + "-restore"} {
			program, err := exec.LookPath(name)
			if err == nil {
				err = os.Symlink(program, filepath.Join(h.shims, name))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		nettest.Eventually(t, patience, func() error { return h.ready(true) })
		h.await(fresh)
		x.canReach(x.a, fresh)
		h.awaitNoProblems()
		stop()
		x.expect("with ip6tables")
	})
}

// TestSwitchingIPv6OffOpensNothing starts felix again with IPv6 switched off.
func TestSwitchingIPv6OffOpensNothing(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		x := newDenied(t, variant)
		h := x.h
		h.felix.Kill()
		stop := x.watch()
		h.startInSync("IPV6SUPPORT=false")
		for _, e := range []*endpoint{x.a, x.bad, x.guard} {
			if err := h.routed(e.addr6, false); err != nil {
				t.Error(err)
			}
		}
		nettest.Eventually(t, patience, func() error {
			if left := h.Run("ip6tables-"+variant+"-save") + h.Run("ipset", "save"); strings.Contains(left, "cali-") || strings.Contains(left, "cali6") {
				return fmt.Errorf("left are %s", left)
			}
			return nil
		})
		stop()
		if _, err := x.a.Ping(x.guard.addr, answer); err != nil {
			t.Error(err)
		}
		nettest.Eventually(t, patience, func() error { return h.ready(true) })
		h.awaitNoProblems()
		h.felix.Kill()
		h.startInSync()
		h.await(x.guard)
		x.expect("switched on again")
	})
}

// TestARestartThatCannotReadATableOpensNothing starts felix again while iptables-save fails for
// one table, and another set is wanted than the rules in the kernel name.
func TestARestartThatCannotReadATableOpensNothing(t *testing.T) {
	for _, family := range []string{"iptables", "ip6tables"} {
		t.Run(family, func(t *testing.T) {
			x := newDenied(t, iptables.Legacy)
			h := x.h
			h.felix.Kill()
			h.shims = t.TempDir()
			name := family + "-legacy-save"
			program, err := exec.LookPath(name)
			if err != nil {
				t.Fatal(err)
			}
			failing := filepath.Join(h.shims, "failing")
			script := fmt.Sprintf("#!/bin/sh\nif [ -e %s ] && [ \"$2\" = filter ]; then echo 'no filter table today' >&2; exit 1; fi\nexec %s \"$@\"\n", failing, program)
			if err := errors.Join(os.WriteFile(failing, nil, 0o600), os.WriteFile(filepath.Join(h.shims, name), []byte(script), 0o755)); err != nil {
				t.Fatal(err)
			}
			rev := x.denial("role == 'bad' || role == 'worse'")
			stop := x.watch()
			h.startInSync()
			h.awaitProblem("no filter table today")
			x.expect("while a table cannot be read")
			if err := os.Remove(failing); err != nil {
				t.Fatal(err)
			}
			h.awaitNoProblems()
			if err := h.wait(x.guard, rev, patience); err != nil {
				t.Error(err)
			}
			stop()
			x.expect("once it can be read")
			if have := h.Run("ipset", "list", "-n"); strings.Count(have, "cali40-s:") != strings.Count(have, "cali60-s:") {
				t.Errorf("sets are %s", have)
			}
		})
	}
}
