package history

import (
	"testing"
	"time"
)

// Where nothing writes back what a restored datastore lacks, looking for it must not keep
// etcd and the host busy for ever.
func TestLooksForWhatWasWrittenBackBecomeRare(t *testing.T) {
	t.Parallel()
	c := New(nil, "node00")
	now := time.Now()
	if c.takeLook(now.Add(time.Hour)) || c.untilLook(now, time.Minute) != time.Minute {
		t.Error("it is looked though nothing was restored")
	}
	for range 2 {
		c.Restored()
		looks := map[time.Duration]int{}
		start := time.Now()
		for end := now.Add(24 * time.Hour); now.Before(end); now = now.Add(max(time.Millisecond, c.untilLook(now, time.Minute))) {
			if c.takeLook(now) {
				looks[now.Sub(start).Truncate(time.Hour)]++
			}
		}
		if n := looks[0]; n < 8 || n > 14 {
			t.Errorf("%d looks in the first hour", n)
		}
		if n := looks[10*time.Hour]; n > 6 {
			t.Errorf("%d looks in an hour long after", n)
		}
		now = time.Now()
		c.Restored() // the next is soon again
		if wait := c.untilLook(now, time.Minute); wait > firstLook+time.Second {
			t.Errorf("the first look is after %v", wait)
		}
	}
}
