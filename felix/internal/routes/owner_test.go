package routes

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"calico.internal/libcalico/reconcile"
)

// listed are the prefixes of the routes that are felix's, sorted.
func listed(t *testing.T, target *Routes) string {
	t.Helper()
	have, err := target.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, k := range slices.SortedFunc(maps.Keys(have), Key.Compare) {
		out = append(out, k.String()+" dev "+have[k].Interface)
	}
	return strings.Join(out, ", ")
}

func TestWhoseRoutesAre(t *testing.T) {
	k := open(t)
	for _, args := range [][]string{
		{"10.0.0.1", "dev", "cali1"},
		{"10.0.0.2", "dev", "cali1", "proto", "static"},
		{"10.0.0.3", "dev", "cali1", "proto", "kernel"},
		{"10.0.0.4", "dev", "other"},
		{"10.0.0.5", "dev", "cali1", "table", "77"},
		{"fd00::1", "dev", "cali1"},
		{"fd00::2", "dev", "cali2", "proto", "static"},
	} {
		ipRoute(t, netip.PrefixFrom(netip.MustParseAddr(args[0]), 1), append([]string{"add"}, args...)...)
	}
	routes := k.Routes()
	// All but the kernel's own, of whatever program.
	if got, want := listed(t, routes), "10.0.0.1/32 dev cali1, 10.0.0.2/32 dev cali1, fd00::1/128 dev cali1, fd00::2/128 dev cali2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// Those of its own protocol alone.
	k.Configure(protoBoot, false)
	if got, want := listed(t, routes), "10.0.0.1/32 dev cali1, fd00::1/128 dev cali1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	k.Configure(unix.RTPROT_STATIC, false)
	if got, want := listed(t, routes), "10.0.0.2/32 dev cali1, fd00::2/128 dev cali2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// A route has the protocol that is wanted of it.
	fresh := route("10.0.0.9/32", "cali2")
	fresh.Value.Protocol = unix.RTPROT_STATIC
	apply(t, routes, fresh)
	if got := ip(t, "-d", "route", "show", "10.0.0.9"); !strings.Contains(got, "proto static") {
		t.Errorf("got %s", got)
	}
	// Without IPv6 its routes are nobody's business.
	k.cfg.IPv6 = false
	if got, want := listed(t, routes), "10.0.0.2/32 dev cali1, 10.0.0.9/32 dev cali2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestARouteByAGateway(t *testing.T) {
	k := open(t)
	routes := k.Routes()
	for prefix, gateway := range map[string]string{"10.1.0.0/26": "10.9.9.9", "fd00:1::/122": "fd00:9::9"} {
		want := Route{Interface: "other", Gateway: netip.MustParseAddr(gateway)}
		apply(t, routes, reconcile.Item[Key, Route]{Key: key(prefix), Value: want})
		if got := ipRoute(t, netip.MustParsePrefix(prefix), "show", prefix); !strings.Contains(got, "via "+gateway+" dev other") || !strings.Contains(got, "onlink") {
			t.Errorf("got %s", got)
		}
	}
	want := Route{Interface: "cali1", Gateway: netip.MustParseAddr("10.9.9.9"), Protocol: protoBoot}
	apply(t, routes, reconcile.Item[Key, Route]{Key: key("10.2.0.0/26"), Value: want})
	if have, err := routes.List(t.Context()); err != nil || have[key("10.2.0.0/26")] != want {
		t.Errorf("list gives %v, %v", have, err)
	}
	err := routes.Apply(t.Context(), reconcile.Changes[Key, Route]{Set: []reconcile.Item[Key, Route]{
		{Key: key("10.3.0.0/26"), Value: Route{Interface: "cali1", Encap: "vxlan"}},
	}})
	if !errors.Is(err, reconcile.ErrPartial) || !strings.Contains(err.Error(), "vxlan") {
		t.Errorf("a route with an encapsulation gives %v", err)
	}
}

func TestWhatTheKernelTookWithAnInterfaceIsNoErrorToDelete(t *testing.T) {
	k := open(t)
	routes, neighbours, addresses := k.Routes(), k.Neighbours(), k.Addresses(gatewayRanges)
	r, n, a := route("10.0.0.1/32", "cali1"), neigh("cali1", "10.0.0.1", 1), addrOn("cali1", "fe80::a9fe:101/128")
	remove := func(when string) {
		t.Helper()
		err := errors.Join(
			routes.Apply(t.Context(), reconcile.Changes[Key, Route]{Delete: []Key{r.Key}}),
			neighbours.Apply(t.Context(), reconcile.Changes[NeighKey, MAC]{Delete: []NeighKey{n.Key}}),
			addresses.Apply(t.Context(), reconcile.Changes[AddrKey, struct{}]{Delete: []AddrKey{a.Key}}),
		)
		if err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	set := func() error {
		return errors.Join(
			routes.Apply(t.Context(), reconcile.Changes[Key, Route]{Set: []reconcile.Item[Key, Route]{r}}),
			neighbours.Apply(t.Context(), reconcile.Changes[NeighKey, MAC]{Set: []reconcile.Item[NeighKey, MAC]{n}}),
			addresses.Apply(t.Context(), reconcile.Changes[AddrKey, struct{}]{Set: []reconcile.Item[AddrKey, struct{}]{a}}),
		)
	}
	if err := set(); err != nil {
		t.Fatal(err)
	}
	ip(t, "link", "set", "cali1", "down")
	remove("the interface is down")
	ip(t, "link", "set", "cali1", "up")
	if err := set(); err != nil {
		t.Fatal(err)
	}
	ip(t, "link", "del", "cali1")
	remove("the interface is gone, which felix does not know yet")
	k.cfg.Interfaces = links(t)
	remove("the interface is gone")
	// What is set on it is an error of each.
	err := set()
	for _, name := range []string{r.Key.String(), n.Key.String(), a.Key.String()} {
		if err == nil || !strings.Contains(err.Error(), name) || !errors.Is(err, unix.ENODEV) {
			t.Errorf("%s on an interface that is gone: %v", name, err)
		}
	}
}

func TestNeighboursThatAreNotFelixsAreNotListed(t *testing.T) {
	k := open(t)
	ip(t, "neigh", "add", "proxy", "10.0.0.7", "dev", "cali1")
	ip(t, "neigh", "add", "10.0.0.8", "dev", "cali1", "lladdr", "02:00:00:00:00:01", "nud", "stale")
	ip(t, "neigh", "add", "10.0.0.9", "dev", "other", "lladdr", "02:00:00:00:00:02", "nud", "permanent")
	ip(t, "neigh", "add", "10.0.0.1", "dev", "cali1", "lladdr", "02:00:00:00:00:03", "nud", "permanent")
	ip(t, "neigh", "add", "fd00::1", "dev", "cali2", "lladdr", "02:00:00:00:00:04", "nud", "permanent")
	want := map[NeighKey]MAC{
		neigh("cali1", "10.0.0.1", 0).Key: {2, 0, 0, 0, 0, 3},
		neigh("cali2", "fd00::1", 0).Key:  {2, 0, 0, 0, 0, 4},
	}
	have, err := k.Neighbours().List(t.Context())
	if err != nil || !maps.Equal(have, want) {
		t.Errorf("got %v, %v; want %v", have, err, want)
	}
}

func TestAMACHasSixBytes(t *testing.T) {
	if m, ok := MACOf([]byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}); !ok || m.String() != "ee:ee:ee:ee:ee:ee" {
		t.Errorf("got %v, %v", m, ok)
	}
	for _, bad := range [][]byte{nil, make([]byte, 5), make([]byte, 8), make([]byte, 20)} { // 20: InfiniBand
		if m, ok := MACOf(bad); ok || m != (MAC{}) {
			t.Errorf("%d bytes give %v, %v", len(bad), m, ok)
		}
	}
}
