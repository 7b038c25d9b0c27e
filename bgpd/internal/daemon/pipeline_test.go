package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/reconcile"
)

// recorder is a target that writes into a common list what is done, in order.
type recorder[K comparable, V any] struct {
	name   string
	log    *[]string
	have   map[K]V
	refuse map[K]error
	broken error
}

func (r *recorder[K, V]) List(context.Context) (map[K]V, error) {
	return maps.Clone(r.have), r.broken
}

func (r *recorder[K, V]) Apply(_ context.Context, c reconcile.Changes[K, V]) error {
	var failed reconcile.KeyErrors[K]
	for _, it := range c.Set {
		if err := r.refuse[it.Key]; err != nil {
			failed.Add(it.Key, err)
			continue
		}
		r.have[it.Key] = it.Value
		*r.log = append(*r.log, fmt.Sprintf("%s + %v", r.name, it.Key))
	}
	for _, k := range c.Delete {
		delete(r.have, k)
		*r.log = append(*r.log, fmt.Sprintf("%s - %v", r.name, k))
	}
	return failed.Err()
}

type rig struct {
	*pipeline
	log     []string
	routes  *recorder[netip.Prefix, calc.Route]
	peers   *recorder[netip.Addr, calc.Peer]
	running bool
}

func newRig() *rig {
	r := &rig{pipeline: &pipeline{open: true}, running: true}
	r.routes = &recorder[netip.Prefix, calc.Route]{name: "route", log: &r.log, have: map[netip.Prefix]calc.Route{}, refuse: map[netip.Prefix]error{}}
	r.peers = &recorder[netip.Addr, calc.Peer]{name: "peer", log: &r.log, have: map[netip.Addr]calc.Peer{}, refuse: map[netip.Addr]error{}}
	adverts := &recorder[netip.Prefix, calc.Advert]{name: "advert", log: &r.log, have: map[netip.Prefix]calc.Advert{}}
	r.connect(targets{routes: r.routes, adverts: adverts, peers: r.peers, speaking: func() bool { return r.running }})
	return r
}

func (r *rig) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	if !slices.Equal(r.log, want) {
		t.Errorf("%s: done was %q, want %q", what, r.log, want)
	}
	r.log = nil
}

var (
	block    = netip.MustParsePrefix("192.168.1.0/26")
	borrowed = netip.MustParsePrefix("192.168.2.7/32")
	remote   = netip.MustParsePrefix("192.168.3.0/26")
	peer     = netip.MustParseAddr("10.0.0.2")
)

func gain() calc.Changes {
	return calc.Changes{
		Peers:   []calc.Change[netip.Addr, calc.Peer]{{Key: peer, Value: calc.Peer{Address: peer}}},
		Adverts: []calc.Change[netip.Prefix, calc.Advert]{{Key: block}, {Key: borrowed}},
		Routes:  []calc.Change[netip.Prefix, calc.Route]{{Key: block, Value: calc.Route{Type: calc.Blackhole}}, {Key: remote}},
	}
}

func lose(c calc.Changes) calc.Changes {
	for i := range c.Peers {
		c.Peers[i].Delete = true
	}
	for i := range c.Adverts {
		c.Adverts[i].Delete = true
	}
	for i := range c.Routes {
		c.Routes[i].Delete = true
	}
	return c
}

func TestPipeline_order(t *testing.T) {
	r := newRig()
	r.take(gain())
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "gained: blackhole, advert, session", "route + 192.168.1.0/26", "route + 192.168.3.0/26", "advert + 192.168.1.0/26", "advert + 192.168.2.7/32", "peer + 10.0.0.2")
	r.take(lose(gain()))
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "lost: withdrawal, then the blackhole", "advert - 192.168.1.0/26", "advert - 192.168.2.7/32", "route - 192.168.1.0/26", "route - 192.168.3.0/26", "peer - 10.0.0.2")
}

func TestPipeline_no_advert_without_its_blackhole(t *testing.T) {
	r := newRig()
	r.routes.refuse[block] = errors.New("no")
	r.take(gain())
	err := r.Apply(t.Context())
	if !reconcile.IsPartial(err) || !r.applied {
		t.Errorf("Apply: %v", err)
	}
	r.expect(t, "refused", "route + 192.168.3.0/26", "advert + 192.168.2.7/32", "peer + 10.0.0.2")
	delete(r.routes.refuse, block)
	r.Resync()
	r.pipeline.routes.Set(block, calc.Route{})
	r.pipeline.routes.Set(block, calc.Route{Type: calc.Blackhole}) // another value is tried at once
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "accepted", "route + 192.168.1.0/26", "advert + 192.168.1.0/26")
}

func TestPipeline_a_peer_that_fails_holds_up_nothing(t *testing.T) {
	r := newRig()
	r.peers.refuse[peer] = errors.New("no")
	r.take(gain())
	if err := r.Apply(t.Context()); !reconcile.IsPartial(err) {
		t.Errorf("Apply: %v", err)
	}
	r.log = nil
	c := gain()
	c.Peers, c.Adverts, c.Routes = nil, nil, c.Routes[1:]
	r.take(lose(c))
	_ = r.Apply(t.Context())
	r.expect(t, "a withdrawn route", "route - 192.168.3.0/26")
}

func TestPipeline_a_kernel_that_fails_keeps_adverts_back(t *testing.T) {
	r := newRig()
	r.routes.broken = errors.New("no netlink")
	r.take(gain())
	if err := r.Apply(t.Context()); err == nil || reconcile.IsPartial(err) || r.applied {
		t.Errorf("Apply: %v, applied %t", err, r.applied)
	}
	r.expect(t, "nothing")
}

func TestPipeline_without_BGP_there_are_routes_alone(t *testing.T) {
	r := newRig()
	r.running = false
	r.take(gain())
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "no server", "route + 192.168.1.0/26", "route + 192.168.3.0/26")
	r.running = true
	r.restarted()
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "a server", "advert + 192.168.1.0/26", "advert + 192.168.2.7/32", "peer + 10.0.0.2")
}

func TestPipeline_writes_nothing_before_it_is_opened(t *testing.T) {
	r := newRig()
	r.open = false
	r.take(gain())
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "closed")
}
