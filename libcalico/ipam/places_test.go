package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

func (w *world) host(name, addr string) {
	w.Helper()
	p := netip.MustParsePrefix(addr)
	n := &model.Node{}
	if p.Addr().Is4() {
		n.IPv4, n.IPv4Net = p.Addr(), p.Masked()
	} else {
		n.IPv6, n.IPv6Net = p.Addr(), p.Masked()
	}
	w.apply(model.NodeKey{Name: name}, n)
}

func hostHas(places ...string) Option {
	return OnHost(func() ([]localnet.Place, error) {
		var out []localnet.Place
		for i, p := range places {
			out = append(out, localnet.Place{Prefix: netip.MustParsePrefix(p), What: fmt.Sprintf("place %d", i)})
		}
		return out, nil
	})
}

// exhaust takes addresses one by one until there are none.
func (w *world) exhaust(c *Client, ipv6 bool) ([]netip.Addr, error) {
	w.Helper()
	var out []netip.Addr
	for {
		r := Request{IPv4: 1}
		if ipv6 {
			r = Request{IPv6: 1}
		}
		addrs, err := c.AutoAssign(w.ctx(), r)
		if err != nil {
			return out, err
		}
		out = append(out, addrs...)
	}
}

// TestNoBlockTouchesHosts has pools that lie over the LAN of the hosts, a gateway and a
// bridge: until the pool runs out no block touches any of them.
func TestNoBlockTouchesHosts(t *testing.T) {
	for _, tc := range []struct {
		name, pool, node string
		here             []string
		want             int
	}{
		{"the LAN", "10.0.0.0/22", "10.0.0.100/24", []string{"10.0.2.10/32", "10.0.3.64/26"}, 10 * 64},
		{"wider than the pool", "10.0.0.0/22", "10.0.0.100/16", nil, 0},
		{"a node without a subnet", "10.0.0.0/24", "10.0.0.100/32", nil, 3 * 64},
		{"narrower than a block", "10.0.0.0/24", "192.0.2.1/24", []string{"10.0.0.248/30"}, 3 * 64},
		{"IPv6", "fd00:1::/120", "fd00:1::10/124", []string{"fd00:1::ff/128"}, 2 * 64},
		{"elsewhere", "10.0.0.0/24", "192.0.2.1/24", []string{"172.17.0.0/16"}, 4 * 64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, tc.pool)
			w.host("h0", tc.node)
			taken := []netip.Prefix{netip.MustParsePrefix(tc.node).Masked()}
			for _, p := range tc.here {
				taken = append(taken, netip.MustParsePrefix(p))
			}
			addrs, err := w.exhaust(New(w.store, "h0", hostHas(tc.here...)), taken[0].Addr().Is6())
			if !errors.Is(err, ErrPoolFull) || len(addrs) != tc.want {
				t.Errorf("got %d addresses and error %v, want %d", len(addrs), err, tc.want)
			}
			if full := (*PoolFullError)(nil); tc.name != "elsewhere" && (!errors.As(err, &full) || !strings.Contains(err.Error(), "no address comes from blocks that touch ")) {
				t.Errorf("error %v does not say why there are so few", err)
			}
			for _, b := range w.blocks() {
				if i := slices.IndexFunc(taken, b.CIDR.Overlaps); i >= 0 {
					t.Errorf("block %s touches %s", b.CIDR, taken[i])
				}
			}
			w.consistent()
		})
	}
}

// TestErrorNamesWhatIsTaken reads the sentence that an operator gets.
func TestErrorNamesWhatIsTaken(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.host("h0", "10.0.0.100/24")
	w.host("h1", "10.0.0.101/24")
	_, err := w.exhaust(New(w.store, "h0", hostHas("10.0.0.10/32")), false)
	want := "assign an address: no free address: asked for 1 IPv4; pool 10.0.0.0/24: 0 of 256 addresses in use, 0 blocks claimed; " +
		"no address comes from blocks that touch 10.0.0.0/24 (network of node h0); " +
		"add a pool, or release addresses (calicoctl ipam check)"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestHeldBlockThatHostsCameTo has a block from before: its addresses stay, and no new
// one comes from it, however it is asked for.
func TestHeldBlockThatHostsCameTo(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	c := w.node("h0")
	before := w.assign(c, 1, "old")
	held := w.blocks()[0].CIDR
	place := netip.PrefixFrom(held.Addr().Next(), 32).String()

	after := New(w.store, "h0", hostHas(place))
	addrs, err := w.exhaust(after, false)
	if !errors.Is(err, ErrPoolFull) || len(addrs) != 3*64 || slices.ContainsFunc(addrs, held.Contains) {
		t.Errorf("got %d addresses, %v; none may be of %s", len(addrs), err, held)
	}
	free := held.Addr().Next().Next().Next()
	if err := after.Assign(w.ctx(), free, Owner{}); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), place[:len(place)-3]+" (place 0)") {
		t.Errorf("a certain address of it: %v, want who is there", err)
	}
	other := New(w.store, "h1", hostHas(place))
	if got, err := other.AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.Is(err, ErrPoolFull) {
		t.Errorf("another node borrows %v from it, %v", got, err)
	}
	var named []string
	w.host("h9", netip.PrefixFrom(held.Addr(), 32).String())
	for _, p := range w.check(Seen{}) {
		if p.Kind == ProblemAmongHosts {
			named = append(named, p.Text)
		}
	}
	if want := fmt.Sprintf("block %s touches %s (node h9); no new address comes from it", held, held.Addr()); len(named) != 1 || named[0] != want {
		t.Errorf("the check says %q, want %q", named, want)
	}
	w.release(after, before...)
}

// TestNetworkThatComesWhileAddressesAreGivenOut is noticed when the next block is claimed.
func TestNetworkThatComesWhileAddressesAreGivenOut(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	var places []localnet.Place
	c := New(w.store, "h0", OnHost(func() ([]localnet.Place, error) { return places, nil }))
	w.assign(c, 64, "first")
	first := w.blocks()[0].CIDR
	for _, cidr := range []string{"10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26", "10.0.0.192/26"} {
		if p := netip.MustParsePrefix(cidr); p != first && len(places) < 2 {
			places = append(places, localnet.Place{Prefix: p, What: "new bridge"})
		}
	}
	c.queue.places.seen = time.Time{} // a second has passed
	addrs, err := w.exhaust(c, false)
	if !errors.Is(err, ErrPoolFull) || len(addrs) != 64 {
		t.Errorf("got %d addresses, %v, want those of the one block that is left", len(addrs), err)
	}
}

// TestLiveBlocksThatTheStoreLacks: after a restored backup the routes still say which blocks
// are in use. Nobody claims them for the want of addresses.
func TestLiveBlocksThatTheStoreLacks(t *testing.T) {
	for _, tc := range []struct {
		name, pool string
		routes     []localnet.Route
		want       int
	}{
		{"other hosts'", "10.0.0.0/24", []localnet.Route{{Prefix: netip.MustParsePrefix("10.0.0.64/26"), Elsewhere: true}}, 3 * 64},
		{"an address elsewhere", "10.0.0.0/24", []localnet.Route{{Prefix: netip.MustParsePrefix("10.0.0.65/32"), Elsewhere: true}}, 3 * 64},
		{"a container here", "10.0.0.0/24", []localnet.Route{{Prefix: netip.MustParsePrefix("10.0.0.200/32")}}, 3 * 64},
		{"all of them", "10.0.0.0/25", []localnet.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/26")}, {Prefix: netip.MustParsePrefix("10.0.0.64/26"), Elsewhere: true}}, 0},
		{"wider ones", "10.0.0.0/24", []localnet.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Elsewhere: true}, {Prefix: netip.MustParsePrefix("10.0.0.0/25"), Elsewhere: true}}, 4 * 64},
		{"IPv6", "fd00:1::/120", []localnet.Route{{Prefix: netip.MustParsePrefix("fd00:1::40/122"), Elsewhere: true}, {Prefix: netip.MustParsePrefix("fd00:1::81/128")}}, 2 * 64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, tc.pool)
			c := New(w.store, "h0", Routed(func() ([]localnet.Route, error) { return tc.routes, nil }))
			addrs, err := w.exhaust(c, tc.routes[0].Prefix.Addr().Is6())
			if !errors.Is(err, ErrPoolFull) || len(addrs) != tc.want {
				t.Errorf("got %d addresses and error %v, want %d", len(addrs), err, tc.want)
			}
			if says := strings.Contains(fmt.Sprint(err), "a block by this host's routes, which etcd does not know"); says != (tc.name != "wider ones") {
				t.Errorf("error %v does not say why there are so few", err)
			}
			w.consistent()
		})
	}
}

// TestBlockThatGetsRoutesAfterItWasFound is left alone too, and what the store holds, and a
// certain address, can be had all the same.
func TestBlockThatGetsRoutesAfterItWasFound(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	var routes []localnet.Route
	c := New(w.store, "h0", Routed(func() ([]localnet.Route, error) { return routes, nil }))
	w.assign(c, 1, "first")
	held := w.blocks()[0].CIDR
	route := func(p netip.Prefix) { routes = append(routes, localnet.Route{Prefix: p, Elsewhere: true}) }
	route(held)
	var lost []netip.Prefix
	for _, cidr := range []string{"10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26", "10.0.0.192/26"} {
		if p := netip.MustParsePrefix(cidr); p != held {
			lost = append(lost, p)
			c.queue.addVacant(c.queue.env.pools[0], []netip.Prefix{p})
			route(p)
		}
	}
	c.queue.places.routed = nil // a second has passed
	addrs, err := w.exhaust(c, false)
	if !errors.Is(err, ErrPoolFull) || len(addrs) != 63 || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !held.Contains(a) }) {
		t.Errorf("got %d addresses, %v, want the rest of %s", len(addrs), err, held)
	}
	// A container that is written back takes its own.
	if err := c.Assign(w.ctx(), lost[0].Addr().Next(), Owner{}); err != nil {
		t.Errorf("a certain address: %v", err)
	}
	w.consistent()
}

// TestLostBlockIsClaimedWithItsContainers: a container that is written back after a restored
// backup brings its block back, and no address of those that are not yet is given out.
func TestLostBlockIsClaimedWithItsContainers(t *testing.T) {
	for pool, at := range map[string]string{"10.0.0.0/26": "10.0.0.", "fd00:1::/122": "fd00:1::"} {
		t.Run(pool, func(t *testing.T) {
			w := newWorld(t, pool)
			var routes []localnet.Route
			here := addrs(at+"1", at+"7", at+"9")
			for _, a := range here {
				routes = append(routes, localnet.Route{Prefix: netip.PrefixFrom(a, a.BitLen())})
			}
			c := New(w.store, "h0", Routed(func() ([]localnet.Route, error) { return routes, nil }))
			for i, a := range here[:2] {
				if err := c.Assign(w.ctx(), a, Owner{}); err != nil && (i == 0 || !errors.Is(err, ErrInUse)) {
					t.Fatal(err)
				}
				if _, err := c.SetOwner(w.ctx(), []netip.Addr{a}, Owner{Handle: fmt.Sprint("e", i)}); err != nil {
					t.Error(err)
				}
			}
			got, err := w.exhaust(c, here[0].Is6())
			if !errors.Is(err, ErrPoolFull) || len(got) != 61 || slices.ContainsFunc(got, func(a netip.Addr) bool { return slices.Contains(here, a) }) {
				t.Errorf("got %v and error %v, want all but %v", got, err, here)
			}
			// One that ends without having been written back gives its address back.
			w.release(c, here[2])
			w.consistent()
		})
	}
}

// TestUnreadableNodesAreNoReasonToRefuse has a node whose value is not an address.
func TestUnreadableNodesAreNoReasonToRefuse(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	if _, err := w.store.Raw().Put(w.ctx(), "/calico/bgp/v1/host/h9/network_v4", "not a network"); err != nil {
		t.Fatal(err)
	}
	w.assign(w.node("h0"), 1, "a")
}

// TestOwnHostThatCannotBeAsked refuses, rather than take what may be somebody's.
func TestOwnHostThatCannotBeAsked(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	broken := errors.New("broken")
	c := New(w.store, "h0", OnHost(func() ([]localnet.Place, error) { return nil, broken }))
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

// TestEtcdIsTaken resolves the endpoints of the store's client.
func TestEtcdIsTaken(t *testing.T) {
	got := resolve(t.Context(), []string{"http://10.0.0.10:2379", "https://[fd00::10]:2379", "http://localhost:1", "::bad"})
	for _, want := range addrs("10.0.0.10", "fd00::10", "127.0.0.1") {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not in %v", want, got)
		}
	}
}

// BenchmarkFirstAddressAmongNodes is the first address of a new host in a cluster of many.
func BenchmarkFirstAddressAmongNodes(b *testing.B) {
	for _, tc := range []struct {
		nodes    int
		prepared bool
	}{{3, false}, {1000, false}, {1000, true}} {
		b.Run(fmt.Sprintf("%d nodes, prepared %t", tc.nodes, tc.prepared), func(b *testing.B) {
			w := newWorld(b, "10.0.0.0/8")
			for i := range tc.nodes {
				w.host(fmt.Sprint("n", i), fmt.Sprintf("172.16.%d.%d/16", i/250, i%250+1))
			}
			var n int
			for b.Loop() {
				n++
				c := New(w.store, fmt.Sprint("h", n), OnHost(localnet.List))
				if tc.prepared {
					b.StopTimer()
					if err := c.Prepare(b.Context()); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if _, err := c.AutoAssign(b.Context(), Request{IPv4: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestTheHostsRoutesDoNotWaitForTheStore asks for them while the store does not answer.
func TestTheHostsRoutesDoNotWaitForTheStore(t *testing.T) {
	reading, answer := make(chan struct{}), make(chan struct{})
	p := newPlaces(func(context.Context) ([]localnet.Place, error) {
		close(reading)
		<-answer
		return nil, nil
	})
	stored := make(chan error, 1)
	go func() {
		_, err := p.atClaim(t.Context())
		stored <- err
	}()
	<-reading
	routes := make(chan error, 1)
	go func() {
		_, err := p.here(t.Context())
		routes <- err
	}()
	select {
	case err := <-routes:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("they wait for the store")
	}
	close(answer)
	if err := <-stored; err != nil {
		t.Error(err)
	}
}

// TestAKernelThatDoesNotAnswerHoldsNobody: who asks for the host's routes waits as long as there
// is time; those who come meanwhile wait for the same answer, and one that fails is no answer.
func TestAKernelThatDoesNotAnswerHoldsNobody(t *testing.T) {
	p := newPlaces(nil)
	var asked atomic.Int64
	answer := make(chan error)
	p.routes = func() ([]localnet.Route, error) {
		asked.Add(1)
		return []localnet.Route{{Prefix: netip.MustParsePrefix("10.0.0.1/32")}}, <-answer
	}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := p.here(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "kernel") {
			t.Errorf("without an answer: %v", err)
		}
		cancel()
	}
	broken := errors.New("broken")
	ended := make(chan error, 1)
	go func() {
		_, err := p.live(t.Context(), prefixes("10.0.0.0/26"))
		ended <- err
	}()
	answer <- broken
	close(answer)
	if err := <-ended; err != nil && !errors.Is(err, broken) { // it may have asked anew
		t.Error(err)
	}
	here, err := p.here(t.Context())
	if err != nil || len(here) != 1 || asked.Load() > 3 {
		t.Errorf("then: %v, %v, asked %d times", here, err, asked.Load())
	}
}
