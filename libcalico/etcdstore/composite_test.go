package etcdstore_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

func node(ip string, as uint32) *model.Node {
	n := &model.Node{IPv4: addr(ip)}
	if as != 0 {
		n.ASNumber = new(model.ASNumber(as))
	}
	return n
}

func TestCompositeIsOneTransaction(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx, raw := newClient(t, s), ctxOf(t), s.Client(t)
	k := model.NodeKey{Name: "node00"}
	keysAt := func(rev int64) int {
		resp, err := raw.Get(ctx, "/calico", clientv3.WithPrefix(), clientv3.WithMinModRev(rev), clientv3.WithMaxModRev(rev))
		if err != nil {
			t.Fatal(err)
		}
		return len(resp.Kvs)
	}

	rev := must[int64](t)(c.Create(ctx, k, node("10.0.0.1", 64513)))
	if got := keysAt(rev); got != 5 {
		t.Errorf("create wrote %d keys at its revision, want metadata, bird_ip, ip_addr_v4, ip_addr_v6 and as_num", got)
	}
	next := must[int64](t)(c.Update(ctx, k, node("10.0.0.1", 64514), rev))
	if got := keysAt(next); got != 1 {
		t.Errorf("the change of one part wrote %d keys", got)
	}
	without := must[int64](t)(c.Update(ctx, k, node("10.0.0.1", 0), next))
	e := must[etcdstore.Entry](t)(c.Get(ctx, k))
	if e.Revision != without || e.Value.(*model.Node).ASNumber != nil {
		t.Errorf("after removing the AS number: %+v at %d, want revision %d", e.Value, e.Revision, without)
	}
	must[int64](t)(c.Delete(ctx, k, without))
	if resp, err := raw.Get(ctx, "/calico", clientv3.WithPrefix()); err != nil || len(resp.Kvs) != 0 {
		t.Errorf("delete left %v, %v", resp.Kvs, err)
	}
}

// A condition covers all parts of a resource, whichever of them was changed or exists.
func TestCompositeConditionsCoverAllParts(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx, raw := newClient(t, s), ctxOf(t), s.Client(t)
	k := model.NodeKey{Name: "node00"}
	for _, path := range model.Paths(k) {
		s.Wipe(t)
		if _, err := raw.Put(ctx, path, "10.0.0.0"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Create(ctx, k, node("10.0.0.1", 0)); !errors.Is(err, etcdstore.ErrExists) {
			t.Errorf("create beside %s: %v", path, err)
		}
	}
	for _, path := range model.Paths(k) {
		s.Wipe(t)
		rev := must[int64](t)(c.Create(ctx, k, node("10.0.0.1", 1)))
		if _, err := raw.Put(ctx, path, "10.0.0.0"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Update(ctx, k, node("10.0.0.2", 1), rev); !errors.Is(err, etcdstore.ErrConflict) {
			t.Errorf("update after a change of %s: %v", path, err)
		}
		if _, err := c.Delete(ctx, k, rev); !errors.Is(err, etcdstore.ErrConflict) {
			t.Errorf("delete after a change of %s: %v", path, err)
		}
		w := must[etcdstore.Write](t)(etcdstore.UpdateWrite(k, node("10.0.0.2", 1), rev))
		if _, err := c.Commit(ctx, w); !errors.Is(err, etcdstore.ErrConflict) {
			t.Errorf("commit after a change of %s: %v", path, err)
		}
	}
}

// Several writers of one composite resource never leave a mixture of their versions.
func TestConcurrentWritersDoNotMix(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx := newClient(t, s), ctxOf(t)
	k := model.ProfileKey{Name: "p"}
	version := func(i int) *model.Profile {
		text := fmt.Sprint("v", i)
		return &model.Profile{Tags: []string{text}, Labels: map[string]string{"version": text}}
	}
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for range 10 {
				if _, _, err := c.Apply(ctx, k, version(i)); err != nil {
					t.Error(err)
				}
				if _, err := c.Update(ctx, k, version(i), 0); err != nil {
					t.Error(err)
				}
				e, err := c.Get(ctx, k)
				if err != nil {
					t.Error(err)
					continue
				}
				if p := e.Value.(*model.Profile); p.Tags[0] != p.Labels["version"] {
					t.Errorf("tags %v with labels %v", p.Tags, p.Labels)
				}
			}
		})
	}
	writers.Wait()
}

func TestCommit(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx := newClient(t, s), ctxOf(t)
	create := func(i int) etcdstore.Write {
		return must[etcdstore.Write](t)(etcdstore.CreateWrite(policyKey(i), policy("all()")))
	}
	rev := must[int64](t)(c.Commit(ctx, create(1), create(2),
		must[etcdstore.Write](t)(etcdstore.PutWrite(model.NodeKey{Name: "n"}, node("10.0.0.1", 1)))))
	for _, k := range []model.Key{policyKey(1), policyKey(2), model.NodeKey{Name: "n"}} {
		if e := must[etcdstore.Entry](t)(c.Get(ctx, k)); e.Revision != rev {
			t.Errorf("%v has revision %d, not the commit's %d", k, e.Revision, rev)
		}
	}

	_, err := c.Commit(ctx, create(3), create(1),
		must[etcdstore.Write](t)(etcdstore.UpdateWrite(policyKey(2), policy("a == 'b'"), rev-1)),
		must[etcdstore.Write](t)(etcdstore.UpdateWrite(policyKey(9), policy("a == 'b'"), 0)),
		must[etcdstore.Write](t)(etcdstore.CheckWrite(policyKey(2), 0)),
		must[etcdstore.Write](t)(etcdstore.ExistsWrite(policyKey(2))),
		must[etcdstore.Write](t)(etcdstore.ExistsWrite(policyKey(8))))
	conflict, ok := errors.AsType[*etcdstore.ConflictError](err)
	if !ok || !errors.Is(err, etcdstore.ErrConflict) || !errors.Is(err, etcdstore.ErrExists) || !errors.Is(err, etcdstore.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff([]model.Key{policyKey(1), policyKey(2), policyKey(9), policyKey(2), policyKey(8)}, conflict.Keys); diff != "" {
		t.Errorf("conflicts (-want +got):\n%s", diff)
	}
	wantText := "resource already exists: policy(name=p0001); update conflict: policy(name=p0002); " +
		"resource does not exist: policy(name=p0009); resource already exists: policy(name=p0002); resource does not exist: policy(name=p0008)"
	if err.Error() != wantText {
		t.Errorf("text %q", err)
	}
	if _, err := c.Get(ctx, policyKey(3)); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("a failed transaction left something: %v", err)
	}

	last := must[int64](t)(c.Commit(ctx,
		must[etcdstore.Write](t)(etcdstore.UpdateWrite(policyKey(1), policy("a == 'b'"), rev)),
		must[etcdstore.Write](t)(etcdstore.CheckWrite(policyKey(2), rev)),
		must[etcdstore.Write](t)(etcdstore.CheckWrite(model.NodeKey{Name: "n"}, rev)),
		must[etcdstore.Write](t)(etcdstore.CheckWrite(model.NodeKey{Name: "m"}, 0)),
		must[etcdstore.Write](t)(etcdstore.ExistsWrite(policyKey(2))),
		must[etcdstore.Write](t)(etcdstore.ExistsWrite(model.NodeKey{Name: "n"})),
		must[etcdstore.Write](t)(etcdstore.DeleteWrite(policyKey(7), 0))))
	must[int64](t)(c.Commit(ctx,
		must[etcdstore.Write](t)(etcdstore.DeleteWrite(policyKey(1), last)),
		must[etcdstore.Write](t)(etcdstore.DeleteWrite(model.NodeKey{Name: "n"}, rev))))
	if entries, _, _, err := c.List(ctx, model.KindPolicy, nil); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, err := c.Commit(ctx, create(4), must[etcdstore.Write](t)(etcdstore.ExistsWrite(model.NodeKey{Name: "n"}))); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("a resource of several parts that does not exist: %v", err)
	}
}

func TestCommitRefusesWhatEtcdWould(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx := newClient(t, s), ctxOf(t)
	if _, err := c.Commit(ctx); err == nil {
		t.Error("an empty transaction succeeded")
	}
	if _, err := c.Commit(ctx, etcdstore.Write{}); err == nil {
		t.Error("an empty step succeeded")
	}
	var writes []etcdstore.Write
	for i := range etcdstore.MaxTxnOps + 1 {
		writes = append(writes, must[etcdstore.Write](t)(etcdstore.PutWrite(policyKey(i), policy("all()"))))
	}
	if _, err := c.Commit(ctx, writes...); !errors.Is(err, etcdstore.ErrTooLarge) {
		t.Errorf("%d operations: %v", len(writes), err)
	}
	must[int64](t)(c.Commit(ctx, writes[1:]...))

	large := &model.DockerNetwork{Options: map[string]string{"x": string(make([]byte, 400<<10))}}
	writes = nil
	for i := range 6 {
		writes = append(writes, must[etcdstore.Write](t)(etcdstore.PutWrite(model.DockerNetworkKey{Name: fmt.Sprint("n", i)}, large)))
	}
	if _, err := c.Commit(ctx, writes...); !errors.Is(err, etcdstore.ErrTooLarge) {
		t.Errorf("2 MiB and more: %v", err)
	}
}

func TestInvalidResourcesAreNotWritten(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx := newClient(t, s), ctxOf(t)
	k, bad := policyKey(1), policy("a = 'b'")
	_, err := c.Create(ctx, k, bad)
	if faults := model.Faults(err); !errors.Is(err, etcdstore.ErrInvalid) || len(faults) != 1 || faults[0].Field != "spec.selector" {
		t.Errorf("create: %v", err)
	}
	if _, err := c.Update(ctx, k, bad, 0); !errors.Is(err, etcdstore.ErrInvalid) {
		t.Errorf("update: %v", err)
	}
	if _, _, err := c.Apply(ctx, k, bad); !errors.Is(err, etcdstore.ErrInvalid) {
		t.Errorf("apply: %v", err)
	}
	if _, err := etcdstore.PutWrite(k, bad); !errors.Is(err, etcdstore.ErrInvalid) {
		t.Errorf("put: %v", err)
	}
	if _, err := c.Create(ctx, k, node("10.0.0.1", 1)); !errors.Is(err, etcdstore.ErrInvalid) {
		t.Errorf("create of a policy from a node: %v", err)
	}
}

func TestListAtOneRevision(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx, raw := newClient(t, s), ctxOf(t), s.Client(t)
	const count = 1000
	var last int64
	for at := 0; at < count; at += 100 {
		var writes []etcdstore.Write
		for i := at; i < at+100; i++ {
			writes = append(writes, must[etcdstore.Write](t)(etcdstore.CreateWrite(policyKey(i), policy("all()"))))
		}
		last = must[int64](t)(c.Commit(ctx, writes...))
	}
	for path, value := range map[string]string{
		model.Paths(policyKey(5000))[0]: "{", model.Paths(policyKey(5001))[0]: `{"selector":"("}`,
		"/calico/v1/policy/tier/x/metadata": `{}`, "/calico/v1/policy/profile/p/tags": `[]`, "/calico/v1/policy/other": "x",
	} {
		resp, err := raw.Put(ctx, path, value)
		if err != nil {
			t.Fatal(err)
		}
		last = resp.Header.Revision
	}
	entries, rev, bad, err := c.List(ctx, model.KindPolicy, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != count || rev != last {
		t.Errorf("%d entries at revision %d, want %d at %d", len(entries), rev, count, last)
	}
	for i, e := range entries {
		if e.Key != policyKey(i) || e.Revision == 0 {
			t.Fatalf("entry %d is %v at %d", i, e.Key, e.Revision)
		}
	}
	if len(bad) != 2 || bad[0].Key != policyKey(5000) || bad[0].Value != nil || bad[1].Key != policyKey(5001) || bad[1].Value == nil {
		t.Errorf("quarantined: %+v", bad)
	}
	entries, _, bad, err = c.List(ctx, model.KindPolicy, func(k model.Key) bool { return k == policyKey(7) })
	if err != nil || len(entries) != 1 || len(bad) != 0 {
		t.Errorf("with a match: %v, %v, %v", entries, bad, err)
	}
	if _, _, _, err := c.List(ctx, "teapot", nil); err == nil {
		t.Error("an unknown kind was listed")
	}
}

// A list of many pages does not see what is written between two of them.
func TestListOfManyPages(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx, raw := newClient(t, s), ctxOf(t), s.Client(t)
	const count = 5000
	for at := 0; at < count; at += 100 {
		var ops []clientv3.Op
		for i := at; i < at+100; i++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/calico/v1/config/P%05d", i), "x"))
		}
		if _, err := raw.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			// The first and the last key always have the same value.
			value := fmt.Sprint(i)
			if _, err := raw.Txn(ctx).Then(clientv3.OpPut("/calico/v1/config/P00000", value), clientv3.OpPut("/calico/v1/config/P04999", value)).Commit(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5 {
		entries, _, _, err := c.List(ctx, model.KindFelixConfig, nil)
		if err != nil || len(entries) != count {
			t.Fatalf("%d entries, %v", len(entries), err)
		}
		first, last := entries[0].Value.(*model.Setting).Value, entries[count-1].Value.(*model.Setting).Value
		if first != last {
			t.Errorf("first is %s, last is %s", first, last)
		}
	}
	close(done)
	writer.Wait()
}

func TestGetOfABrokenValue(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx, raw := newClient(t, s), ctxOf(t), s.Client(t)
	if _, err := raw.Put(ctx, model.Paths(policyKey(1))[0], "{"); err != nil {
		t.Fatal(err)
	}
	if e, err := c.Get(ctx, policyKey(1)); err == nil || errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("got %+v, %v", e, err)
	}
	// It can still be replaced and deleted.
	if changed, _, err := c.Apply(ctx, policyKey(1), policy("all()")); err != nil || !changed {
		t.Errorf("apply: %v, %v", changed, err)
	}
	if _, err := c.Get(ctx, nil); err == nil {
		t.Error("no key was read")
	}
}
