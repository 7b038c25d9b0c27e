package daemon

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// TestDrainLosesNothing takes in what waits, as far as it is allowed to; the rest waits on.
func TestDrainLosesNothing(t *testing.T) {
	const waiting, most = 10, 4
	more := make(chan int, waiting)
	for i := range waiting {
		more <- i
	}
	var got []int
	take := func(i int) error { got = append(got, i); return nil }
	for len(more) > 0 {
		before := len(got)
		if err := drain(<-more, more, most, take); err != nil {
			t.Fatal(err)
		}
		if n := len(got) - before; n > most {
			t.Errorf("%d were taken at once", n)
		}
	}
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestWhatCostsLittleIsTriedEverySecond has passes fail over and over: because of the tables of
// chains, for which programs are started, and of others, for which the kernel is asked.
func TestWhatCostsLittleIsTriedEverySecond(t *testing.T) {
	no := errors.New("no")
	for _, c := range []struct {
		what    string
		chains  error
		longest time.Duration
	}{{"sets", nil, maxBusyDelay}, {"chains", no, maxFailureDelay}} {
		l := &loop{dp: &dataplane{held: &heldChains{fault: c.chains}}}
		longest := time.Duration(0)
		for range 20 {
			l.putOff(t.Context(), no)
			longest = max(longest, time.Until(l.retryAt).Round(time.Second))
		}
		if longest != c.longest {
			t.Errorf("%s are tried again after %v, want %v", c.what, longest, c.longest)
		}
	}
}
