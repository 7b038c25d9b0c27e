package etcdstore_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
)

// logins is how often somebody has logged in at a server since it runs.
func logins(tb testing.TB, s *etcdtest.Server) int {
	tb.Helper()
	return metric(tb, s, `grpc_server_handled_total{grpc_code="OK",grpc_method="Authenticate",grpc_service="etcdserverpb.Auth",grpc_type="unary"}`)
}

// A program logs in once, however many watches and requests it has, and once more when etcd
// has forgotten that. Each login costs etcd the time of a password's hash.
func TestAProgramLogsInOnce(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	enableAuth(t, s)
	before := logins(t, s)
	c := open(t, etcdstore.Config{Endpoints: s.Endpoints(), Username: "reader", Password: "secret"})
	var watches []*follower
	for range 5 {
		watches = append(watches, follow(t, c, etcdstore.Probing(-1, 100e6, 20e9), "/calico/v1/"))
	}
	inSync := func(snapshots int) {
		t.Helper()
		for _, f := range watches {
			// With the policy, or a change that waits to be taken would hide the loss that follows.
			f.until("the store", soon, func() bool { return f.snapshots >= snapshots && len(f.state) == 1 && f.last.Err == nil })
		}
		must[etcdstore.Entry](t)(c.Get(ctxOf(t), policyKey(1)))
	}
	must[int64](t)(c.Create(ctxOf(t), policyKey(1), policy("all()")))
	inSync(1)
	if n := logins(t, s) - before; n != 1 {
		t.Errorf("%d logins", n)
	}
	for _, f := range watches {
		f.losses, f.changes = 0, 0
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	for _, f := range watches {
		f.until("the loss", soon, func() bool { return f.losses > 0 })
	}
	inSync(1)
	must[int64](t)(c.Update(ctxOf(t), policyKey(1), policy("a == 'b'"), 0))
	for _, f := range watches {
		f.until("the change", soon, func() bool { return f.changes > 0 })
	}
	again := logins(t, s)
	if again > 1 { // etcd may know the token by its log
		t.Errorf("%d logins after etcd's restart", again)
	}
	c.SpoilToken()
	ctx := ctxOf(t)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if _, err := c.Get(ctx, policyKey(1)); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if n := logins(t, s) - again; n != 1 {
		t.Errorf("%d logins in place of a token that etcd does not know", n)
	}
}

// A watch whose token is forgotten at the moment that it opens gets another, and nobody
// hears of it.
func TestAWatchIsRefusedItsToken(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	enableAuth(t, s)
	c := open(t, etcdstore.Config{Endpoints: s.Endpoints(), Username: "reader", Password: "secret"})
	must[int64](t)(c.Create(ctxOf(t), policyKey(1), policy("all()")))
	var asked atomic.Int32
	opts := etcdstore.Probing(-1, 100e6, 20e9)
	opts.WentBack = func(context.Context, bool) (bool, error) {
		if asked.Add(1) == 2 { // after the outage, between the last request and the new stream
			c.SpoilToken()
		}
		return false, nil
	}
	f := follow(t, c, opts, "/calico/v1/")
	f.until("the snapshot", soon, func() bool { return f.snapshots == 1 })
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	f.until("the loss", soon, func() bool { return f.losses > 0 })
	f.until("the recovery", soon, func() bool {
		if errors.Is(f.last.Err, etcdstore.ErrUnauthorized) {
			t.Fatalf("it is told that %v", f.last.Err)
		}
		return f.last.Err == nil
	})
	if asked.Load() < 2 {
		t.Error("the token was never spoilt")
	}
	must[int64](t)(c.Update(ctxOf(t), policyKey(1), policy("a == 'b'"), 0))
	f.until("the change", soon, func() bool { return f.changes > 0 })
}
