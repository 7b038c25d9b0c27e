package etcdstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// follower takes the batches of a watch and keeps the state that they describe.
type follower struct {
	tb      testing.TB
	batches <-chan etcdstore.Batch
	state   map[string]string
	last    etcdstore.Batch
	// counts of what came
	snapshots, restored, changes, losses, holds int
}

func follow(tb testing.TB, c *etcdstore.Client, opts etcdstore.WatchOptions, prefixes ...string) *follower {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	return followBatches(tb, cancel, c.Watch(ctx, prefixes, opts))
}

func followBatches(tb testing.TB, cancel func(), batches <-chan etcdstore.Batch) *follower {
	tb.Helper()
	tb.Cleanup(func() {
		cancel()
		for range batches {
		}
	})
	return &follower{tb: tb, batches: batches, state: map[string]string{}}
}

// until takes batches until the condition holds.
func (f *follower) until(what string, limit time.Duration, cond func() bool) {
	f.tb.Helper()
	deadline := time.After(limit)
	for !cond() {
		select {
		case b := <-f.batches:
			f.take(b)
		case <-deadline:
			f.tb.Fatalf("not within %v: %s; %d snapshots, %d changes, %d losses, last %+v", limit, what, f.snapshots, f.changes, f.losses, f.last.Err)
		}
	}
}

func (f *follower) take(b etcdstore.Batch) {
	f.last = b
	switch {
	case b.Err != nil:
		f.losses++
		return
	case b.Held != nil:
		f.holds++
		return
	case b.Snapshot:
		f.snapshots++
		if b.Restored {
			f.restored++
		}
		clear(f.state)
	default:
		f.changes++
	}
	for _, path := range b.Deletes {
		delete(f.state, path)
	}
	for _, kv := range b.Puts {
		f.state[kv.Path] = string(kv.Value)
	}
	if !slices.IsSortedFunc(b.Puts, func(a, b etcdstore.KV) int { return strings.Compare(a.Path, b.Path) }) || !slices.IsSorted(b.Deletes) {
		f.tb.Error("a batch is not sorted")
	}
}

func (f *follower) untilState(limit time.Duration, want map[string]string) {
	f.tb.Helper()
	f.until(fmt.Sprintf("state %v", want), limit, func() bool { return maps.Equal(f.state, want) && f.last.Err == nil })
}

func put(tb testing.TB, raw *clientv3.Client, pairs ...string) int64 {
	tb.Helper()
	var ops []clientv3.Op
	for i := 0; i < len(pairs); i += 2 {
		ops = append(ops, clientv3.OpPut(pairs[i], pairs[i+1]))
	}
	return txn(tb, raw, ops...)
}

func txn(tb testing.TB, raw *clientv3.Client, ops ...clientv3.Op) int64 {
	tb.Helper()
	resp, err := raw.Txn(ctxOf(tb)).Then(ops...).Commit()
	if err != nil {
		tb.Fatal(err)
	}
	return resp.Header.Revision
}

const soon = 20 * time.Second

func TestWatchSnapshotThenChanges(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw := newClient(t, s), s.Client(t)
	rev := put(t, raw, "/calico/v1/a", "1", "/calico/bgp/v1/b", "2", "/calico/ipam/v2/c", "3", "/other", "4")
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/v1/", "/calico/bgp/v1/", "/calico/v1/host/")
	f.untilState(soon, map[string]string{"/calico/v1/a": "1", "/calico/bgp/v1/b": "2"})
	if f.snapshots != 1 || !f.last.Snapshot || f.last.Revision != rev {
		t.Errorf("first came %+v, the revision is %d", f.last, rev)
	}
	rev = txn(t, raw, clientv3.OpPut("/calico/v1/d", "5"), clientv3.OpDelete("/calico/v1/a"), clientv3.OpPut("/calico/ipam/v2/c", "6"))
	f.untilState(soon, map[string]string{"/calico/v1/d": "5", "/calico/bgp/v1/b": "2"})
	if f.snapshots != 1 || f.last.Revision != rev {
		t.Errorf("then came %+v, the revision is %d", f.last, rev)
	}
	if kv := f.last.Puts[0]; kv.ModRevision != rev {
		t.Errorf("ModRevision %d, want %d", kv.ModRevision, rev)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	s := etcdtest.Shared(t)
	c := newClient(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	batches := c.Watch(ctx, []string{"/calico/"}, etcdstore.WatchOptions{})
	<-batches
	cancel()
	for range batches {
		t.Log("a batch that was on its way")
	}
}

// A transaction over several prefixes is never seen by halves.
func TestWatchNeverSplitsARevision(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw := newClient(t, s), s.Client(t)
	const rounds = 500
	put(t, raw, "/calico/v1/a", "0", "/calico/bgp/v1/b", "0")
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/v1/", "/calico/bgp/v1/")
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range rounds {
			value := fmt.Sprint(i + 1)
			put(t, raw, "/calico/v1/a", value, "/calico/bgp/v1/b", value)
		}
	})
	f.until("all rounds", time.Minute, func() bool {
		if f.state["/calico/v1/a"] != f.state["/calico/bgp/v1/b"] {
			t.Fatalf("half a transaction: %v", f.state)
		}
		return f.state["/calico/v1/a"] == fmt.Sprint(rounds)
	})
	writer.Wait()
}

// What comes while the receiver is busy comes in one batch, with the last value only.
func TestWatchMergesWhatWaits(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw := newClient(t, s), s.Client(t)
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
	want := map[string]string{}
	for i := range 300 {
		path := fmt.Sprint("/calico/k", i%10)
		put(t, raw, path, fmt.Sprint(i), "/calico/gone", fmt.Sprint(i))
		want[path] = fmt.Sprint(i)
	}
	txn(t, raw, clientv3.OpDelete("/calico/gone"))
	f.untilState(soon, want)
	if f.changes > 100 {
		t.Errorf("300 changes came in %d batches although nobody took any", f.changes)
	}
}

func TestWatchBigSnapshot(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw := newClient(t, s), s.Client(t)
	want := map[string]string{}
	value := strings.Repeat("x", 1000)
	for at := 0; at < 10_000; at += 100 {
		var pairs []string
		for i := at; i < at+100; i++ {
			path := fmt.Sprintf("/calico/k%05d", i)
			pairs = append(pairs, path, value)
			want[path] = value
		}
		put(t, raw, pairs...)
	}
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.untilState(time.Minute, want)
	if f.snapshots != 1 || f.changes != 0 {
		t.Errorf("%d snapshots, %d changes", f.snapshots, f.changes)
	}
}

// What a watch missed may be more than etcd sends at once: it comes in fragments, and
// none is handed over before the last.
func TestWatchPutsFragmentsTogether(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	rev := put(t, s.Client(t), "/calico/a", "0", "/calico/z", "0")
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.untilState(soon, map[string]string{"/calico/a": "0", "/calico/z": "0"})
	s.Stop()
	f.until("loss", soon, func() bool { return f.last.Err != nil })
	other := elsewhere(t, s)
	value := strings.Repeat("y", 10_000)
	for i := range 5 {
		pairs := []string{"/calico/a", fmt.Sprint(i), "/calico/z", fmt.Sprint(i)}
		for k := range 120 {
			pairs = append(pairs, fmt.Sprintf("/calico/k%03d", k), value)
		}
		put(t, other, pairs...)
	}
	if !comesInFragments(t, other, rev+1) {
		t.Error("etcd does not send fragments; the test proves nothing")
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	f.until("all changes", soon, func() bool {
		if f.state["/calico/a"] != f.state["/calico/z"] {
			t.Fatal("half a transaction")
		}
		return f.state["/calico/a"] == "4" && len(f.state) == 122
	})
	if f.snapshots != 1 {
		t.Errorf("%d snapshots", f.snapshots)
	}
}

func comesInFragments(tb testing.TB, raw *clientv3.Client, from int64) bool {
	tb.Helper()
	stream, err := etcdserverpb.NewWatchClient(raw.ActiveConnection()).Watch(ctxOf(tb))
	if err != nil {
		tb.Fatal(err)
	}
	err = stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("/calico/"), RangeEnd: []byte("/calico0"), StartRevision: from, Fragment: true},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			tb.Fatal(err)
		}
		if m.Fragment || len(m.Events) > 0 {
			return m.Fragment
		}
	}
}

func TestWatchSurvivesARestart(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, raw := newClient(t, s), s.Client(t)
	put(t, raw, "/calico/a", "1", "/calico/b", "1")
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.untilState(soon, map[string]string{"/calico/a": "1", "/calico/b": "1"})
	s.Stop()
	f.until("loss", soon, func() bool { return f.last.Err != nil })
	if err := f.last.Err; !errors.Is(err, etcdstore.ErrUnavailable) || !strings.Contains(err.Error(), s.Endpoint()) {
		t.Errorf("loss: %v", err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	f.until("recovery", soon, func() bool { return f.last.Err == nil })
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("back in sync %v after etcd", took)
	}
	txn(t, raw, clientv3.OpPut("/calico/a", "2"), clientv3.OpDelete("/calico/b"))
	f.untilState(soon, map[string]string{"/calico/a": "2"})
	if f.snapshots != 1 {
		t.Errorf("%d snapshots; the changes could have been had", f.snapshots)
	}
}

func TestWatchStartsBeforeEtcd(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	put(t, s.Client(t), "/calico/a", "1")
	s.Stop()
	c := newClient(t, s)
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.until("loss", soon, func() bool { return f.losses > 0 })
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	f.untilState(soon, map[string]string{"/calico/a": "1"})
}

// The server is frozen, but its connections stand: nobody refuses anything.
func TestWatchNoticesAFrozenServer(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, raw := newClient(t, s), s.Client(t)
	put(t, raw, "/calico/a", "1")
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.untilState(soon, map[string]string{"/calico/a": "1"})
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	frozen := time.Now()
	f.until("loss", soon, func() bool { return f.last.Err != nil })
	if took := time.Since(frozen); took > 12*time.Second {
		t.Errorf("noticed after %v", took)
	}
	if !errors.Is(f.last.Err, etcdstore.ErrUnavailable) {
		t.Errorf("loss: %v", f.last.Err)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	f.until("recovery", soon, func() bool { return f.last.Err == nil })
	put(t, raw, "/calico/a", "2")
	f.untilState(soon, map[string]string{"/calico/a": "2"})
	if f.snapshots != 1 {
		t.Errorf("%d snapshots", f.snapshots)
	}
}

// A quiet watch on a healthy server stays connected.
func TestWatchIsPatientWhenNothingHappens(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw := newClient(t, s), s.Client(t)
	f := follow(t, c, etcdstore.Probing(-1, 50*time.Millisecond, 2*time.Second), "/calico/")
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
	end := time.After(3 * time.Second)
	for waiting := true; waiting; {
		select {
		case b := <-f.batches:
			f.take(b)
		case <-end:
			waiting = false
		}
	}
	put(t, raw, "/calico/a", "1")
	f.untilState(soon, map[string]string{"/calico/a": "1"})
	if f.losses != 0 || f.snapshots != 1 {
		t.Errorf("%d losses, %d snapshots", f.losses, f.snapshots)
	}
}

func TestWatchAfterCompaction(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, raw := newClient(t, s), s.Client(t)
	put(t, raw, "/calico/a", "1", "/calico/b", "1")
	f := follow(t, c, etcdstore.Probing(-1, 100*time.Millisecond, time.Second), "/calico/")
	f.untilState(soon, map[string]string{"/calico/a": "1", "/calico/b": "1"})

	// The watch is cut off, and what it missed is compacted before it is back.
	s.Stop()
	f.until("loss", soon, func() bool { return f.last.Err != nil })
	other := elsewhere(t, s)
	for i := range 5 {
		put(t, other, "/calico/a", fmt.Sprint(i))
	}
	rev := txn(t, other, clientv3.OpDelete("/calico/b"))
	if _, err := other.Compact(ctxOf(t), rev); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	f.untilState(soon, map[string]string{"/calico/a": "4"})
	if f.snapshots != 2 {
		t.Errorf("%d snapshots, want a second one", f.snapshots)
	}
}

// elsewhere runs the server at another address, where the watch under test does not
// find it, and returns a client to it.
func elsewhere(tb testing.TB, s *etcdtest.Server) *clientv3.Client {
	tb.Helper()
	endpoint, err := s.RestartElsewhere()
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = raw.Close() })
	return raw
}

func TestWatchAfterReset(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	put(t, s.Client(t), "/calico/a", "1")
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.untilState(soon, map[string]string{"/calico/a": "1"})
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	put(t, s.Client(t), "/calico/b", "2")
	f.untilState(soon, map[string]string{"/calico/b": "2"})
}

func TestWatchAfterARestoredBackup(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	put(t, s.Client(t), "/calico/a", "1")
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.untilState(soon, map[string]string{"/calico/a": "1"})
	raw := s.Client(t)
	for i := range 20 {
		put(t, raw, "/calico/a", fmt.Sprint("lost ", i), "/calico/b", "lost")
	}
	f.untilState(soon, map[string]string{"/calico/a": "lost 19", "/calico/b": "lost"})
	high := f.last.Revision
	if err := s.Restore(); err != nil {
		t.Fatal(err)
	}
	f.untilState(soon, map[string]string{"/calico/a": "1"})
	if f.last.Revision >= high {
		t.Errorf("revision %d, was %d before the backup was restored", f.last.Revision, high)
	}
	rev := put(t, s.Client(t), "/calico/c", "new")
	f.untilState(soon, map[string]string{"/calico/a": "1", "/calico/c": "new"})
	if f.last.Revision != rev {
		t.Errorf("revision %d, want %d", f.last.Revision, rev)
	}
}

func TestWatchAudits(t *testing.T) {
	s := etcdtest.Shared(t)
	c, raw := newClient(t, s), s.Client(t)
	f := follow(t, c, etcdstore.WatchOptions{Audit: 100 * time.Millisecond}, "/calico/")
	for i := range 50 {
		value := fmt.Sprint(i)
		put(t, raw, "/calico/a", value)
		f.until("value "+value, soon, func() bool { return f.state["/calico/a"] == value })
	}
	want := f.snapshots + 3
	f.until("audits", soon, func() bool { return f.snapshots >= want })
	if diff := cmp.Diff(map[string]string{"/calico/a": "49"}, f.state); diff != "" {
		t.Errorf("after the audits (-want +got):\n%s", diff)
	}
	if f.losses != 0 {
		t.Errorf("%d losses", f.losses)
	}
}

// While etcd is away, the client tries again about once a second, not in a loop.
func TestWatchDoesNotSpinWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/")
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
	s.Stop()
	listener, err := net.Listen("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	attempts := make(chan struct{}, 1000)
	var server sync.WaitGroup
	server.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
			attempts <- struct{}{}
		}
	})
	f.until("loss", soon, func() bool { return f.losses > 0 })
	end := time.After(5 * time.Second)
	for waiting := true; waiting; {
		select {
		case b := <-f.batches:
			f.take(b)
		case <-end:
			waiting = false
		}
	}
	_ = listener.Close()
	server.Wait()
	if n := len(attempts); n == 0 || n > 20 {
		t.Errorf("%d attempts to connect in 5 s", n)
	}
	if f.losses > 5 {
		t.Errorf("%d reports of one loss", f.losses)
	}
}

func TestWatchWithoutPermission(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	enableAuth(t, s)
	c, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints(), Username: "reader", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	f := follow(t, c, etcdstore.WatchOptions{}, "/calico/ipam/")
	f.until("refusal", soon, func() bool { return f.losses > 0 })
	if !errors.Is(f.last.Err, etcdstore.ErrUnauthorized) {
		t.Errorf("got %v", f.last.Err)
	}
	allowed := follow(t, c, etcdstore.WatchOptions{}, "/calico/v1/")
	allowed.until("snapshot", soon, func() bool { return allowed.snapshots == 1 })
	root := rootClient(t, s)
	put(t, root, "/calico/v1/a", "1")
	allowed.untilState(soon, map[string]string{"/calico/v1/a": "1"})
}

// An empty list of prefixes, as of a kind that is not known, does not stand for everything,
// nor for nothing.
func TestNoPrefixesAreAnError(t *testing.T) {
	s := etcdtest.Shared(t)
	c := newClient(t, s)
	put(t, s.Client(t), "/calico/a", "1")
	if _, _, _, err := c.ListUnder(ctxOf(t), nil, func(model.Key) bool { return true }); err == nil {
		t.Error("a list of nothing: no error")
	}
	if _, _, err := etcdstore.Gather(ctxOf(t), c, nil, func(e etcdstore.Entry) (model.Key, bool) { return e.Key, true }); err == nil {
		t.Error("resources under nothing: no error")
	}
	ctx, cancel := context.WithCancel(ctxOf(t))
	for name, batches := range map[string]<-chan etcdstore.Batch{
		"watch":         c.Watch(ctx, nil, etcdstore.WatchOptions{}),
		"guarded watch": c.Guard("", slog.New(slog.DiscardHandler)).Watch(ctx, nil, etcdstore.WatchOptions{}),
	} {
		if b := <-batches; b.Err == nil || len(b.Puts) > 0 {
			t.Errorf("%s of nothing: %+v", name, b)
		}
		defer func() {
			for range batches { // it ends
			}
		}()
	}
	cancel()
}
