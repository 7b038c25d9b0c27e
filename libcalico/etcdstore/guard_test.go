package etcdstore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/trust"
)

const (
	readyPath    = "/calico/v1/Ready"
	guidPath     = "/calico/v1/config/ClusterGUID"
	acceptedPath = "/calico/v1/accepted_guid"
)

// guarded follows a watch of a guard, in whose range the judge's keys are or are not.
type guarded struct {
	*follower

	guard *etcdstore.Guard
	etcd  *etcdtest.Server
	// path is a watched key.
	path string
}

// onBoth runs a test with a watch that brings the judge's keys, and with one that does not.
// The store is one that is set up, in which path is "1".
func onBoth(t *testing.T, known string, test func(t *testing.T, g *guarded)) {
	t.Helper()
	for name, prefix := range map[string]string{"with the keys": "/calico/v1/", "without the keys": "/calico/bgp/"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := etcdtest.Start(t)
			s.SetUp(t)
			g := &guarded{etcd: s, path: prefix + "x"}
			put(t, s.Client(t), g.path, "1", g.path+"y", "1")
			g.guard = newClient(t, s).Guard(known, slog.New(slog.DiscardHandler))
			g.follow(t, prefix)
			g.until("the first snapshot", soon, func() bool { return g.state[g.path] == "1" })
			test(t, g)
		})
	}
}

func (g *guarded) follow(t *testing.T, prefix string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g.follower = followBatches(t, cancel, g.guard.Watch(ctx, []string{prefix}, etcdstore.Probing(-1, 100*time.Millisecond, 2*time.Second)))
}

// held waits until the watch says why it is held, and wants what was known before.
func (g *guarded) held(says string, known map[string]string) {
	g.tb.Helper()
	g.until("held with "+says, soon, func() bool {
		if !maps.Equal(g.state, known) {
			g.tb.Fatalf("%v was taken for the truth, which was %v", g.state, known)
		}
		return g.last.Held != nil && strings.Contains(g.last.Held.Error(), says)
	})
	if g.guard.Verdict().State != trust.Held {
		g.tb.Errorf("the verdict is %+v", g.guard.Verdict())
	}
}

func wipe(tb testing.TB, raw *clientv3.Client) {
	tb.Helper()
	txn(tb, raw, clientv3.OpDelete("/calico", clientv3.WithPrefix()))
}

func TestAnEmptiedStoreIsHeld(t *testing.T) {
	t.Parallel()
	onBoth(t, "", func(t *testing.T, g *guarded) {
		raw, before := g.etcd.Client(t), maps.Clone(g.state)
		// Often, since the watch of the keys and that of the rest tell of it in any order.
		for i := range 20 {
			wipe(t, raw)
			g.held("there is no "+readyPath, before)
			snapshots := g.snapshots
			value := fmt.Sprint(i)
			put(t, raw, readyPath, "true", guidPath, etcdtest.GUID, g.path, value)
			g.until("the restored value", soon, func() bool { return g.state[g.path] == value && g.last.Held == nil })
			if g.restored != i+1 {
				t.Errorf("%d snapshots of a restored store after %d holds", g.restored, i+1)
			}
			if _, kept := g.state[g.path+"y"]; kept || g.snapshots == snapshots {
				t.Errorf("after the hold %v is known, by %d snapshots", g.state, g.snapshots-snapshots)
			}
			put(t, raw, g.path+"y", "1")
			before = map[string]string{g.path: value, g.path + "y": "1"}
			for _, p := range []string{readyPath, guidPath} {
				if v, ok := g.state[p]; ok {
					before[p] = v
				}
			}
			g.untilState(soon, before)
		}
		if g.losses > 0 {
			t.Errorf("%d losses", g.losses)
		}
	})
}

func TestAStoreDeletedKeyByKeyIsHeldWhenItsFlagGoes(t *testing.T) {
	t.Parallel()
	onBoth(t, "", func(t *testing.T, g *guarded) {
		raw := g.etcd.Client(t)
		txn(t, raw, clientv3.OpDelete(g.path+"y"))
		g.until("what is deleted while the flag stands is gone", soon, func() bool { return g.state[g.path+"y"] == "" })
		known := maps.Clone(g.state)
		txn(t, raw, clientv3.OpDelete(readyPath))
		txn(t, raw, clientv3.OpDelete(g.path))
		txn(t, raw, clientv3.OpDelete(guidPath))
		g.held("there is no "+readyPath, known)
	})
}

func TestANewDataFolderIsHeld(t *testing.T) {
	t.Parallel()
	onBoth(t, etcdtest.GUID, func(t *testing.T, g *guarded) {
		known := maps.Clone(g.state)
		if err := g.etcd.Reset(); err != nil {
			t.Fatal(err)
		}
		g.held("there is no "+readyPath, known)
		// A first node sets it up.
		put(t, g.etcd.Client(t), readyPath, "true", guidPath, "new")
		g.held("its GUID is new, this host's is "+etcdtest.GUID, known)
		put(t, g.etcd.Client(t), g.path, "new")
		put(t, g.etcd.Client(t), acceptedPath, "new")
		g.until("the accepted store", soon, func() bool { return g.state[g.path] == "new" && g.state[g.path+"y"] == "" })
	})
}

func TestAnotherClustersStoreIsHeld(t *testing.T) {
	t.Parallel()
	onBoth(t, "", func(t *testing.T, g *guarded) {
		raw, known := g.etcd.Client(t), maps.Clone(g.state)
		txn(t, raw, clientv3.OpPut(guidPath, "other"), clientv3.OpDelete(g.path))
		g.held("its GUID is other, this host's is "+etcdtest.GUID, known)
		put(t, raw, guidPath, etcdtest.GUID)
		g.until("its own store", soon, func() bool { return g.last.Snapshot && g.state[g.path] == "" })
	})
}

func TestAStoreThatIsHeldFromTheStart(t *testing.T) {
	t.Parallel()
	for name, pairs := range map[string][]string{
		"foreign": {readyPath, "true", guidPath, "other"},
		"locked":  {readyPath, "false", guidPath, etcdtest.GUID},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := etcdtest.Start(t)
			put(t, s.Client(t), append(pairs, "/calico/bgp/x", "1")...)
			g := &guarded{etcd: s, guard: newClient(t, s).Guard(etcdtest.GUID, slog.New(slog.DiscardHandler))}
			g.follow(t, "/calico/bgp/")
			g.held("calicoctl datastore unlock", map[string]string{})
			put(t, s.Client(t), readyPath, "true", guidPath, etcdtest.GUID)
			g.untilState(soon, map[string]string{"/calico/bgp/x": "1"})
		})
	}
}

// A lock changes nothing about what is watched: whoever wants to wait for its end sees the
// flag.
func TestALockedStoreIsNotHeld(t *testing.T) {
	t.Parallel()
	onBoth(t, "", func(t *testing.T, g *guarded) {
		raw := g.etcd.Client(t)
		for i := range 10 {
			value := fmt.Sprint(i)
			put(t, raw, readyPath, "false")
			txn(t, raw, clientv3.OpPut(g.path, value), clientv3.OpDelete(g.path+"y"))
			g.until("the change under the lock", soon, func() bool { return g.state[g.path] == value && g.state[g.path+"y"] == "" })
			put(t, raw, readyPath, "true", g.path+"y", "1")
			g.until("the change at its end", soon, func() bool { return g.state[g.path+"y"] == "1" })
		}
		if g.holds > 0 || g.losses > 0 || g.snapshots != 1 {
			t.Errorf("%d holds, %d losses, %d snapshots", g.holds, g.losses, g.snapshots)
		}
	})
}

func TestEtcdIsLostWhileItIsHeld(t *testing.T) {
	t.Parallel()
	onBoth(t, "", func(t *testing.T, g *guarded) {
		known := maps.Clone(g.state)
		wipe(t, g.etcd.Client(t))
		g.held("there is no "+readyPath, known)
		g.etcd.Stop()
		g.until("loss", soon, func() bool { return g.last.Err != nil })
		if err := g.etcd.Restart(); err != nil {
			t.Fatal(err)
		}
		g.held("there is no "+readyPath, known)
	})
}

// Without etcd nobody can say whether what is gone may be taken away.
func TestADeletionWaitsForItsJudge(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	s.SetUp(t)
	raw := s.Client(t)
	put(t, raw, "/calico/bgp/x", "1")
	g := &guarded{etcd: s, guard: newClient(t, s).Guard("", slog.New(slog.DiscardHandler))}
	g.follow(t, "/calico/bgp/")
	g.untilState(soon, map[string]string{"/calico/bgp/x": "1"})
	s.Stop()
	g.until("loss", soon, func() bool { return g.last.Err != nil })
	other := elsewhere(t, s)
	txn(t, other, clientv3.OpDelete("/calico/bgp/x"))
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	g.untilState(soon, map[string]string{})
	if g.snapshots != 1 || g.holds > 0 {
		t.Errorf("%d snapshots, %d holds", g.snapshots, g.holds)
	}
}

func TestAGuardedWatchEndsWithItsContext(t *testing.T) {
	s := etcdtest.Shared(t)
	guard := newClient(t, s).Guard("", slog.New(slog.DiscardHandler))
	for _, prefix := range []string{"/calico/v1/", "/calico/bgp/"} {
		ctx, cancel := context.WithCancel(context.Background())
		batches := guard.Watch(ctx, []string{prefix}, etcdstore.WatchOptions{})
		if b := <-batches; b.Held == nil {
			t.Errorf("an empty store is followed: %+v", b)
		}
		cancel()
		for range batches {
			t.Log("a batch that was on its way")
		}
	}
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.text.String()), "\n")
}

// Several watches of a guard tell of a change once.
func TestEachChangeOfTheVerdictIsOneLine(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	raw := s.Client(t)
	var log buffer
	g := &guarded{etcd: s, guard: newClient(t, s).Guard("", slog.New(slog.NewTextHandler(&log, nil)))}
	var all []*guarded
	for _, prefix := range []string{"/calico/v1/", "/calico/bgp/", "/calico/ipam/"} {
		one := *g
		one.follow(t, prefix)
		one.until("snapshot", soon, func() bool { return one.snapshots == 1 })
		all = append(all, &one)
	}
	wipe(t, raw)
	for _, one := range all {
		one.held("there is no "+readyPath, maps.Clone(one.state))
	}
	s.SetUp(t)
	for _, one := range all {
		one.until("snapshot", soon, func() bool { return one.snapshots == 2 })
	}
	lines := log.lines()
	if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[1], "followed again") {
		t.Errorf("the log is\n%s", strings.Join(lines, "\n"))
	}
}

// A user of an older installation may read what its program watches, and nothing that says
// whether it is the cluster's. That is told in words that help, and no more is needed than
// these keys.
func TestAGuardIsContentWithItsKeys(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	s.SetUp(t)
	put(t, s.Client(t), "/calico/bgp/x", "1")
	enableAuth(t, s)
	root, ctx := rootClient(t, s), ctxOf(t)
	grant := func(from, to string) {
		t.Helper()
		if _, err := root.RoleGrantPermission(ctx, "bgp", from, to, clientv3.PermissionType(clientv3.PermRead)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := root.RoleAdd(ctx, "bgp"); err != nil {
		t.Fatal(err)
	}
	grant("/calico/bgp/", "/calico/bgp0")
	if _, err := root.UserAdd(ctx, "bgp", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.UserGrantRole(ctx, "bgp", "bgp"); err != nil {
		t.Fatal(err)
	}
	c := open(t, etcdstore.Config{Endpoints: s.Endpoints(), Username: "bgp", Password: "secret"})
	g := &guarded{etcd: s, guard: c.Guard("", slog.New(slog.DiscardHandler))}
	g.follow(t, "/calico/bgp/")
	g.until("what is missing", soon, func() bool { return g.last.Err != nil })
	wantError(t, g.last.Err, etcdstore.ErrUnauthorized, "user bgp", "role", readyPath, guidPath, acceptedPath)

	for _, key := range []string{readyPath, guidPath, acceptedPath} {
		grant(key, "")
	}
	known := map[string]string{"/calico/bgp/x": "1"}
	g.untilState(soon, known)
	wipe(t, root)
	g.held("there is no "+readyPath, known)
	put(t, root, readyPath, "true", guidPath, etcdtest.GUID, "/calico/bgp/x", "2")
	g.untilState(soon, map[string]string{"/calico/bgp/x": "2"})
	// Without a deletion that would have it looked at, a store that is another's is found too.
	put(t, root, guidPath, "other")
	g.held("its GUID is other", map[string]string{"/calico/bgp/x": "2"})
}

// TestTheKeysAreWatchedOnce has two watches of one guard, one of which brings the judge's
// keys: the other hears of them by that one, for as long as it does.
func TestTheKeysAreWatchedOnce(t *testing.T) {
	s := etcdtest.Start(t)
	s.SetUp(t)
	guard := newClient(t, s).Guard("", slog.New(slog.DiscardHandler))
	watchers := func(want int) {
		t.Helper()
		nettest.Eventually(t, soon, func() error {
			resp, err := http.Get(s.Endpoint() + "/metrics")
			if err != nil {
				return err
			}
			defer resp.Body.Close() //nolint:errcheck // it was read
			text, err := io.ReadAll(resp.Body)
			if line := fmt.Sprintf("\netcd_debugging_mvcc_watcher_total %d\n", want); err == nil && !bytes.Contains(text, []byte(line)) {
				err = fmt.Errorf("etcd does not say %q", line)
			}
			return err
		})
	}
	watch := func(prefix string) (f *follower, stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		f = followBatches(t, cancel, guard.Watch(ctx, []string{prefix}, etcdstore.Probing(-1, 100*time.Millisecond, 2*time.Second)))
		return f, cancel
	}
	with, stop := watch("/calico/v1/")
	put(t, s.Client(t), "/calico/bgp/x", "1")
	without, _ := watch("/calico/bgp/")
	without.until("the first snapshot", soon, func() bool { return without.state["/calico/bgp/x"] == "1" })
	with.until("the first snapshot", soon, func() bool { return with.state[readyPath] == "true" })
	watchers(2)
	wipe(t, s.Client(t))
	for _, f := range []*follower{with, without} {
		f.until("the hold", soon, func() bool { return f.last.Held != nil })
	}
	watchers(1) // of the keys alone
	s.SetUp(t)
	put(t, s.Client(t), "/calico/bgp/x", "2")
	without.until("the end of the hold", soon, func() bool { return without.state["/calico/bgp/x"] == "2" })
	watchers(2)
	stop()
	watchers(2) // of the keys again
	wipe(t, s.Client(t))
	without.until("the hold", soon, func() bool { return without.last.Held != nil })
}
