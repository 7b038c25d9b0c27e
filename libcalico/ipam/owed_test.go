package ipam

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
)

// roles is a server whose user "node" may read, and write as long as he has that role.
type roles struct {
	testing.TB
	root *clientv3.Client
}

func newRoles(tb testing.TB, s *etcdtest.Server) *roles {
	tb.Helper()
	raw, ctx := s.Client(tb), tb.Context()
	end := clientv3.GetPrefixRangeEnd("/calico/")
	for _, step := range []func() error{
		func() error { _, err := raw.UserAdd(ctx, "root", "toor"); return err },
		func() error { _, err := raw.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := raw.UserAdd(ctx, "node", "secret"); return err },
		func() error { _, err := raw.RoleAdd(ctx, "reads"); return err },
		func() error {
			_, err := raw.RoleGrantPermission(ctx, "reads", "/calico/", end, clientv3.PermissionType(clientv3.PermRead))
			return err
		},
		func() error { _, err := raw.RoleAdd(ctx, "writes"); return err },
		func() error {
			_, err := raw.RoleGrantPermission(ctx, "writes", "/calico/", end, clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := raw.UserGrantRole(ctx, "node", "reads"); return err },
		func() error { _, err := raw.UserGrantRole(ctx, "node", "writes"); return err },
		func() error { _, err := raw.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			tb.Fatal(err)
		}
	}
	root, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), Username: "root", Password: "toor", DialTimeout: 10 * time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = root.Close() })
	return &roles{tb, root}
}

// mayWrite says whether the user "node" may write from now on.
func (r *roles) mayWrite(may bool) {
	r.Helper()
	var err error
	if may {
		_, err = r.root.UserGrantRole(r.Context(), "node", "writes")
	} else {
		_, err = r.root.UserRevokeRole(r.Context(), "node", "writes")
	}
	if err != nil {
		r.Error(err)
	}
}

// TestADebtThatEtcdRefusesIsNamed takes the right to write from a node's user when addresses
// were given out to nobody: it is said once which, and what to do, little is tried meanwhile,
// and when the right is back they are free. Who waits for a release is told at once.
func TestADebtThatEtcdRefusesIsNamed(t *testing.T) {
	for _, waits := range []bool{false, true} {
		server := etcdtest.Start(t)
		w := &world{TB: t, store: openStore(t, server)}
		w.pool("10.0.0.0/24", nil)
		users := newRoles(t, server)
		user := func(name, password string) *etcdstore.Client {
			c, err := etcdstore.New(etcdstore.Config{Endpoints: server.Endpoints(), Username: name, Password: password})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		}
		w.store = user("root", "toor")
		s := &silentStore{store: etcd{user("node", "secret")}, at: -1}
		owed := make(chan Owed, 100)
		c := newClient(s, "a", Owing(func(o Owed) { owed <- o }))
		c.queue.lateness, c.queue.refusedPause = testLateness, time.Second
		held := w.assign(c, 1, "held")
		s.commits.Store(0)
		s.at, s.how, s.after = 1, done, func() { users.mayWrite(false) }
		if waits {
			s.how, s.before = notDone, func(n int64) {
				if n == 1 {
					users.mayWrite(false)
				}
			}
			start := time.Now()
			if _, err := c.Release(w.ctx(), held...); !errors.Is(err, etcdstore.ErrUnauthorized) || time.Since(start) > patience {
				t.Errorf("who waits is told %v after %v", err, time.Since(start))
			}
		} else if got, err := c.AutoAssign(w.ctx(), Request{IPv4: 1}); err == nil {
			t.Errorf("got %v", got)
		}
		o := <-owed
		inUse := len(w.inUse())
		if len(o.Addrs) != 1 || waits != slices.Equal(o.Addrs, held) || !errors.Is(o.Err, etcdstore.ErrUnauthorized) || !strings.Contains(o.Err.Error(), "user node") || !strings.Contains(o.Err.Error(), "role") {
			t.Errorf("owed is %+v", o)
		}
		<-time.After(5 * c.queue.refusedPause / 2)
		if n := s.commits.Load(); n > 5 {
			t.Errorf("it was tried %d times", n)
		}
		if len(owed) > 0 {
			t.Errorf("it is named again: %+v", <-owed)
		}
		users.mayWrite(true)
		if o := <-owed; o.Err != nil || len(o.Addrs) != 1 {
			t.Errorf("then: %+v", o)
		}
		if n := len(w.inUse()); n != inUse-1 {
			t.Errorf("%d addresses are in use, after %d", n, inUse)
		}
		w.consistent()
	}
}
