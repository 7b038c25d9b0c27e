// Package statusapi serves what felix knows and has programmed over gRPC. The daemon
// posts a [State] after each pass; calls are answered from the last one, and so never
// wait for a pass that takes long.
package statusapi

import (
	"cmp"
	"net/netip"
	"strings"
	"sync"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
)

// State is what felix knows at one moment. Nothing in it is modified once it is posted.
type State struct {
	Node      string
	Version   string
	Dataplane string
	Started   time.Time
	// InSync says that a whole snapshot of the store has been applied to the kernel.
	InSync bool
	// Seen is the revision of the store that felix has read, Revision the one whose state
	// is in the kernel.
	Seen, Revision int64
	// Connected says whether the store answers.
	Connected bool
	// Hold is why what the store holds is not followed, and what to do; empty when it is.
	// Held says that the store is not the truth; else it is only locked for a while.
	Hold string
	Held bool
	// Fault is why the latest pass failed as a whole; empty when it did not.
	Fault string
	// Degraded names policies that the store holds and that are not in force, and families that
	// cannot be filtered; empty when there are none.
	Degraded string
	Tables   []reconcile.Status
	Problems []Problem
	// Endpoints are the workload endpoints of this host; NotInForce counts those of which
	// not all is in the kernel.
	Endpoints  map[model.WorkloadEndpointKey]Endpoint
	NotInForce int
	// Refused says of endpoints of this host that are not as written in the store why. An
	// older version of one may be among Endpoints.
	Refused map[model.WorkloadEndpointKey]string
	// Policies and Profiles count those that apply on this host.
	Policies, Profiles int
}

// Table is the status of the table of a name; zero when there is none.
func (s *State) Table(name string) reconcile.Status {
	for _, t := range s.Tables {
		if t.Name == name {
			return t
		}
	}
	return reconcile.Status{}
}

// Ready reports whether felix does all of its work. While somebody keeps the store locked
// there is none that it could do.
func (s *State) Ready() bool {
	return s.InSync && s.Connected && !s.Held && s.Fault == "" && s.Degraded == ""
}

// Problem is an object that is not as wanted.
type Problem struct{ Object, Reason string }

// Compare orders problems by object.
func (p Problem) Compare(o Problem) int {
	return cmp.Or(strings.Compare(p.Object, o.Object), strings.Compare(p.Reason, o.Reason))
}

// Endpoint is the state of one workload endpoint.
type Endpoint struct {
	Interface string
	Addresses []netip.Prefix
	Profiles  []string
	Policies  []string
	// Why says what is missing; empty when the endpoint is in force.
	Why string
	// Up is false for an endpoint that gets no traffic by its own state.
	Up bool
}

// InForce reports whether all of the endpoint is in the kernel.
func (e Endpoint) InForce() bool { return e.Why == "" }

// Board holds the last posted state and wakes up whoever waits for the next.
type Board struct {
	mu      sync.Mutex
	state   *State
	changed chan struct{}
	// turned is closed when readiness changes.
	turned chan struct{}
}

// NewBoard starts with a state in which nothing is known yet.
func NewBoard(first State) *Board {
	return &Board{state: &first, changed: make(chan struct{}), turned: make(chan struct{})}
}

// Post replaces the state.
func (b *Board) Post(s *State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state.Ready() != s.Ready() {
		close(b.turned)
		b.turned = make(chan struct{})
	}
	b.state = s
	close(b.changed)
	b.changed = make(chan struct{})
}

// Ready reports whether the last posted state is ready, and a channel that is closed when
// that changes.
func (b *Board) Ready() (bool, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Ready(), b.turned
}

// State returns the last posted state, and a channel that is closed when there is
// another.
func (b *Board) State() (*State, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state, b.changed
}
