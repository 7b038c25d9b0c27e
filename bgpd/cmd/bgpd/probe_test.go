//go:build !race

package main

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
)

const echoPort = 7777

// container gives a node a container, with what felix would program: routes to it, and an
// answer at the IPv4 gateway's address.
func (n *node) container(iface string, addrs ...netip.Addr) *nettest.Container {
	n.lab.t.Helper()
	c := n.AddContainer(iface, addrs...)
	for _, a := range addrs {
		n.Run("ip", "route", "add", a.String(), "dev", iface)
	}
	link := n.Run("ip", "-o", "link", "show", "dev", iface)
	c.Run("ip", "neigh", "replace", nettest.Gateway.String(), "lladdr", macOf(n.lab.t, link), "dev", "cali0", "nud", "permanent")
	c.ServeUDP(echoPort)
	return c
}

func macOf(t testing.TB, link string) string {
	t.Helper()
	const before = "link/ether "
	for i := range link {
		if len(link) >= i+len(before)+17 && link[i:i+len(before)] == before {
			return link[i+len(before) : i+len(before)+17]
		}
	}
	t.Fatalf("no hardware address in %q", link)
	return ""
}

// stream sends a packet each millisecond to the echo service of an address.
type stream struct {
	conn *net.UDPConn
	done chan struct{}
	// the two halves
	sending, receiving sync.WaitGroup

	mu       sync.Mutex
	sent     []time.Time
	answered []bool
}

func newStream(t testing.TB, from *nettest.Container, to netip.Addr) *stream {
	t.Helper()
	service := netip.AddrPortFrom(to, echoPort)
	// A new interface has its links and neighbours some time after it is up.
	nettest.Eventually(t, converge, func() error { return from.UDP(service, 500*time.Millisecond) })
	s := &stream{done: make(chan struct{})}
	var err error
	from.Do(func() {
		s.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(service))
	})
	if err != nil {
		t.Fatal(err)
	}
	s.sending.Go(s.send)
	s.receiving.Go(s.receive)
	t.Cleanup(func() { _ = s.conn.Close() })
	return s
}

func (s *stream) send() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		n := len(s.sent)
		s.sent = append(s.sent, time.Now())
		s.answered = append(s.answered, false)
		s.mu.Unlock()
		_, _ = s.conn.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) // one without a route is not answered
	}
}

func (s *stream) receive() {
	buf := make([]byte, 16)
	for {
		n, err := s.conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return
		case err == nil && n == 4:
			s.mu.Lock()
			s.answered[binary.BigEndian.Uint32(buf)] = true
			s.mu.Unlock()
		}
	}
}

func (s *stream) unanswered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, answered := range s.answered {
		if !answered {
			n++
		}
	}
	return n
}

// end fails the test unless all packets were answered.
func (s *stream) end(t testing.TB, what string) {
	t.Helper()
	close(s.done)
	s.sending.Wait()
	for wait := time.Now(); s.unanswered() > 0 && time.Since(wait) < 5*time.Second; {
		<-time.After(10 * time.Millisecond) // the last answers are on their way
	}
	_ = s.conn.SetReadDeadline(time.Now())
	s.receiving.Wait()
	lost, first := 0, time.Time{}
	for i, answered := range s.answered {
		if !answered {
			if lost == 0 {
				first = s.sent[i]
			}
			lost++
		}
	}
	t.Logf("%s: %d packets, %d lost", what, len(s.sent), lost)
	if lost > 0 || len(s.sent) == 0 {
		t.Errorf("%s: %d of %d packets were lost, the first %v after the start", what, lost, len(s.sent), first.Sub(s.sent[0]))
	}
}
