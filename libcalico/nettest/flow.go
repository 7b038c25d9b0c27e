package nettest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// flows numbers the flows of all probes of a [Net], so that each is a new one: connection tracking lets
// packets of a flow that it knows pass whatever the rules say by now, and of the ports that the
// kernel chooses at random some come back. They are counted for all namespaces together, since a
// container may have the address of one before it.
type flows struct{ last atomic.Uint32 }

func (f *flows) next() uint32 { return f.last.Add(1) }

// The ports from which probes are sent lie above those of servers.
const (
	firstPort = 1 << 14
	portCount = 1<<16 - firstPort
)

// local is the place of a new flow.
func (f *flows) local(network string) net.Addr {
	port := firstPort + int(f.next()%portCount)
	if network == "tcp" {
		return &net.TCPAddr{Port: port}
	}
	return &net.UDPAddr{Port: port}
}

// dial opens a socket, in the namespace of the calling thread, from a port that no probe had
// before. One that somebody else has is passed over.
func (f *flows) dial(ctx context.Context, network string, dst netip.AddrPort) (conn net.Conn, err error) {
	for range portCount {
		d := net.Dialer{LocalAddr: f.local(network)}
		if conn, err = d.DialContext(ctx, network, dst.String()); !errors.Is(err, unix.EADDRINUSE) {
			return conn, err
		}
	}
	return nil, err
}

// DialUDP opens a socket from a new port, as [Space.UDP] does.
func (s *Space) DialUDP(dst netip.AddrPort) (*net.UDPConn, error) {
	s.t.Helper()
	var conn net.Conn
	var err error
	s.Do(func() { conn, err = s.flows.dial(context.Background(), "udp", dst) })
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// Received reports whether a packet is there. It waits for none: a deadline may be over before it
// is looked when the processor is busy.
func Received(conn *net.UDPConn) (here bool, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, err
	}
	var got error
	err = raw.Read(func(fd uintptr) bool {
		_, _, got = unix.Recvfrom(int(fd), make([]byte, 64), unix.MSG_DONTWAIT)
		return true
	})
	if errors.Is(got, unix.EAGAIN) {
		return false, err
	}
	return err == nil && got == nil, errors.Join(err, got)
}
