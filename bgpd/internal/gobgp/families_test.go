//go:build !race

package gobgp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/reconcile"
)

// families makes a speaker of both families whose IPv4 side has a session with o.
func families(t *testing.T, o *node, own netip.Addr) (*Families, Global) {
	t.Helper()
	f, err := NewFamilies(t.Context(), Options{Log: testLog(t), Notify: func() { reconcile.Kick(o.kick) }}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.v4.Close(t.Context())
		f.v6.Close(t.Context())
	})
	return f, Global{ASNumber: 64512, RouterID: own, Listen: []netip.Addr{own}, Port: 11790}
}

// TestFamilies_one_that_cannot_listen_leaves_the_other_alone: at the start, and when it
// comes and goes.
func TestFamilies_one_that_cannot_listen_leaves_the_other_alone(t *testing.T) {
	_, b := pair(t)
	own := b.global.Listen[0].Prev()
	own = netip.AddrFrom4([4]byte{127, 77, own.As4()[2], 9})
	f, g := families(t, b, own)
	missing := netip.MustParseAddr("2001:db8::99")
	both := g
	both.Listen = []netip.Addr{own, missing}
	restarted, failed := f.Start(t.Context(), both)
	if !restarted || len(failed) != 1 || !AddressMissing(failed[0]) || !strings.Contains(failed[0].Error(), "--ip6=") {
		t.Errorf("Start: %v, restarted %t", failed, restarted)
	}
	if !f.Running(true) || f.Running(false) {
		t.Fatalf("running: %t %t", f.Running(true), f.Running(false))
	}

	self := &node{Speaker: f.v4, t: t, global: g}
	peer := self.peerOf(b, nil)
	far := peer
	far.Address, far.LocalAddress, far.Name = netip.MustParseAddr("2001:db8::98"), missing, "Mesh_v6"
	peers := reconcile.Changes[netip.Addr, calc.Peer]{Set: []reconcile.Item[netip.Addr, calc.Peer]{{Key: peer.Address, Value: peer}, {Key: far.Address, Value: far}}}
	if err := f.Peers().Apply(t.Context(), peers); err != nil {
		t.Errorf("peers: %v", err)
	}
	paths := reconcile.Changes[netip.Prefix, calc.Advert]{Set: []reconcile.Item[netip.Prefix, calc.Advert]{
		{Key: netip.MustParsePrefix("192.168.1.0/26")}, {Key: netip.MustParsePrefix("fd80::40/122")},
	}}
	if err := f.Paths().Apply(t.Context(), paths); err != nil {
		t.Errorf("paths: %v", err)
	}
	b.setPeers(b.peerOf(self, nil))
	b.awaitEvent("update 192.168.1.0/26")
	before := f.Session(peer.Address)

	// The other family comes, changes, cannot be had, and goes.
	for _, listen := range [][]netip.Addr{{own, netip.IPv6Loopback()}, {own, missing}, {own}} {
		next := g
		next.Listen = listen
		refuse := f.Refuse(next)
		restarted, failed := f.Start(t.Context(), next)
		if cannot := slices.Contains(listen, missing); cannot != (len(failed) > 0) || cannot != (refuse != nil) || restarted == cannot {
			t.Errorf("Start with %v: %v, restarted %t; refused: %v", listen, failed, restarted, refuse)
		}
	}
	if f.Running(false) {
		t.Error("IPv6 still runs")
	}
	if got := f.Session(peer.Address); got != before || slices.Contains(b.history, "down") {
		t.Errorf("session was %+v, is %+v; the other side saw %v", before, got, b.history)
	}
	have, err := f.Peers().List(t.Context())
	if err != nil || len(have) != 1 {
		t.Errorf("peers are %v (%v)", have, err)
	}
}
