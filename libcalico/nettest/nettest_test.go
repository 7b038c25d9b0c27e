package nettest_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
)

var addrB = netip.MustParseAddr("10.0.0.2")

func twoHosts(t *testing.T) (a, b *nettest.Host) {
	t.Helper()
	n := nettest.New(t,
		nettest.HostSpec{Name: "a", Addrs: prefixes("10.0.0.1/24", "fd00::1/64"), Default: []netip.Addr{addrB}},
		nettest.HostSpec{Name: "b", Addrs: prefixes("10.0.0.2/24", "fd00::2/64")})
	return n.Host("a"), n.Host("b")
}

func prefixes(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func TestHostsReachEachOther(t *testing.T) {
	t.Parallel()
	a, b := twoHosts(t)
	b.ServeTCP(8080)
	b.ServeUDP(8080)
	for _, dst := range []netip.Addr{b.Addr(false), b.Addr(true)} {
		reply, err := a.Ping(dst, 5*time.Second)
		if err != nil || reply.TTL != 64 {
			t.Errorf("ping %s: %+v, %v", dst, reply, err)
		}
		if err := a.TCP(netip.AddrPortFrom(dst, 8080), 5*time.Second); err != nil {
			t.Error(err)
		}
		if err := a.UDP(netip.AddrPortFrom(dst, 8080), 5*time.Second); err != nil {
			t.Error(err)
		}
	}
	if routes := a.Run("ip", "route"); !strings.Contains(routes, "default via 10.0.0.2 dev eth0") {
		t.Errorf("routes of a:\n%s", routes)
	}
	if routes := b.Run("ip", "route"); strings.Contains(routes, "default") {
		t.Errorf("routes of b:\n%s", routes)
	}
}

func TestProbesNoticeSilenceAndRefusal(t *testing.T) {
	t.Parallel()
	a, b := twoHosts(t)
	if err := a.TCP(netip.AddrPortFrom(addrB, 81), 5*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: %v", err)
	}
	a.SetFabricPort(false)
	const soon = 100 * time.Millisecond
	if _, err := a.Ping(addrB, soon); err == nil {
		t.Error("a ping without a cable is answered")
	}
	a.SetFabricPort(true)
	nettest.Eventually(t, 5*time.Second, func() error {
		_, err := a.Ping(addrB, soon)
		return err
	})
	b.Run("ip", "addr", "flush", "dev", "eth0")
	for name, err := range map[string]error{
		"ping": second(a.Ping(addrB, soon)),
		"tcp":  a.TCP(netip.AddrPortFrom(addrB, 80), soon),
		"udp":  a.UDP(netip.AddrPortFrom(addrB, 80), soon),
	} {
		if !errors.Is(err, nettest.ErrNoAnswer) {
			t.Errorf("%s to nobody: %v", name, err)
		}
	}
}

// TestEachProbeIsAFlowOfItsOwn has the kernel choose from few ports, somebody else have the next
// one, and a container come after another, whose address it may have.
func TestEachProbeIsAFlowOfItsOwn(t *testing.T) {
	t.Parallel()
	a, _ := twoHosts(t)
	a.SetSysctl("net/ipv4/ip_local_port_range", "40000 40063")
	seen := map[int]bool{}
	send := func(from *nettest.Space, to netip.Addr) (port int) {
		t.Helper()
		conn, err := from.DialUDP(netip.AddrPortFrom(to, 8080))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		port = conn.LocalAddr().(*net.UDPAddr).Port
		if seen[port] {
			t.Errorf("packet %d is sent from port %d, as one before it", len(seen), port)
		}
		seen[port] = true
		return port
	}
	var last int
	for range 100 {
		last = send(a.Space, addrB)
	}
	var taken *net.UDPConn
	var err error
	a.Do(func() { taken, err = net.ListenUDP("udp", &net.UDPAddr{Port: last + 1}) })
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // a socket of the test
	send(a.Space, addrB)
	send(a.NewContainer("next").Space, netip.MustParseAddr("127.0.0.1"))
}

func second(_ nettest.Reply, err error) error { return err }

func TestContainerReachesTheWorldByItsGateway(t *testing.T) {
	t.Parallel()
	a, b := twoHosts(t)
	addr := netip.MustParseAddr("192.168.1.7")
	addr6 := netip.MustParseAddr("fd80::7")
	c := a.AddContainer("cali0123456789a", addr, addr6)
	// What felix and bgpd would do:
	a.SetSysctl("net/ipv4/conf/cali0123456789a/proxy_arp", "1")
	a.Run("ip", "route", "add", "192.168.1.7", "dev", "cali0123456789a")
	a.Run("ip", "route", "add", "fd80::7", "dev", "cali0123456789a")
	b.Run("ip", "route", "add", "192.168.1.0/26", "via", "10.0.0.1")
	b.Run("ip", "route", "add", "fd80::/122", "via", "fd00::1")

	if reply, err := c.Ping(addrB, 5*time.Second); err != nil || reply.TTL != 63 {
		t.Errorf("ping out: %+v, %v", reply, err)
	}
	if reply, err := b.Ping(addr, 5*time.Second); err != nil || reply.TTL != 63 {
		t.Errorf("ping in: %+v, %v", reply, err)
	}
	if reply, err := b.Ping(addr6, 5*time.Second); err != nil || reply.TTL != 63 {
		t.Errorf("IPv6 ping in: %+v, %v", reply, err)
	}
	if out := c.Run("ip", "route"); out != "default via 169.254.1.1 dev cali0 onlink \n169.254.1.1 dev cali0 scope link \n" {
		t.Errorf("routes of the container:\n%s", out)
	}
	if out := c.Run("ip", "-o", "link", "show", "cali0"); !strings.Contains(out, nettest.ContainerMAC) {
		t.Errorf("interface of the container: %s", out)
	}
	c.Remove()
	if _, err := a.TryRun("ip", "link", "show", "cali0123456789a"); err == nil {
		t.Error("the host's end is still there")
	}
}

func TestAttachMovesAnInterface(t *testing.T) {
	t.Parallel()
	a, _ := twoHosts(t)
	c := a.NewContainer("c")
	a.Run("ip", "link", "add", "caliabc", "type", "veth", "peer", "name", "tempabc")
	c.Attach("caliabc", "tempabc", netip.MustParseAddr("192.168.1.7"))
	if out := c.Run("ip", "-o", "-4", "addr", "show", "cali0"); !strings.Contains(out, "192.168.1.7/32") {
		t.Errorf("addresses: %s", out)
	}
}

func TestDoEndsInTheOwnNamespace(t *testing.T) {
	t.Parallel()
	a, b := twoHosts(t)
	home := namespace(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				a.Do(func() {
					inA := namespace(t)
					b.Do(func() {
						if namespace(t) == inA {
							t.Error("nested Do stays where it was")
						}
					})
					if namespace(t) != inA {
						t.Error("nested Do does not come back")
					}
				})
				if namespace(t) != home {
					t.Error("Do does not come back")
				}
			}
		})
	}
	wg.Wait()
}

func namespace(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return ns
}

func TestSettingsAreOfTheNamespace(t *testing.T) {
	t.Parallel()
	a, b := twoHosts(t)
	const name = "net/ipv4/conf/eth0/proxy_arp"
	a.SetSysctl(name, "1")
	if gotA, gotB := a.Sysctl(name), b.Sysctl(name); gotA != "1" || gotB != "0" {
		t.Errorf("a has %s, b has %s", gotA, gotB)
	}
}

func TestProcessesEnd(t *testing.T) {
	t.Parallel()
	a, _ := twoHosts(t)
	p := a.Start("sh", "-c", "echo hello; sleep 1000 & wait")
	if err := syscall.Kill(p.Process.Pid, 0); err != nil {
		t.Errorf("not running: %v", err)
	}
	p.Kill()
	if err := syscall.Kill(-p.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		// A killed child may be waiting for init to collect it.
		nettest.Eventually(t, 5*time.Second, func() error {
			if err := syscall.Kill(-p.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
				return errors.New("the process group lives")
			}
			return nil
		})
	}
	q := a.Start("sleep", "1000")
	if err := q.Stop(5 * time.Second); err == nil {
		t.Error("a program ended by a signal is taken for a success")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	out, err := a.Command(ctx, "cat", "/proc/self/net/dev").Output()
	if err != nil || !strings.Contains(string(out), "eth0") {
		t.Errorf("a command in the namespace sees %s, %v", out, err)
	}
}
