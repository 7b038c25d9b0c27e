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
)

var errStillOpen = errors.New("the path is still open")

// TestConfdIsNoDecoration: without confd a changed peer does not reach bgpd, while a
// new block, which bgpd watches itself, does; with confd back the peer arrives.
func TestConfdIsNoDecoration(t *testing.T) {
	r := newRig(t, 2)
	r.startAll()
	h := r.hosts[0]
	h.hasPeer(r.hosts[1].Addr(false).String(), "established")
	h.cfd.Kill()

	peer := netip.MustParseAddr("10.77.0.99")
	if _, err := r.store.Create(t.Context(), model.BGPPeerKey{IP: peer}, &model.BGPPeer{IP: peer, ASNumber: 65001}); err != nil {
		t.Fatal(err)
	}
	// The other host has its confd, so its bgpd shows that the peer was there to be seen.
	r.hosts[1].hasPeer(peer.String(), "")
	c := r.hosts[1].add("c", "net1")
	h.hasRoute(block(c.ip) + " via " + r.hosts[1].Addr(false).String())
	if states, err := h.peers(); err != nil || states[peer.String()] != "" {
		t.Errorf("a peer reached bgpd without confd: %v %v", states, err)
	}
	h.startConfd()
	h.hasPeer(peer.String(), "")
}

// TestRoutesComeByBGP: with TCP 179 shut from the start no route of another host
// appears; opened, it does.
func TestRoutesComeByBGP(t *testing.T) {
	r := newRig(t, 2)
	for _, h := range r.hosts {
		h.Run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "179", "-j", "DROP")
	}
	r.startAll()
	a, c := r.hosts[0].add("a", "net1"), r.hosts[1].add("c", "net1")
	a.inForce()
	c.inForce()
	r.hosts[0].hasRoute("blackhole " + block(a.ip))
	r.hosts[1].hasRoute("blackhole " + block(c.ip))
	// The lower address listens, so the other host is the one that calls.
	nettest.Eventually(t, patience, func() error {
		if rules := r.hosts[0].Run("iptables", "-nvxL", "INPUT"); !dropped(rules) {
			return fmt.Errorf("no call to port 179 was dropped yet:\n%s", rules)
		}
		return nil
	})
	for i, h := range r.hosts {
		if all := h.routes(); strings.Contains(all, " via "+r.hosts[1-i].Addr(false).String()) {
			t.Errorf("%s has a route of another host without BGP:\n%s", h.node, all)
		}
	}
	a.cut(c.ip)
	for _, h := range r.hosts {
		h.Run("iptables", "-D", "INPUT", "-p", "tcp", "--dport", "179", "-j", "DROP")
	}
	r.hosts[0].hasRoute(block(c.ip) + " via")
	a.reaches(c.ip, 62)
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
	r := newRig(t, 1)
	h := r.hosts[0]
	h.startFelix()
	a := h.add("a", "net1")
	a.inForce()
	if err := h.felix.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b := h.add("b", "net1")
	if err := b.wait(time.Second); err == nil {
		t.Error("a stopped felix said that an endpoint is in force")
	}
	b.cut(a.ip)
	if err := h.felix.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	b.inForce()
	b.reaches(a.ip, 63)
}

// TestStoreGone: with etcd away traffic flows and denials hold; what was written
// meanwhile is in force soon after its return.
func TestStoreGone(t *testing.T) {
	r := newRig(t, 2)
	r.startAll()
	a := r.hosts[0].add("a", "net1")
	c, d := r.hosts[1].add("c", "net1"), r.hosts[1].add("d", "net2")
	for _, w := range []*workload{a, c, d} {
		w.inForce()
	}
	a.reaches(c.ip, 62)
	a.cut(d.ip)
	r.etcd.Stop()
	a.reaches(c.ip, 62)
	a.cut(d.ip)
	if err := r.etcd.Restart(); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, patience, func() error { return r.store.Ping(t.Context()) })
	r.addProfile("net2", "net1")
	a.reaches(d.ip, 62)
}
