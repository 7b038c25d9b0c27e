package daemon

import (
	"log/slog"
	"slices"
	"testing"

	"calico.internal/felix/internal/calc"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// TestKeptEndpointsEndWhereTheInterfaceWentUnseen has an interface go between two loops,
// while nobody is told that it does.
func TestKeptEndpointsEndWhereTheInterfaceWentUnseen(t *testing.T) {
	l := &loop{
		log: slog.New(slog.DiscardHandler), node: "here", links: ifmonitor.NewLinks(), engine: calc.New("here", "cali"),
		view: store.New(store.Options{Facts: facts}),
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
