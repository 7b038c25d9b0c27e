// GoBGP v3 has data races of its own (osrg/gobgp#2705, and package variables that two
// servers of one process share), which the detector would report here.

//go:build !race

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
	api "github.com/osrg/gobgp/v3/api"
)

// node is a speaker on a loopback address with what it has heard.
type node struct {
	*Speaker
	t       testing.TB
	global  Global
	kick    chan struct{}
	history []string
	routes  map[netip.Prefix]calc.Path
}

var lastNet atomic.Uint32

// pair makes two speakers that know of each other, the first one with the lower
// address, in a part of 127/8 that is theirs alone.
func pair(t testing.TB) (a, b *node) {
	t.Helper()
	third := byte(lastNet.Add(1))
	return newNode(t, netip.AddrFrom4([4]byte{127, 77, third, 1})), newNode(t, netip.AddrFrom4([4]byte{127, 77, third, 2}))
}

func newNode(t testing.TB, addr netip.Addr) *node {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{
		t:      t,
		global: Global{ASNumber: 64512, RouterID: addr, Listen: []netip.Addr{addr}, Port: 11790},
		kick:   reconcile.NewKick(),
		routes: map[netip.Prefix]calc.Path{},
	}
	var err error
	n.Speaker, err = New(ctx, Options{Log: testLog(t), Notify: func() { reconcile.Kick(n.kick) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close(context.Background())
		cancel()
	})
	if _, err := n.Start(ctx, n.global); err != nil {
		t.Fatal(err)
	}
	return n
}

// peerOf is how n sees o.
func (n *node) peerOf(o *node, change func(*calc.Peer)) calc.Peer {
	own, other := n.global.Listen[0], o.global.Listen[0]
	p := calc.Peer{
		Name:         "Mesh_" + other.String(),
		Type:         config.PeerMesh,
		Address:      other,
		ASNumber:     o.global.ASNumber,
		Port:         o.global.Port,
		LocalAddress: own,
		Passive:      own.Less(other),
		Timers:       config.Timers{Hold: 90 * time.Second, ConnectRetry: time.Second, Restart: 120 * time.Second},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func (n *node) setPeers(ps ...calc.Peer) {
	n.t.Helper()
	var c reconcile.Changes[netip.Addr, calc.Peer]
	for _, p := range ps {
		c.Set = append(c.Set, reconcile.Item[netip.Addr, calc.Peer]{Key: p.Address, Value: p})
	}
	if err := n.Peers().Apply(n.t.Context(), c); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) advertise(prefixes ...string) {
	n.t.Helper()
	var c reconcile.Changes[netip.Prefix, calc.Advert]
	for _, p := range prefixes {
		c.Set = append(c.Set, reconcile.Item[netip.Prefix, calc.Advert]{Key: netip.MustParsePrefix(p)})
	}
	if err := n.Paths().Apply(n.t.Context(), c); err != nil {
		n.t.Fatal(err)
	}
}

// collect takes the events that there are.
func (n *node) collect() {
	for _, e := range n.Events() {
		switch e.Kind {
		case PeerUp:
			n.history = append(n.history, "up")
		case PeerDown:
			n.history = append(n.history, strings.TrimSpace(fmt.Sprintf("down %s", map[bool]string{true: "notified"}[e.Notified])))
		case EndOfRIB:
			n.history = append(n.history, "eor")
		case Paths:
			for _, p := range e.Paths {
				if p.Withdraw {
					n.history = append(n.history, "withdraw "+p.Prefix.String())
					delete(n.routes, p.Prefix)
					continue
				}
				n.history = append(n.history, "update "+p.Prefix.String())
				n.routes[p.Prefix] = p.Path
			}
		}
	}
}

// await collects events until the condition holds.
func (n *node) await(what string, cond func() bool) {
	n.t.Helper()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	for {
		n.collect()
		if cond() {
			return
		}
		select {
		case <-n.kick:
		case <-timer.C:
			n.t.Fatalf("%s: %s does not come; history %v", n.global.Listen[0], what, n.history)
		}
	}
}

func (n *node) awaitEvent(event string) {
	n.t.Helper()
	n.await(event, func() bool { return slices.Contains(n.history, event) })
}

func TestSpeaker_two_hosts(t *testing.T) {
	a, b := pair(t)
	a.advertise("192.168.1.0/26", "192.168.1.64/26")
	start := time.Now()
	a.setPeers(a.peerOf(b, nil))
	b.setPeers(b.peerOf(a, nil))
	b.awaitEvent("eor")
	t.Logf("established and synchronised after %v", time.Since(start))
	want := []string{"up", "update 192.168.1.0/26", "update 192.168.1.64/26", "eor"}
	slices.Sort(b.history[1:3])
	if !slices.Equal(b.history, want) {
		t.Errorf("history is %v, want %v", b.history, want)
	}
	path := b.routes[netip.MustParsePrefix("192.168.1.0/26")]
	if path.NextHop != a.global.Listen[0] || path.LocalPref != 100 || path.External || path.ASPathLen != 0 {
		t.Errorf("path is %+v", path)
	}
	if s := b.Session(a.global.Listen[0]); s.State != "established" || s.Reason != "" || s.Since.Before(start) {
		t.Errorf("session is %+v", s)
	}
	start = time.Now()
	a.advertise("192.168.1.128/26")
	b.awaitEvent("update 192.168.1.128/26")
	t.Logf("a new block took %v", time.Since(start))
	if err := a.Paths().Apply(t.Context(), reconcile.Changes[netip.Prefix, calc.Advert]{Delete: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/26")}}); err != nil {
		t.Fatal(err)
	}
	b.awaitEvent("withdraw 192.168.1.0/26")
}

func TestSpeaker_a_peer_that_ends_the_session_is_known_to_have_meant_it(t *testing.T) {
	a, b := pair(t)
	a.setPeers(a.peerOf(b, nil))
	b.setPeers(b.peerOf(a, nil))
	b.awaitEvent("up")
	a.awaitEvent("up")
	if err := a.Peers().Apply(t.Context(), reconcile.Changes[netip.Addr, calc.Peer]{Delete: b.global.Listen}); err != nil {
		t.Fatal(err)
	}
	b.awaitEvent("down notified")
	if s := b.Session(a.global.Listen[0]); !strings.HasPrefix(s.Reason, notified) || s.State == "established" {
		t.Errorf("session is %+v", s)
	}
	a.setPeers(a.peerOf(b, nil))
	b.history = nil
	start := time.Now()
	b.awaitEvent("up")
	t.Logf("up again after %v", time.Since(start))
}

func TestSpeaker_changes_of_others_leave_a_session_alone(t *testing.T) {
	a, b := pair(t)
	a.setPeers(a.peerOf(b, nil))
	b.setPeers(b.peerOf(a, nil))
	a.awaitEvent("up")
	b.awaitEvent("up")
	before := b.Session(a.global.Listen[0])
	far := b.peerOf(a, func(p *calc.Peer) { p.Address = netip.MustParseAddr("127.77.0.99") })
	b.setPeers(far)
	b.setPeers(b.peerOf(a, func(p *calc.Peer) { p.Name, p.Type = "Node_x", config.PeerNode }))
	if _, err := b.Start(t.Context(), b.global); err != nil {
		t.Fatal(err)
	}
	a.advertise("192.168.1.0/26")
	b.awaitEvent("update 192.168.1.0/26")
	if got := b.Session(a.global.Listen[0]); got != before || slices.Contains(b.history, "down") {
		t.Errorf("session was %+v, is %+v; history %v", before, got, b.history)
	}
}

func TestSpeaker_own_AS_changes(t *testing.T) {
	a, b := pair(t)
	a.advertise("192.168.1.0/26")
	a.setPeers(a.peerOf(b, nil))
	b.setPeers(b.peerOf(a, nil))
	b.awaitEvent("eor")
	a.global.ASNumber = 65001
	restarted, err := a.Start(t.Context(), a.global)
	if err != nil || !restarted {
		t.Fatalf("Start: %v, restarted %t", err, restarted)
	}
	a.advertise("192.168.1.0/26")
	a.setPeers(a.peerOf(b, nil))
	b.awaitEvent("down notified")
	b.history = nil
	b.setPeers(b.peerOf(a, nil))
	b.awaitEvent("eor")
	if p := b.routes[netip.MustParsePrefix("192.168.1.0/26")]; !p.External || p.NeighborAS != 65001 || p.ASPathLen != 1 || p.NextHop != a.global.Listen[0] {
		t.Errorf("path is %+v", p)
	}
}

func TestSpeaker_secrets(t *testing.T) {
	a, b := pair(t)
	withSecret := func(s config.Secret) func(*calc.Peer) {
		return func(p *calc.Peer) { p.Password = s }
	}
	if err := secretsPossible(); err != nil {
		t.Logf("only the refusal can be tested here: %v", err)
		p := a.peerOf(b, withSecret("one"))
		a.setPeers(a.peerOf(b, nil))
		err := a.Peers().Apply(t.Context(), reconcile.Changes[netip.Addr, calc.Peer]{Set: []reconcile.Item[netip.Addr, calc.Peer]{{Key: p.Address, Value: p}}})
		if err == nil || !strings.Contains(err.Error(), "CONFIG_TCP_MD5SIG") {
			t.Errorf("a peer with a secret: %v", err)
		}
		if peers, err := a.Peers().List(t.Context()); err != nil || len(peers) != 0 {
			t.Errorf("peers are %v (%v): it would talk without the secret", peers, err)
		}
		return
	}
	for _, secrets := range [][2]config.Secret{{"one", "one"}, {"two", "two"}, {"", ""}, {"three", "three"}} {
		a.history, b.history = nil, nil
		a.setPeers(a.peerOf(b, withSecret(secrets[0])))
		b.setPeers(b.peerOf(a, withSecret(secrets[1])))
		b.awaitEvent("up")
		a.awaitEvent("up")
	}
	a.history = nil
	a.setPeers(a.peerOf(b, withSecret("four")))
	a.await("the end of the session", func() bool { return slices.Contains(a.history, "down") })
	b.await("a reason", func() bool { return b.Session(a.global.Listen[0]).State != "established" })
	if slices.Contains(a.history, "up") {
		t.Error("a session came up with different secrets")
	}
}

// TestSpeaker_a_password_that_the_kernel_cannot_have ends the session that is up, and
// says so: the routes of the peer must not stay for ever.
func TestSpeaker_a_password_that_the_kernel_cannot_have(t *testing.T) {
	a, b := pair(t)
	a.secretsPossible = func() error { return errors.New("no signatures") }
	a.setPeers(a.peerOf(b, nil))
	b.setPeers(b.peerOf(a, nil))
	a.awaitEvent("up")
	p := a.peerOf(b, func(p *calc.Peer) { p.Password = "secret" })
	err := a.Peers().Apply(t.Context(), reconcile.Changes[netip.Addr, calc.Peer]{Set: []reconcile.Item[netip.Addr, calc.Peer]{{Key: p.Address, Value: p}}})
	if err == nil || !strings.Contains(err.Error(), "no signatures") {
		t.Errorf("a peer with a secret: %v", err)
	}
	a.awaitEvent("down")
}

// TestSpeaker_a_peer_that_GoBGP_does_not_take_is_tried_again: for the table it is there.
func TestSpeaker_a_peer_that_GoBGP_does_not_take_is_tried_again(t *testing.T) {
	a, b := pair(t)
	a.setPeers(a.peerOf(b, nil))
	b.setPeers(b.peerOf(a, nil))
	a.awaitEvent("up")
	// GoBGP takes no peers for a while.
	if err := a.server.StopBgp(t.Context(), &api.StopBgpRequest{}); err != nil {
		t.Fatal(err)
	}
	a.onState(t.Context(), &api.Peer{State: &api.PeerState{NeighborAddress: b.global.Listen[0].String(), SessionState: api.PeerState_IDLE}})
	a.waitReason(b, "add peer Mesh_")
	if err := a.server.StartBgp(t.Context(), &api.StartBgpRequest{Global: globalToAPI(a.global)}); err != nil {
		t.Fatal(err)
	}
	a.history = nil
	a.awaitEvent("up")
}

// TestSpeaker_a_connection_that_says_nothing does not keep the peer out.
func TestSpeaker_a_connection_that_says_nothing(t *testing.T) {
	a, b := pair(t)
	a.openPatience = 500 * time.Millisecond
	a.setPeers(a.peerOf(b, nil))
	from := &net.TCPAddr{IP: b.global.Listen[0].AsSlice()}
	to := &net.TCPAddr{IP: a.global.Listen[0].AsSlice(), Port: int(a.global.Port)}
	// A connection that comes before the peer is ready for one is closed at once.
	nettest.Eventually(t, 20*time.Second, func() error {
		conn, err := net.DialTCP("tcp", from, to)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = conn.Close() })
		<-time.After(a.openPatience / 5)
		if st := a.Session(b.global.Listen[0]).State; st != "opensent" {
			return fmt.Errorf("session is %s", st)
		}
		return nil
	})
	b.setPeers(b.peerOf(a, nil))
	a.awaitEvent("up")
}

func TestSpeaker_tells_why_a_session_does_not_come_up(t *testing.T) {
	a, b := pair(t)
	nobody := b.peerOf(a, func(p *calc.Peer) { p.Port = 11791 })
	b.setPeers(nobody)
	b.waitReason(a, "cannot connect: connection refused")

	a.setPeers(a.peerOf(b, func(p *calc.Peer) { p.ASNumber = 65099 }))
	b.setPeers(b.peerOf(a, nil))
	a.waitReason(b, "refused by this side: as number mismatch expected 65099, received 64512")
	b.waitReason(a, "the peer refused the session")

	a.setPeers(a.peerOf(b, nil))
	b.awaitEvent("up")
}

func (n *node) waitReason(o *node, prefix string) {
	n.t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(8 * time.Second)
	for {
		s := n.Session(o.global.Listen[0])
		if strings.HasPrefix(s.Reason, prefix) {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			n.t.Fatalf("session is %+v, want reason %q", s, prefix)
		}
	}
}

func TestSpeaker_refuses_a_port_or_address_that_it_cannot_have(t *testing.T) {
	a, b := pair(t)
	g := a.global
	g.Listen = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	_, err := a.Start(t.Context(), g)
	if !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "this host does not have the address") {
		t.Errorf("Start on a foreign address: %v", err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(b.global.Listen[0].String(), "11999"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	g = b.global
	g.Port = 11999
	_, err = b.Start(t.Context(), g)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "the port is in use by another program") {
		t.Errorf("Start on a used port: %v", err)
	}
	if !a.Running() || !b.Running() {
		t.Error("a refusal ended what ran")
	}
	a.setPeers(a.peerOf(b, nil))
	b.setPeers(b.peerOf(a, nil))
	a.awaitEvent("up")
}

func TestNew_protects_the_socket(t *testing.T) {
	ctx := t.Context()
	socket := filepath.Join(t.TempDir(), "gobgp.sock")
	opts := Options{Log: testLog(t), Socket: socket, Notify: func() {}}
	s, err := New(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info, err)
	}
	if _, err := New(ctx, opts); err == nil || !strings.Contains(err.Error(), "in use by another bgpd") {
		t.Errorf("second speaker on the socket: %v", err)
	}
	s.Close(ctx)
}

func TestPeers_keeps_the_contract_of_targets(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject[netip.Addr, calc.Peer] {
		a, b := pair(t)
		item := func(last byte) reconcile.Item[netip.Addr, calc.Peer] {
			p := a.peerOf(b, func(p *calc.Peer) { p.Address = netip.AddrFrom4([4]byte{127, 77, 200, last}) })
			return reconcile.Item[netip.Addr, calc.Peer]{Key: p.Address, Value: p}
		}
		changed := item(1).Value
		changed.ASNumber = 65077
		return targettest.Subject[netip.Addr, calc.Peer]{
			Target:  a.Peers(),
			Compare: netip.Addr.Compare,
			Equal:   func(x, y calc.Peer) bool { return x == y },
			Items:   []reconcile.Item[netip.Addr, calc.Peer]{item(1), item(2), item(3)},
			Changed: changed,
			Remove: func(t *testing.T, k netip.Addr) {
				if err := a.server.DeletePeer(t.Context(), &api.DeletePeerRequest{Address: k.String()}); err != nil {
					t.Fatal(err)
				}
			},
			// The whole instance is ours: there are no foreign peers.
			AddForeign: func(*testing.T) func(*testing.T) { return func(*testing.T) {} },
		}
	})
}

func TestPaths_keeps_the_contract_of_targets(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject[netip.Prefix, calc.Advert] {
		a, _ := pair(t)
		item := func(s string) reconcile.Item[netip.Prefix, calc.Advert] {
			return reconcile.Item[netip.Prefix, calc.Advert]{Key: netip.MustParsePrefix(s)}
		}
		foreign, err := pathToAPI(netip.MustParsePrefix("203.0.113.0/24"))
		if err != nil {
			t.Fatal(err)
		}
		return targettest.Subject[netip.Prefix, calc.Advert]{
			Target:  a.Paths(),
			Compare: netip.Prefix.Compare,
			Equal:   func(x, y calc.Advert) bool { return x == y },
			Items:   []reconcile.Item[netip.Prefix, calc.Advert]{item("192.168.1.0/26"), item("192.168.1.64/26"), item("fd80::40/122")},
			Remove: func(t *testing.T, k netip.Prefix) {
				path, err := pathToAPI(k)
				if err != nil {
					t.Fatal(err)
				}
				if err := a.server.DeletePath(t.Context(), &api.DeletePathRequest{Family: path.GetFamily(), Path: path}); err != nil {
					t.Fatal(err)
				}
			},
			AddForeign: func(t *testing.T) func(*testing.T) {
				if _, err := a.server.AddPath(t.Context(), &api.AddPathRequest{Path: foreign}); err != nil {
					t.Fatal(err)
				}
				return func(t *testing.T) {
					found := false
					req := &api.ListPathRequest{Family: foreign.GetFamily(), Prefixes: []*api.TableLookupPrefix{{Prefix: "203.0.113.0/24"}}}
					if err := a.server.ListPath(t.Context(), req, func(*api.Destination) { found = true }); err != nil || !found {
						t.Errorf("the operator's path is gone: %v", err)
					}
				}
			},
		}
	})
}
