package reconcile_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

// loop runs the tables in a bubble until the test ends.
func loop(t *testing.T, tables reconcile.Ordered, l reconcile.Loop) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- reconcile.Run(ctx, tables, l) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestRunStartsAtOnceAndCoalescesKicks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tab, m := newTable("t")
		tab.Set("a", 1)
		kick := reconcile.NewKick()
		var passes atomic.Int64
		var next atomic.Int64
		next.Store(1)
		stop := loop(t, reconcile.Ordered{tab}, reconcile.Loop{
			Kick: kick, MinGap: 100 * time.Millisecond,
			Prepare: func(context.Context) { tab.Set("a", int(next.Load())) },
			Done:    func(error) { passes.Add(1) },
		})
		if passes.Load() != 1 || m.Objects()["a"] != 1 {
			t.Fatalf("after the start: %d passes, %v", passes.Load(), m.Objects())
		}
		for i := range 50 {
			next.Store(int64(i))
			reconcile.Kick(kick)
		}
		after(99 * time.Millisecond)
		if passes.Load() != 1 {
			t.Errorf("%d passes before the gap was over", passes.Load())
		}
		after(2 * time.Millisecond)
		if passes.Load() != 2 || m.Objects()["a"] != 49 {
			t.Errorf("after the gap: %d passes, %v", passes.Load(), m.Objects())
		}
		after(time.Hour)
		if passes.Load() != 2 {
			t.Errorf("%d passes though nobody asked", passes.Load())
		}
		before := time.Now()
		reconcile.Kick(kick)
		synctest.Wait()
		if passes.Load() != 3 || time.Since(before) > 0 {
			t.Errorf("a kick after a pause was not served at once")
		}
		stop()
		if len(m.Objects()) != 1 {
			t.Errorf("the end left %v", m.Objects())
		}
	})
}

func TestRunResyncs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tab, m := newTable("t")
		tab.Set("a", 1)
		kick := reconcile.NewKick()
		defer loop(t, reconcile.Ordered{tab}, reconcile.Loop{Kick: kick, Resync: time.Hour})()
		m.Remove("a")
		for range 5 { // kicks do not put the resync off
			after(11 * time.Minute)
			reconcile.Kick(kick)
		}
		if len(m.Objects()) != 0 {
			t.Error("repaired before the resync")
		}
		after(6 * time.Minute)
		if m.Objects()["a"] != 1 || m.Lists() != 2 {
			t.Errorf("after an hour there is %v, listed %d times", m.Objects(), m.Lists())
		}
		after(10 * time.Hour)
		if m.Lists() != 12 {
			t.Errorf("listed %d times in 11 hours", m.Lists())
		}
	})
}

func TestRunBacksOffAfterWholeFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tab, m := newTable("t")
		tab.Set("a", 1)
		m.Fail(errBroken, nil)
		kick := reconcile.NewKick()
		var errs []error
		defer loop(t, reconcile.Ordered{tab}, reconcile.Loop{
			Kick: kick, MaxBackoff: 10 * time.Second,
			Done: func(err error) { errs = append(errs, err) },
		})()
		after(time.Minute)
		// 0.1 + 0.2 + … + 6.4 s, then every 10 s, each up to a quarter less.
		if n := len(errs); n < 12 || n > 17 {
			t.Errorf("%d passes in a minute", n)
		}
		if err := errs[len(errs)-1]; !errors.Is(err, errBroken) || reconcile.IsPartial(err) {
			t.Errorf("reported %v", err)
		}
		m.Fail(nil, nil)
		n := len(errs)
		reconcile.Kick(kick)
		synctest.Wait()
		if len(errs) != n+1 || errs[n] != nil || m.Objects()["a"] != 1 {
			t.Errorf("a kick did not end the wait: %v, %v", errs[n:], m.Objects())
		}
		after(time.Hour)
		if len(errs) != n+1 {
			t.Errorf("%d more passes after the recovery", len(errs)-n-1)
		}
	})
}

func TestRunRetriesFailedObjects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tab, m := newTable("t")
		m.Refuse(refuseNegative, nil)
		tab.Set("a", -1)
		var passes atomic.Int64
		defer loop(t, reconcile.Ordered{tab}, reconcile.Loop{Done: func(error) { passes.Add(1) }})()
		after(16 * time.Second) // at 0, 1, 3, 7 and 15 s
		if passes.Load() != 5 {
			t.Errorf("%d passes in 16 s", passes.Load())
		}
		m.Refuse(nil, nil)
		after(8 * time.Second)
		if m.Objects()["a"] != -1 {
			t.Errorf("not retried: %v", m.Objects())
		}
	})
}

func TestRunDeletesNothingWhileSetsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tab, m := newTable("t")
		m.Put("old", 1)
		tab.Set("a", 1)
		var inSync atomic.Bool
		kick := reconcile.NewKick()
		defer loop(t, reconcile.Ordered{tab}, reconcile.Loop{
			Kick: kick, SetsOnly: func() bool { return !inSync.Load() }, Resync: time.Minute,
		})()
		after(time.Hour)
		if len(m.Objects()) != 2 {
			t.Fatalf("deleted before in sync: %v", m.Objects())
		}
		inSync.Store(true)
		reconcile.Kick(kick)
		synctest.Wait()
		if len(m.Objects()) != 1 {
			t.Errorf("not deleted when in sync: %v", m.Objects())
		}
	})
}

func TestRunDoesNotSpinOnABlockedRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second := targettest.NewMemory[string, int](), targettest.NewMemory[string, int]()
		first.Put("old", 1)
		first.Refuse(nil, func(string) error { return errBroken })
		a, b := newTableOn("a", first, nil), newTableOn("b", second, nil)
		var passes atomic.Int64
		kick := reconcile.NewKick()
		defer loop(t, reconcile.Ordered{a, b}, reconcile.Loop{Kick: kick, Done: func(error) { passes.Add(1) }})()
		second.Refuse(func(string, int) error { return errBroken }, nil)
		b.Set("x", 1) // from now on the delete in a waits for b
		reconcile.Kick(kick)
		after(time.Minute)
		if passes.Load() > 80 {
			t.Errorf("%d passes in a minute", passes.Load())
		}
	})
}
