package address

import (
	"net/netip"
	"sync"
	"time"
)

// Settle is how long something that Docker is in the middle of is left alone: longer
// than the longest call, Join with its wait for felix, and so short that, with the time
// between the two looks of a sweep, nothing is lost for more than a minute.
const Settle = 25 * time.Second

// memory is what this process knows of calls that belong together. It is lost at a
// restart, and all that is built on it works without it, only more slowly.
type memory struct {
	now func() time.Time

	mu sync.Mutex
	// asked holds the addresses that Docker has asked for and not yet put on an
	// endpoint.
	asked map[netip.Addr]time.Time
	// freed holds the addresses that went with their endpoint, and that Docker is about
	// to release a second time, on its own. By then another container may have one.
	freed map[netip.Addr]time.Time
	// touched holds the endpoints that Docker has lately dealt with.
	touched map[string]time.Time
}

func newMemory(now func() time.Time) *memory {
	return &memory{
		now: now, asked: make(map[netip.Addr]time.Time), freed: make(map[netip.Addr]time.Time),
		touched: make(map[string]time.Time),
	}
}

// ask notes that Docker was given an address.
func (m *memory) ask(a netip.Addr) { put(m, m.asked, a) }

// askedLately reports whether Docker is about to use an address.
func (m *memory) askedLately(a netip.Addr) bool { return lately(m, m.asked, a) }

// unask notes that an address is an endpoint's now, or nobody's, and reports whether it
// was asked for.
func (m *memory) unask(a netip.Addr) bool { return take(m, m.asked, a) }

// free notes that an address went with its endpoint.
func (m *memory) free(a netip.Addr) { put(m, m.freed, a) }

// unfree reports, once, whether an address went with its endpoint lately.
func (m *memory) unfree(a netip.Addr) bool { return take(m, m.freed, a) }

// touch notes that Docker deals with an endpoint.
func (m *memory) touch(endpoint string) { put(m, m.touched, endpoint) }

// touchedLately reports whether Docker may be in the middle of dealing with an endpoint.
func (m *memory) touchedLately(endpoint string) bool { return lately(m, m.touched, endpoint) }

// untouch notes that an endpoint is gone.
func (m *memory) untouch(endpoint string) { take(m, m.touched, endpoint) }

// put notes a key, and forgets the old ones.
func put[K comparable](m *memory, notes map[K]time.Time, k K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for old, since := range notes {
		if now.Sub(since) > Settle {
			delete(notes, old)
		}
	}
	notes[k] = now
}

// lately reports whether a key was noted lately.
func lately[K comparable](m *memory, notes map[K]time.Time, k K) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	since, ok := notes[k]
	return ok && m.now().Sub(since) <= Settle
}

// take removes a key and reports whether it was noted lately.
func take[K comparable](m *memory, notes map[K]time.Time, k K) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	since, ok := notes[k]
	delete(notes, k)
	return ok && m.now().Sub(since) <= Settle
}
