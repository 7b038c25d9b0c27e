package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// BGP messages (RFC 4271 4.1).
const (
	bgpOpen = iota + 1
	bgpUpdate
	bgpNotification
	bgpKeepalive

	bgpHeader = 19
	strangeAS = 65001
)

// neighbour is a BGP speaker that the test writes byte by byte. It listens, and the hosts
// that have it as a peer call.
type neighbour struct {
	t        *testing.T
	listener net.Listener
	id       netip.Addr
}

func newNeighbour(t *testing.T, at *nettest.Host) *neighbour {
	t.Helper()
	n := &neighbour{t: t, id: at.Addr(false)}
	var err error
	at.Do(func() { n.listener, err = net.Listen("tcp", netip.AddrPortFrom(n.id, 179).String()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.listener.Close() })
	return n
}

func message(kind byte, body []byte) []byte {
	m := make([]byte, bgpHeader, bgpHeader+len(body))
	for i := range 16 {
		m[i] = 0xff
	}
	binary.BigEndian.PutUint16(m[16:], uint16(bgpHeader+len(body)))
	m[18] = kind
	return append(m, body...)
}

// update announces a prefix with the attributes that it must have.
func (n *neighbour) update(prefix netip.Prefix) []byte {
	next, a := n.id.As4(), prefix.Addr().As4()
	attrs := []byte{
		0x40, 1, 1, 0, // ORIGIN IGP
		0x40, 2, 6, 2, 1, 0, 0, strangeAS >> 8, strangeAS & 0xff, // AS_PATH, 4-byte ASes
		0x40, 3, 4, next[0], next[1], next[2], next[3],
	}
	body := []byte{0, 0, byte(len(attrs) >> 8), byte(len(attrs))}
	body = append(append(body, attrs...), byte(prefix.Bits()))
	return message(bgpUpdate, append(body, a[:(prefix.Bits()+7)/8]...))
}

// session waits for a call and brings the session up.
func (n *neighbour) session() net.Conn {
	n.t.Helper()
	_ = n.listener.(*net.TCPListener).SetDeadline(time.Now().Add(cluster.Patience))
	conn, err := n.listener.Accept()
	if err != nil {
		n.t.Fatal("nobody calls the neighbour: ", err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	id := n.id.As4()
	caps := []byte{
		1, 4, 0, 1, 0, 1, // IPv4 unicast
		65, 4, 0, 0, strangeAS >> 8, strangeAS & 0xff, // 4-byte AS
	}
	open := []byte{4, strangeAS >> 8, strangeAS & 0xff, 0, 90, id[0], id[1], id[2], id[3], byte(len(caps) + 2), 2, byte(len(caps))}
	if _, err := conn.Write(append(message(bgpOpen, append(open, caps...)), message(bgpKeepalive, nil)...)); err != nil {
		n.t.Fatal(err)
	}
	for { // up with the first keepalive
		_ = conn.SetReadDeadline(time.Now().Add(cluster.Patience))
		kind, body, err := readMessage(conn)
		switch {
		case err != nil:
			n.t.Fatal("the session does not come up: ", err)
		case kind == bgpNotification:
			n.t.Fatalf("the session is refused: NOTIFICATION %v", body)
		case kind == bgpKeepalive:
			return conn
		}
	}
}

func readMessage(conn net.Conn) (kind byte, body []byte, err error) {
	header := make([]byte, bgpHeader)
	if _, err := io.ReadFull(conn, header); err != nil {
		return 0, nil, err
	}
	body = make([]byte, max(0, int(binary.BigEndian.Uint16(header[16:]))-bgpHeader))
	_, err = io.ReadFull(conn, body)
	return header[18], body, err
}

// drain reads until the other end hangs up, and says so.
func drain(conn net.Conn) <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = conn.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, conn)
	}()
	return over
}

// withNeighbour is two hosts, a workload on each, and a neighbour of the first.
func withNeighbour(t *testing.T) (c *cluster.Cluster, n *neighbour, a, b *cluster.Workload) {
	t.Helper()
	c = cluster.New(t, 2)
	n = newNeighbour(t, c.Stranger())
	key := model.BGPPeerKey{Node: c.Hosts[0].Node, IP: n.id}
	c.Put(key, &model.BGPPeer{IP: n.id, ASNumber: strangeAS})
	c.StartAll()
	a, b = c.Hosts[0].Add("a", "net1"), c.Hosts[1].Add("b", "net1")
	a.InForce()
	b.InForce()
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	return c, n, a, b
}

// memory is the resident memory of a process in kilobytes.
func memory(t *testing.T, p *nettest.Process) int {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", p.Process.Pid))) {
		var kb int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// mutations is how many damaged messages TestMalformedUpdates sends.
func mutations() int {
	if long() {
		return 1_000_000
	}
	return 20_000
}

// damage changes some bytes of an UPDATE behind its header, so that the session itself can
// go on where the standard lets it.
func damage(r *rand.Rand, m []byte) []byte {
	out := append([]byte{}, m...)
	for range 1 + r.IntN(3) {
		switch i := bgpHeader + r.IntN(len(out)-bgpHeader); r.IntN(4) {
		case 0:
			out[i] ^= 1 << r.IntN(8)
		case 1:
			out[i] = byte(r.Uint32())
		case 2:
			out = append(out, byte(r.Uint32()))
		case 3:
			out = append(out[:i], append([]byte{byte(r.Uint32())}, out[i:]...)...)
		}
	}
	binary.BigEndian.PutUint16(out[16:], uint16(len(out)))
	return out
}

// TestMalformedUpdates: a neighbour sends damaged UPDATEs by the thousand. bgpd lives and
// does not grow, the sessions and routes of the cluster stay as they are, nothing of it gets
// a route over the addresses of the cluster, and a sound UPDATE after it is heard.
func TestMalformedUpdates(t *testing.T) {
	c, n, a, b := withNeighbour(t)
	h := c.Hosts[0]
	conn := n.session()
	over := drain(conn)
	r := rand.New(rand.NewPCG(1, 2))
	stream := cluster.NewStream(t, a.Space, "a to b", b.IP)
	before := memory(t, h.BGPD)
	resets := 0
	limit := time.Now().Add(20 * time.Second)
	if long() {
		limit = time.Now().Add(20 * time.Minute)
	}
	sent := 0
	for ; sent < mutations() && time.Now().Before(limit); sent++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, byte(r.Uint32()), 0}), 24)
		if _, err := conn.Write(damage(r, n.update(p))); err != nil {
			<-over
			_ = conn.Close()
			resets++
			conn = n.session()
			over = drain(conn)
		}
	}
	t.Logf("%d damaged messages, %d sessions ended by them; memory %d kB, before %d kB", sent, resets, memory(t, h.BGPD), before)
	if now := memory(t, h.BGPD); now > before+40_000 {
		t.Errorf("bgpd has grown from %d to %d kB", before, now)
	}
	running(t, h)
	stream.Passed()
	_ = conn.Close()
	conn = n.session()
	if _, err := conn.Write(n.update(netip.MustParsePrefix("198.51.100.0/24"))); err != nil {
		t.Fatal(err)
	}
	h.HasRoute("198.51.100.0/24 via " + n.id.String())
	if states, err := h.Peers(); err != nil || states[c.Hosts[1].Addr(false).String()] != "established" {
		t.Errorf("the session of the cluster: %v, %v", states, err)
	}
}

// TestFlappingNeighbour: a neighbour that comes and goes has no effect on the routes of the
// cluster, and its own are there again each time.
func TestFlappingNeighbour(t *testing.T) {
	flaps := 10
	if long() {
		flaps = 100
	}
	c, n, a, b := withNeighbour(t)
	h := c.Hosts[0]
	stream := cluster.NewStream(t, a.Space, "a to b", b.IP)
	stream6 := cluster.NewStream(t, a.Space, "a to b by IPv6", b.IP6)
	events, stop := routeEvents(t, h, "proto", "bird")
	prefix := netip.MustParsePrefix("198.51.100.0/24")
	for range flaps {
		conn := n.session()
		over := drain(conn)
		if _, err := conn.Write(n.update(prefix)); err != nil {
			t.Fatal(err)
		}
		h.HasRoute(prefix.String() + " via " + n.id.String())
		if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		<-over
	}
	stop()
	for _, line := range events() {
		if !strings.Contains(line, prefix.String()) {
			t.Errorf("a route of the cluster changed: %s", line)
		}
	}
	stream.Passed()
	stream6.Passed()
	running(t, h)
}

// routeEvents follows the routes of a host that a selection of `ip monitor` fits.
func routeEvents(t *testing.T, h *cluster.Host, words ...string) (events func() []string, stop func()) {
	t.Helper()
	out := &strings.Builder{}
	cmd := h.Host.Command(t.Context(), "ip", "monitor", "route")
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-time.After(cluster.NoAnswer) // until it listens
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(stop)
	return func() (found []string) {
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, strings.Join(words, " ")) {
				found = append(found, strings.TrimSpace(line))
			}
		}
		return found
	}, stop
}
