package etcdstore_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

func TestCreateGetUpdateDelete(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx := newClient(t, s), ctxOf(t)
	k := policyKey(1)

	if _, err := c.Get(ctx, k); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("get before create: %v", err)
	}
	if _, err := c.Update(ctx, k, policy("a == 'b'"), 0); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("update before create: %v", err)
	}
	rev := must[int64](t)(c.Create(ctx, k, policy("a == 'b'")))
	if _, err := c.Create(ctx, k, policy("a == 'b'")); !errors.Is(err, etcdstore.ErrExists) {
		t.Errorf("second create: %v", err)
	}
	e := must[etcdstore.Entry](t)(c.Get(ctx, k))
	if diff := cmp.Diff(etcdstore.Entry{Key: k, Value: policy("a == 'b'"), Revision: rev}, e); diff != "" {
		t.Errorf("get (-want +got):\n%s", diff)
	}
	if again := must[int64](t)(c.Update(ctx, k, policy("a == 'b'"), rev)); again != rev {
		t.Errorf("an update without a change wrote: revision %d, was %d", again, rev)
	}
	next := must[int64](t)(c.Update(ctx, k, policy("c == 'd'"), rev))
	if next <= rev {
		t.Errorf("revision %d after %d", next, rev)
	}
	if _, err := c.Update(ctx, k, policy("e == 'f'"), rev); !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("update with an old revision: %v", err)
	}
	if _, err := c.Delete(ctx, k, rev); !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("delete with an old revision: %v", err)
	}
	must[int64](t)(c.Delete(ctx, k, next))
	if _, err := c.Delete(ctx, k, 0); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("second delete: %v", err)
	}
}

func TestApplyWritesOnlyWhatChanged(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx := newClient(t, s), ctxOf(t)
	k := model.ProfileKey{Name: "net1"}
	p := &model.Profile{Tags: []string{"net1"}, OutboundRules: []model.Rule{{Action: model.ActionAllow}}}
	apply := func(wantChanged bool) int64 {
		t.Helper()
		changed, rev, err := c.Apply(ctx, k, p)
		if err != nil || changed != wantChanged {
			t.Fatalf("changed %v, %v", changed, err)
		}
		return rev
	}
	rev := apply(true)
	if again := apply(false); again != rev {
		t.Errorf("revision %d of an unchanged resource, was %d", again, rev)
	}
	p.Labels = map[string]string{"a": "b"}
	if next := apply(true); next <= rev {
		t.Errorf("revision %d after %d", next, rev)
	}
}

// TestGather reads more than a page, and counts what cannot be decoded too.
func TestGather(t *testing.T) {
	s := etcdtest.Shared(t)
	s.Wipe(t)
	c, ctx := newClient(t, s), ctxOf(t)
	const n = 2100
	at := func(i int) string {
		return model.Paths(model.NetworkSetKey{Name: fmt.Sprintf("s%04d", i)})[0]
	}
	for i := 0; i < n; i += 100 {
		var ops []clientv3.Op
		for j := range 100 {
			ops = append(ops, clientv3.OpPut(at(i+j), `{"nets":["10.0.0.0/8"]}`))
		}
		if _, err := c.Raw().Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := c.Raw().Put(ctx, at(7), "{")
	if err != nil {
		t.Fatal(err)
	}
	broken := 0
	got, revision, err := etcdstore.Gather(ctx, c, model.ListPrefixes(model.KindNetworkSet), func(e etcdstore.Entry) (string, bool) {
		k, _ := e.Key.(model.NetworkSetKey)
		if e.Value == nil {
			broken++
		}
		return k.Name, k.Name != "s0008"
	})
	if err != nil || len(got) != n-1 || got[0] != "s0000" || got[n-2] != "s2099" || broken != 1 || revision != resp.Header.Revision {
		t.Errorf("%d gathered, %d of them broken, at revision %d (want %d): %v", len(got), broken, revision, resp.Header.Revision, err)
	}
}
