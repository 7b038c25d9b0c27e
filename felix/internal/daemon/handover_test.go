package daemon

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/rules"
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
	// stuck are addresses whose connections cannot be removed.
	stuck map[netip.Addr]error
	log   *[]string
}

func (f *fakeConnections) Addresses() (map[netip.Addr]struct{}, error) {
	return maps.Clone(f.tracked), nil
}

func (f *fakeConnections) Remove(addrs ...netip.Addr) (int, error) {
	slices.SortFunc(addrs, netip.Addr.Compare)
	var fault error
	for _, a := range addrs {
		*f.log = append(*f.log, "remove "+a.String())
		fault = errors.Join(fault, f.stuck[a])
	}
	return len(addrs), fault
}

type handoverTest struct {
	*testing.T
	h     *handover
	conns *fakeConnections
	log   []string
	now   time.Time
}

func newHandoverTest(t *testing.T, have map[routes.Key]routes.Route, tracked ...string) *handoverTest {
	x := &handoverTest{T: t}
	x.conns = &fakeConnections{tracked: map[netip.Addr]struct{}{}, stuck: map[netip.Addr]error{}, log: &x.log}
	for _, a := range tracked {
		x.conns.tracked[netip.MustParseAddr(a)] = struct{}{}
	}
	x.h = newHandover(fakeRoutes{have, &x.log}, x.conns)
	if _, err := x.h.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	return x
}

func routeKey(a string) routes.Key {
	return routes.Key{Table: routes.MainTable, Prefix: netip.MustParsePrefix(a)}
}

func routeItem(prefix, iface string) reconcile.Item[routes.Key, routes.Route] {
	return reconcile.Item[routes.Key, routes.Route]{Key: routeKey(prefix), Value: routes.Route{Interface: iface}}
}

func (x *handoverTest) apply(set ...reconcile.Item[routes.Key, routes.Route]) error {
	return x.h.Apply(x.Context(), reconcile.Changes[routes.Key, routes.Route]{Set: set})
}

func (x *handoverTest) set(prefix, iface string) {
	x.Helper()
	if err := x.apply(routeItem(prefix, iface)); err != nil {
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
	x.h.sweep(x.now)
	x.expect("an address that left", "remove 10.0.0.2")
	x.h.sweep(x.now)
	x.expect("once is enough")
	x.set("10.0.0.2/32", "cali9")
	x.expect("it is clean for the next owner", "route 10.0.0.2/32 cali9")

	x.h.leave(routeKey("10.0.0.2/32"))
	x.set("10.0.0.2/32", "cali9")
	x.expect("an owner that comes before the sweep waits", "remove 10.0.0.2", "route 10.0.0.2/32 cali9")
	x.h.sweep(x.now)
	x.expect("and is not swept")
}

func TestConnectionsThatCannotBeRemovedKeepTheRouteAway(t *testing.T) {
	x := newHandoverTest(t, nil, "10.0.0.1", "10.0.0.2")
	stuck := netip.MustParseAddr("10.0.0.1")
	x.conns.stuck[stuck] = errors.New("no")
	set := []reconcile.Item[routes.Key, routes.Route]{routeItem("10.0.0.1/32", "cali1"), routeItem("10.0.0.2/32", "cali2"), routeItem("10.0.0.3/32", "cali3")}
	for range 2 { // and it is not forgotten
		err := x.apply(set...)
		var faults *reconcile.KeyErrors[routes.Key]
		if !errors.As(err, &faults) || !reconcile.IsPartial(err) || len(faults.Errs) != 1 || !errors.Is(faults.Errs[routeKey("10.0.0.1/32")], x.conns.stuck[stuck]) {
			t.Fatalf("got %v", err)
		}
		if slices.Contains(x.log, "route 10.0.0.1/32 cali1") {
			t.Errorf("the route is written: %q", x.log)
		}
		for _, want := range []string{"route 10.0.0.2/32 cali2", "route 10.0.0.3/32 cali3"} {
			if !slices.Contains(x.log, want) {
				t.Errorf("%q is missing in %q", want, x.log)
			}
		}
		x.log = nil
	}
	delete(x.conns.stuck, stuck)
	x.set("10.0.0.1/32", "cali1")
	x.expect("once they can be removed", "remove 10.0.0.1", "route 10.0.0.1/32 cali1")
}

// TestARefusedRouteDoesNotLeadToTheFormerOwner moves addresses to other interfaces while
// their routes may not be written: packets for the new owner must not go to the old one.
func TestARefusedRouteDoesNotLeadToTheFormerOwner(t *testing.T) {
	changes := reconcile.Changes[routes.Key, routes.Route]{
		Set: []reconcile.Item[routes.Key, routes.Route]{
			routeItem("10.0.0.1/32", "cali9"), routeItem("10.0.0.2/32", "cali2"), routeItem("10.8.0.0/16", "cali9"), routeItem("fd00::1/128", "cali9"),
		},
		Delete: []routes.Key{routeKey("10.0.0.7/32")},
	}
	newTest := func() *handoverTest {
		have := map[routes.Key]routes.Route{}
		for prefix, iface := range map[string]string{"10.0.0.1/32": "cali1", "10.0.0.2/32": "cali2", "10.0.0.7/32": "cali7", "10.8.0.0/16": "cali1", "fd00::1/128": "cali1"} {
			have[routeKey(prefix)] = routes.Route{Interface: iface}
		}
		x := newHandoverTest(t, have, "10.0.0.1")
		x.h.ownedHere(netip.MustParseAddr("fd00::1"))
		return x
	}
	x := newTest()
	d := &dataplane{handover: x.h, chains: newChains(nil, nil)}
	d.chains.unfit[rules.V4] = errors.New("no")
	table := reconcile.NewTable(x.h, d.guardRoutes(options[routes.Key, routes.Route]("routes", routes.Key.Compare)))
	for _, s := range changes.Set {
		table.Set(s.Key, s.Value)
	}
	table.Forget(routeKey("10.0.0.1/32")) // which may be anything now
	if err := table.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.expect("IPv4 is not filtered", "remove fd00::1", "route fd00::1/128 cali9", "delete 10.0.0.1/32", "delete 10.0.0.7/32", "delete 10.8.0.0/16")
	for _, again := range []error{errors.New("no"), nil} {
		d.chains.unfit[rules.V4] = again
		if err := table.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	x.expect("once it is", "remove 10.0.0.1", "route 10.0.0.1/32 cali9", "route 10.8.0.0/16 cali9")

	x = newTest()
	x.conns.stuck[netip.MustParseAddr("10.0.0.1")] = errors.New("no")
	x.h.leave(routeKey("10.0.0.1/32")) // the former owner is gone besides
	x.conns.stuck[netip.MustParseAddr("fd00::1")] = errors.New("no")
	if err := x.h.Apply(t.Context(), changes); !reconcile.IsPartial(err) {
		t.Fatal(err)
	}
	for _, want := range []string{"delete 10.0.0.1/32", "delete fd00::1/128"} {
		if !slices.Contains(x.log, want) {
			t.Errorf("connections that cannot be removed: %q is missing in %q", want, x.log)
		}
	}
}

func TestConnectionsOfAddressesThatLeftAreTriedAgain(t *testing.T) {
	x := newHandoverTest(t, nil)
	stuck := netip.MustParseAddr("10.0.0.1")
	x.set("10.0.0.1/32", "cali1")
	x.set("10.0.0.2/32", "cali2")
	x.log = nil
	x.h.leave(routeKey("10.0.0.1/32"))
	x.h.leave(routeKey("10.0.0.2/32"))
	x.conns.stuck[stuck] = errors.New("no")
	if !x.h.sweep(x.now) || len(x.h.problems()) != 1 {
		t.Errorf("problems are %v", x.h.problems())
	}
	x.log = nil
	at, ok := x.h.sweepAt()
	if !ok || !at.After(x.now) {
		t.Errorf("due at %v, %v", at, ok)
	}
	x.h.sweep(x.now)
	x.expect("not yet")
	x.now = at
	x.h.sweep(x.now)
	x.expect("only the one at fault", "remove 10.0.0.1")
	if next, _ := x.h.sweepAt(); next.Sub(x.now) <= at.Sub(time.Time{}) {
		t.Errorf("the wait does not grow: %v, then %v", at, next)
	}
	delete(x.conns.stuck, stuck)
	x.now = x.now.Add(maxRetry)
	if !x.h.sweep(x.now) || len(x.h.problems()) > 0 {
		t.Errorf("problems are %v", x.h.problems())
	}
	if _, ok := x.h.sweepAt(); ok {
		t.Error("something is due still")
	}
}

func TestWhereConnectionsCannotBeRemovedNothingGrows(t *testing.T) {
	var log []string
	h := newHandover(fakeRoutes{nil, &log}, nil)
	x := &handoverTest{T: t, h: h}
	for range 3 {
		x.set("10.0.0.1/32", "cali1")
		h.owned(netip.MustParseAddr("10.0.0.2"))
		h.leave(routeKey("10.0.0.1/32"))
	}
	if _, due := h.sweepAt(); due || len(h.suspect)+len(h.leaving)+len(h.owner) > 0 {
		t.Errorf("due: %v, suspect %v, leaving %v, owners %v", due, h.suspect, h.leaving, h.owner)
	}
	if p := h.problems(); len(p) != 1 || !strings.Contains(p[0].Reason, "nf_conntrack_netlink") {
		t.Errorf("problems are %v", p)
	}
}

// TestAnAddressThatGoesToAnotherHostStaysSuspect has an address leave for another host and
// come back: what was connected to it there must not reach its next owner here.
func TestAnAddressThatGoesToAnotherHostStaysSuspect(t *testing.T) {
	x := newHandoverTest(t, nil)
	x.set("10.0.0.1/32", "cali1")
	x.h.leave(routeKey("10.0.0.1/32"))
	x.h.owned(netip.MustParseAddr("10.0.0.1"))
	x.h.sweep(x.now)
	x.log = nil
	x.set("10.0.0.1/32", "cali2")
	x.expect("it comes back", "remove 10.0.0.1", "route 10.0.0.1/32 cali2")
}

func TestSuspectsAreForgottenWhenNobodyCanHaveConnectionsOfThem(t *testing.T) {
	x := newHandoverTest(t, nil, "10.0.0.1")
	alive, old := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.9.9.9")
	a := netip.MustParseAddr("fd00::")
	for range 20 * minSuspects {
		a = a.Next()
		x.h.owned(a)
		x.h.forget(slices.Values([]netip.Addr{alive, old}))
		x.h.owned(alive)
	}
	if n := len(x.h.suspect); n > minSuspects {
		t.Errorf("%d suspects are remembered", n)
	}
	for _, a := range []netip.Addr{alive, netip.MustParseAddr("10.0.0.1")} {
		if _, known := x.h.suspect[a]; !known {
			t.Errorf("%s is forgotten", a)
		}
	}
}
