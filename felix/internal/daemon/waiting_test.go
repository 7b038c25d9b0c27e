package daemon_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// outOfReach are the ways in which a store cannot be followed, and how it comes back.
var outOfReach = []struct {
	name       string
	says       string
	hold, back func(s *stranded)
}{
	{
		"emptied", "holds no data of a cluster",
		func(s *stranded) { s.w.wipe() },
		func(s *stranded) {
			s.w.put(model.FelixConfigKey{Name: model.ClusterGUID}, &model.Setting{Of: model.KindFelixConfig, Value: etcdtest.GUID})
			for _, e := range []*endpoint{s.a, s.b, s.x} {
				s.w.put(e.key, e.value)
			}
			s.w.network("net1")
			s.w.network("net2")
			s.ready(true)
		},
	},
	{"locked", "is locked", func(s *stranded) { s.ready(false) }, func(s *stranded) { s.ready(true) }},
	{"away", "", func(s *stranded) { s.h.etcd.Cut() }, func(s *stranded) { s.h.etcd.Mend() }},
}

// stranded is a host whose containers a and b reach one another and not x, and whose felix
// starts again when the store cannot be followed.
type stranded struct {
	w       *world
	h       *host
	a, b, x *endpoint
	// conns are connections from a to b, by IPv4 and IPv6.
	conns []net.Conn
	// writes is how often iptables-restore was run.
	writes func() int
}

func newStranded(t *testing.T, variant string) *stranded {
	w := newWorld(t, nil)
	w.network("net1")
	w.network("net2")
	h := w.addHost(0, variant)
	h.startInSync()
	s := &stranded{
		w: w, h: h, a: h.container("aaaa", "net1", "192.168.0.1"), b: h.container("bbbb", "net1", "192.168.0.2"), x: h.container("cccc", "net2", "192.168.0.3"),
	}
	w.canReach(s.a, s.b)
	w.cannotReach(s.a, s.x)
	for _, to := range []netip.Addr{s.b.addr, s.b.addr6} {
		var (
			conn net.Conn
			err  error
		)
		s.a.Do(func() { conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(to, tcpPort).String(), answer) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		s.conns = append(s.conns, conn)
	}
	s.goesOn()
	return s
}

func (s *stranded) ready(is bool) {
	r := model.Ready(is)
	s.w.put(model.ReadyKey{}, &r)
}

// stop ends felix; the next one is counted what it writes.
func (s *stranded) stop() {
	s.h.felix.Kill()
	s.writes = s.h.shimRestore("")
}

// goesOn fails the test unless the connections that were there are.
func (s *stranded) goesOn() {
	s.w.Helper()
	for _, c := range s.conns {
		_ = c.SetDeadline(time.Now().Add(answer))
		_, err := c.Write([]byte("on"))
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 2))
		}
		if err != nil {
			s.w.Errorf("a connection that was there does not go on: %v", err)
		}
	}
}

// noneNew wants no new packet of a to pass to x.
func (s *stranded) noneNew() error {
	for _, a := range []netip.Addr{s.x.addr, s.x.addr6} {
		if err := verdictFault(s.a.UDP(netip.AddrPortFrom(a, udpPort), noAnswer), false); err != nil {
			return fmt.Errorf("a packet to %s: %w", a, err)
		}
	}
	return nil
}

// touchesNothing watches felix for more than two of its looks.
func (s *stranded) touchesNothing() {
	s.w.Helper()
	before, writes := s.h.dump(), s.writes()
	for range 6 {
		s.w.cannotReach(s.a, s.x)
	}
	if d := cmp.Diff(before, s.h.dump()); d != "" {
		s.w.Errorf("the kernel was touched: %s", d)
	}
	if n := s.writes() - writes; n > 0 {
		s.w.Errorf("iptables-restore was run %d times for nothing", n)
	}
}

// closed wants felix to close within about a second what nobody filters, to say so, to leave
// alone what goes on, and to do nothing more.
func (s *stranded) closed(since time.Time) {
	s.w.Helper()
	nettest.Eventually(s.w, patience, s.noneNew)
	if took := time.Since(since) - 2*noAnswer; took > 2*time.Second {
		s.w.Errorf("it is closed after %v", took)
	}
	s.goesOn()
	s.w.cannotReach(s.a, s.b) // nobody knows that it is allowed
	s.awaitTaken(true)
	s.touchesNothing()
	s.goesOn()
}

// awaitTaken waits until felix says of both families that their rules were taken away, or of
// none.
func (s *stranded) awaitTaken(taken bool) {
	s.w.Helper()
	want := 0
	if taken {
		want = 2
	}
	nettest.Eventually(s.w, patience, func() error {
		st, err := s.h.status()
		if err != nil {
			return err
		}
		n := 0
		for _, p := range st.GetProblems() {
			if strings.Contains(p.GetReason(), "the rules were taken away") {
				n++
			}
		}
		if n != want {
			return fmt.Errorf("%d problems of rules that were taken away, want %d: %v", n, want, st.GetProblems())
		}
		return nil
	})
}

// comesBack wants everything as wanted once the store is followed, and nothing open at any
// moment before.
func (s *stranded) comesBack(back func(*stranded)) {
	s.w.Helper()
	v := s.a.fire(s.w, netip.AddrPortFrom(s.x.addr, udpPort))
	back(s)
	s.h.awaitSync()
	for _, e := range []*endpoint{s.a, s.b, s.x} {
		s.h.await(e)
	}
	s.w.canReach(s.a, s.b)
	sent, answered := v.end(s.w)
	for i := range answered {
		if answered[i] {
			s.w.Errorf("packet %d of %d passed where none may", i, len(sent))
		}
	}
	s.w.cannotReach(s.a, s.x)
	s.goesOn()
	s.awaitTaken(false)
}

// flushes are the ways in which rules vanish.
func flushes(variant string) map[string]func(h *host) {
	all := map[string]func(h *host){
		"-F": func(h *host) {
			h.Run("iptables-"+variant, "-F")
			h.Run("ip6tables-"+variant, "-F")
		},
	}
	if variant == iptables.NFT {
		all["flush ruleset"] = func(h *host) { h.Run("nft", "flush", "ruleset") }
	}
	return all
}

// TestAWaitingFelixClosesWhatNobodyFilters has felix start while the store cannot be
// followed: it touches nothing until somebody takes the rules away.
func TestAWaitingFelixClosesWhatNobodyFilters(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		for _, store := range outOfReach {
			for name, flush := range flushes(variant) {
				t.Run(store.name+" "+name, func(t *testing.T) {
					s := newStranded(t, variant)
					s.stop()
					store.hold(s)
					s.h.start()
					if store.says == "" {
						s.h.awaitDisconnected()
					} else {
						s.h.awaitHold(store.says)
						s.h.awaitHold("what is in force is kept")
					}
					s.touchesNothing()
					flush(s.h)
					s.closed(time.Now())
					s.comesBack(store.back)
				})
			}
		}
	})
}

// The rules were taken away before felix starts, which then knows no more than that.
func TestAWaitingFelixClosesWhatWasOpenBeforeItsStart(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		s := newStranded(t, variant)
		s.stop()
		s.h.etcd.Cut()
		for _, flush := range flushes(variant) {
			flush(s.h)
		}
		if err := s.noneNew(); err == nil {
			t.Fatal("nothing is open without rules: the test shows nothing")
		}
		s.h.start()
		s.closed(time.Now())
		// Another felix finds what this one wrote, and says the same.
		s.h.felix.Kill()
		s.h.start()
		s.awaitTaken(true)
		s.touchesNothing()
		s.comesBack(func(s *stranded) { s.h.etcd.Mend() })
	})
}

// Where only the way to felix's chains is cut, they are still as they were when felix ended.
func TestAWaitingFelixPutsBackTheWayToItsChains(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		s := newStranded(t, variant)
		s.stop()
		s.h.etcd.Cut()
		s.h.start()
		s.h.awaitDisconnected()
		before := s.h.dump()
		for _, chain := range []string{"FORWARD", "INPUT"} {
			s.h.Run("iptables-"+variant, "-F", chain)
			s.h.Run("ip6tables-"+variant, "-F", chain)
		}
		nettest.Eventually(t, patience, func() error {
			if d := cmp.Diff(before, s.h.dump()); d != "" {
				return errors.New("not as before: " + d)
			}
			return nil
		})
		s.w.canReach(s.a, s.b)
		s.w.cannotReach(s.a, s.x)
	})
}

// Which variant the rules are in may stand in the store only: those of the other one filter
// as well.
func TestAWaitingFelixSeesTheRulesOfEitherVariant(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		s := newStranded(t, variant)
		s.stop()
		s.h.etcd.Cut()
		other := map[string]string{iptables.Legacy: iptables.NFT, iptables.NFT: iptables.Legacy}[variant]
		s.h.start("IPTABLESBACKEND=" + other)
		s.h.awaitDisconnected()
		s.touchesNothing()
		s.w.canReach(s.a, s.b)
		for _, name := range []string{"iptables-", "ip6tables-"} {
			if rules := s.h.Run(name + other + "-save"); strings.Contains(rules, "cali-") {
				t.Errorf("felix wrote to the other variant: %s", rules)
			}
		}
	})
}

// TestAWaitingFelixStopsWhatMeetsNoRules has another program make a table or chain of iptables'
// name in another way while felix knows nothing of the store.
func TestAWaitingFelixStopsWhatMeetsNoRules(t *testing.T) {
	for name, c := range unhookable {
		t.Run(name, func(t *testing.T) {
			s := newStranded(t, iptables.NFT)
			h := s.h
			s.stop()
			h.etcd.Cut()
			h.start()
			h.awaitDisconnected()
			c.makeOn(h)
			// Rules of the filter table, where that stands, keep the second pair apart, and none the first.
			s.w.stopped(s.a, s.b)
			s.w.stopped(s.a, s.x)
			s.goesOn()
			h.awaitProblemOf("IPv6", c.cure())
			h.awaitProblemOf("IPv6", "felix drops all new connections")
			s.touchesNothing()
			h.Run("nft", "delete table ip calico-closed; delete table ip6 calico-closed")
			s.w.stopped(s.a, s.b)
			s.w.stopped(s.a, s.x)
			// It is mended: of the rules that went with the table felix knows none.
			h.Run("nft", fmt.Sprintf("delete table ip %s; delete table ip6 %s", c.table, c.table))
			nettest.Eventually(t, patience, func() error {
				if list := h.Run("nft", "list", "tables"); strings.Contains(list, "calico-closed") {
					return fmt.Errorf("there are %s", list)
				}
				return nil
			})
			s.awaitTaken(c.table == "filter")
			s.w.cannotReach(s.a, s.x)
			s.goesOn()
			s.comesBack(func(s *stranded) { h.etcd.Mend() })
		})
	}
}

// TestAWaitingFelixWakesADormantTable has another program put iptables' tables to sleep, also
// before felix starts.
func TestAWaitingFelixWakesADormantTable(t *testing.T) {
	s := newStranded(t, iptables.NFT)
	s.stop()
	s.h.etcd.Cut()
	for _, running := range []bool{false, true} {
		for _, table := range []string{"filter", "raw"} {
			s.h.Run("nft", fmt.Sprintf("add table ip %s { flags dormant; }; add table ip6 %s { flags dormant; }", table, table))
		}
		if !running {
			s.h.start()
		}
		nettest.Eventually(t, patience, func() error {
			if list := s.h.Run("nft", "list", "ruleset"); strings.Contains(list, "dormant") {
				return errors.New("a table sleeps")
			}
			return nil
		})
		s.w.canReach(s.a, s.b)
		s.w.cannotReach(s.a, s.x)
		s.goesOn()
	}
}
