package nettest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoAnswer says that a probe ended without an answer.
var ErrNoAnswer = errors.New("no answer")

// Reply is the answer to a ping.
type Reply struct {
	// TTL is the time to live (hop limit) that was left on arrival.
	TTL int
	RTT time.Duration
}

// Ping sends one ICMP echo request, with an identifier of its own and so as a new
// flow, and waits for the reply. The error is [ErrNoAnswer] when none came in time.
func (s *Space) Ping(dst netip.Addr, timeout time.Duration) (Reply, error) {
	s.t.Helper()
	var reply Reply
	var err error
	s.Do(func() { reply, err = ping(dst, uint16(s.flows.next()), timeout) })
	if err != nil {
		err = fmt.Errorf("ping %s from %s: %w", dst, s.Name, err)
	}
	return reply, err
}

// The ICMP types of an echo (RFC 792, RFC 4443).
const (
	echoRequest4 = 8
	echoReply4   = 0
	echoRequest6 = 128
	echoReply6   = 129
)

func ping(dst netip.Addr, id uint16, timeout time.Duration) (Reply, error) {
	p, err := openPing(dst, id)
	if err != nil {
		return Reply{}, err
	}
	defer p.close()
	start := time.Now()
	if err := p.send(); err != nil {
		return Reply{}, err
	}
	for {
		rest := timeout - time.Since(start)
		if rest <= 0 {
			return Reply{}, ErrNoAnswer
		}
		ttl, ok, err := p.receive(rest)
		if err != nil || ok {
			return Reply{TTL: ttl, RTT: time.Since(start)}, err
		}
	}
}

// pinger is a raw ICMP socket and one echo request.
type pinger struct {
	fd      int
	dst     netip.Addr
	request []byte
}

func openPing(dst netip.Addr, id uint16) (*pinger, error) {
	p := &pinger{dst: dst}
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if dst.Is6() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	var err error
	if p.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto); err != nil {
		return nil, fmt.Errorf("open a raw socket: %w", err)
	}
	if dst.Is6() {
		err = unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
	} else {
		err = unix.SetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	p.request = make([]byte, 64)
	binary.BigEndian.PutUint16(p.request[4:], id)
	_, _ = rand.Read(p.request[6:])
	if dst.Is6() {
		p.request[0] = echoRequest6 // the kernel fills in the checksum
	} else {
		p.request[0] = echoRequest4
		binary.BigEndian.PutUint16(p.request[2:], checksum(p.request))
	}
	return p, nil
}

func (p *pinger) close() { _ = unix.Close(p.fd) }

func (p *pinger) send() error {
	var to unix.Sockaddr
	if p.dst.Is6() {
		to = &unix.SockaddrInet6{Addr: p.dst.As16()}
	} else {
		to = &unix.SockaddrInet4{Addr: p.dst.As4()}
	}
	if err := unix.Sendto(p.fd, p.request, 0, to); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// receive reads one packet; ok says that it is the reply.
func (p *pinger) receive(timeout time.Duration) (ttl int, ok bool, err error) {
	tv := unix.NsecToTimeval(max(timeout, time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return 0, false, err
	}
	buf, oob := make([]byte, 1500), make([]byte, 256)
	n, oobn, _, _, err := unix.Recvmsg(p.fd, buf, oob, 0)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, false, nil // the caller looks at the clock
	case err != nil:
		return 0, false, fmt.Errorf("receive: %w", err)
	}
	packet := buf[:n]
	want := byte(echoReply6)
	if !p.dst.Is6() {
		want = echoReply4
		if n < 20 || n < int(packet[0]&0xf)*4 {
			return 0, false, nil
		}
		packet = packet[int(packet[0]&0xf)*4:] // behind the IP header
	}
	if len(packet) < len(p.request) || packet[0] != want || !bytes.Equal(packet[4:len(p.request)], p.request[4:]) {
		return 0, false, nil
	}
	return ttlOf(oob[:oobn]), true, nil
}

// ttlOf finds the time to live among the control messages of a packet.
func ttlOf(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT
		if (v4 || v6) && len(m.Data) >= 4 {
			return int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ServeTCP answers TCP connections on the port, on all addresses, with what they
// send, until the test ends.
func (s *Space) ServeTCP(port uint16) {
	s.t.Helper()
	var l net.Listener
	s.do(s.t, "listen", func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	s.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go echoStream(conn)
		}
	}()
}

func echoStream(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // the peer sees it
	_ = conn.SetDeadline(time.Now().Add(commandTimeout))
	buf := make([]byte, 2048)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

// ServeUDP answers UDP packets to the port, on all addresses, with the same, until
// the test ends.
func (s *Space) ServeUDP(port uint16) {
	s.t.Helper()
	var conns []*net.UDPConn
	s.do(s.t, "listen", func() error {
		for _, network := range []string{"udp4", "udp6"} {
			c, err := net.ListenUDP(network, &net.UDPAddr{Port: int(port)})
			if err != nil {
				return err
			}
			conns = append(conns, c)
		}
		return nil
	})
	for _, c := range conns {
		s.t.Cleanup(func() { _ = c.Close() })
		go echoPackets(c)
	}
}

func echoPackets(c *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}
}

// TCP opens a new connection to an echo server ([Space.ServeTCP]) and exchanges a few
// bytes. The error is [ErrNoAnswer] when nothing came in time; a refused connection
// is an error of its own kind.
func (s *Space) TCP(dst netip.AddrPort, timeout time.Duration) error {
	return s.probe("tcp", dst, timeout)
}

// UDP sends a packet from a new port to an echo server ([Space.ServeUDP]) and waits
// for the answer; otherwise it is as [Space.TCP].
func (s *Space) UDP(dst netip.AddrPort, timeout time.Duration) error {
	return s.probe("udp", dst, timeout)
}

func (s *Space) probe(network string, dst netip.AddrPort, timeout time.Duration) error {
	s.t.Helper()
	var err error
	s.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		var conn net.Conn
		if conn, err = s.flows.dial(ctx, network, dst); err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // the probe is over
		deadline, _ := ctx.Deadline()
		_ = conn.SetDeadline(deadline)
		err = exchange(conn)
	})
	if err == nil {
		return nil
	}
	var ne net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		err = ErrNoAnswer
	}
	return fmt.Errorf("%s %s from %s: %w", network, dst, s.Name, err)
}

func exchange(conn net.Conn) error {
	sent, got := make([]byte, 16), make([]byte, 16)
	_, _ = rand.Read(sent)
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	for have := 0; have < len(got); {
		n, err := conn.Read(got[have:])
		if err != nil {
			return err
		}
		have += n
	}
	if !bytes.Equal(sent, got) {
		return errors.New("the answer is not what was sent")
	}
	return nil
}
