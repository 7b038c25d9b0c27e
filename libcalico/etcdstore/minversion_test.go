package etcdstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// build is a client as a program of a version has it.
func build(t *testing.T, s *etcdtest.Server, version string) *etcdstore.Client {
	t.Helper()
	c, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints(), Version: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func alive(t *testing.T, c *etcdstore.Client, node string) {
	t.Helper()
	lease := must[clientv3.LeaseID](t)(c.Lease(ctxOf(t), time.Minute))
	w := must[etcdstore.Write](t)(etcdstore.PutWrite(model.LivenessKey{Node: node, Program: "felix"}, &model.Liveness{Version: c.Version()}))
	if _, err := c.Commit(ctxOf(t), w.WithLease(lease)); err != nil {
		t.Fatalf("liveness of a program of version %s: %v", c.Version(), err)
	}
}

// newer writes something that programs before v0.3.0 would lose.
func newer(ctx context.Context, c *etcdstore.Client, k model.Key) error {
	w, err := etcdstore.PutWrite(k, policy("all()"))
	if err == nil {
		_, err = c.Commit(ctx, w.Needs("v0.3.0"))
	}
	return err
}

// everyWrite is all ways to write.
func everyWrite(ctx context.Context, c *etcdstore.Client, there, absent model.Key) map[string]error {
	out := map[string]error{}
	_, out["create"] = c.Create(ctx, absent, policy("a == 'b'"))
	_, out["update"] = c.Update(ctx, there, policy("a == 'c'"), 0)
	_, _, out["apply"] = c.Apply(ctx, there, policy("a == 'd'"))
	w, err := etcdstore.PutWrite(there, policy("a == 'e'"))
	if err == nil {
		_, err = c.Commit(ctx, w)
	}
	out["commit"] = err
	_, out["delete"] = c.Delete(ctx, there, 0)
	return out
}

// readsEverything reads all kinds in all ways.
func readsEverything(t *testing.T, c *etcdstore.Client) {
	t.Helper()
	ctx := ctxOf(t)
	for _, kind := range model.Kinds() {
		if _, _, _, err := c.List(ctx, kind, nil); err != nil {
			t.Errorf("List of %s: %v", kind, err)
		}
		keys, _, err := c.Keys(ctx, kind, model.Scope{}, 1000)
		if err != nil {
			t.Errorf("Keys of %s: %v", kind, err)
		}
		if _, _, err := c.GetAll(ctx, keys); err != nil {
			t.Errorf("GetAll of %s: %v", kind, err)
		}
		for _, k := range keys {
			if _, err := c.Get(ctx, k); err != nil {
				t.Errorf("Get of %v: %v", k, err)
			}
		}
	}
}

// TestOlderProgramsDoNotWrite raises the version while programs of two versions run.
func TestOlderProgramsDoNotWrite(t *testing.T) {
	s := etcdtest.Shared(t)
	s.Wipe(t)
	ctx := ctxOf(t)
	before, after := build(t, s, "v0.2.9"), build(t, s, "v0.3.0")
	for how, err := range everyWrite(ctx, before, policyKey(1), policyKey(2)) {
		if (how == "create" || how == "apply" || how == "commit" || how == "delete") && err != nil {
			t.Errorf("%s before there is anything newer: %v", how, err)
		}
	}
	must[int64](t)(after.Create(ctx, model.NodeKey{Name: "node00"}, node("10.0.0.1", 0)))
	must[int64](t)(after.Create(ctx, model.HostEndpointKey{Node: "node00", Name: "eth0"}, &model.HostEndpoint{Interface: "eth0"}))
	if err := newer(ctx, after, policyKey(1)); err != nil {
		t.Fatal(err)
	}
	const sentence = "this store is for v0.3.0 and later; this is v0.2.9: upgrade this program"
	for _, old := range []*etcdstore.Client{before, build(t, s, "v0.2.9")} {
		_, revision, _, _ := old.List(ctx, model.KindPolicy, nil)
		for how, err := range everyWrite(ctx, old, policyKey(1), policyKey(3)) {
			if _, typed := errors.AsType[*etcdstore.TooOldError](err); !typed || !errors.Is(err, etcdstore.ErrTooOld) || !strings.Contains(err.Error(), sentence) {
				t.Errorf("%s: %v", how, err)
			}
		}
		if _, now, _, err := old.List(ctx, model.KindPolicy, nil); err != nil || now != revision {
			t.Errorf("revision %d became %d, %v", revision, now, err)
		}
		if e, err := old.Get(ctx, policyKey(1)); err != nil || e.Value.(*model.Policy).Selector != "all()" {
			t.Errorf("reading: %+v, %v", e, err)
		}
		readsEverything(t, old)
		alive(t, old, "old") // it shows that it lives
	}
	for _, v := range []string{"v0.3.0", "v0.3.1-2-gabc", "v1.0.0", "dev"} {
		for how, err := range everyWrite(ctx, build(t, s, v), policyKey(1), model.NewPolicyKey("", v)) {
			if err != nil {
				t.Errorf("%s by %s: %v", how, v, err)
			}
		}
		if err := newer(ctx, after, policyKey(1)); err != nil {
			t.Fatal(err)
		}
	}
	// A store that was restored to an older state does not have it any more.
	if _, err := after.Delete(ctx, model.MinVersionKey{}, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := before.Apply(ctx, policyKey(1), policy("a == 'f'")); err != nil {
		t.Errorf("after the version was taken away: %v", err)
	}
	// What cannot be read is for programs that can.
	put(t, s.Client(t), "/calico/v1/min_version", "from v2 on")
	if _, _, err := before.Apply(ctx, policyKey(1), policy("a == 'g'")); !errors.Is(err, etcdstore.ErrTooOld) {
		t.Errorf("a version that cannot be read: %v", err)
	}
}

// TestRaisingIsRefusedWhileOlderProgramsLive names them, and writes nothing.
func TestRaisingIsRefusedWhileOlderProgramsLive(t *testing.T) {
	s := etcdtest.Shared(t)
	s.Wipe(t)
	ctx := ctxOf(t)
	old, c := build(t, s, "v0.2.9"), build(t, s, "v0.3.0")
	alive(t, c, "node00")
	alive(t, old, "node01")
	err := newer(ctx, c, policyKey(1))
	if _, typed := errors.AsType[*etcdstore.OlderNodesError](err); !typed || !errors.Is(err, etcdstore.ErrTooOld) ||
		err.Error() != "it needs v0.3.0 on all nodes, and older is node node01 (felix is v0.2.9): upgrade that first, or stop it" {
		t.Errorf("got %v", err)
	}
	if _, err := c.Get(ctx, policyKey(1)); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("the policy is there: %v", err)
	}
	if _, err := old.Create(ctx, policyKey(2), policy("a == 'b'")); err != nil {
		t.Errorf("the older program: %v", err)
	}
	// An older one cannot ask for what it does not have.
	if err := newer(ctx, old, policyKey(1)); !errors.Is(err, etcdstore.ErrTooOld) {
		t.Errorf("an older program: %v", err)
	}
	put(t, s.Client(t), "/calico/status/v1/host/node01/felix", "?")
	if err := newer(ctx, c, policyKey(1)); !errors.Is(err, etcdstore.ErrTooOld) || !strings.Contains(err.Error(), "node01") {
		t.Errorf("a program of an unknown version: %v", err)
	}
	alive(t, c, "node01") // it was upgraded
	if err := newer(ctx, c, policyKey(1)); err != nil {
		t.Error(err)
	}
	e, err := c.Get(ctx, model.MinVersionKey{})
	if err != nil || e.Value.(*model.Setting).Value != "v0.3.0" {
		t.Fatalf("version %+v, %v", e.Value, err)
	}
	// Once is enough, and it never falls.
	if err := newer(ctx, build(t, s, "v0.4.0"), policyKey(1)); err != nil {
		t.Error(err)
	}
	if again, err := c.Get(ctx, model.MinVersionKey{}); err != nil || again.Revision != e.Revision {
		t.Errorf("written again: %+v, %v", again, err)
	}
}

// TestAnOlderProgramStartsMeanwhile is the moment between looking and raising.
func TestAnOlderProgramStartsMeanwhile(t *testing.T) {
	s := etcdtest.Shared(t)
	s.Wipe(t)
	ctx := ctxOf(t)
	c := build(t, s, "v0.3.0")
	w := must[etcdstore.Write](t)(etcdstore.CreateWrite(policyKey(1), policy("all()")))
	err := c.RaiseThenCommit(ctx, func() { alive(t, build(t, s, "v0.2.9"), "node01") }, w.Needs("v0.3.0"))
	if !etcdstore.LostRace(err) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Get(ctx, policyKey(1)); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("the policy is there: %v", err)
	}
	if _, err := c.Commit(ctx, w.Needs("v0.3.0")); !strings.Contains(fmt.Sprint(err), "node01") {
		t.Errorf("at the next try: %v", err)
	}
}

// countRequests counts what is sent to etcd.
type countRequests struct {
	slog.Handler

	n *atomic.Int64
}

func (c countRequests) Enabled(context.Context, slog.Level) bool { return true }

func (c countRequests) Handle(context.Context, slog.Record) error {
	c.n.Add(1)
	return nil
}

// TestTheVersionCostsNoRequest counts the requests of writes.
func TestTheVersionCostsNoRequest(t *testing.T) {
	s := etcdtest.Shared(t)
	s.Wipe(t)
	put(t, s.Client(t), "/calico/v1/min_version", "v0.3.0")
	var n atomic.Int64
	c, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints(), Version: "v0.3.0", Log: slog.New(countRequests{slog.DiscardHandler, &n})})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the test is over
	ctx := ctxOf(t)
	must[int64](t)(c.Create(ctx, policyKey(0), policy("all()"))) // learns the version
	for i := 1; i <= 3; i++ {
		n.Store(0)
		must[int64](t)(c.Create(ctx, policyKey(i), policy("all()")))
		if _, _, err := c.Apply(ctx, policyKey(i), policy("has(a)")); err != nil {
			t.Fatal(err)
		}
		if got := n.Load(); got != 2 {
			t.Errorf("%d requests for a create and an apply", got)
		}
	}
}
