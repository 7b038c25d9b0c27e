package etcdstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// TestAMinorityTellsNothing: a member that has lost the others still has data, and would
// answer who asks it for what it knows. It is not asked: reads fail, a watch says that etcd
// is lost, and what the others decide meanwhile comes when they are back.
func TestAMinorityTellsNothing(t *testing.T) {
	t.Parallel()
	members := etcdtest.StartMembers(t, 3)
	alone := newClient(t, members[0])
	ctx := ctxOf(t)
	if _, err := alone.Create(ctx, policyKey(1), policy("all()")); err != nil {
		t.Fatal(err)
	}
	f := follow(t, alone, etcdstore.WatchOptions{}, model.PrefixV1)
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
	for _, m := range members[1:] {
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
	}
	f.until("loss", soon, func() bool { return f.last.Err != nil })
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := alone.Get(short, policyKey(1)); !errors.Is(err, etcdstore.ErrUnavailable) {
		t.Errorf("a read of a member without the others: %v, want that etcd is unavailable", err)
	}
	for _, m := range members[1:] {
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	other := newClient(t, members[1])
	if _, err := other.Create(ctx, policyKey(2), policy("all()")); err != nil {
		t.Fatal(err)
	}
	f.until("the change of the others", soon, func() bool {
		_, has := f.state[model.Paths(policyKey(2))[0]]
		return f.last.Err == nil && has
	})
}
