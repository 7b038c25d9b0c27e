package daemon

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"calico.internal/felix/internal/calc"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// TestKeptEndpointsEndWhereTheInterfaceWentUnseen has an interface go between two loops,
// while nobody is told that it does.
func TestKeptEndpointsEndWhereTheInterfaceWentUnseen(t *testing.T) {
	l := &loop{
		log: slog.New(slog.DiscardHandler), node: "here", links: ifmonitor.NewLinks(), engine: calc.New("here", "cali"),
		view: store.New(store.Options{Facts: facts}), keeping: newKeeping(nil),
	}
	snapshot := store.Batch{Snapshot: true, Revision: 5}
	for _, node := range []string{"elsewhere", "here"} {
		for _, name := range []string{"gone", "kept"} {
			key := model.WorkloadEndpointKey{Node: node, Orchestrator: "o", Workload: "w", Name: name}
			parts, err := model.Encode(key, &model.WorkloadEndpoint{State: "active", Interface: "cali" + name})
			if err != nil {
				t.Fatal(err)
			}
			for path, value := range parts {
				snapshot.Puts = append(snapshot.Puts, store.KV{Path: path, Value: value, ModRevision: 5})
			}
		}
	}
	l.view.Apply(snapshot)
	l.view.Apply(store.Batch{Snapshot: true, Restored: true, Revision: 3})
	if n := l.view.KeptCount(); n != len(snapshot.Puts) {
		t.Fatalf("%d endpoints are kept", n)
	}
	l.gateways.byKey = map[model.WorkloadEndpointKey]gatewayPair{}
	if err := l.takeEvent(ifmonitor.Event{Snapshot: true, Links: []ifmonitor.Link{{Index: 1, Name: "calikept", Up: true}}}); err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, k := range l.view.Kept() {
		e, _ := k.(model.WorkloadEndpointKey)
		kept = append(kept, e.Node+"/"+e.Name)
	}
	if want := []string{"elsewhere/gone", "elsewhere/kept", "here/kept"}; !slices.Equal(kept, want) {
		t.Errorf("kept are %v, want %v", kept, want)
	}
}

// TestLooksAfterOtherNodesBecomeRare has nodes that never write back: felix asks each of
// them soon, again and again, and is idle in the end.
func TestLooksAfterOtherNodesBecomeRare(t *testing.T) {
	var nodes []string
	for i := range 40 {
		nodes = append(nodes, fmt.Sprintf("node%02d", i))
	}
	for _, n := range []int{1, 16, 40} {
		k, now := newKeeping(nil), time.Now()
		asked, looks := map[string]bool{}, 0
		tick := func(until time.Duration) {
			looks = 0
			for end := now.Add(until); now.Before(end); now = now.Add(auditInterval) {
				if k.due(now) {
					looks++
					for _, node := range k.take(now, nodes[:n]) {
						asked[node] = true
					}
				}
			}
		}
		tick(3*keptLook + time.Second)
		if len(asked) != n {
			t.Errorf("%d of %d nodes are asked soon", len(asked), n)
		}
		tick(12 * time.Hour)
		clear(asked)
		tick(time.Hour)
		if looks > 7 || len(asked) != n {
			t.Errorf("%d looks an hour, at %d of %d nodes, long after", looks, len(asked), n)
		}
		k.moving(now)
		if tick(30 * time.Second); looks < 2 {
			t.Errorf("%d looks when something came of them", looks)
		}
	}
}

// TestADeletedNodeIsAskedAtOnce has a node deleted among many, before its turn has come.
func TestADeletedNodeIsAskedAtOnce(t *testing.T) {
	var nodes []string
	for i := range 3 * keptNodes {
		nodes = append(nodes, fmt.Sprintf("node%02d", i))
	}
	k, now, last := newKeeping(nil), time.Now(), nodes[len(nodes)-1]
	k.take(now, nodes)
	k.doubt([]string{"/calico/v1/host/" + last + "/workload/o/w/endpoint/e", "/calico/v1/policy"}, now)
	if k.due(now) {
		t.Error("a deletion of something else has nodes asked")
	}
	k.doubt(model.Paths(model.NodeKey{Name: last}), now)
	if !k.due(now) || !slices.Contains(k.take(now, nodes), last) {
		t.Error("the node is not asked at once")
	}
	if gone := k.gone(map[string]history.Node{last: {}, nodes[0]: {}}, 1); !gone[last] || gone[nodes[0]] {
		t.Errorf("gone are %v", gone)
	}
}
