package faults

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// rawSocket sends whole frames by the interface of a container.
type rawSocket struct {
	t     *testing.T
	fd    int
	index int
}

func openRaw(t *testing.T, in *nettest.Space) *rawSocket {
	t.Helper()
	s := &rawSocket{t: t}
	var err error
	in.Do(func() {
		var link *net.Interface
		if link, err = net.InterfaceByName("cali0"); err != nil {
			return
		}
		s.index = link.Index
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	return s
}

func (s *rawSocket) send(frame []byte) {
	s.t.Helper()
	if err := unix.Sendto(s.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: s.index, Halen: 6}); err != nil {
		s.t.Fatal(err)
	}
}

// mac is the hardware address of an interface.
func mac(t *testing.T, in *nettest.Space, name string) net.HardwareAddr {
	t.Helper()
	var link *net.Interface
	var err error
	in.Do(func() { link, err = net.InterfaceByName(name) })
	if err != nil {
		t.Fatal(err)
	}
	return link.HardwareAddr
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func ethernet(to, from net.HardwareAddr, protocol uint16, body []byte) []byte {
	frame := append(append(append([]byte{}, to...), from...), byte(protocol>>8), byte(protocol))
	return append(frame, body...)
}

// gratuitousARP says that an address is at a hardware address.
func gratuitousARP(from net.HardwareAddr, addr netip.Addr) []byte {
	a := addr.As4()
	body := []byte{0, 1, 8, 0, 6, 4, 0, 2} // Ethernet, IPv4, a reply
	body = append(append(append(append(body, from...), a[:]...), broadcast...), a[:]...)
	return ethernet(broadcast, from, unix.ETH_P_ARP, body)
}

// ip4 is an IPv4 packet of any protocol.
func ip4(from, to netip.Addr, protocol byte, payload []byte) []byte {
	header := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0}
	src, dst := from.As4(), to.As4()
	header = append(append(header, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(payload)))
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
	return append(header, payload...)
}

func udpPacket(from, to uint16, payload []byte) []byte {
	header := make([]byte, 8)
	binary.BigEndian.PutUint16(header, from)
	binary.BigEndian.PutUint16(header[2:], to)
	binary.BigEndian.PutUint16(header[4:], uint16(len(header)+len(payload)))
	return append(header, payload...) // no checksum, which IPv4 permits
}

// counted counts packets that arrive at a place, by a rule of its own.
func counted(t *testing.T, at *nettest.Space, match ...string) (count func() string) {
	t.Helper()
	at.Run("iptables-nft", append([]string{"-t", "raw", "-I", "PREROUTING"}, match...)...)
	return func() string {
		for line := range strings.Lines(at.Run("iptables-nft", "-t", "raw", "-nvxL", "PREROUTING")) {
			if f := strings.Fields(line); len(f) > 1 && f[0] != "pkts" && f[0] != "Chain" {
				return f[0]
			}
		}
		return "no rule"
	}
}

// TestForgedNeighbours: a container says by ARP that its neighbour's and its gateway's
// addresses are its own. Nobody believes it: the neighbour is reached as before, and
// the host's entries stay.
func TestForgedNeighbours(t *testing.T) {
	c := cluster.New(t, 1)
	h := c.Hosts[0]
	h.StartFelix()
	a, b, liar := h.Add("a", "net1"), h.Add("b", "net1"), h.Add("liar", "net1")
	for _, w := range []*cluster.Workload{a, b, liar} {
		w.InForce()
	}
	a.Reaches(b.IP, 63)
	entries := func() string { return h.Run("ip", "neigh", "show", "nud", "permanent") }
	before := entries()
	allowed := cluster.NewStream(t, a.Space, "a to b", b.IP)
	raw := openRaw(t, liar.Space)
	own := mac(t, liar.Space, "cali0")
	for range 20 {
		for _, addr := range []netip.Addr{b.IP, nettest.Gateway, h.Addr(false)} {
			raw.send(gratuitousARP(own, addr))
		}
	}
	allowed.Await(50)
	allowed.Passed()
	if after := entries(); after != before {
		t.Errorf("neighbour entries changed:\n%s\nbefore:\n%s", after, before)
	}
	if out := h.Run("ip", "neigh", "show", "dev", liar.Value.Interface); strings.Contains(out, b.IP.String()+" ") {
		t.Errorf("the host believes the liar:\n%s", out)
	}
}

// TestForgedPackets: a container sends packets from addresses that are not its own, and
// tunnels in which no policy could look. None arrives where it should; what is its own
// does.
func TestForgedPackets(t *testing.T) {
	c := cluster.New(t, 1)
	h := c.Hosts[0]
	h.StartFelix()
	a, b, forger := h.Add("a", "net1"), h.Add("b", "net1"), h.Add("forger", "net1")
	for _, w := range []*cluster.Workload{a, b, forger} {
		w.InForce()
	}
	forger.Reaches(b.IP, 63)
	raw := openRaw(t, forger.Space)
	own, gateway := mac(t, forger.Space, "cali0"), mac(t, h.Space, forger.Value.Interface)
	inner := ip4(forger.IP, b.IP, unix.IPPROTO_UDP, udpPacket(1000, 2000, []byte("inner")))
	packets := map[string][]byte{
		"own":               ip4(forger.IP, b.IP, unix.IPPROTO_UDP, udpPacket(1000, 2001, []byte("own"))),
		"of a neighbour":    ip4(a.IP, b.IP, unix.IPPROTO_UDP, udpPacket(1000, 2002, []byte("forged"))),
		"of the host":       ip4(h.Addr(false), b.IP, unix.IPPROTO_UDP, udpPacket(1000, 2003, []byte("forged"))),
		"of the loopback":   ip4(netip.MustParseAddr("127.0.0.1"), b.IP, unix.IPPROTO_UDP, udpPacket(1000, 2004, []byte("forged"))),
		"of the gateway":    ip4(nettest.Gateway, b.IP, unix.IPPROTO_UDP, udpPacket(1000, 2005, []byte("forged"))),
		"in VXLAN":          ip4(forger.IP, b.IP, unix.IPPROTO_UDP, udpPacket(1000, 4789, inner)),
		"in IP-in-IP":       ip4(forger.IP, b.IP, unix.IPPROTO_IPIP, inner),
		"of somebody's net": ip4(netip.MustParseAddr("8.8.8.8"), b.IP, unix.IPPROTO_UDP, udpPacket(1000, 2006, []byte("forged"))),
	}
	ports := map[string][]string{
		"own": {"-p", "udp", "--dport", "2001"}, "of a neighbour": {"-p", "udp", "--dport", "2002"},
		"of the host": {"-p", "udp", "--dport", "2003"}, "of the loopback": {"-p", "udp", "--dport", "2004"},
		"of the gateway": {"-p", "udp", "--dport", "2005"}, "of somebody's net": {"-p", "udp", "--dport", "2006"},
		"in VXLAN": {"-p", "udp", "--dport", "4789"}, "in IP-in-IP": {"-p", "ipencap"},
	}
	for what, packet := range packets {
		count := counted(t, b.Space, ports[what]...)
		for range 5 {
			raw.send(ethernet(gateway, own, unix.ETH_P_IP, packet))
		}
		want := "0"
		if what == "own" {
			want = "5"
		}
		// The packets that must not come would be here before these.
		<-time.After(cluster.NoAnswer)
		if got := count(); got != want {
			t.Error(fmt.Errorf("packets %s: %s of 5 arrived, want %s", what, got, want))
		}
	}
}
