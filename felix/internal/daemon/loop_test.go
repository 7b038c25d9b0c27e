package daemon

import (
	"slices"
	"testing"
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
