package daemon_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
)

// A volley is fired for a bounded time, at a bounded pace.
const (
	volleyPace   = 500 * time.Microsecond
	volleySize   = 800
	volleyBefore = 10 * time.Millisecond
	volleyAfter  = 30 * time.Millisecond
)

// firstVolleyPort is the port from which a container's first packet is sent. No port is
// used twice, because connection tracking would let a known connection pass.
const firstVolleyPort = 10000

// volley sends UDP packets, each from a port of its own, and tells later which were
// answered.
type volley struct {
	from  *endpoint
	conns []*net.UDPConn
	sent  []time.Time
	stop  chan struct{}
	done  chan struct{}
}

// fire begins to send.
func (e *endpoint) fire(t testing.TB, to netip.AddrPort) *volley {
	t.Helper()
	v := &volley{from: e, stop: make(chan struct{}), done: make(chan struct{})}
	var err error
	e.Do(func() {
		for i := range volleySize {
			local := &net.UDPAddr{Port: firstVolleyPort + e.volleyPorts + i}
			var conn *net.UDPConn
			if conn, err = net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to)); err != nil {
				return
			}
			v.conns = append(v.conns, conn)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	go v.send()
	return v
}

func (v *volley) send() {
	defer close(v.done)
	pace := time.NewTicker(volleyPace)
	defer pace.Stop()
	for _, conn := range v.conns {
		v.sent = append(v.sent, time.Now())
		_, _ = conn.Write([]byte("probe"))
		select {
		case <-pace.C:
		case <-v.stop:
			return
		}
	}
}

// end stops sending, and gives the time of each packet with whether it was answered.
func (v *volley) end(t testing.TB) (sent []time.Time, answered []bool) {
	t.Helper()
	close(v.stop)
	<-v.done
	v.from.volleyPorts += len(v.sent)
	<-time.After(volleyAfter)
	for i, conn := range v.conns {
		if i < len(v.sent) {
			here, err := nettest.Received(conn)
			if err != nil {
				t.Fatal(err)
			}
			answered = append(answered, here)
		}
		_ = conn.Close()
	}
	return v.sent, answered
}

// verdictChange measures how long after the call of write it takes until a packet passes,
// or until none does any more: that is later where even the last packet passes. write returns
// when what it does is done.
func verdictChange(t testing.TB, from, to *endpoint, passes bool, write func()) time.Duration {
	t.Helper()
	v := from.fire(t, netip.AddrPortFrom(to.addr, udpPort))
	<-time.After(volleyBefore)
	start := time.Now()
	write()
	<-time.After(volleyAfter)
	sent, answered := v.end(t)
	last := len(answered) - 1
	if answered[0] == passes || passes && !answered[last] {
		t.Fatalf("the verdict did not change: the first of %d packets was answered: %v, the last: %v", last+1, answered[0], answered[last])
	}
	change := 0
	for i, a := range answered {
		switch {
		case passes && a:
			return sent[i].Sub(start)
		case a:
			change = i + 1
		}
	}
	return sent[min(change, last)].Sub(start)
}

// inForce makes a write to the datastore and waits until it is in force for an endpoint.
func (h *host) inForce(e *endpoint, write func() int64) func() {
	return func() {
		h.w.Helper()
		if err := h.wait(e, write(), patience); err != nil {
			h.w.Fatal(err)
		}
	}
}
