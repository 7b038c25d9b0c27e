// Package probe sends small datagrams, each a flow of its own, and tells when a path
// opens or closes. The lab's containers and the kernel tests run it, because a ping
// with one identifier is one connection to conntrack, and would pass on after a
// policy has forbidden it.
package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Port is the UDP port that [Serve] answers on.
const Port = 7777

// Serve sends every datagram back to where it came from until ctx ends.
func Serve(ctx context.Context, address string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	buf := make([]byte, 64)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		// A reply may be refused for a moment (policy, route): the asker counts that.
		_, _ = conn.WriteTo(buf[:n], from)
	}
}

// Event is a change of a path's state.
type Event struct {
	// Open is whether probes come back.
	Open bool
	// At is when the first probe of the new state was sent.
	At time.Time
}

// String is the event on one line, as [Watch] writes it and [ParseEvent] reads it.
func (e Event) String() string {
	state := "closed"
	if e.Open {
		state = "open"
	}
	return fmt.Sprintf("%s %d", state, e.At.UnixNano())
}

// ParseEvent reads a line that [Watch] wrote.
func ParseEvent(line string) (Event, error) {
	var state string
	var ns int64
	if _, err := fmt.Sscanf(line, "%s %d", &state, &ns); err != nil {
		return Event{}, fmt.Errorf("read probe event %q: %w", line, err)
	}
	if state != "open" && state != "closed" {
		return Event{}, fmt.Errorf("read probe event %q: the state is neither open nor closed", line)
	}
	return Event{Open: state == "open", At: time.Unix(0, ns)}, nil
}

// Watch sends a probe every interval, each from a new source port, and writes an
// [Event] line to w whenever the path changes its state, the first one for the
// state it finds. A probe counts as lost when it has not come back within patience.
// An event is dated by the sending of the first probe that shows the new state.
func Watch(ctx context.Context, w io.Writer, target string, interval, patience time.Duration) error {
	if _, err := net.ResolveUDPAddr("udp", target); err != nil {
		return fmt.Errorf("probe target: %w", err)
	}
	t := &tracker{w: w}
	var probes sync.WaitGroup
	defer probes.Wait()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for seq := uint64(0); ; seq++ {
		select {
		case <-ctx.Done():
			return t.err()
		case <-tick.C:
		}
		probes.Go(func() {
			sent := time.Now()
			t.record(sent, answered(ctx, target, seq, patience))
		})
	}
}

// Count sends a probe every interval, each from a new source port, until ctx ends, and says
// what became of them. begun is called when the first one comes back. A probe counts as lost
// when it has not come back within patience.
func Count(ctx context.Context, target string, interval, patience time.Duration, begun func()) (Tally, error) {
	if _, err := net.ResolveUDPAddr("udp", target); err != nil {
		return Tally{}, fmt.Errorf("probe target: %w", err)
	}
	var probes sync.WaitGroup
	var first sync.Once
	var shots []*shot
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-tick.C:
		}
		one, seq := &shot{}, uint64(len(shots))
		shots = append(shots, one)
		probes.Go(func() {
			one.at = time.Now()
			// Those that are on their way when ctx ends count, too.
			if one.answered = answered(context.WithoutCancel(ctx), target, seq, patience); one.answered {
				first.Do(begun)
			}
		})
	}
	probes.Wait()
	return tally(shots), nil
}

// shot is a probe of [Count].
type shot struct {
	at       time.Time
	answered bool
}

// Begun is the line by which the probe program says that its first probe came back.
const Begun = "begun"

// Tally is what became of probes.
type Tally struct {
	Sent, Lost int
	// Gap is the longest time without an answer: from the sending of the first probe that was
	// lost to that of the next that was not.
	Gap time.Duration
	// First is when the first probe was sent that was lost.
	First time.Time
}

func tally(shots []*shot) Tally {
	t := Tally{Sent: len(shots)}
	var since time.Time
	for _, s := range shots {
		switch {
		case !s.answered:
			if t.Lost++; t.Lost == 1 {
				t.First = s.at
			}
			if since.IsZero() {
				since = s.at
			}
		case !since.IsZero():
			t.Gap = max(t.Gap, s.at.Sub(since))
			since = time.Time{}
		}
	}
	if !since.IsZero() {
		t.Gap = max(t.Gap, shots[len(shots)-1].at.Sub(since))
	}
	return t
}

// String is the tally on one line, as [ParseTally] reads it.
func (t Tally) String() string {
	line := fmt.Sprintf("%d probes, %d lost", t.Sent, t.Lost)
	if t.Lost == 0 {
		return line
	}
	return line + fmt.Sprintf(", longest gap %d ms, first at %s", t.Gap.Milliseconds(), t.First.UTC().Format(time.RFC3339Nano))
}

// ParseTally reads a line of [Tally.String].
func ParseTally(line string) (Tally, error) {
	var t Tally
	var ms int64
	var first string
	n, err := fmt.Sscanf(line, "%d probes, %d lost, longest gap %d ms, first at %s", &t.Sent, &t.Lost, &ms, &first)
	if n == 2 && t.Lost == 0 {
		return t, nil
	}
	if err == nil {
		t.First, err = time.Parse(time.RFC3339Nano, first)
	}
	if err != nil {
		return Tally{}, fmt.Errorf("read tally of probes %q: %w", line, err)
	}
	t.Gap = time.Duration(ms) * time.Millisecond
	return t, nil
}

// Once sends one probe and reports whether it came back within patience.
func Once(ctx context.Context, target string, patience time.Duration) bool {
	return answered(ctx, target, uint64(time.Now().UnixNano()), patience)
}

// The source ports of [Watch], used one after the other: a port that comes again
// while conntrack remembers it (30 s to 120 s for UDP) would be an old flow.
const (
	firstPort = 20000
	portCount = 45000
)

func answered(ctx context.Context, target string, seq uint64, patience time.Duration) bool {
	d := net.Dialer{LocalAddr: &net.UDPAddr{Port: firstPort + int(seq%portCount)}}
	conn, err := d.DialContext(ctx, "udp", target)
	if errors.Is(err, syscall.EADDRINUSE) { // somebody here has that port, such as Docker's resolver
		conn, err = (&net.Dialer{}).DialContext(ctx, "udp", target)
	}
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // nothing is buffered
	_ = conn.SetDeadline(time.Now().Add(patience))
	out := binary.BigEndian.AppendUint64(nil, seq)
	if _, err := conn.Write(out); err != nil {
		return false
	}
	in := make([]byte, len(out))
	for {
		n, err := conn.Read(in)
		if err != nil {
			return false
		}
		if n == len(out) && binary.BigEndian.Uint64(in) == seq {
			return true
		}
	}
}

// tracker turns results, which come in the order of their answers, into events. A
// lost probe is known only after its patience, so a result older than the newest
// change is not a new change.
type tracker struct {
	mu      sync.Mutex
	w       io.Writer
	known   bool
	state   Event
	failure atomic.Pointer[error]
}

func (t *tracker) record(sent time.Time, open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known && (t.state.Open == open || sent.Before(t.state.At)) {
		return
	}
	t.known, t.state = true, Event{Open: open, At: sent}
	if _, err := fmt.Fprintln(t.w, t.state); err != nil {
		t.failure.Store(&err)
	}
}

func (t *tracker) err() error {
	if err := t.failure.Load(); err != nil {
		return *err
	}
	return nil
}
