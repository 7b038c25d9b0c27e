package etcdstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// events is how many changes a server has sent to those who watch.
func events(tb testing.TB, s *etcdtest.Server) int {
	tb.Helper()
	return metric(tb, s, "etcd_debugging_mvcc_events_total")
}

func followPlaces(tb testing.TB, c *etcdstore.Client, opts etcdstore.WatchOptions, places ...etcdstore.Place) *follower {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	return followBatches(tb, cancel, c.WatchPlaces(ctx, places, opts))
}

func endpointAt(node string) model.WorkloadEndpointKey {
	return model.WorkloadEndpointKey{Node: node, Orchestrator: "o", Workload: "w", Name: "mine"}
}

func pathOf(k model.Key) string { return model.Paths(k)[0] }

// A watch of places among the workload endpoints of all nodes, and of one of these, is not
// sent what happens to the others, of whatever node, also of one that comes later.
func TestWatchPlacesHearsNothingElse(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, raw, ctx := newClient(t, s), s.Client(t), ctxOf(t)
	for i := range 70 {
		name := fmt.Sprint("n", i)
		must[int64](t)(c.Create(ctx, model.NodeKey{Name: name}, &model.Node{IPv4: addr(fmt.Sprint("10.0.0.", i))}))
		crowd(t, raw, name, 3)
	}
	mine := pathOf(endpointAt("n5"))
	put(t, raw, mine, "1", pathOf(endpointAt("n6")), "1", mine+"more", "1")
	f := followPlaces(t, c, etcdstore.WatchOptions{},
		etcdstore.In(model.KindNode, model.Scope{}), etcdstore.In(model.KindHostEndpoint, model.Scope{}),
		etcdstore.At(endpointAt("n5")), etcdstore.In(model.KindFelixStatus, model.Scope{}))
	const hosts = 70 * 2 // ip_addr_v4 and host endpoint of each
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
	if len(f.state) < hosts+1 || f.state[mine] != "1" || f.state[mine+"more"] != "" {
		t.Errorf("%d keys, and mine is %q", len(f.state), f.state[mine])
	}
	before := events(t, s)
	for i := range 70 {
		crowd(t, raw, fmt.Sprint("n", i), 20)
		put(t, raw, pathOf(model.EndpointStatusKey(endpointAt(fmt.Sprint("n", i)))), "up")
	}
	put(t, raw, pathOf(endpointAt("n6")), "2")
	txn(t, raw, clientv3.OpDelete(mine))
	f.until("my endpoint's end", soon, func() bool { return f.state[mine] == "" })
	txn(t, raw, clientv3.OpDelete("/calico/bgp/v1/host/n5/", clientv3.WithPrefix()), clientv3.OpDelete("/calico/v1/host/n6/", clientv3.WithPrefix()))
	n5, n6 := "/calico/bgp/v1/host/n5/ip_addr_v4", pathOf(model.HostEndpointKey{Node: "n6", Name: "eth0"})
	f.until("the end of a node and of a host endpoint", soon, func() bool { return f.state[n5] == "" && f.state[n6] == "" })
	// Their host endpoints were written again.
	if n := events(t, s) - before; n > 90 {
		t.Errorf("etcd sent %d changes", n)
	}

	// A node that nobody knew: after its first workload endpoints, no more of them are sent.
	must[int64](t)(c.Create(ctx, model.NodeKey{Name: "n5-new"}, &model.Node{IPv4: addr("10.0.1.1")}))
	crowd(t, raw, "n5-new", 1)
	put(t, raw, mine, "3")
	young := pathOf(model.HostEndpointKey{Node: "n5-new", Name: "eth0"})
	f.until("the new node", soon, func() bool { return f.state[young] != "" && f.state[mine] == "3" })
	before = events(t, s)
	crowd(t, raw, "n5-new", 500)
	put(t, raw, young, "5")
	f.until("its host endpoint", soon, func() bool { return f.state[young] == "5" })
	if n := events(t, s) - before; n > 200 { // those of one transaction may be on their way before
		t.Errorf("etcd sent %d changes", n)
	}
	for path := range f.state {
		if path != mine && strings.Contains(path, "/workload/") {
			t.Errorf("%s was not asked for", path)
		}
	}
	if f.losses > 0 || f.snapshots != 1 {
		t.Errorf("%d losses, %d snapshots", f.losses, f.snapshots)
	}
}

// What happens while a watch of places is cut off is seen afterwards, whichever place it is
// in, with and without a compaction, and deletions too.
func TestWatchPlacesSurvivesACut(t *testing.T) {
	t.Parallel()
	for name, compact := range map[string]bool{"cut": false, "cut and compaction": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := etcdtest.Start(t)
			c, raw := newClient(t, s), s.Client(t)
			a, b, gone := pathOf(endpointAt("a")), pathOf(endpointAt("b")), "/calico/v1/policy/profile/gone/rules"
			put(t, raw, a, "1", b, "1", gone, "1", pathOf(endpointAt("c")), "1")
			f := followPlaces(t, c, etcdstore.Probing(-1, 100*time.Millisecond, time.Second),
				etcdstore.At(endpointAt("a")), etcdstore.At(endpointAt("b")), etcdstore.Under("/calico/v1/policy/profile/"))
			f.untilState(soon, map[string]string{a: "1", b: "1", gone: "1"})
			// One place is ahead of the others.
			for i := range 5 {
				put(t, raw, b, fmt.Sprint(i))
			}
			f.untilState(soon, map[string]string{a: "1", b: "4", gone: "1"})
			s.Stop()
			f.until("loss", soon, func() bool { return f.last.Err != nil })
			other := elsewhere(t, s)
			put(t, other, a, "2", pathOf(endpointAt("c")), "2")
			rev := txn(t, other, clientv3.OpDelete(gone), clientv3.OpPut(b, "5"))
			if compact {
				if _, err := other.Compact(ctxOf(t), rev); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			f.untilState(soon, map[string]string{a: "2", b: "5"})
			put(t, s.Client(t), a, "3")
			f.untilState(soon, map[string]string{a: "3", b: "5"})
			if want := map[bool]int{true: 2, false: 1}[compact]; f.snapshots != want {
				t.Errorf("%d snapshots, want %d", f.snapshots, want)
			}
		})
	}
}

// A transaction over several places comes in one batch while the receiver keeps up.
func TestWatchPlacesPutsATransactionTogether(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw := newClient(t, s), s.Client(t)
	f := followPlaces(t, c, etcdstore.WatchOptions{}, etcdstore.In(model.KindNode, model.Scope{}), etcdstore.In(model.KindProfile, model.Scope{}))
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
	left, right, profile := "/calico/bgp/v1/host/n/ip_addr_v4", "/calico/v1/host/n/bird_ip", "/calico/v1/policy/profile/n/tags"
	halves := 0
	for i := range 20 {
		value := fmt.Sprint(i)
		put(t, raw, left, value, right, value, profile, value)
		f.until("all of it", soon, func() bool {
			if f.state[left] != f.state[right] || f.state[left] != f.state[profile] {
				halves++
			}
			return f.state[left] == value && f.state[right] == value && f.state[profile] == value
		})
	}
	if halves > 2 { // on a busy machine one may come late
		t.Errorf("%d of 20 transactions came in parts", halves)
	}
}

// Watches by the thousand are asked for on one stream, which neither end may block.
func TestWatchManyPlaces(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, raw := newClient(t, s), s.Client(t)
	var places []etcdstore.Place
	for i := range 5000 {
		places = append(places, etcdstore.At(endpointAt(fmt.Sprintf("node-%05d-%s", i, strings.Repeat("x", 100)))))
	}
	f := followPlaces(t, c, etcdstore.WatchOptions{}, places...)
	last := pathOf(endpointAt("node-04999-" + strings.Repeat("x", 100)))
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
	put(t, raw, last, "1", last+"more", "1")
	f.untilState(soon, map[string]string{last: "1"})
	if f.losses > 0 {
		t.Errorf("%d losses", f.losses)
	}
}

// A kind that is not known is no place at all, and no place is not everything.
func TestWatchOfNoPlace(t *testing.T) {
	s := etcdtest.Shared(t)
	c := newClient(t, s)
	put(t, s.Client(t), "/calico/a", "1")
	for _, places := range [][]etcdstore.Place{nil, {etcdstore.In("unknown", model.Scope{})}, {etcdstore.Under("/calico/"), etcdstore.At()}} {
		f := followPlaces(t, c, etcdstore.WatchOptions{}, places...)
		f.until("refusal", soon, func() bool { return f.losses == 1 })
		if len(f.state) > 0 {
			t.Errorf("%v: %v", places, f.state)
		}
	}
}
