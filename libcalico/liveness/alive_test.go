package liveness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/model"
)

var (
	host  = model.Identity{ID: "1", Boot: "a"}
	clone = model.Identity{ID: "1", Boot: "b"}
	other = model.Identity{ID: "2", Boot: "c"}
)

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// killed writes the key of a program that was killed some time ago, and returns its lease.
func killed(t *testing.T, s *etcdtest.Server, c *etcdstore.Client, program string, by model.Identity, left time.Duration) clientv3.LeaseID {
	t.Helper()
	granted, err := s.Client(t).Grant(t.Context(), int64(left/time.Second))
	if err != nil {
		t.Fatal(err)
	}
	w, err := etcdstore.PutWrite(model.LivenessKey{Node: key.Node, Program: program}, &model.Liveness{Version: "v1", Host: by})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Commit(t.Context(), w.WithLease(granted.ID)); err != nil {
		t.Fatal(err)
	}
	return granted.ID
}

func TestAnotherHostsKeyIsNotOverwritten(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	for _, by := range []model.Identity{other, clone} {
		first := startOn(t, s, by)
		first.untilReady(false)
		second := startOn(t, s, host)
		second.ready.Store(true)
		logged := func() bool { return strings.Contains(second.log.String(), "another host has this node's name") }
		second.until("the log", func(*model.Liveness, error) bool { return logged() })
		first.ready.Store(true)
		second.until("the first is ready", func(v *model.Liveness, err error) bool { return err == nil && v.Ready && v.Host == by })
		if n := strings.Count(second.log.String(), "another host"); n != 1 {
			t.Errorf("it is said %d times", n)
		}
		// When the first ends, the second takes its place.
		first.stop()
		second.until("the second", func(v *model.Liveness, err error) bool { return err == nil && v.Ready && v.Host == host })
		second.stop()
		<-second.result
	}
}

// TestTheNodesOwnHostTakesTheKeyOver has a start-up that has given the name to the second.
func TestTheNodesOwnHostTakesTheKeyOver(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	first := startOn(t, s, other)
	first.untilReady(false)
	if _, _, err := first.client.Apply(t.Context(), model.NodeKey{Name: key.Node}, &model.Node{Host: host}); err != nil {
		t.Fatal(err)
	}
	second := startOn(t, s, host)
	second.until("the second", func(v *model.Liveness, err error) bool { return err == nil && v.Host == host })
	first.ready.Store(true) // which would write its key
	first.until("the first has seen it", func(*model.Liveness, error) bool { return strings.Contains(first.log.String(), "another host") })
	second.until("the second still", func(v *model.Liveness, err error) bool { return err == nil && v.Host == host })
	first.stop()
	<-first.result
	second.until("the second after the first has gone", func(v *model.Liveness, err error) bool { return err == nil && v.Host == host })
}

func TestSole(t *testing.T) {
	s := etcdtest.Shared(t)
	client, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // the test is over
	cures := map[bool]string{true: "NODENAME", false: "/var/lib/calico"}
	for _, tc := range []struct {
		name  string
		node  model.Identity
		lives model.Identity
		me    model.Identity
		taken model.Identity // zero: it is not
	}{
		{"nobody", model.Identity{}, model.Identity{}, host, model.Identity{}},
		{"its own", host, host, host, model.Identity{}},
		{"its own before a reboot", clone, model.Identity{}, host, model.Identity{}},
		{"an older program", model.Identity{}, model.Identity{}, host, model.Identity{}},
		{"another's node", other, model.Identity{}, host, other},
		{"another's program", model.Identity{}, other, host, other},
		{"another's program on its own node", host, other, host, other},
		{"a clone's program", host, clone, host, clone},
		{"no id, another's node", other, model.Identity{}, model.Identity{Boot: "a"}, other},
		{"no id, another's program", model.Identity{}, other, model.Identity{Boot: "a"}, other},
		{"no id, its own node and program", host, host, model.Identity{Boot: "a"}, model.Identity{}},
		{"no id, nobody", model.Identity{}, model.Identity{}, model.Identity{Boot: "a"}, model.Identity{}},
		{"not even a boot", host, model.Identity{}, model.Identity{}, host},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.Wipe(t)
			s.SetUp(t)
			if _, _, err := client.Apply(t.Context(), model.NodeKey{Name: key.Node}, &model.Node{Host: tc.node}); err != nil {
				t.Fatal(err)
			}
			killed(t, s, client, "felix", tc.lives, 30*time.Second)
			_, err := liveness.Sole(t.Context(), client, key.Node, tc.me)
			taken, is := errors.AsType[*liveness.TakenError](err)
			if tc.taken.IsZero() {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !is || taken.Host != tc.taken || !strings.Contains(err.Error(), "id "+tc.taken.ID) || !strings.Contains(err.Error(), cures[tc.me.Known()]) {
				t.Errorf("error %v, want one about %v", err, tc.taken)
			}
		})
	}
}

// TestSoleStillHolds has the conditions of a removal, and what comes between.
func TestSoleStillHolds(t *testing.T) {
	s := etcdtest.Shared(t)
	client, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // the test is over
	node := model.NodeKey{Name: key.Node}
	for name, between := range map[string]func() error{
		"nothing":           nil,
		"another's program": func() error { killed(t, s, client, "bgpd", other, liveness.TTL); return nil },
		"another's node": func() error {
			_, _, err := client.Apply(t.Context(), node, &model.Node{Host: other})
			return err
		},
		"the node is deleted": func() error { _, err := client.Delete(t.Context(), node, 0); return err },
	} {
		s.Wipe(t)
		s.SetUp(t)
		if _, _, err := client.Apply(t.Context(), node, &model.Node{Host: host}); err != nil {
			t.Fatal(err)
		}
		killed(t, s, client, "felix", host, liveness.TTL)
		still, err := liveness.Sole(t.Context(), client, key.Node, host)
		if err != nil {
			t.Fatal(err)
		}
		if between != nil {
			if err := between(); err != nil {
				t.Fatal(err)
			}
		}
		w, err := etcdstore.PutWrite(model.ProfileKey{Name: "p"}, &model.Profile{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Commit(t.Context(), append(still, w)...); (err != nil) != (between != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAKeyThatCannotBeRead may be that of another host.
func TestAKeyThatCannotBeRead(t *testing.T) {
	s := etcdtest.Shared(t)
	s.Wipe(t)
	s.SetUp(t)
	client, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // the test is over
	lease, err := client.Lease(t.Context(), liveness.TTL)
	if err != nil {
		t.Fatal(err)
	}
	path := model.Paths(model.LivenessKey{Node: key.Node, Program: "felix"})[0]
	if _, err := client.Raw().Put(t.Context(), path, "garbage", clientv3.WithLease(lease)); err != nil {
		t.Fatal(err)
	}
	all, err := liveness.On(t.Context(), client, key.Node)
	if err != nil || len(all) != 1 || all[0].Program != "felix" || !all[0].Elsewhere(host) {
		t.Errorf("programs %+v, %v", all, err)
	}
	if _, err := liveness.Sole(t.Context(), client, key.Node, host); !strings.Contains(fmt.Sprint(err), "cannot be read") {
		t.Errorf("error %v", err)
	}
	// A node of which it is not known whose it is.
	s.Wipe(t)
	if _, err := client.Raw().Put(t.Context(), model.Paths(model.NodeKey{Name: key.Node})[0], "garbage"); err != nil {
		t.Fatal(err)
	}
	if _, err := liveness.Sole(t.Context(), client, key.Node, host); !errors.Is(err, etcdstore.ErrUnreadable) {
		t.Errorf("error %v", err)
	}
}

// TestAKeyThatIsTakenAwayComesBack has one that is deleted, or written over, while its lease
// lives and nothing else changes.
func TestAKeyThatIsTakenAwayComesBack(t *testing.T) {
	s := etcdtest.Shared(t)
	s.Wipe(t)
	s.SetUp(t)
	p := startOn(t, s, host)
	p.ready.Store(true)
	ours := func(v *model.Liveness, err error) bool { return err == nil && v.Ready && v.Host == host }
	p.until("its key", ours)
	if _, err := p.client.Delete(t.Context(), key, 0); err != nil {
		t.Fatal(err)
	}
	p.until("its key after it was deleted", ours)
	if _, err := p.client.Raw().Put(t.Context(), model.Paths(key)[0], "garbage"); err != nil {
		t.Fatal(err)
	}
	p.until("its key after it was written over", ours)
	p.stop()
	<-p.result
}

// TestRenewed has a program that lives, and two that were killed, one of them just now.
func TestRenewed(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	p := startOn(t, s, other)
	p.untilReady(false)
	renewed := func() ([]liveness.Alive, int, time.Duration) {
		t.Helper()
		programs, err := liveness.On(t.Context(), p.client, key.Node)
		if err != nil {
			t.Fatal(err)
		}
		began, waits := time.Now(), 0
		living, err := liveness.Renewed(t.Context(), p.client, programs, host, func() { waits++ })
		if err != nil {
			t.Fatal(err)
		}
		return living, waits, time.Since(began)
	}
	killed(t, s, p.client, "bgpd", other, liveness.TTL)
	if living, waits, took := renewed(); len(living) != 1 || living[0].Program != "felix" || waits != 1 || took > liveness.Look {
		t.Errorf("alive: %v, after %d waits and %s", living, waits, took)
	}
	p.stop()
	<-p.result
	// What this host ran before it started again shows sooner than what another runs.
	killed(t, s, p.client, "bgpd", clone, liveness.TTL)
	if living, waits, took := renewed(); len(living) != 0 || waits != 1 || took > liveness.TTL/2 || took < 5*time.Second {
		t.Errorf("alive: %v, after %d waits and %s", living, waits, took)
	}
	// By now its lease is old enough to say so at once.
	if living, waits, _ := renewed(); len(living) != 0 || waits != 0 {
		t.Errorf("alive: %v, after %d waits", living, waits)
	}
	killed(t, s, p.client, "bgpd", other, liveness.TTL/2)
	if living, waits, took := renewed(); len(living) != 0 || waits != 1 || took > liveness.TTL/2+3*time.Second || took < liveness.TTL/2-2*time.Second {
		t.Errorf("alive: %v, after %d waits and %s", living, waits, took)
	}
	killed(t, s, p.client, "bgpd", other, liveness.TTL)
	ctx, cancel := context.WithCancel(t.Context())
	programs, err := liveness.On(ctx, p.client, key.Node)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := liveness.Renewed(ctx, p.client, programs, host, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
