package etcdstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
)

// noticed is how soon a watch must follow an etcd that was put back: a pause between two
// attempts, on a busy machine. No audit would ever do it.
const noticed = 5 * time.Second

// putBack restores the backup, has others change the store before the watch under test can
// reach it, and tells when the watch can.
func putBack(t *testing.T, s *etcdtest.Server, meanwhile func(other *clientv3.Client)) time.Time {
	t.Helper()
	if err := s.Rewind(); err != nil {
		t.Fatal(err)
	}
	meanwhile(elsewhere(t, s))
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

// writes makes revisions that concern nobody.
func writes(t *testing.T, n int) func(*clientv3.Client) {
	return func(other *clientv3.Client) {
		for i := range n {
			put(t, other, "/other", fmt.Sprint(i))
		}
	}
}

// A backup is restored in the same cluster, and etcd is away for a moment only. The revision
// is lower than before, the same, or higher: it is noticed at once, and said, in each case.
func TestWatchTellsARestoredBackup(t *testing.T) {
	t.Parallel()
	for what, revisions := range map[string]int{"lower": 0, "same": 20, "higher": 200} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := etcdtest.Start(t)
			c, raw := newClient(t, s), s.Client(t)
			put(t, raw, "/calico/a", "1", "/calico/gone", "1")
			f := follow(t, c, etcdstore.WatchOptions{Audit: -1}, "/calico/")
			f.until("snapshot", soon, func() bool { return len(f.state) == 2 })
			if err := s.Snapshot(); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				put(t, raw, "/calico/a", fmt.Sprint("lost ", i), "/calico/young", "1")
			}
			f.until("changes", soon, func() bool { return f.state["/calico/a"] == "lost 19" })
			if f.last.Restored {
				t.Error("restored, before anything was")
			}
			seen := f.last.Revision
			back := putBack(t, s, writes(t, revisions))
			f.untilState(soon, map[string]string{"/calico/a": "1", "/calico/gone": "1"})
			if took := time.Since(back); took > noticed {
				t.Errorf("noticed after %v", took)
			}
			if !f.last.Restored || !f.last.Snapshot {
				t.Errorf("the batch does not say that the store was restored: %+v", f.last)
			}
			t.Logf("revision %d before, %d after", seen, f.last.Revision)
			txn(t, s.Client(t), clientv3.OpDelete("/calico/gone"))
			f.untilState(soon, map[string]string{"/calico/a": "1"})
			if f.last.Restored || f.last.Snapshot {
				t.Errorf("what follows is not a change: %+v", f.last)
			}
		})
	}
}

// Another cluster under the same address is a history that went back as well.
func TestWatchTellsAnotherCluster(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	put(t, s.Client(t), "/calico/a", "1")
	f := follow(t, c, etcdstore.WatchOptions{Audit: -1}, "/calico/")
	f.until("snapshot", soon, func() bool { return f.snapshots == 1 })
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	f.until("the empty store", soon, func() bool { return f.snapshots == 2 })
	if !f.last.Restored {
		t.Errorf("got %+v", f.last)
	}
}

// When what the watch saw last is compacted away and changed, etcd cannot tell which history
// it has: the watch reads everything, and others who know are believed.
func TestWatchAsksOthersAboutTheHistory(t *testing.T) {
	t.Parallel()
	for _, wentBack := range []bool{false, true} {
		t.Run(fmt.Sprint(wentBack), func(t *testing.T) {
			t.Parallel()
			s := etcdtest.Start(t)
			c, raw := newClient(t, s), s.Client(t)
			var known atomic.Bool
			f := follow(t, c, etcdstore.WatchOptions{Audit: -1, WentBack: func(context.Context, bool) (bool, error) { return known.Load(), nil }}, "/calico/")
			put(t, raw, "/calico/a", "1")
			f.untilState(soon, map[string]string{"/calico/a": "1"})
			s.Stop()
			f.until("loss", soon, func() bool { return f.last.Err != nil })
			other := elsewhere(t, s)
			rev := put(t, other, "/calico/a", "2")
			if _, err := other.Compact(ctxOf(t), rev); err != nil {
				t.Fatal(err)
			}
			known.Store(wentBack)
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			f.untilState(soon, map[string]string{"/calico/a": "2"})
			if !f.last.Snapshot || f.last.Restored != wentBack {
				t.Errorf("got %+v", f.last)
			}
		})
	}
}

// What was seen last may be older than a compaction, and still be known: nothing has changed
// since. The position is proven, and nothing needs to be read again.
func TestWatchIsRememberedAfterACompaction(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c, raw := newClient(t, s), s.Client(t)
	put(t, raw, "/calico/a", "1")
	f := follow(t, c, etcdstore.WatchOptions{Audit: -1}, "/calico/")
	f.untilState(soon, map[string]string{"/calico/a": "1"})
	var rev int64
	for i := range 10 {
		rev = put(t, raw, "/other", fmt.Sprint(i))
	}
	if _, err := raw.Compact(ctxOf(t), rev); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	put(t, s.Client(t), "/calico/b", "2")
	f.untilState(soon, map[string]string{"/calico/a": "1", "/calico/b": "2"})
	if f.last.Restored {
		t.Error("restored, says the watch")
	}
}

// An audit asks too, and does not hand over a history that went back as if nothing was.
func TestAuditTellsThatHistoryWentBack(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	put(t, s.Client(t), "/calico/a", "1")
	var known atomic.Bool
	asked := make(chan struct{}, 100)
	f := follow(t, c, etcdstore.WatchOptions{Audit: 50 * time.Millisecond, WentBack: func(context.Context, bool) (bool, error) {
		asked <- struct{}{}
		if known.Load() {
			return known.Swap(false), nil
		}
		return false, nil
	}}, "/calico/")
	f.until("audits", soon, func() bool { return f.snapshots > 2 })
	if len(asked) == 0 || f.last.Restored {
		t.Errorf("asked %d times, got %+v", len(asked), f.last)
	}
	known.Store(true)
	f.until("the news", soon, func() bool { return f.last.Restored })
	f.until("that it is over", soon, func() bool { return f.last.Snapshot && !f.last.Restored })
}

// As long as nobody can say whether history went back, nothing is handed over.
func TestWatchWaitsForTheAnswerAboutTheHistory(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t)
	c := newClient(t, s)
	put(t, s.Client(t), "/calico/a", "1")
	var mute atomic.Bool
	f := follow(t, c, etcdstore.WatchOptions{Audit: -1, WentBack: func(context.Context, bool) (bool, error) {
		if mute.Load() {
			return false, errors.New("no answer about the history")
		}
		return true, nil
	}}, "/calico/")
	f.untilState(soon, map[string]string{"/calico/a": "1"})
	mute.Store(true)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	put(t, s.Client(t), "/calico/a", "2")
	f.until("the fault", soon, func() bool { return f.last.Err != nil && f.last.Err.Error() == "no answer about the history" })
	mute.Store(false)
	f.untilState(soon, map[string]string{"/calico/a": "2"})
	if !f.last.Restored {
		t.Errorf("got %+v", f.last)
	}
}
