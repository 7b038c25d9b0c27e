package ipam

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
)

// cluster makes the values of a cluster: nodes with 200 containers each, of two networks,
// with all that the plugin writes about them.
func cluster(endpoints int, add func(k model.Key, r model.Resource)) {
	pool := newPool(&model.IPPool{CIDR: netip.MustParsePrefix("10.0.0.0/8"), IPAM: true}, 1)
	add(model.IPPoolKey{CIDR: pool.cidr}, &model.IPPool{CIDR: pool.cidr, IPAM: true})
	const perNode, perBlock = 200, 50
	ids := map[string]string{}
	var b *model.Block
	for i := range endpoints {
		node := fmt.Sprintf("node-%05d", i/perNode)
		if i%perNode == 0 {
			add(model.NodeKey{Name: node}, &model.Node{IPv4: netip.MustParseAddr("192.0.2.1")})
			ids[node] = fmt.Sprintf("%064x", 1<<40+i)
		}
		if i%perBlock == 0 {
			b = newBlock(pool.block(uint64(i/perBlock)), node, false)
			add(model.BlockAffinityKey{Node: node, CIDR: b.CIDR}, &model.BlockAffinity{State: model.AffinityConfirmed})
		}
		id := fmt.Sprintf("%064x", i*2654435761)
		take(b, i%perBlock, Owner{Handle: id, Attrs: map[string]string{
			AttrNode: node, AttrTimestamp: "2026-01-02T03:04:05.123456789Z", AttrNetwork: "frontend", AttrEndpoint: id, AttrContainer: fmt.Sprintf("shop-web-%d", i),
		}})
		a := addrOf(b, i%perBlock)
		add(model.WorkloadEndpointKey{Node: node, Orchestrator: orchestrator, Workload: orchestrator, Name: id}, &model.WorkloadEndpoint{
			State: "active", Interface: linkOf(id), MAC: "ee:ee:ee:ee:ee:ee", Profiles: []string{"frontend"},
			IPv4Nets: []netip.Prefix{netip.PrefixFrom(a, 32)}, Labels: map[string]string{"role": "web", "app": "shop"},
			Meta: model.Meta{Annotations: map[string]string{"container": fmt.Sprintf("shop-web-%d", i), "project": "shop"}},
		})
		add(model.HandleKey{ID: id}, &model.Handle{HandleID: id, Block: map[string]int{b.CIDR.String(): 1}})
		if i%perBlock == perBlock-1 || i == endpoints-1 {
			add(model.BlockKey{CIDR: b.CIDR}, b)
		}
	}
	add(model.DockerNetworkKey{Name: "frontend"}, &model.DockerNetwork{IDs: ids})
}

// heap is what is in use after a collection.
func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// TestAnInventoryIsSmall holds it to 60 MB for 100,000 endpoints, together with the lists
// that a check makes.
func TestAnInventoryIsSmall(t *testing.T) {
	const endpoints = 20_000
	before := heap()
	i := newInventory()
	cluster(endpoints, func(k model.Key, r model.Resource) {
		parts, err := model.Encode(k, r)
		if err != nil {
			t.Fatal(err)
		}
		for path, value := range parts {
			i.add(&mvccpb.KeyValue{Key: []byte(path), Value: value, ModRevision: 1})
		}
	})
	i.complete()
	kept := heap() - before
	c := newChecker(i, Seen{}, time.Now())
	checked := heap() - before
	t.Logf("%.0f bytes an endpoint, %.0f while it is checked", kept/endpoints, checked/endpoints)
	if checked/endpoints > 600 {
		t.Errorf("%.0f bytes an endpoint", checked/endpoints)
	}
	if n := i.Counts(); n.Endpoints != endpoints || n.Addresses != endpoints || n.Handles != endpoints || n.Nodes != endpoints/200 {
		t.Errorf("counts %+v", n)
	}
	runtime.KeepAlive(c)
	if got := Check(i, Seen{}, time.Now()); len(got) > 0 {
		t.Errorf("found %d problems: %v", len(got), got[0])
	}
}

// BenchmarkInventory reads and checks a cluster with 100,000 endpoints; the floor is that
// etcd sends it all.
func BenchmarkInventory(b *testing.B) {
	w := newWorld(b)
	const endpoints = 100_000
	var ops []clientv3.Op
	write := func() {
		if _, err := w.store.Raw().Txn(w.ctx()).Then(ops...).Commit(); err != nil {
			b.Fatal(err)
		}
		ops = ops[:0]
	}
	cluster(endpoints, func(k model.Key, r model.Resource) {
		parts, err := model.Encode(k, r)
		if err != nil {
			b.Fatal(err)
		}
		for path, value := range parts {
			ops = append(ops, clientv3.OpPut(path, string(value)))
		}
		if len(ops) >= 100 {
			write()
		}
	})
	write()
	c := w.node("")
	b.Run("floor", func(b *testing.B) {
		for b.Loop() {
			n := 0
			if _, _, err := c.backend.each(b.Context(), inventoryPrefixes(), func(*mvccpb.KeyValue) { n++ }); err != nil || n < 2*endpoints {
				b.Fatal(n, err)
			}
		}
		b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N), "ms")
		b.ReportMetric(0, "ns/op")
	})
	b.Run("check", func(b *testing.B) {
		var read, check []time.Duration
		var kept, checked float64
		for b.Loop() {
			before := heap()
			start := time.Now()
			i, err := c.Inventory(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			read = append(read, time.Since(start))
			kept = max(kept, heap()-before)
			start = time.Now()
			found := Check(i, Seen{}, time.Now())
			check = append(check, time.Since(start))
			if len(found) > 0 {
				b.Fatalf("found %d problems: %v", len(found), found[0])
			}
			ch := newChecker(i, Seen{}, time.Now())
			checked = max(checked, heap()-before)
			runtime.KeepAlive(ch)
		}
		b.ReportMetric(float64(slices.Min(read).Milliseconds()), "read-ms")
		b.ReportMetric(float64(slices.Min(check).Milliseconds()), "check-ms")
		b.ReportMetric(kept/1e6, "kept-MB")
		b.ReportMetric(checked/1e6, "with-check-MB")
		b.ReportMetric(0, "ns/op")
	})
}

// TestAnInventoryTellsWhatIsStored: what is kept small is what was there.
func TestAnInventoryTellsWhatIsStored(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24", "fd80::/120")
	a := w.node("a")
	owner := Owner{Handle: "e", Attrs: map[string]string{AttrEndpoint: "e", "rack": "r1", AttrNetwork: "e"}}
	got, err := a.AutoAssign(w.ctx(), Request{IPv4: 2, IPv6: 1, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	i := w.inventory()
	held, _, err := a.Holdings(w.ctx(), "a")
	if err != nil || len(held) != 3 || len(got) != 3 {
		t.Fatal(held, err)
	}
	want, _ := json.Marshal(held)
	if have, _ := json.Marshal(slices.Collect(i.Holdings())); string(have) != string(want) {
		t.Errorf("got %s, want %s", have, want)
	}
	if o := i.OwnerOf(held[0].Block); o != "a" {
		t.Errorf("block of %q", o)
	}
}
