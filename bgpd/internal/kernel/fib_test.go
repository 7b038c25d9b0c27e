package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

// host is a host with a FIB and what that noticed.
type host struct {
	*nettest.Host
	fib  *FIB
	kick chan struct{}
	eth0 int
}

func newHost(t testing.TB) *host {
	t.Helper()
	n := nettest.New(t, nettest.HostSpec{
		Name:  "h1",
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")},
	})
	h := &host{Host: n.Host("h1"), kick: reconcile.NewKick()}
	var err error
	h.Do(func() {
		h.fib, err = New(Options{Table: TableMain, Protocol: 12, Notify: func() { reconcile.Kick(h.kick) }})
		h.eth0 = linkIndex(t, "eth0")
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.fib.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	h.settle()
	return h
}

// settle waits until the kernel has told all about the making of the host.
func (h *host) settle() {
	const quiet = 50 * time.Millisecond
	for {
		select {
		case <-h.kick:
			h.fib.Changes()
		case <-time.After(quiet):
			return
		}
	}
}

func linkIndex(t testing.TB, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Index
}

func (h *host) via(gateways ...string) calc.Route {
	r := calc.Route{}
	for _, g := range gateways {
		r.Hops = append(r.Hops, calc.Hop{Gateway: netip.MustParseAddr(g), Link: h.eth0})
	}
	return r
}

func (h *host) apply(t testing.TB, items ...item) error {
	t.Helper()
	return h.fib.Apply(t.Context(), reconcile.Changes[netip.Prefix, calc.Route]{Set: items})
}

func to(p string, r calc.Route) item { return item{Key: netip.MustParsePrefix(p), Value: r} }

func (h *host) mustApply(t testing.TB, items ...item) {
	t.Helper()
	if err := h.apply(t, items...); err != nil {
		t.Fatal(err)
	}
}

// routes is what "ip route" says, IPv4 and IPv6, of one prefix.
func (h *host) routes(prefix string) string {
	family := "-4"
	if strings.Contains(prefix, ":") {
		family = "-6"
	}
	return strings.TrimSpace(h.Run("ip", family, "route", "show", "exact", prefix))
}

func TestFIB_keeps_the_contract_of_targets(t *testing.T) {
	for _, tc := range []struct {
		name     string
		prefixes [4]string
		gateways [2]string
		foreign  string
	}{
		{"ipv4", [4]string{"192.168.1.0/26", "192.168.1.64/26", "192.168.1.128/26", "192.168.2.0/26"}, [2]string{"10.0.0.2", "10.0.0.3"}, "-4"},
		{"ipv6", [4]string{"fd80::40/122", "fd80::80/122", "fd80::c0/122", "fd80::100/122"}, [2]string{"fd00::2", "fd00::3"}, "-6"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			targettest.Run(t, func(t *testing.T) targettest.Subject[netip.Prefix, calc.Route] {
				h := newHost(t)
				bad := to(tc.prefixes[3], calc.Route{Hops: []calc.Hop{{Gateway: netip.MustParseAddr(tc.gateways[0]), Link: 9999}}})
				ip := func(t *testing.T, args ...string) {
					h.Run("ip", append([]string{tc.foreign, "route"}, args...)...)
				}
				return targettest.Subject[netip.Prefix, calc.Route]{
					Target:  h.fib,
					Compare: netip.Prefix.Compare,
					Equal:   calc.Route.Equal,
					Items: []item{
						to(tc.prefixes[0], calc.Route{Type: calc.Blackhole}),
						to(tc.prefixes[1], h.via(tc.gateways[0])),
						to(tc.prefixes[2], h.via(tc.gateways[0], tc.gateways[1])),
					},
					Changed: h.via(tc.gateways[1]),
					Remove:  func(t *testing.T, k netip.Prefix) { ip(t, "del", k.String()) },
					Alter: func(t *testing.T, k netip.Prefix) {
						ip(t, "replace", k.String(), "via", tc.gateways[1], "proto", "bird")
					},
					AddForeign: func(t *testing.T) func(*testing.T) {
						ip(t, "add", tc.prefixes[3], "via", tc.gateways[0], "proto", "static")
						return func(t *testing.T) {
							if got := h.routes(tc.prefixes[3]); !strings.Contains(got, "proto static") {
								t.Errorf("the foreign route is %q", got)
							}
						}
					},
					Bad: &bad,
				}
			})
		})
	}
}

func TestFIB_routes_look_as_operators_know_them(t *testing.T) {
	h := newHost(t)
	h.mustApply(t,
		to("192.168.18.64/26", calc.Route{Type: calc.Blackhole}),
		to("192.168.196.128/26", h.via("10.0.0.2")),
		to("192.168.196.192/26", h.via("10.0.0.2", "10.0.0.3")),
		to("192.168.1.5/32", h.via("10.0.0.2")),
		to("fd80::40/122", calc.Route{Type: calc.Blackhole}),
		to("fd80::80/122", h.via("fd00::2")),
	)
	for prefix, want := range map[string]string{
		"192.168.18.64/26":   "blackhole 192.168.18.64/26 proto bird",
		"192.168.196.128/26": "192.168.196.128/26 via 10.0.0.2 dev eth0 proto bird",
		"192.168.196.192/26": "192.168.196.192/26 proto bird \n\tnexthop via 10.0.0.2 dev eth0 weight 1 \n\tnexthop via 10.0.0.3 dev eth0 weight 1",
		"192.168.1.5/32":     "192.168.1.5 via 10.0.0.2 dev eth0 proto bird",
		"fd80::40/122":       "blackhole fd80::40/122 dev lo proto bird metric 1024 pref medium",
		"fd80::80/122":       "fd80::80/122 via fd00::2 dev eth0 proto bird metric 1024 pref medium",
	} {
		if got := h.routes(prefix); got != want {
			t.Errorf("%s is\n%q, want\n%q", prefix, got, want)
		}
	}
}

func TestFIB_a_blackhole_becomes_a_route_in_one_step(t *testing.T) {
	h := newHost(t)
	for _, tc := range [][2]string{{"192.168.1.0/26", "10.0.0.2"}, {"fd80::40/122", "fd00::2"}} {
		h.mustApply(t, to(tc[0], calc.Route{Type: calc.Blackhole}))
		h.mustApply(t, to(tc[0], h.via(tc[1])))
		if got := h.routes(tc[0]); strings.Contains(got, "blackhole") || strings.Count(got, "via") != 1 {
			t.Errorf("after the change: %q", got)
		}
		h.mustApply(t, to(tc[0], calc.Route{Type: calc.Blackhole}))
		if got := h.routes(tc[0]); !strings.HasPrefix(got, "blackhole") || strings.Contains(got, "via") {
			t.Errorf("after the change back: %q", got)
		}
	}
}

func TestFIB_never_touches_a_route_of_another_to_the_same_prefix(t *testing.T) {
	h := newHost(t)
	h.Run("ip", "link", "add", "cali0", "type", "veth", "peer", "name", "c0")
	h.Run("ip", "link", "set", "c0", "up")
	h.Run("ip", "link", "set", "cali0", "up")
	h.Run("ip", "route", "add", "192.168.1.5", "dev", "cali0", "scope", "link")
	err := h.apply(t, to("192.168.1.5/32", h.via("10.0.0.2")), to("192.168.1.6/32", h.via("10.0.0.2")))
	var keys *reconcile.KeyErrors[netip.Prefix]
	if !errors.As(err, &keys) || len(keys.Errs) != 1 || !errors.Is(keys.Errs[netip.MustParsePrefix("192.168.1.5/32")], errTaken) {
		t.Errorf("Apply: %v", err)
	}
	if got := h.routes("192.168.1.5"); got != "192.168.1.5 dev cali0 scope link" {
		t.Errorf("felix's route is %q", got)
	}

	// felix puts its route in the place of ours; then ours must not come back over it.
	h.Run("ip", "route", "replace", "192.168.1.6", "dev", "cali0", "scope", "link")
	if err := h.apply(t, to("192.168.1.6/32", h.via("10.0.0.3"))); !errors.Is(err, errTaken) {
		t.Errorf("Apply over felix's route: %v", err)
	}
	if got := h.routes("192.168.1.6"); got != "192.168.1.6 dev cali0 scope link" {
		t.Errorf("felix's second route is %q", got)
	}
	if err := h.fib.Apply(t.Context(), reconcile.Changes[netip.Prefix, calc.Route]{Delete: []netip.Prefix{netip.MustParsePrefix("192.168.1.5/32")}}); err != nil {
		t.Error(err)
	}
	if got := h.routes("192.168.1.5"); got != "192.168.1.5 dev cali0 scope link" {
		t.Errorf("after a delete felix's route is %q", got)
	}

	// Two routes side by side: a replacement could hit either.
	h.mustApply(t, to("192.168.1.7/32", h.via("10.0.0.2")))
	h.Run("ip", "route", "prepend", "192.168.1.7", "dev", "cali0", "scope", "link")
	if _, err := h.fib.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.apply(t, to("192.168.1.7/32", h.via("10.0.0.3"))); !errors.Is(err, errTaken) {
		t.Errorf("Apply on a contested prefix: %v", err)
	}
	if got := h.routes("192.168.1.7"); !strings.Contains(got, "192.168.1.7 dev cali0 scope link") {
		t.Errorf("the prepended route is gone: %q", got)
	}
}

// TestFIB_takes_over_what_BIRD_left: BIRD 2 gives its routes metric 32.
func TestFIB_takes_over_what_BIRD_left(t *testing.T) {
	h := newHost(t)
	h.Run("ip", "route", "add", "192.168.1.0/26", "via", "10.0.0.2", "proto", "bird", "metric", "32")
	h.Run("ip", "route", "add", "192.168.2.0/26", "via", "10.0.0.2", "proto", "bird", "metric", "32")
	have, err := h.fib.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := have[netip.MustParsePrefix("192.168.1.0/26")]; !ok || !r.Equal(h.via("10.0.0.2")) {
		t.Errorf("List = %v", have)
	}
	h.mustApply(t, to("192.168.1.0/26", h.via("10.0.0.3")))
	if got, want := h.routes("192.168.1.0/26"), "192.168.1.0/26 via 10.0.0.3 dev eth0 proto bird"; got != want {
		t.Errorf("after a change: %q, want %q", got, want)
	}
	if err := h.fib.Apply(t.Context(), reconcile.Changes[netip.Prefix, calc.Route]{Delete: []netip.Prefix{netip.MustParsePrefix("192.168.2.0/26")}}); err != nil {
		t.Fatal(err)
	}
	if got := h.routes("192.168.2.0/26"); got != "" {
		t.Errorf("after a delete: %q", got)
	}
}

func TestFIB_resolves_next_hops(t *testing.T) {
	h := newHost(t)
	h.Run("ip", "route", "add", "10.9.0.0/16", "via", "10.0.0.254")
	h.Run("ip", "route", "add", "fd09::/64", "via", "fd00::fe")
	h.Run("ip", "route", "add", "10.8.0.0/16", "via", "10.0.0.2", "proto", "bird")
	h.Run("ip", "route", "add", "unreachable", "10.7.0.0/16")
	h.Run("ip", "route", "add", "10.6.0.0/16", "via", "192.0.2.9", "dev", "eth0", "onlink")
	h.Run("ip", "route", "add", "10.5.0.0/16", "nexthop", "via", "10.0.0.3", "nexthop", "via", "10.0.0.4")
	h.Run("ip", "route", "add", "fd05::/64", "nexthop", "via", "fd00::4", "nexthop", "via", "fd00::3")
	h.Run("ip", "route", "add", "10.4.0.0/16", "via", "inet6", "fe80::9", "dev", "eth0")
	h.Run("ip", "route", "add", "10.3.0.0/16", "nexthop", "via", "inet6", "fe80::9", "dev", "eth0", "nexthop", "via", "10.0.0.3")
	for next, want := range map[string]calc.Resolution{
		"10.4.0.1": {Hops: h.via("fe80::9").Hops},
		"10.3.0.1": {Hops: h.via("10.0.0.3", "fe80::9").Hops},
		"10.0.0.2": {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("10.0.0.2"), Link: h.eth0}}},
		"fd00::2":  {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("fd00::2"), Link: h.eth0}}},
		"10.9.0.9": {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("10.0.0.254"), Link: h.eth0}}},
		"fd09::9":  {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("fd00::fe"), Link: h.eth0}}},
		"10.6.0.1": {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("192.0.2.9"), Link: h.eth0, OnLink: true}}},
		"10.5.0.1": {Hops: h.via("10.0.0.3", "10.0.0.4").Hops},
		"fd05::1":  {Hops: h.via("fd00::3", "fd00::4").Hops},
		"10.8.0.8": {Why: "only a learned route leads to it"},
		"10.7.0.7": {Why: "this host has no route to it"},
		"10.0.0.1": {Why: "it is an address of this host"},
		"fd00::1":  {Why: "it is an address of this host"},
		"10.1.1.1": {Why: "this host has no route to it"},
		"fd01::1":  {Why: "this host has no route to it"},
	} {
		if got := h.fib.Resolve(netip.MustParseAddr(next)); !got.Equal(want) {
			t.Errorf("Resolve(%s) = %+v, want %+v", next, got, want)
		}
	}
	h.mustApply(t, to("192.168.1.0/26", calc.Route{Hops: h.fib.Resolve(netip.MustParseAddr("10.6.0.1")).Hops}))
	if got, want := h.routes("192.168.1.0/26"), "192.168.1.0/26 via 192.0.2.9 dev eth0 proto bird onlink"; got != want {
		t.Errorf("onlink route is %q, want %q", got, want)
	}
	// A learned route goes to the IPv6 router that leads to its next hop.
	for next, want := range map[string]string{
		"10.4.0.1": "192.168.2.0/26 via inet6 fe80::9 dev eth0 proto bird",
		"10.3.0.1": "192.168.2.0/26 proto bird nexthop via 10.0.0.3 dev eth0 weight 1 nexthop via inet6 fe80::9 dev eth0 weight 1",
	} {
		h.mustApply(t, to("192.168.2.0/26", calc.Route{Hops: h.fib.Resolve(netip.MustParseAddr(next)).Hops}))
		if got := strings.Join(strings.Fields(h.routes("192.168.2.0/26")), " "); got != want {
			t.Errorf("route to %s is %q, want %q", next, got, want)
		}
	}
}

// expect waits until the changes since the last call are as wanted.
func (h *host) expect(t *testing.T, what string, ok func(Changes) bool) {
	t.Helper()
	var all Changes
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	for {
		c := h.fib.Changes()
		all = Changes{Ours: all.Ours || c.Ours, NextHops: all.NextHops || c.NextHops, Lost: all.Lost || c.Lost, Hosts: c.Hosts}
		if ok(all) {
			return
		}
		select {
		case <-h.kick:
		case <-timer.C:
			t.Fatalf("%s: changes are %+v", what, all)
		}
	}
}

func TestFIB_notices_what_others_do_and_not_what_it_does_itself(t *testing.T) {
	h := newHost(t)
	h.Run("ip", "link", "add", "cali0", "type", "veth", "peer", "name", "c0")
	h.mustApply(t, to("192.168.1.0/26", calc.Route{Type: calc.Blackhole}), to("fd80::40/122", calc.Route{Type: calc.Blackhole}))

	h.Run("ip", "route", "add", "203.0.113.0/24", "via", "10.0.0.2")
	h.expect(t, "a foreign route", func(c Changes) bool { return c.NextHops && !c.Ours })
	h.mustApply(t, to("192.168.1.64/26", h.via("10.0.0.2")), to("fd80::80/122", h.via("fd00::2")))
	if c := h.fib.Changes(); !c.Empty() {
		t.Errorf("own writes came back as %+v", c)
	}

	h.Run("ip", "route", "del", "blackhole", "192.168.1.0/26")
	h.expect(t, "a route of ours removed", func(c Changes) bool { return c.Ours && !c.NextHops })
	h.Run("ip", "-6", "route", "del", "fd80::80/122")
	h.expect(t, "an IPv6 route of ours removed", func(c Changes) bool { return c.Ours })

	h.Run("ip", "link", "set", "cali0", "up")
	h.Run("ip", "route", "add", "192.168.1.5", "dev", "cali0", "scope", "link")
	felix := netip.MustParsePrefix("192.168.1.5/32")
	h.expect(t, "felix's route", func(c Changes) bool {
		return c.Hosts[felix] == HostRoute{Present: true, Container: true} && !c.Ours && !c.NextHops
	})
	if others, err := h.fib.Others(t.Context()); err != nil || len(others.Hosts) != 1 || !others.Hosts[felix] {
		t.Errorf("Others = %v, %v", others, err)
	}
	h.Run("ip", "route", "del", "192.168.1.5", "dev", "cali0")
	h.expect(t, "felix's route gone", func(c Changes) bool { route, told := c.Hosts[felix]; return told && !route.Present })

	h.Run("ip", "link", "set", "eth0", "down")
	h.expect(t, "a link down", func(c Changes) bool { return c.Ours && c.NextHops })
	if have, err := h.fib.List(t.Context()); err != nil || len(have) != 1 {
		t.Errorf("with the link down: %v, %v", have, err)
	}
	h.Run("ip", "link", "set", "eth0", "up")
	h.expect(t, "a link up", func(c Changes) bool { return c.Ours && c.NextHops })
	h.Run("ip", "addr", "add", "10.3.0.1/24", "dev", "eth0")
	h.expect(t, "an address", func(c Changes) bool { return c.NextHops })
}

// TestFIB_containers_of_others_cost_nothing: their interfaces come and go behind a bridge.
func TestFIB_containers_of_others_cost_nothing(t *testing.T) {
	h := newHost(t)
	h.Run("ip", "link", "add", "docker0", "type", "bridge")
	h.Run("ip", "link", "set", "docker0", "up")
	h.Run("ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
	h.settle()
	last := netip.MustParsePrefix("203.0.113.7/32")
	for _, step := range []struct{ verb, script string }{
		{"add", "ip link add v$i type veth peer name w$i; ip link set v$i master docker0; ip link set v$i up; ip link add cali$i type veth peer name c$i; ip link set cali$i up"},
		{"del", "ip link del v$i; ip link del cali$i"},
	} {
		h.Run("sh", "-ec", "for i in 1 2 3; do "+step.script+"; done")
		h.Run("ip", "route", step.verb, last.String(), "dev", "eth0")
		var all Changes
		h.expect(t, "the end of it", func(c Changes) bool { all = c; _, told := c.Hosts[last]; return told })
		if all.Ours || all.NextHops || all.Lost {
			t.Errorf("%s: changes are %+v", step.verb, all)
		}
	}
}

// TestFIB_a_port_that_leads_to_a_next_hop counts, as any link over which a route of ours
// leads.
func TestFIB_a_port_that_leads_to_a_next_hop(t *testing.T) {
	h := newHost(t)
	h.Run("sh", "-ec", "ip link add br0 type bridge; ip link set br0 up; ip link add up1 type veth peer name down1; ip link set down1 up; ip link set up1 master br0 up; ip addr add 10.4.0.1/24 dev up1")
	var up1 int
	h.Do(func() { up1 = linkIndex(t, "up1") })
	h.mustApply(t, to("192.168.1.0/26", calc.Route{Hops: []calc.Hop{{Gateway: netip.MustParseAddr("10.4.0.2"), Link: up1}}}))
	h.settle()
	// The kernel keeps the address and the route of a link without carrier.
	h.Run("ip", "link", "set", "down1", "down")
	h.expect(t, "the carrier lost", func(c Changes) bool { return c.Ours && c.NextHops })
	h.Run("ip", "link", "set", "down1", "up")
	h.expect(t, "the carrier found", func(c Changes) bool { return c.Ours && c.NextHops })
}

func TestFIB_what_is_around_the_host(t *testing.T) {
	h := newHost(t)
	if err := h.apply(t, to("192.168.1.0/26", h.via("10.0.0.7"))); err != nil {
		t.Fatal(err)
	}
	h.Run("ip", "link", "add", "cali0", "type", "veth", "peer", "name", "c0")
	h.Run("ip", "link", "set", "cali0", "up")
	h.Run("ip", "link", "set", "c0", "up")
	h.Run("sh", "-c", "ip link add tun0 type veth peer name tun1; ip link set tun0 up; ip link set tun1 up; ip addr add 10.40.0.2/32 dev tun0; ip addr add fd40::2/128 dev tun0")
	h.Run("ip", "addr", "add", "172.20.0.1/24", "dev", "eth0", "noprefixroute")
	h.Run("ip", "-6", "addr", "add", "fd20::1/128", "dev", "eth0") // as DHCPv6 and a router's announcement give it
	h.settle()
	for _, r := range []string{
		"default via 10.0.0.254", "10.9.0.0/16 via 10.0.0.253", "172.20.0.0/24 dev eth0", "192.168.1.5 dev cali0", "192.168.9.0/24 dev cali0",
		"blackhole 172.21.0.0/24", "10.5.0.0/16 nexthop via 10.0.0.3 nexthop via 10.0.0.4", "default via fd00::fe", "fd20::/64 dev eth0 proto ra",
		// What leads to others through a tunnel is no network of this host.
		"192.168.0.0/16 dev tun0", "128.0.0.0/1 dev tun0", "10.0.0.0/8 dev tun0", "fd00::/8 dev tun0", "8000::/1 dev tun0",
		"10.6.0.0/16 via inet6 fe80::9 dev eth0", "10.7.0.0/16 via inet6 fd00::fd dev eth0",
	} {
		h.Run("sh", "-c", "ip route add "+r)
	}
	others, err := h.fib.Others(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(others.Around), "{[10.0.0.0/24 172.20.0.0/24 fd00::/64 fd20::/64] [10.0.0.3 10.0.0.4 10.0.0.253 10.0.0.254 fd00::fd fd00::fe]}"; got != want {
		t.Errorf("around are %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(others.Hosts), "map[192.168.1.5/32:true fd20::1/128:false fd40::2/128:false]"; got != want {
		t.Errorf("hosts are %s, want %s", got, want)
	}
	for a, want := range map[string]bool{"10.0.0.1": true, "fd00::1": true, "10.0.0.2": false, "fd00::2": false, "192.168.1.9": false, "fd99::1": false} {
		if got := h.fib.IsLocal(netip.MustParseAddr(a)); got != want {
			t.Errorf("IsLocal(%s) = %t", a, got)
		}
	}
	h.Run("ip", "addr", "del", "10.0.0.1/24", "dev", "eth0")
	if h.fib.IsLocal(netip.MustParseAddr("10.0.0.1")) {
		t.Error("an address that left is still local")
	}
}

// TestFIB_a_dead_leg_of_the_underlay leads nowhere.
func TestFIB_a_dead_leg_of_the_underlay(t *testing.T) {
	h := newHost(t)
	h.Run("sh", "-c", "ip link add up1 type veth peer name down1; ip link set up1 up; ip link set down1 up; ip addr add 10.4.0.1/24 dev up1")
	h.Run("ip", "route", "add", "10.5.0.0/16", "nexthop", "via", "10.0.0.3", "nexthop", "via", "10.4.0.4")
	next := netip.MustParseAddr("10.5.0.1")
	if r := h.fib.Resolve(next); len(r.Hops) != 2 {
		t.Fatalf("resolution is %+v", r)
	}
	h.settle()
	h.Run("ip", "link", "set", "up1", "down")
	h.expect(t, "the link going down", func(c Changes) bool { return c.NextHops })
	if r := h.fib.Resolve(next); !r.Equal(calc.Resolution{Hops: h.via("10.0.0.3").Hops}) {
		t.Errorf("resolution is %+v", r)
	}
}

func TestFIB_survives_lost_notifications(t *testing.T) {
	h := newHost(t)
	h.fib.monitor.note(Changes{Lost: true})
	h.expect(t, "the loss", func(c Changes) bool { return c.Lost })
}

func manyRoutes(h *host, n int) []item {
	items := make([]item, n)
	for i := range items {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + i>>10), byte(i >> 2), byte(i << 6)}), 26)
		items[i] = item{Key: p, Value: h.via("10.0.0.2")}
	}
	return items
}

func TestFIB_ten_thousand_routes(t *testing.T) {
	h := newHost(t)
	items := manyRoutes(h, 10000)
	start := time.Now()
	h.mustApply(t, items...)
	t.Logf("10,000 routes written in %v", time.Since(start))
	start = time.Now()
	have, err := h.fib.List(t.Context())
	if err != nil || len(have) != len(items) {
		t.Fatalf("List has %d routes: %v", len(have), err)
	}
	t.Logf("listed in %v", time.Since(start))
	var all reconcile.Changes[netip.Prefix, calc.Route]
	for _, it := range items {
		all.Delete = append(all.Delete, it.Key)
	}
	start = time.Now()
	if err := h.fib.Apply(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	t.Logf("deleted in %v", time.Since(start))
}

func BenchmarkFIB_10000_routes(b *testing.B) {
	h := newHost(b)
	items := manyRoutes(h, 10000)
	for b.Loop() {
		for i := range items {
			items[i].Value = h.via(fmt.Sprintf("10.0.0.%d", 2+b.N%2))
		}
		if err := h.apply(b, items...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(items)), "µs/route")
}

func FuzzDecode(f *testing.F) {
	fib := &FIB{opts: Options{Table: 300, Protocol: 12}}
	f.Add(fib.encode(netip.MustParsePrefix("192.168.1.0/26"), calc.Route{Type: calc.Blackhole}))
	f.Add(fib.encode(netip.MustParsePrefix("fd80::40/122"), calc.Route{Hops: []calc.Hop{
		{Gateway: netip.MustParseAddr("fd00::2"), Link: 2}, {Gateway: netip.MustParseAddr("fd00::3"), Link: 3, OnLink: true},
	}}))
	f.Add(fib.encodeDelete(netip.MustParsePrefix("10.0.0.0/8"), 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(b)
		if err == nil && !e.prefix.IsValid() {
			t.Errorf("decoded %+v", e)
		}
	})
}

func TestMessages_survive_a_round_trip(t *testing.T) {
	fib := &FIB{opts: Options{Table: 300, Protocol: 12}}
	for prefix, r := range map[string]calc.Route{
		"192.168.1.0/26": {Type: calc.Blackhole},
		"0.0.0.0/0":      {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("10.0.0.2"), Link: 2}}},
		"192.168.1.5/32": {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("10.0.0.2"), Link: 2, OnLink: true}}},
		"192.168.1.6/32": {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("fe80::2"), Link: 2}}},
		"192.168.1.7/32": {Hops: []calc.Hop{{Gateway: netip.MustParseAddr("10.0.0.2"), Link: 3}, {Gateway: netip.MustParseAddr("fe80::2"), Link: 2}}},
		"fd80::40/122": {Hops: []calc.Hop{
			{Gateway: netip.MustParseAddr("fd00::2"), Link: 2}, {Gateway: netip.MustParseAddr("fd00::3"), Link: 3, OnLink: true},
		}},
	} {
		e, err := decode(fib.encode(netip.MustParsePrefix(prefix), r))
		if err != nil || e.prefix.String() != prefix || !e.route().Equal(r) || e.table != 300 || e.protocol != 12 {
			t.Errorf("%s %s came back as %+v (%v)", prefix, r, e, err)
		}
	}
}
