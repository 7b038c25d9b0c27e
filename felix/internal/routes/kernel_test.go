package routes

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"

	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

const protoBoot = 3

// open makes a namespace with the interfaces cali1, cali2 and other, which are up, and
// calidown, which is not.
func open(t *testing.T) *Kernel {
	t.Helper()
	nettest.Isolate(t)
	for _, name := range []string{"cali1", "cali2", "other", "calidown"} {
		ip(t, "link", "add", name, "type", "veth", "peer", "name", "peer-"+name)
	}
	for _, name := range []string{"cali1", "cali2", "other"} {
		ip(t, "link", "set", name, "up")
		ip(t, "link", "set", "peer-"+name, "up")
	}
	k, err := Open(Config{Prefixes: []string{"cali"}, Protocol: protoBoot, RemoveExternal: true, IPv6: true, Interfaces: links(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// links reads the interfaces once.
func links(t *testing.T) *ifmonitor.Links {
	t.Helper()
	m, err := ifmonitor.New()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	e, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	l := ifmonitor.NewLinks()
	l.Apply(e)
	return l
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	return nettest.Run(t, "ip", args...)
}

func key(prefix string) Key { return Key{Table: MainTable, Prefix: netip.MustParsePrefix(prefix)} }

func route(prefix, iface string) reconcile.Item[Key, Route] {
	return reconcile.Item[Key, Route]{Key: key(prefix), Value: Route{Interface: iface, Protocol: protoBoot}}
}

// ipRoute runs "ip route" for the family of a prefix.
func ipRoute(t *testing.T, p netip.Prefix, args ...string) string {
	t.Helper()
	family := "-4"
	if p.Addr().Is6() {
		family = "-6"
	}
	return ip(t, append([]string{family, "route"}, args...)...)
}

func TestRoutesKeepTheContract(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject[Key, Route] {
		k := open(t)
		bad := route("10.9.9.9/32", "calidown")
		return targettest.Subject[Key, Route]{
			Target:  k.Routes(),
			Compare: Key.Compare,
			Equal:   func(a, b Route) bool { return a == b },
			Items: []reconcile.Item[Key, Route]{
				route("10.0.0.1/32", "cali1"), route("10.0.0.2/32", "cali2"), route("fd00::1/128", "cali1"),
			},
			Changed: Route{Interface: "cali2", Protocol: protoBoot},
			Remove:  func(t *testing.T, k Key) { ipRoute(t, k.Prefix, "del", k.Prefix.String()) },
			Alter: func(t *testing.T, k Key) {
				ipRoute(t, k.Prefix, "replace", k.Prefix.String(), "dev", "other")
			},
			AddForeign: foreignRoutes,
			Bad:        &bad,
		}
	})
}

func foreignRoutes(t *testing.T) func(t *testing.T) {
	t.Helper()
	ip(t, "route", "add", "10.5.0.0/16", "dev", "other")
	ip(t, "route", "add", "blackhole", "10.6.0.0/26", "proto", "12")
	ip(t, "addr", "add", "10.7.0.1/24", "dev", "cali1")
	ip(t, "route", "add", "10.0.0.1/32", "dev", "other", "metric", "50")
	pick := func() string {
		return ip(t, "route", "show", "dev", "other") + ip(t, "route", "show", "type", "blackhole") + ip(t, "route", "show", "proto", "kernel")
	}
	before := pick()
	return func(t *testing.T) {
		t.Helper()
		if after := pick(); after != before {
			t.Errorf("routes of others were %q and are %q", before, after)
		}
	}
}

func TestARouteLooksAsPeopleKnowIt(t *testing.T) {
	k := open(t)
	routes := k.Routes()
	apply(t, routes, route("10.0.0.1/32", "cali1"))
	if got := strings.TrimSpace(ip(t, "route", "show", "10.0.0.1")); got != "10.0.0.1 dev cali1 scope link" {
		t.Errorf("got %q", got)
	}
	if got := ip(t, "-d", "route", "show", "10.0.0.1"); !strings.Contains(got, "proto boot") {
		t.Errorf("got %q", got)
	}
	// An address that moves to another interface is never without a route.
	apply(t, routes, route("10.0.0.1/32", "cali2"))
	if got := strings.TrimSpace(ip(t, "route", "show", "10.0.0.1")); got != "10.0.0.1 dev cali2 scope link" {
		t.Errorf("got %q", got)
	}
}

func TestARouteOverAnInterfaceThatIsDownOrAbsentIsAnError(t *testing.T) {
	k := open(t)
	err := k.Routes().Apply(t.Context(), reconcile.Changes[Key, Route]{Set: []reconcile.Item[Key, Route]{
		route("10.0.0.1/32", "cali1"), route("10.0.0.2/32", "calidown"), route("10.0.0.3/32", "caligone"),
	}})
	var faults *reconcile.KeyErrors[Key]
	if !errors.As(err, &faults) || len(faults.Errs) != 2 ||
		!errors.Is(faults.Errs[key("10.0.0.2/32")], unix.ENETDOWN) || !errors.Is(faults.Errs[key("10.0.0.3/32")], unix.ENODEV) {
		t.Errorf("got %v", err)
	}
}

func TestDeletingLeavesTheRouteOfAnotherInterface(t *testing.T) {
	k := open(t)
	routes := k.Routes()
	apply(t, routes, route("10.0.0.1/32", "cali1"))
	ip(t, "route", "replace", "10.0.0.1/32", "dev", "other")
	if err := routes.Apply(t.Context(), reconcile.Changes[Key, Route]{Delete: []Key{key("10.0.0.1/32")}}); err != nil {
		t.Fatal(err)
	}
	if got := ip(t, "route", "show", "10.0.0.1"); !strings.Contains(got, "dev other") {
		t.Errorf("the other route is gone: %q", got)
	}
}

// TestAnotherProtocolReplacesARoute has one route, with and without claims on all routes over
// workloads' interfaces.
func TestAnotherProtocolReplacesARoute(t *testing.T) {
	for _, removeExternal := range []bool{true, false} {
		k := open(t)
		routes := k.Routes()
		for _, prefix := range []string{"10.0.0.1/32", "fd00::1/128"} {
			old := route(prefix, "cali1")
			apply(t, routes, old)
			k.Configure(80, removeExternal)
			next := old
			next.Value.Protocol = 80
			apply(t, routes, next)
			have, err := routes.List(t.Context())
			if err != nil || have[next.Key] != next.Value {
				t.Errorf("listed are %v, %v", have, err)
			}
			if got := strings.TrimSpace(ipRoute(t, next.Key.Prefix, "show", prefix)); strings.Count(got, "\n") > 0 || !strings.Contains(got, "proto 80") {
				t.Errorf("got %q", got)
			}
			k.Configure(protoBoot, removeExternal)
		}
	}
}

func neigh(iface, addr string, last byte) reconcile.Item[NeighKey, MAC] {
	return reconcile.Item[NeighKey, MAC]{
		Key:   NeighKey{Interface: iface, Addr: netip.MustParseAddr(addr)},
		Value: MAC{0xee, 0xee, 0xee, 0xee, 0xee, last},
	}
}

func TestNeighboursKeepTheContract(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject[NeighKey, MAC] {
		k := open(t)
		bad := neigh("calidown", "10.9.9.9", 1)
		return targettest.Subject[NeighKey, MAC]{
			Target:  k.Neighbours(),
			Compare: NeighKey.Compare,
			Equal:   func(a, b MAC) bool { return a == b },
			Items: []reconcile.Item[NeighKey, MAC]{
				neigh("cali1", "10.0.0.1", 1), neigh("cali1", "fd00::1", 2), neigh("cali2", "10.0.0.2", 3),
			},
			Changed: MAC{2, 2, 2, 2, 2, 2},
			Remove: func(t *testing.T, k NeighKey) {
				ip(t, "neigh", "del", k.Addr.String(), "dev", k.Interface)
			},
			Alter: func(t *testing.T, k NeighKey) {
				ip(t, "neigh", "replace", k.Addr.String(), "dev", k.Interface, "lladdr", "02:00:00:00:00:09", "nud", "permanent")
			},
			AddForeign: func(t *testing.T) func(t *testing.T) {
				ip(t, "neigh", "add", "10.0.0.9", "dev", "other", "lladdr", "02:00:00:00:00:01", "nud", "permanent")
				ip(t, "neigh", "add", "10.0.0.8", "dev", "cali1", "lladdr", "02:00:00:00:00:02", "nud", "reachable")
				return func(t *testing.T) {
					t.Helper()
					if got := ip(t, "neigh", "show"); !strings.Contains(got, "10.0.0.9 dev other lladdr 02:00:00:00:00:01 PERMANENT") ||
						!strings.Contains(got, "10.0.0.8 dev cali1 lladdr 02:00:00:00:00:02") {
						t.Errorf("entries of others are gone: %q", got)
					}
				}
			},
			Bad: &bad,
		}
	})
}

func addr(prefix string) reconcile.Item[AddrKey, struct{}] { return addrOn(Loopback, prefix) }

func addrOn(iface, prefix string) reconcile.Item[AddrKey, struct{}] {
	return reconcile.Item[AddrKey, struct{}]{Key: AddrKey{iface, netip.MustParsePrefix(prefix)}}
}

// gatewayRanges takes all IPv6 addresses in the range but one for felix's.
var gatewayRanges = AddressRanges{
	IPv4: netip.MustParsePrefix("169.254.1.0/24"), IPv6: netip.MustParsePrefix("fe80::a9fe:100/120"),
	Wanted: func(k AddrKey) bool { return k.Interface != "other" && k.Prefix.Addr() != unwanted },
}

var unwanted = netip.MustParseAddr("fe80::a9fe:1ff")

func TestAddressesKeepTheContract(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject[AddrKey, struct{}] {
		k := open(t)
		bad := reconcile.Item[AddrKey, struct{}]{Key: AddrKey{"nowhere", netip.MustParsePrefix("169.254.1.9/32")}}
		return targettest.Subject[AddrKey, struct{}]{
			Target:  k.Addresses(gatewayRanges),
			Compare: AddrKey.Compare,
			Equal:   func(_, _ struct{}) bool { return true },
			Items: []reconcile.Item[AddrKey, struct{}]{
				addr("169.254.1.1/32"), addrOn("cali2", "fe80::a9fe:101/128"), addrOn("cali1", "fe80::a9fe:101/128"),
			},
			Remove: func(t *testing.T, k AddrKey) {
				bits := map[bool]string{true: "/32", false: "/64"}[k.Prefix.Addr().Is4()]
				ip(t, "addr", "del", k.Prefix.Addr().String()+bits, "dev", k.Interface)
			},
			AddForeign: func(t *testing.T) func(t *testing.T) {
				ip(t, "addr", "add", "169.254.2.1/32", "dev", "lo", "scope", "link")
				ip(t, "addr", "add", "169.254.1.7/24", "dev", "other", "scope", "link")
				ip(t, "addr", "add", "169.254.1.8/24", "dev", "lo", "scope", "link")
				ip(t, "addr", "add", "fe80::a9fe:105/64", "dev", "other", "nodad")
				ip(t, "addr", "add", unwanted.String()+"/64", "dev", "cali1", "nodad")
				return func(t *testing.T) {
					t.Helper()
					got := ip(t, "addr", "show")
					for _, a := range []string{"169.254.2.1/32", "169.254.1.7/24", "169.254.1.8/24", "fe80::a9fe:105/64", unwanted.String() + "/64"} {
						if !strings.Contains(got, a) {
							t.Errorf("%s of others is gone: %s", a, got)
						}
					}
				}
			},
			Bad: &bad,
		}
	})
}

func TestAnAddressOfGlobalScopeIsMadeAnew(t *testing.T) {
	k := open(t)
	target := k.Addresses(gatewayRanges)
	ip(t, "addr", "add", "169.254.1.1/32", "dev", "lo")
	if have, err := target.List(t.Context()); err != nil || len(have) != 0 {
		t.Errorf("an address of global scope counts as the gateway's: %v, %v", have, err)
	}
	if err := target.Apply(t.Context(), reconcile.Changes[AddrKey, struct{}]{Set: []reconcile.Item[AddrKey, struct{}]{addr("169.254.1.1/32")}}); err != nil {
		t.Fatal(err)
	}
	if got := ip(t, "addr", "show", "dev", "lo"); !strings.Contains(got, "inet 169.254.1.1/32 scope link") {
		t.Errorf("got %s", got)
	}
}

func TestAnIPv6GatewayThatTheKernelDoesNotAnswerForIsMadeAnew(t *testing.T) {
	k := open(t)
	target := k.Addresses(gatewayRanges)
	gateway := addrOn("cali1", "fe80::a9fe:101/128")
	// Both ends have the address, so that the check for duplicates fails.
	ip(t, "addr", "add", "fe80::a9fe:101/64", "dev", "peer-cali1", "nodad")
	ip(t, "addr", "add", "fe80::a9fe:101/128", "dev", "cali1")
	nettest.Eventually(t, 10*time.Second, func() error {
		if got := ip(t, "addr", "show", "dev", "cali1"); !strings.Contains(got, "dadfailed") {
			return errors.New(got)
		}
		return nil
	})
	if have, err := target.List(t.Context()); err != nil || len(have) != 0 {
		t.Errorf("an address that failed counts as there: %v, %v", have, err)
	}
	if err := target.Apply(t.Context(), reconcile.Changes[AddrKey, struct{}]{Set: []reconcile.Item[AddrKey, struct{}]{gateway}}); err != nil {
		t.Fatal(err)
	}
	if got := ip(t, "addr", "show", "dev", "cali1"); strings.Count(got, "fe80::a9fe:101/64") != 1 || strings.Contains(got, "dadfailed") {
		t.Errorf("got %s", got)
	}
	if have, err := target.List(t.Context()); err != nil || len(have) != 1 {
		t.Errorf("list gives %v, %v", have, err)
	}
}

// Who makes a pair of interfaces gives it the gateway's address before felix knows it.
func TestAnAddressThatIsThereIsLeftAlone(t *testing.T) {
	k := open(t)
	target := k.Addresses(gatewayRanges)
	updates, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	defer close(done)
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		t.Fatal(err)
	}
	ip(t, "addr", "add", "169.254.1.1/32", "dev", "lo", "scope", "link")
	ip(t, "addr", "add", "fe80::a9fe:101/64", "dev", "cali1", "nodad")
	for u := range updates { // of an IPv6 address the kernel tells a while after it was made
		if u.LinkAddress.IP.String() == "fe80::a9fe:101" {
			break
		}
	}
	set := []reconcile.Item[AddrKey, struct{}]{addr("169.254.1.1/32"), addrOn("cali1", "fe80::a9fe:101/128")}
	if err := target.Apply(t.Context(), reconcile.Changes[AddrKey, struct{}]{Set: set}); err != nil {
		t.Fatal(err)
	}
	ip(t, "addr", "add", "10.9.9.9/32", "dev", "lo")
	for u := range updates {
		if u.LinkAddress.IP.String() == "10.9.9.9" {
			return
		}
		t.Errorf("%s was written, or deleted: %+v", u.LinkAddress.String(), u)
	}
}

func apply(t *testing.T, target *Routes, set ...reconcile.Item[Key, Route]) {
	t.Helper()
	if err := target.Apply(t.Context(), reconcile.Changes[Key, Route]{Set: set}); err != nil {
		t.Fatal(err)
	}
}
