package net

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

var errStillOpen = errors.New("the path is still open")

// TestConfdIsNoDecoration: without confd a changed peer does not reach bgpd, while a
// new block, which bgpd watches itself, does; with confd back the peer arrives.
func TestConfdIsNoDecoration(t *testing.T) {
	r := cluster.New(t, 2)
	r.StartAll()
	h := r.Hosts[0]
	h.HasPeer(r.Hosts[1].Addr(false).String(), "established")
	h.Confd.Kill()

	peer := netip.MustParseAddr("10.77.0.99")
	if _, err := r.Store.Create(t.Context(), model.BGPPeerKey{IP: peer}, &model.BGPPeer{IP: peer, ASNumber: 65001}); err != nil {
		t.Fatal(err)
	}
	// The other host has its confd, so its bgpd shows that the peer was there to be seen.
	r.Hosts[1].HasPeer(peer.String(), "")
	c := r.Hosts[1].Add("c", "net1")
	h.HasRoute(cluster.Block(c.IP).String() + " via " + r.Hosts[1].Addr(false).String())
	if states, err := h.Peers(); err != nil || states[peer.String()] != "" {
		t.Errorf("a peer reached bgpd without confd: %v %v", states, err)
	}
	h.StartConfd()
	h.HasPeer(peer.String(), "")
}

// TestRoutesComeByBGP: with TCP 179 shut from the start no route of another host
// appears; opened, it does.
func TestRoutesComeByBGP(t *testing.T) {
	r := cluster.New(t, 2)
	for _, h := range r.Hosts {
		h.Run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "179", "-j", "DROP")
	}
	r.StartAll()
	a, c := r.Hosts[0].Add("a", "net1"), r.Hosts[1].Add("c", "net1")
	a.InForce()
	c.InForce()
	r.Hosts[0].HasRoute("blackhole " + cluster.Block(a.IP).String())
	r.Hosts[1].HasRoute("blackhole " + cluster.Block(c.IP).String())
	// The lower address listens, so the other host is the one that calls.
	nettest.Eventually(t, cluster.Patience, func() error {
		if rules := r.Hosts[0].Run("iptables", "-nvxL", "INPUT"); !dropped(rules) {
			return fmt.Errorf("no call to port 179 was dropped yet:\n%s", rules)
		}
		return nil
	})
	for i, h := range r.Hosts {
		if all := h.Routes(); strings.Contains(all, " via "+r.Hosts[1-i].Addr(false).String()) {
			t.Errorf("%s has a route of another host without BGP:\n%s", h.Node, all)
		}
	}
	a.Cut(c.IP)
	for _, h := range r.Hosts {
		h.Run("iptables", "-D", "INPUT", "-p", "tcp", "--dport", "179", "-j", "DROP")
	}
	r.Hosts[0].HasRoute(cluster.Block(c.IP).String() + " via")
	a.Reaches(c.IP, 62)
}

// dropped reports whether the rule for port 179 has counted a packet.
func dropped(rules string) bool {
	for line := range strings.SplitSeq(rules, "\n") {
		if f := strings.Fields(line); len(f) > 2 && strings.Contains(line, "dpt:179") && f[2] == "DROP" {
			return f[0] != "0"
		}
	}
	return false
}

// TestFelixStopped: whoever waits for an endpoint is told by a deadline, not by a
// false yes; felix going on, the answer comes.
func TestFelixStopped(t *testing.T) {
	r := cluster.New(t, 1)
	h := r.Hosts[0]
	h.StartFelix()
	a := h.Add("a", "net1")
	a.InForce()
	if err := h.Felix.Freeze(); err != nil {
		t.Fatal(err)
	}
	b := h.Add("b", "net1")
	if err := b.Wait(time.Second); err == nil {
		t.Error("a stopped felix said that an endpoint is in force")
	}
	b.Cut(a.IP)
	if err := h.Felix.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	b.InForce()
	b.Reaches(a.IP, 63)
}

// TestStoreGone: with etcd away traffic flows and denials hold; what was written
// meanwhile is in force soon after its return.
func TestStoreGone(t *testing.T) {
	r := cluster.New(t, 2)
	r.StartAll()
	a := r.Hosts[0].Add("a", "net1")
	c, d := r.Hosts[1].Add("c", "net1"), r.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, c, d} {
		w.InForce()
	}
	a.Reaches(c.IP, 62)
	a.Cut(d.IP)
	r.Etcd.Stop()
	a.Reaches(c.IP, 62)
	a.Cut(d.IP)
	if err := r.Etcd.Restart(); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, cluster.Patience, func() error { return r.Store.Ping(t.Context()) })
	r.Profile("net2", "net1")
	a.Reaches(d.IP, 62)
}
