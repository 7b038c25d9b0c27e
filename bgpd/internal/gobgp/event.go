package gobgp

import (
	"net/netip"
	"sync"

	"calico.internal/bgpd/internal/calc"
)

// EventKind says what happened.
type EventKind uint8

// The kinds of event. A session's events come in the order in which things happened.
const (
	// PeerUp: the session is established.
	PeerUp EventKind = iota
	// PeerDown: the session is no longer established, or did not get that far.
	PeerDown
	// Paths: the peer advertises or withdraws prefixes.
	Paths
	// EndOfRIB: the peer has advertised all that it has (RFC 4724 section 2).
	EndOfRIB
)

// Event is something that a peer did.
type Event struct {
	Kind EventKind
	Peer netip.Addr
	// Notified says of PeerDown that the peer itself ended the session.
	Notified bool
	// Paths belongs to the kind Paths.
	Paths []PathEvent
}

// PathEvent is one prefix that a peer advertises or withdraws.
type PathEvent struct {
	Prefix   netip.Prefix
	Path     calc.Path
	Withdraw bool
}

// queue is an unbounded list of events, so that GoBGP is never blocked by a slow reader.
type queue struct {
	mu     sync.Mutex
	events []Event
	notify func()
}

func (q *queue) put(e Event) {
	q.mu.Lock()
	q.events = append(q.events, e)
	q.mu.Unlock()
	q.notify()
}

// take empties the queue.
func (q *queue) take() []Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.events
	q.events = nil
	return out
}
