package etcdstore

import (
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"calico.internal/libcalico/store"
)

// Nobody takes the restored snapshot for a while. What is made and deleted meanwhile has
// been there and was deleted: that must not be taken for something that the backup lacks.
func TestDeletesAfterARestoredSnapshotAreKnown(t *testing.T) {
	t.Parallel()
	event := func(kind mvccpb.Event_EventType, path string) *mvccpb.Event {
		return &mvccpb.Event{Type: kind, Kv: &mvccpb.KeyValue{Key: []byte(path), ModRevision: 2}}
	}
	within := newRanges([]string{"/calico/"})
	p := newPending()
	p.snapshot([]store.KV{{Path: "/calico/a"}, {Path: "/calico/b"}}, 1, true)
	p.add([]*mvccpb.Event{event(mvccpb.PUT, "/calico/c"), event(mvccpb.DELETE, "/calico/c"), event(mvccpb.DELETE, "/calico/a")}, within, 2)
	// An audit that comes in between shows that b was deleted too.
	p.snapshot([]store.KV{{Path: "/calico/d"}}, 3, false)
	b, ok := p.next()
	if !ok || !b.Snapshot || !b.Restored || len(b.Puts) != 1 || !slices.Equal(b.Deletes, []string{"/calico/a", "/calico/b", "/calico/c"}) {
		t.Errorf("got %+v", b)
	}
	// A second backup is another matter: what was deleted in the first may be there.
	p.snapshot(nil, 1, true)
	p.add([]*mvccpb.Event{event(mvccpb.DELETE, "/calico/a")}, within, 2)
	p.snapshot(nil, 1, true)
	if b, ok := p.next(); !ok || !b.Restored || len(b.Deletes) > 0 {
		t.Errorf("got %+v", b)
	}
}
