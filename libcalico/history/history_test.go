package history_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/history"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

const (
	node = "node00"
	soon = 20 * time.Second
)

func newClient(t *testing.T, s *etcdtest.Server) *etcdstore.Client {
	t.Helper()
	c, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// run lets a counter count until the test, or what is returned, ends it.
func run(t *testing.T, c *history.Counter, gap time.Duration) (stop func()) {
	t.Helper()
	return runIf(t, c, gap, func() bool { return true })
}

func runIf(t *testing.T, c *history.Counter, gap time.Duration, may func() bool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, gap, may, func(error) {}) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// stored reads the count; negative when there is none that can be read.
func stored(t *testing.T, c *etcdstore.Client) model.History {
	t.Helper()
	e, err := c.Get(context.Background(), model.HistoryKey{Node: node})
	if err != nil {
		return model.History{Count: -1}
	}
	return *e.Value.(*model.History)
}

func await(t *testing.T, c *etcdstore.Client, want model.History) {
	t.Helper()
	nettest.Eventually(t, soon, func() error {
		if got := stored(t, c); got != want {
			return fmt.Errorf("the account is %+v, want %+v", got, want)
		}
		return nil
	})
}

// memory is what a watch asks with.
type memory = func(ctx context.Context, remembered bool) (bool, error)

// wentBack asks as a watch does whose latest change etcd does not know any more.
func wentBack(t *testing.T, ask memory, want bool) {
	t.Helper()
	if got, err := ask(context.Background(), false); err != nil || got != want {
		t.Errorf("went back: %v, %v; want %v", got, err, want)
	}
}

// put writes an account, as a restored store has it.
func put(t *testing.T, c *etcdstore.Client, k model.HistoryKey, h model.History) {
	t.Helper()
	write, err := etcdstore.PutWrite(k, &h)
	if err == nil {
		_, err = c.Commit(context.Background(), write)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestARestoredBackupIsFound(t *testing.T) {
	s := etcdtest.Start(t)
	s.SetUp(t)
	client := newClient(t, s)
	counter, follower := history.New(client, node), history.New(client, node)
	counting, following, other := counter.Watch(), follower.Watch(), follower.Watch()
	wentBack(t, following, false) // nothing is known
	run(t, counter, 50*time.Millisecond)
	await(t, client, model.History{Count: 1})
	if err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	counter.Changed()
	await(t, client, model.History{Count: 2})
	wentBack(t, counting, false)
	wentBack(t, other, false)
	wentBack(t, following, false)
	wentBack(t, following, false)
	if err := errors.Join(s.Rewind(), s.Restart()); err != nil {
		t.Fatal(err)
	}
	wentBack(t, following, true)
	wentBack(t, following, false) // said once
	wentBack(t, counting, true)
	wentBack(t, counting, true) // as long as it has not counted
	counter.Restored()
	await(t, client, model.History{Count: 3, Restored: 1})
	wentBack(t, counting, false)
	// One that comes late hears it from the one who counts, each of its watches.
	wentBack(t, other, true)
	wentBack(t, other, false)
	wentBack(t, following, true)
	wentBack(t, following, false)
}

// A host of which nothing changes writes nothing, so that an idle cluster is idle.
func TestNothingIsCountedWithoutAChange(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	client := newClient(t, s)
	c := history.New(client, node)
	run(t, c, 20*time.Millisecond)
	await(t, client, model.History{Count: 1})
	before := stored(t, client)
	end := time.After(500 * time.Millisecond)
	<-end
	wentBack(t, c.Watch(), false)
	if now := stored(t, client); now != before {
		t.Errorf("the account was %+v and is %+v", before, now)
	}
	for range 5 {
		c.Changed()
	}
	await(t, client, model.History{Count: 2})
}

// A store that is held, because it was emptied or is another cluster's, is not written to.
func TestAHeldStoreIsLeftAlone(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	client := newClient(t, s)
	c := history.New(client, node)
	asked := make(chan bool)
	runIf(t, c, time.Hour, func() bool { return <-asked })
	for range 2 {
		asked <- false
	}
	if h := stored(t, client); h.Count >= 0 {
		t.Errorf("the account is %+v", h)
	}
	asked <- true
	await(t, client, model.History{Count: 1})
	close(asked)
}

// So is an empty one, of which nobody knows yet that it is.
func TestAnEmptyStoreIsLeftAlone(t *testing.T) {
	s := etcdtest.Shared(t)
	client := newClient(t, s)
	run(t, history.New(client, node), time.Hour)
	<-time.After(300 * time.Millisecond)
	if h := stored(t, client); h.Count >= 0 {
		t.Errorf("the account is %+v", h)
	}
	s.SetUp(t)
	await(t, client, model.History{Count: 1})
}

// While etcd is away, or its value is damaged, counting goes on as soon as it can.
func TestCountingSurvives(t *testing.T) {
	s := etcdtest.Start(t)
	s.SetUp(t)
	client := newClient(t, s)
	s.Stop()
	c := history.New(client, node)
	stop := run(t, c, time.Hour)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	await(t, client, model.History{Count: 1})
	stop()
	if _, err := s.Client(t).Put(context.Background(), model.Paths(model.HistoryKey{Node: node})[0], "{"); err != nil {
		t.Fatal(err)
	}
	wentBack(t, c.Watch(), true)
	// It is left as it is until those who watch the store have said that they follow it.
	stop = run(t, c, time.Hour)
	<-time.After(300 * time.Millisecond)
	if h := stored(t, client); h.Count >= 0 {
		t.Errorf("the account is %+v", h)
	}
	c.Restored()
	await(t, client, model.History{Count: 2, Restored: 1})
	stop()
	// Another felix of the host goes on where the first was.
	run(t, history.New(client, node), time.Hour)
	await(t, client, model.History{Count: 3, Restored: 1})
}

// An account that somebody deleted, as of a node by mistake, is none that went back, when
// etcd knows the latest change; it is written anew, above what it was.
func TestADeletedAccountIsWrittenAnew(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	client, ctx := newClient(t, s), context.Background()
	put(t, client, model.HistoryKey{Node: node}, model.History{Count: 7, Restored: 2})
	c := history.New(client, node)
	counting, following := c.Watch(), history.New(client, node).Watch()
	wentBack(t, following, false)
	run(t, c, 20*time.Millisecond)
	await(t, client, model.History{Count: 8, Restored: 2})
	remove := func() {
		t.Helper()
		if _, err := s.Client(t).Delete(ctx, model.Paths(model.HistoryKey{Node: node})[0]); err != nil {
			t.Fatal(err)
		}
	}
	remove()
	for _, ask := range []memory{following, counting} {
		if back, err := ask(ctx, true); back || err != nil {
			t.Errorf("went back: %v, %v", back, err)
		}
	}
	c.Changed()
	await(t, client, model.History{Count: 9, Restored: 2})
	wentBack(t, following, false)
	wentBack(t, counting, false)
	// A backup from before the first account is one that went back.
	remove()
	wentBack(t, following, true)
	wentBack(t, counting, true)
}

// Whether a node has written back is only known when it has counted since the restored
// store was seen: before, a backup may say so of an earlier restoration.
func TestWritingBack(t *testing.T) {
	s := etcdtest.Shared(t)
	s.SetUp(t)
	client, ctx := newClient(t, s), context.Background()
	written := func(since int64, want bool) {
		t.Helper()
		if n, err := history.ReadNode(ctx, client, node); err != nil || n.WrittenBackSince(since) != want {
			t.Errorf("since %d it is %+v, %v; want %v", since, n, err, want)
		}
	}
	written(0, false)
	// As a backup has it: the node wrote back after an earlier restoration.
	put(t, client, model.HistoryKey{Node: node}, model.History{Count: 7, Restored: 1})
	put(t, client, model.HistoryKey{Node: node, WrittenBack: true}, model.History{Count: 7, Restored: 1})
	e, err := client.Get(ctx, model.HistoryKey{Node: node, WrittenBack: true})
	if err != nil {
		t.Fatal(err)
	}
	seen := e.Revision
	written(seen, false)

	c := history.New(client, node)
	c.Restored()
	run(t, c, 20*time.Millisecond)
	nettest.Eventually(t, soon, func() error {
		if h := stored(t, client); h.Restored != 2 {
			return fmt.Errorf("the account is %+v", h)
		}
		return nil
	})
	written(seen, false)
	late := stored(t, client).Count
	if err := history.WriteBack(ctx, client, node); err != nil {
		t.Fatal(err)
	}
	written(seen, true)
	// Who sees the store only now hears of it too.
	if e, err = client.Get(ctx, model.HistoryKey{Node: node, WrittenBack: true}); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, soon, func() error {
		if h := stored(t, client); h.Count <= late {
			return fmt.Errorf("the account is %+v", h)
		}
		return nil
	})
	written(e.Revision, true)
	if n, err := history.ReadNode(ctx, client, node); err != nil || n.Exists {
		t.Errorf("%+v, %v", n, err)
	}
}
