package ipam

import (
	"sync"
	"time"
)

const (
	// minGather and maxGather bound how long a batch waits for the callers of the one
	// before to ask for the next thing; within these, it is half as long as a transaction
	// takes.
	minGather = 200 * time.Microsecond
	maxGather = time.Millisecond
	// linger is how long the goroutine of the batches waits for more when all are served.
	linger = 20 * time.Millisecond
)

// waiting is where calls wait for the next batch.
type waiting struct {
	mu      sync.Mutex
	calls   []*call
	running bool // there is a goroutine that serves them
	// wanted is for how many calls a batch waits, and gathered tells that they are there.
	wanted   int
	gathered chan struct{}

	// The rest belongs to the goroutine that runs. expected is how many calls may come
	// together next: those that waited when a transaction ended, and those whose callers it
	// set free. took is how long it took.
	expected int
	took     time.Duration
}

func newWaiting() waiting { return waiting{gathered: make(chan struct{}, 1)} }

// add has a call wait, and says whether a goroutine must be started to serve it.
func (w *waiting) add(c *call) (start bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, c)
	switch {
	case !w.running:
		w.running = true
		return true
	case w.wanted > 0 && len(w.calls) >= w.wanted:
		w.wanted = 0
		w.gathered <- struct{}{} // it has room: there is one for each time that wanted is set
	}
	return false
}

// take returns the calls that wait.
func (w *waiting) take() []*call {
	w.mu.Lock()
	defer w.mu.Unlock()
	batch := w.calls
	w.calls, w.expected = nil, 0
	w.running = len(batch) > 0
	return batch
}

// expect notes, before the callers of a transaction are set free, how many calls may
// come together next.
func (w *waiting) expect(served int, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expected, w.took = len(w.calls)+served, took
}

// gather gives several callers a moment to come back, so that they share the next
// transaction: with each, all of them are served sooner. When nobody waits, it lingers
// a little, since a caller often comes back soon.
func (w *waiting) gather() {
	if w.expected > 1 {
		w.await(w.expected, min(max(w.took/2, minGather), maxGather))
	}
	if w.expected > 0 {
		w.await(1, linger)
	}
}

// await waits until so many calls wait, or the time is over.
func (w *waiting) await(n int, atMost time.Duration) {
	w.mu.Lock()
	wait := len(w.calls) < n
	if wait {
		w.wanted = n
	}
	w.mu.Unlock()
	if !wait {
		return
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-w.gathered:
		return
	case <-timer.C:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted = 0; len(w.gathered) > 0 {
		<-w.gathered // they came just now
	}
}
