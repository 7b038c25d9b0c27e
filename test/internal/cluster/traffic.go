package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
)

// pace is the time between two packets of a stream.
const pace = 5 * time.Millisecond

// Stream sends a packet every 5 ms from one place to the echo service of an address,
// each from a port of its own, so that each is a new connection and meets policy, and
// remembers which were answered.
type Stream struct {
	t    testing.TB
	name string
	done chan struct{}
	once sync.Once
	over sync.WaitGroup

	mu    sync.Mutex
	shots []*shot
}

type shot struct {
	at       time.Time
	answered time.Time
}

// NewStream begins to send. End ends it, or the test's end does.
func NewStream(t testing.TB, from *nettest.Space, name string, to netip.Addr) *Stream {
	t.Helper()
	s := &Stream{t: t, name: name, done: make(chan struct{})}
	s.over.Go(func() { s.send(from, netip.AddrPortFrom(to, EchoPort)) })
	t.Cleanup(func() { s.stop() })
	return s
}

// Stop ends the sending. Of several streams all are stopped before one is looked at, since
// that waits for the last answers.
func (s *Stream) Stop() { s.once.Do(func() { close(s.done) }) }

func (s *Stream) stop() {
	s.Stop()
	s.over.Wait()
}

func (s *Stream) send(from *nettest.Space, to netip.AddrPort) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-ticker.C:
		}
		conn, err := from.DialUDP(to)
		one := &shot{at: time.Now()}
		s.mu.Lock()
		s.shots = append(s.shots, one)
		s.mu.Unlock()
		if err != nil { // no route: as good as no answer
			continue
		}
		s.over.Go(func() { s.await(conn, one) })
	}
}

// await sends one packet and waits for its answer.
func (s *Stream) await(conn *net.UDPConn, one *shot) {
	defer conn.Close() //nolint:errcheck // a socket of the test
	if _, err := conn.Write([]byte("probe")); err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(Answer))
	if _, err := conn.Read(make([]byte, 16)); err != nil {
		_ = conn.SetReadDeadline(time.Time{})
		if here, err := nettest.Received(conn); err != nil || !here {
			return
		}
	}
	s.mu.Lock()
	one.answered = time.Now()
	s.mu.Unlock()
}

// Await waits until so many more packets were sent.
func (s *Stream) Await(n int) {
	s.t.Helper()
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.shots)
	}
	want := count() + n
	nettest.Eventually(s.t, Patience, func() error {
		if have := count(); have < want {
			return fmt.Errorf("%s: %d of %d packets were sent", s.name, have, want)
		}
		return nil
	})
}

// Result is what became of the packets of a stream.
type Result struct {
	Sent, Answered int
	// Gap is the longest time without an answer to packets, from the sending of the
	// first that had none to that of the next that had one.
	Gap time.Duration
}

// End stops to send and waits for the last answers.
func (s *Stream) End() Result {
	s.stop()
	var r Result
	var lost time.Time
	for _, one := range s.shots {
		r.Sent++
		switch {
		case one.answered.IsZero():
			if lost.IsZero() {
				lost = one.at
			}
		default:
			r.Answered++
			if !lost.IsZero() {
				r.Gap = max(r.Gap, one.at.Sub(lost))
				lost = time.Time{}
			}
		}
	}
	if !lost.IsZero() {
		r.Gap = max(r.Gap, s.shots[len(s.shots)-1].at.Sub(lost)+pace)
	}
	return r
}

// Passed ends a stream of which every packet must have been answered.
func (s *Stream) Passed() {
	s.t.Helper()
	if r := s.End(); r.Answered < r.Sent || r.Sent == 0 {
		s.t.Errorf("%s: %d of %d packets were answered; the longest gap was %v", s.name, r.Answered, r.Sent, r.Gap)
	}
}

// GapAtMost ends a stream that may have been without answers for so long at most.
func (s *Stream) GapAtMost(limit time.Duration) {
	s.t.Helper()
	r := s.End()
	s.t.Logf("%s: %d of %d packets answered, longest gap %v", s.name, r.Answered, r.Sent, r.Gap)
	if r.Answered == 0 || r.Gap > limit {
		s.t.Errorf("%s: %d of %d packets were answered; the longest gap was %v, want at most %v", s.name, r.Answered, r.Sent, r.Gap, limit)
	}
}

// Denied ends a stream of which no packet may have been answered.
func (s *Stream) Denied() {
	s.t.Helper()
	if r := s.End(); r.Answered > 0 || r.Sent == 0 {
		s.t.Errorf("%s: %d of %d packets were answered, want none of some", s.name, r.Answered, r.Sent)
	}
}

// Hold is traffic that must go on as it is: what is allowed and what is denied, over both
// families.
type Hold struct{ allowed, denied []*Stream }

// Hold begins to send from a workload to one that it reaches and to one that it must not.
func (w *Workload) Hold(allowed, denied *Workload) *Hold {
	t := w.Host.cluster.T
	t.Helper()
	h := &Hold{}
	stream := func(to netip.Addr) *Stream {
		return NewStream(t, w.Space, fmt.Sprintf("%s to %s", w.IP, to), to)
	}
	h.allowed = []*Stream{stream(allowed.IP), stream(allowed.IP6)}
	h.denied = []*Stream{stream(denied.IP), stream(denied.IP6)}
	return h
}

// Await waits until so many more packets were sent each way.
func (h *Hold) Await(n int) {
	for _, s := range append(h.allowed, h.denied...) {
		s.t.Helper()
		s.Await(n)
	}
}

// End fails the test unless all that was allowed passed and nothing that was denied.
func (h *Hold) End() {
	for _, s := range append(h.allowed, h.denied...) {
		s.Stop()
	}
	for _, s := range h.allowed {
		s.t.Helper()
		s.Passed()
	}
	for _, s := range h.denied {
		s.Denied()
	}
}
