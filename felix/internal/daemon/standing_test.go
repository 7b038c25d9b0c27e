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
// felix's, and wants it to stay so.
func (w *world) stopped(from, to *endpoint) {
	w.Helper()
	nettest.Eventually(w, soonStopped, func() error { return apart(from, to) })
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

// unhookable are tables and chains of iptables' names that another program made first, in
// another way.
var unhookable = map[string]unhooked{
	"priority":  {"chain FORWARD { type filter hook forward priority 10; }", "filter", "FORWARD"},
	"regular":   {"chain FORWARD { counter; }", "filter", "FORWARD"},
	"hook":      {"chain INPUT { type filter hook forward priority 0; }", "filter", "INPUT"},
	"raw table": {"chain PREROUTING { type filter hook input priority -300; }", "raw", "PREROUTING"},
}

type unhooked struct{ body, table, chain string }

// makeOn has the program make it, in both families.
func (c unhooked) makeOn(h *host) {
	h.w.Helper()
	for _, family := range []string{"ip", "ip6"} {
		h.Run("nft", fmt.Sprintf("delete table %s %s; table %s %s { %s; }", family, c.table, family, c.table, c.body))
	}
}

// cure is what felix says to mend IPv6 with.
func (c unhooked) cure() string {
	return fmt.Sprintf("nft flush chain ip6 %s %s; nft delete chain ip6 %s %s", c.table, c.chain, c.table, c.chain)
}

// TestChainsThatIPTablesCannotHookOpenNothing has another program make a table or chain of
// iptables' name first, in another way.
func TestChainsThatIPTablesCannotHookOpenNothing(t *testing.T) {
	for name, c := range unhookable {
		t.Run(name, func(t *testing.T) {
			x := newDenied(t, iptables.NFT)
			h := x.h
			goesOn := x.connected(x.a, x.guard)
			c.makeOn(h)
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
			h.awaitOne("IPv6 chains of "+c.table, c.cure(), "felix drops all new connections")
			if _, err := x.a.Ping(x.guard.addr, answer); err != nil {
				t.Error(err)
			}
			if _, err := x.bad.Ping(x.guard.addr, noAnswer); err == nil {
				t.Error("IPv4 is open")
			}
			if _, err := x.a.Ping(x.guard.addr6, noAnswer); err == nil {
				t.Error("IPv6 is open")
			}
			h.Run("sh", "-ec", c.cure())
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

// TestAHostEndpointWhosePoliciesAreNotMetIsClosed has another program make the filter table's
// chains on a host with a host endpoint that forwards, and, where it has untracked policy, raw's.
func TestAHostEndpointWhosePoliciesAreNotMetIsClosed(t *testing.T) {
	for name, c := range unhookable {
		t.Run(name, func(t *testing.T) {
			u := newUnusable(t, iptables.NFT)
			h := u.h
			lan := h.lan()
			for _, port := range []uint16{tcpPort, 22} {
				u.peer.ServeTCP(port)
			}
			// The host is open, but for what the policies say of the peer's calls.
			u.raw(hostPath, `{"name":"eth0","labels":{"is":"host"},"profile_ids":["open"]}`)
			stage, rules := `"apply_on_forward":true`, `[{"action":"deny","protocol":"udp"},{"action":"allow"}]`
			if c.table == "raw" {
				stage, rules = `"untracked":true,"types":["ingress"]`, `[{"action":"deny","protocol":"udp"}]`
			}
			u.awaitRevision(u.raw("/calico/v1/policy/tier/default/policy/host", fmt.Sprintf(`{"selector":"is == 'host'",%s,"inbound_rules":%s,"outbound_rules":[{"action":"allow"}]}`, stage, rules)))
			expect := func(when string, open bool) {
				t.Helper()
				for _, ipv6 := range []bool{false, true} {
					here, peer, behind := h.Addr(ipv6), u.peer.Addr(ipv6), lan.at(ipv6)
					for _, way := range []struct {
						what   string
						from   *nettest.Space
						to     netip.AddrPort
						passes bool
					}{
						{"peer to host", u.peer.Space, netip.AddrPortFrom(here, tcpPort), open},
						{"peer to failsafe port", u.peer.Space, netip.AddrPortFrom(here, 22), true},
						// Of what the host sends, raw's policies say nothing.
						{"host to peer", h.Space, netip.AddrPortFrom(peer, tcpPort), open || c.table == "raw"},
						{"peer through the host", u.peer.Space, netip.AddrPortFrom(behind, tcpPort), open},
						{"the host to behind", h.Space, netip.AddrPortFrom(behind, tcpPort), true},
						{"host to its container", h.Space, netip.AddrPortFrom(u.b.at(ipv6), tcpPort), true},
					} {
						if err := verdictFault(way.from.TCP(way.to, waitFor(way.passes)), way.passes); err != nil {
							t.Errorf("%s: %s (IPv6 %v): %v", when, way.what, ipv6, err)
						}
					}
				}
			}
			expect("as written", true)
			c.makeOn(h)
			for _, ipv6 := range []bool{false, true} {
				nettest.Eventually(t, soonStopped, func() error {
					return verdictFault(u.b.TCP(netip.AddrPortFrom(u.a.at(ipv6), tcpPort), noAnswer/2), false)
				})
			}
			expect("unmet", false)
			h.awaitProblemOf("dataplane", "of host endpoints whose policies are not met")
			// One that comes meanwhile is closed too, and one that goes is not any more.
			u.raw(hostPath, `{"name":"lan0","labels":{"is":"host"},"profile_ids":["open"]}`)
			nettest.Eventually(t, patience, func() error { return u.peer.TCP(netip.AddrPortFrom(h.Addr(false), tcpPort), noAnswer) })
			nettest.Eventually(t, patience, func() error {
				return verdictFault(lan.TCP(netip.AddrPortFrom(h.Addr(false), tcpPort), noAnswer), false)
			})
			u.raw(hostPath, `{"name":"eth0","labels":{"is":"host"},"profile_ids":["open"]}`)
			h.Run("nft", fmt.Sprintf("delete table ip %s; delete table ip6 %s", c.table, c.table))
			h.awaitNoProblems()
			expect("mended", true)
		})
	}
}
