package resource

import "sync"

// announceEvery is after how many objects a long write says how far it is.
const announceEvery = 1000

// tally counts the objects of a call that are done, for whoever waits for it.
type tally struct {
	tell func(done, all int)

	mu              sync.Mutex
	done, all, told int
}

// OnProgress sets what is called now and then while very many objects are written.
func (s *Store) OnProgress(tell func(done, all int)) { s.tally.tell = tell }

// begin starts to count.
func (t *tally) begin(all int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done, t.all, t.told = 0, all, 0
}

// advance counts objects that are done.
func (t *tally) advance(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += n
	if t.tell != nil && t.done-t.told >= announceEvery && t.done < t.all {
		t.told = t.done
		t.tell(t.done, t.all)
	}
}
