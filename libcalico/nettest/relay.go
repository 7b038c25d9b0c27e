package nettest

import (
	"io"
	"net"
	"sync"
)

// Relay is a door from a namespace to a server outside of it, such as an etcd on the
// machine's own loopback.
type Relay struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	conns    map[net.Conn]bool
	closed   bool
}

// Relay listens on an address of the namespace and hands every connection on to
// target, which is dialled from the namespace that the test was started in. It ends
// with the test.
func (s *Space) Relay(address, target string) *Relay {
	s.t.Helper()
	r := &Relay{target: target, conns: map[net.Conn]bool{}}
	var err error
	s.Do(func() { r.listener, err = net.Listen("tcp", address) })
	if err != nil {
		s.t.Fatalf("nettest: relay in %s: %v", s.Name, err)
	}
	var accepting sync.WaitGroup
	accepting.Go(r.accept)
	s.t.Cleanup(func() {
		_ = r.listener.Close()
		r.Cut()
		accepting.Wait()
	})
	return r
}

// Cut ends all connections and refuses new ones until [Relay.Mend].
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for c := range r.conns {
		_ = c.Close()
	}
}

// Mend lets connections pass again.
func (r *Relay) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = false
}

func (r *Relay) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return // closed at the end of the test
		}
		go r.pass(near)
	}
}

// pass copies both ways until either end closes.
func (r *Relay) pass(near net.Conn) {
	defer near.Close() //nolint:errcheck // the copy has ended
	if !r.hold(near) {
		return
	}
	defer r.release(near)
	far, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer far.Close() //nolint:errcheck // the copy has ended
	go func() {
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
}

func (r *Relay) hold(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.conns[c] = true
	return true
}

func (r *Relay) release(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}
