package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"calico.internal/felix/internal/routes"
	"calico.internal/libcalico/reconcile"
)

// fakeRoutes and fakeConnections write down what happens, in order.
type fakeRoutes struct {
	have map[routes.Key]routes.Route
	log  *[]string
}

func (f fakeRoutes) List(context.Context) (map[routes.Key]routes.Route, error) { return f.have, nil }

func (f fakeRoutes) Apply(_ context.Context, c reconcile.Changes[routes.Key, routes.Route]) error {
	for _, s := range c.Set {
		*f.log = append(*f.log, "route "+s.Key.String()+" "+s.Value.Interface)
	}
	for _, k := range c.Delete {
		*f.log = append(*f.log, "delete "+k.String())
	}
	return nil
}

type fakeConnections struct {
	tracked map[netip.Addr]struct{}
	fault   error
	log     *[]string
}

func (f *fakeConnections) Addresses() (map[netip.Addr]struct{}, error) { return f.tracked, nil }

func (f *fakeConnections) Remove(addrs ...netip.Addr) (int, error) {
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, a := range addrs {
		*f.log = append(*f.log, "remove "+a.String())
	}
	return len(addrs), f.fault
}

type handoverTest struct {
	*testing.T
	h     *handover
	conns *fakeConnections
	log   []string
}

func newHandoverTest(t *testing.T, have map[routes.Key]routes.Route, tracked ...string) *handoverTest {
	x := &handoverTest{T: t}
	x.conns = &fakeConnections{tracked: map[netip.Addr]struct{}{}, log: &x.log}
	for _, a := range tracked {
		x.conns.tracked[netip.MustParseAddr(a)] = struct{}{}
	}
	x.h = newHandover(fakeRoutes{have, &x.log}, x.conns, func(err error) { x.log = append(x.log, "error "+err.Error()) })
	if _, err := x.h.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	return x
}

func routeKey(a string) routes.Key {
	return routes.Key{Table: routes.MainTable, Prefix: netip.MustParsePrefix(a)}
}

func (x *handoverTest) set(prefix, iface string) {
	x.Helper()
	item := reconcile.Item[routes.Key, routes.Route]{Key: routeKey(prefix), Value: routes.Route{Interface: iface}}
	if err := x.h.Apply(x.Context(), reconcile.Changes[routes.Key, routes.Route]{Set: []reconcile.Item[routes.Key, routes.Route]{item}}); err != nil {
		x.Fatal(err)
	}
}

func (x *handoverTest) expect(when string, want ...string) {
	x.Helper()
	if !slices.Equal(x.log, want) {
		x.Errorf("%s: got %q, want %q", when, x.log, want)
	}
	x.log = nil
}

func TestHandover(t *testing.T) {
	x := newHandoverTest(t, map[routes.Key]routes.Route{routeKey("10.0.0.1/32"): {Interface: "cali1"}}, "10.0.0.1", "10.0.0.5")
	x.set("10.0.0.1/32", "cali1")
	x.expect("a route from before that is repaired keeps its connections", "route 10.0.0.1/32 cali1")
	x.set("10.0.0.2/32", "cali2")
	x.expect("an address that nobody had does not wait", "route 10.0.0.2/32 cali2")
	x.set("10.0.0.5/32", "cali5")
	x.expect("an address with connections from before felix started", "remove 10.0.0.5", "route 10.0.0.5/32 cali5")
	x.set("10.0.0.2/32", "cali3")
	x.expect("an address that moves", "remove 10.0.0.2", "route 10.0.0.2/32 cali3")
	x.set("10.8.0.0/16", "cali3")
	x.expect("a network has no owner", "route 10.8.0.0/16 cali3")

	x.h.owned(netip.MustParseAddr("10.0.0.7"))
	x.set("10.0.0.7/32", "cali7")
	x.expect("an address that an endpoint of another host had", "remove 10.0.0.7", "route 10.0.0.7/32 cali7")

	x.h.leave(routeKey("10.0.0.2/32"))
	x.h.leave(routeKey("10.0.0.99/32"))
	x.expect("nothing happens at once")
	x.h.sweep()
	x.expect("an address that left", "remove 10.0.0.2")
	x.h.sweep()
	x.expect("once is enough")
	x.set("10.0.0.2/32", "cali9")
	x.expect("it is clean for the next owner", "route 10.0.0.2/32 cali9")

	x.h.leave(routeKey("10.0.0.2/32"))
	x.set("10.0.0.2/32", "cali9")
	x.expect("an owner that comes before the sweep waits", "remove 10.0.0.2", "route 10.0.0.2/32 cali9")
	x.h.sweep()
	x.expect("and is not swept")
}

func TestHandoverTriesAgain(t *testing.T) {
	x := newHandoverTest(t, nil)
	x.set("10.0.0.1/32", "cali1")
	x.log = nil
	x.h.leave(routeKey("10.0.0.1/32"))
	x.conns.fault = errors.New("no")
	x.h.sweep()
	x.conns.fault = nil
	x.h.sweep()
	x.expect("a sweep that failed", "remove 10.0.0.1", "error no", "remove 10.0.0.1")
}
