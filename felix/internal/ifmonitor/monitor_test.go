package ifmonitor

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/nettest"
)

const patience = 10 * time.Second

// watch starts a monitor and returns what waits for an event that satisfies a test.
func watch(t *testing.T, buffer int) (until func(what string, ok func(Event) bool)) {
	t.Helper()
	nettest.Isolate(t)
	m, err := newMonitor(buffer)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan Event), make(chan error, 1)
	go func() { done <- m.Run(ctx, events) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("monitor: %v", err)
		}
	})
	return func(what string, ok func(Event) bool) {
		t.Helper()
		timeout := time.After(patience)
		for {
			select {
			case e := <-events:
				if ok(e) {
					return
				}
			case <-timeout:
				t.Fatalf("no event: %s", what)
			}
		}
	}
}

func TestEvents(t *testing.T) {
	until := watch(t, bufferSize)
	run := func(args ...string) { nettest.Run(t, "ip", args...) }
	var index int
	until("the first list", func(e Event) bool { return e.Snapshot && e.Links[0].Name == "lo" && e.Links[0].Up })

	run("link", "add", "cali1", "type", "veth", "peer", "name", "p")
	link := func(ok func(Link) bool) func(Event) bool {
		return func(e Event) bool {
			for _, l := range e.Links {
				if l.Name == "cali1" && ok(l) {
					index = l.Index
					return true
				}
			}
			return false
		}
	}
	until("a new interface", link(func(l Link) bool { return !l.Up && len(l.MAC) == 6 }))
	run("link", "set", "p", "up")
	run("link", "set", "cali1", "up")
	until("it is up", link(func(l Link) bool { return l.Up }))

	run("addr", "add", "10.0.0.7/24", "dev", "cali1")
	until("an address", func(e Event) bool {
		return len(e.Addrs) > 0 && e.Addrs[0].Prefix == netip.MustParsePrefix("10.0.0.7/24") && e.Addrs[0].Index == index && !e.Addrs[0].Gone
	})
	run("route", "add", "10.1.0.0/16", "dev", "cali1")
	wantRoute := func(gone bool) func(Event) bool {
		return func(e Event) bool {
			return len(e.Routes) > 0 && e.Routes[0] == Route{Index: index, Prefix: netip.MustParsePrefix("10.1.0.0/16"), Gone: gone}
		}
	}
	until("a route", wantRoute(false))
	run("route", "del", "10.1.0.0/16")
	until("the route is gone", wantRoute(true))

	run("neigh", "add", "10.0.0.9", "dev", "cali1", "lladdr", "02:00:00:00:00:01", "nud", "permanent")
	until("a neighbour", func(e Event) bool {
		return len(e.Neighs) > 0 && e.Neighs[0].Index == index && e.Neighs[0].Permanent &&
			e.Neighs[0].Addr == netip.MustParseAddr("10.0.0.9") && e.Neighs[0].MAC.String() == "02:00:00:00:00:01"
	})
	nettest.Run(t, "sysctl", "-q", "-w", "net.ipv4.conf.cali1.proxy_arp=1")
	until("a setting", func(e Event) bool { return len(e.Settings) > 0 && e.Settings[0] == index })
	nettest.Run(t, "sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=2")
	until("a setting of all interfaces", func(e Event) bool { return len(e.Settings) > 0 && e.Settings[0] == AllInterfaces })

	run("link", "del", "cali1")
	until("it is gone", link(func(l Link) bool { return l.Gone }))
}

func TestLostNotificationsAreFollowedByASnapshot(t *testing.T) {
	until := watch(t, 4096)
	until("the first list", func(e Event) bool { return e.Snapshot })
	// Nobody reads meanwhile, so that the socket's buffer overflows.
	run := func(args ...string) { nettest.Run(t, "ip", args...) }
	run("link", "add", "cali1", "type", "veth", "peer", "name", "p")
	run("link", "set", "cali1", "up")
	var batch strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&batch, "route replace 10.%d.%d.0/24 dev cali1\n", i/256, i%256)
	}
	nettest.Feed(t, batch.String(), "ip", "-batch", "-")
	run("link", "add", "cali2", "type", "veth", "peer", "name", "p2")
	until("a snapshot with the last interface", func(e Event) bool {
		for _, l := range e.Links {
			if e.Snapshot && l.Name == "cali2" {
				return true
			}
		}
		return false
	})
}

func TestLinks(t *testing.T) {
	l := NewLinks()
	apply := func(e Event) []Link { return l.Apply(e) }
	up := func(index int, name string) Link { return Link{Index: index, Name: name, Up: true} }
	gone := func(index int, name string) Link { return Link{Index: index, Name: name, Gone: true} }
	for _, c := range []struct {
		name  string
		event Event
		want  []Link
	}{
		{"the first list", Event{Snapshot: true, Links: []Link{up(1, "lo"), up(2, "cali1")}}, []Link{up(1, "lo"), up(2, "cali1")}},
		{"the same again", Event{Links: []Link{up(2, "cali1")}}, nil},
		{"it goes down", Event{Links: []Link{{Index: 2, Name: "cali1"}}}, []Link{{Index: 2, Name: "cali1"}}},
		{"it is renamed", Event{Links: []Link{{Index: 2, Name: "cali2"}}}, []Link{gone(2, "cali1"), {Index: 2, Name: "cali2"}}},
		{"another one with the same name comes before the old one goes", Event{Links: []Link{up(3, "cali2"), gone(2, "cali2")}}, []Link{up(3, "cali2"), gone(2, "cali2")}},
		{"an unknown one goes", Event{Links: []Link{gone(9, "x")}}, nil},
		{"a list without it", Event{Snapshot: true, Links: []Link{up(1, "lo")}}, []Link{gone(3, "cali2")}},
	} {
		if d := cmp.Diff(c.want, apply(c.event)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
	if _, ok := l.ByName("cali2"); ok {
		t.Error("cali2 is still known by name")
	}
	if link, ok := l.ByName("lo"); !ok || link.Index != 1 {
		t.Error("lo is not known by name")
	}
}

func TestAddressesOfLinks(t *testing.T) {
	l := NewLinks()
	prefix := netip.MustParsePrefix
	all := func(string) bool { return true }
	show := func(want func(string) bool) string { return fmt.Sprint(l.Addrs(want)) }
	for _, c := range []struct {
		name  string
		event Event
		want  string
	}{
		{
			"an address comes before its interface is known",
			Event{Addrs: []Addr{{Index: 1, Prefix: prefix("10.0.0.1/24")}}},
			"map[]",
		},
		{"then it is its", Event{Links: []Link{{Index: 1, Name: "eth0"}}}, "map[eth0:[10.0.0.1]]"},
		{
			"another one",
			Event{Addrs: []Addr{{Index: 1, Prefix: prefix("fd00::1/64")}, {Index: 1, Prefix: prefix("10.0.0.0/31")}}},
			"map[eth0:[10.0.0.0 10.0.0.1 fd00::1]]",
		},
		{"one goes", Event{Addrs: []Addr{{Index: 1, Prefix: prefix("10.0.0.1/24"), Gone: true}}}, "map[eth0:[10.0.0.0 fd00::1]]"},
		{"a new name", Event{Links: []Link{{Index: 1, Name: "lan"}}}, "map[lan:[10.0.0.0 fd00::1]]"},
		{
			"a whole list", Event{Snapshot: true, Links: []Link{{Index: 1, Name: "lan"}, {Index: 2, Name: "cali1"}}, Addrs: []Addr{
				{Index: 1, Prefix: prefix("10.0.0.9/24")}, {Index: 2, Prefix: prefix("fe80::1/64")},
			}}, "map[cali1:[fe80::1] lan:[10.0.0.9]]",
		},
		{"the interface goes", Event{Links: []Link{{Index: 1, Name: "lan", Gone: true}}}, "map[cali1:[fe80::1]]"},
	} {
		l.Apply(c.event)
		if got := show(all); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := show(func(name string) bool { return name != "cali1" }); got != "map[]" {
		t.Errorf("interfaces that are not wanted: %s", got)
	}
}
