package etcdstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
)

func failure[T any](_ T, err error) error { return err }

// A full etcd refuses writes, answers reads, and is no lost one. The error says how to make
// room, and that works.
func TestFullEtcd(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.SmallQuota())
	c, ctx := newClient(t, s), context.Background()
	if _, err := c.Create(ctx, policyKey(1), policy("all()")); err != nil {
		t.Fatal(err)
	}
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/v1/policy/")
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })

	s.Fill(t)
	for _, err := range []error{failure(c.Create(ctx, policyKey(2), policy("all()"))), failure(c.Lease(ctx, time.Minute))} {
		wantError(t, err, etcdstore.ErrNoSpace, s.Endpoint(), "no room", "etcdctl compact", "etcdctl defrag", "etcdctl alarm disarm", "--quota-backend-bytes")
		if errors.Is(err, etcdstore.ErrTooLarge) || errors.Is(err, etcdstore.ErrUnavailable) {
			t.Errorf("%v is taken for another fault", err)
		}
	}
	if _, err := c.Get(ctx, policyKey(1)); err != nil {
		t.Errorf("reading: %v", err)
	}

	s.MakeRoom(t)
	if _, err := c.Create(ctx, policyKey(3), policy("all()")); err != nil {
		t.Errorf("after the cure: %v", err)
	}
	f.until("the policy", soon, func() bool { return len(f.state) == 2 })
	if f.losses > 0 {
		t.Errorf("%d losses", f.losses)
	}
}
