// Package sandbox counts the networks of each container, so that every one gets a
// gateway address of its own (pure).
package sandbox

import "sync"

// Table knows the endpoints of each sandbox, which is Docker's name for a container's
// network namespace. It is safe for concurrent use.
type Table struct {
	mu        sync.Mutex
	endpoints map[string]place
}

// place is where an endpoint is: the nth of a sandbox.
type place struct {
	sandbox string
	n       int
}

// New returns an empty table.
func New() *Table { return &Table{endpoints: make(map[string]place)} }

// Join puts an endpoint into a sandbox and returns which of its endpoints it is: the
// lowest number from 1 that no other has. The same call again gives the same answer.
func (t *Table) Join(sandbox, endpoint string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.endpoints[endpoint]; ok && p.sandbox == sandbox {
		return p.n
	}
	taken := make(map[int]bool)
	for id, p := range t.endpoints {
		if p.sandbox == sandbox && id != endpoint {
			taken[p.n] = true
		}
	}
	n := 1
	for taken[n] {
		n++
	}
	t.endpoints[endpoint] = place{sandbox: sandbox, n: n}
	return n
}

// Restore puts an endpoint back where it was before this process started.
func (t *Table) Restore(sandbox, endpoint string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endpoints[endpoint] = place{sandbox: sandbox, n: n}
}

// Leave takes an endpoint out of its sandbox.
func (t *Table) Leave(endpoint string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.endpoints, endpoint)
}
