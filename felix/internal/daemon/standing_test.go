package daemon_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/nettest"
)

// soonStopped is how long packets may pass that meet no rules, on a busy machine.
const soonStopped = 3 * time.Second

// stopped waits until nothing new passes between two containers that no rule keeps apart but
// felix's.
func (w *world) stopped(from, to *endpoint) {
	w.Helper()
	for _, a := range []netip.Addr{to.addr, to.addr6} {
		nettest.Eventually(w, soonStopped, func() error {
			if err := from.UDP(netip.AddrPortFrom(a, udpPort), noAnswer/2); err == nil {
				return fmt.Errorf("%s reaches %s", from.Name, a)
			}
			return nil
		})
	}
	w.cannotReach(from, to)
}

// awaitOne waits for the one problem of a table, with the cure, and for felix not to be ready.
func (h *host) awaitOne(object string, texts ...string) {
	h.w.Helper()
	for _, text := range texts {
		h.awaitProblemOf(object, text)
	}
	nettest.Eventually(h.w, patience, func() error { return h.ready(false) })
	st, err := h.status()
	if err != nil {
		h.w.Fatal(err)
	}
	n := 0
	for _, p := range st.GetProblems() {
		if strings.Contains(p.GetReason(), texts[0]) && p.GetObject() == object {
			n++
		}
		if strings.HasPrefix(p.GetObject(), object+":") {
			h.w.Errorf("a problem of a chain: %s: %s", p.GetObject(), p.GetReason())
		}
	}
	if n != 1 {
		h.w.Errorf("%d problems of %s", n, object)
	}
}

// TestChainsThatIPTablesCannotHookOpenNothing has another program make a table or chain of
// iptables' name first, in another way.
func TestChainsThatIPTablesCannotHookOpenNothing(t *testing.T) {
	for name, c := range map[string]struct{ body, table, chain string }{
		"priority":  {"chain FORWARD { type filter hook forward priority 10; }", "filter", "FORWARD"},
		"regular":   {"chain FORWARD { counter; }", "filter", "FORWARD"},
		"hook":      {"chain INPUT { type filter hook forward priority 0; }", "filter", "INPUT"},
		"raw table": {"chain PREROUTING { type filter hook input priority -300; }", "raw", "PREROUTING"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newDenied(t, iptables.NFT)
			h := x.h
			goesOn := x.connected(x.a, x.guard)
			for _, family := range []string{"ip", "ip6"} {
				h.Run("nft", fmt.Sprintf("delete table %s %s; table %s %s { %s; }", family, c.table, family, c.table, c.body))
			}
			x.stopped(x.bad, x.guard)
			x.cannotReach(x.a, x.guard)
			goesOn()
			nettest.Eventually(t, patience, func() error { return h.ready(false) })
			h.felix.Kill()
			h.Run("nft", "delete table ip calico-closed; delete table ip6 calico-closed")
			h.start()
			x.stopped(x.bad, x.guard)
			h.Run("nft", "delete table ip calico-closed; delete table ip6 calico-closed")
			x.stopped(x.bad, x.guard)
			h.Run("nft", "delete table ip "+c.table) // one family is mended, and IPv6 is not
			cure := fmt.Sprintf("nft flush chain ip6 %s %s; nft delete chain ip6 %s %s", c.table, c.chain, c.table, c.chain)
			h.awaitOne("IPv6 chains of "+c.table, cure, "felix drops all new connections")
			if _, err := x.a.Ping(x.guard.addr, answer); err != nil {
				t.Error(err)
			}
			if _, err := x.bad.Ping(x.guard.addr, noAnswer); err == nil {
				t.Error("IPv4 is open")
			}
			if _, err := x.a.Ping(x.guard.addr6, noAnswer); err == nil {
				t.Error("IPv6 is open")
			}
			h.Run("sh", "-ec", cure)
			h.awaitNoProblems()
			nettest.Eventually(t, patience, func() error { return h.ready(true) })
			x.expect("mended")
			if list := h.Run("nft", "list", "tables"); strings.Contains(list, "calico-closed") {
				t.Errorf("there are %s", list)
			}
		})
	}
}

// connected begins a connection over each family, and gives what fails the test unless it goes
// on.
func (w *world) connected(from, to *endpoint) (goesOn func()) {
	w.Helper()
	var conns []net.Conn
	for _, a := range []netip.Addr{to.addr, to.addr6} {
		from.Do(func() {
			conn, err := net.Dial("udp", netip.AddrPortFrom(a, udpPort).String())
			if err != nil {
				w.Fatal(err)
			}
			w.Cleanup(func() { _ = conn.Close() })
			conns = append(conns, conn)
		})
	}
	goesOn = func() {
		w.Helper()
		for _, conn := range conns {
			err := conn.SetDeadline(time.Now().Add(answer))
			if err == nil {
				_, err = conn.Write([]byte("on"))
			}
			if err == nil {
				_, err = conn.Read(make([]byte, 16))
			}
			if err != nil {
				w.Errorf("a known connection does not go on: %v", err)
			}
		}
	}
	goesOn()
	return goesOn
}

// TestANATThatIPTablesCannotHookIsNamedOnce has another program make a chain of nat, which
// decides about no packet.
func TestANATThatIPTablesCannotHookIsNamedOnce(t *testing.T) {
	x := newDenied(t, iptables.NFT)
	x.h.Run("nft", "delete table ip nat; table ip nat { chain POSTROUTING { type nat hook postrouting priority 90; }; }")
	x.h.awaitProblemOf("IPv4 chains of nat", "nft delete chain ip nat POSTROUTING")
	st, err := x.h.status()
	if err != nil || len(st.GetProblems()) != 1 {
		t.Errorf("the status is %v, %v", st, err)
	}
	x.expect("without nat")
	x.h.Run("nft", "delete table ip nat")
	x.h.awaitNoProblems()
}

// TestATableOfAnotherOwnerOpensNothing has a program own the filter table while it lives.
func TestATableOfAnotherOwnerOpensNothing(t *testing.T) {
	x := newDenied(t, iptables.NFT)
	h := x.h
	cmd := h.Command(t.Context(), "nft", "-i")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	owner := h.StartCommand(cmd)
	if _, err := fmt.Fprintln(in, "delete table ip filter; delete table ip6 filter; add table ip filter { flags owner; }; add table ip6 filter { flags owner; }"); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, patience, func() error { return h.ready(false) })
	x.stopped(x.bad, x.guard)
	h.felix.Kill()
	h.start()
	x.stopped(x.bad, x.guard)
	nettest.Eventually(t, patience, func() error {
		st, err := h.status()
		if err == nil && !strings.Contains(st.String(), "flags owner") {
			err = fmt.Errorf("the status is %v", st)
		}
		return err
	})
	owner.Kill()
	h.awaitNoProblems()
	nettest.Eventually(t, patience, func() error { return h.ready(true) })
	x.expect("after the owner's end")
}

// TestADormantTableIsWoken has another program put iptables' tables to sleep, also while felix
// is away.
func TestADormantTableIsWoken(t *testing.T) {
	x := newDenied(t, iptables.NFT)
	h := x.h
	for _, table := range []string{"filter", "raw"} {
		sleep := fmt.Sprintf("add table ip %s { flags dormant; }; add table ip6 %s { flags dormant; }", table, table)
		awake := func() error {
			for _, family := range []string{"ip", "ip6"} {
				if list := h.Run("nft", "list", "table", family, table); strings.Contains(list, "dormant") {
					return fmt.Errorf("table %s %s sleeps", family, table)
				}
			}
			return nil
		}
		h.Run("nft", sleep)
		nettest.Eventually(t, patience, awake)
		x.expect("after table " + table + " was put to sleep")
		h.felix.Kill()
		h.Run("nft", sleep)
		h.startInSync()
		if err := awake(); err != nil {
			t.Error(err)
		}
		x.expect("after a restart")
	}
	h.awaitNoProblems()
}

// TestCleanupOpensWhatWasClosed has nothing of felix's stay.
func TestCleanupOpensWhatWasClosed(t *testing.T) {
	x := newDenied(t, iptables.NFT)
	x.h.Run("nft", "delete table ip filter; table ip filter { chain FORWARD { counter; }; }")
	nettest.Eventually(t, soonStopped, func() error {
		if _, err := x.bad.Ping(x.guard.addr, noAnswer); err == nil {
			return errors.New("IPv4 is open")
		}
		return nil
	})
	x.h.felix.Kill()
	if out, err := x.h.command("cleanup").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if list := x.h.Run("nft", "list", "ruleset"); strings.Contains(list, "cali") {
		t.Errorf("there is %s", list)
	}
}
