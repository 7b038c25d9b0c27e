package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// forgetNeighbours has the container ask for its gateways anew.
func (e *endpoint) forgetNeighbours() { e.Run("ip", "neigh", "flush", "dev", "cali0") }

// eventuallyProblem waits until status has, or has not, a problem whose object and reason
// hold the texts.
func (h *host) eventuallyProblem(present bool, object, reason string) {
	h.w.Helper()
	nettest.Eventually(h.w, patience, func() error {
		st, err := h.status()
		if err != nil {
			return err
		}
		found := false
		for _, p := range st.GetProblems() {
			found = found || strings.Contains(p.GetObject(), object) && strings.Contains(p.GetReason(), reason)
		}
		if found != present {
			return fmt.Errorf("problem %q: present %v, want %v: %v", object, found, present, st.GetProblems())
		}
		return nil
	})
}

var secondGateway = netip.MustParseAddr("169.254.1.2")

func TestGatewaysAnswerWhateverTheHostsARPSettingsAre(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	// b is its container's second network.
	b.value.IPv4Gateway = secondGateway
	if err := h.wait(b, w.put(b.key, b.value), patience); err != nil {
		t.Fatal(err)
	}
	b.Run("ip", "route", "replace", "169.254.1.2", "dev", "cali0")
	b.Run("ip", "route", "replace", "default", "via", "169.254.1.2", "dev", "cali0")
	for _, c := range []struct{ name, value string }{
		{"all/arp_ignore", "1"},
		{"all/arp_ignore", "2"},
		{"all/arp_ignore", "3"},
		{"all/arp_ignore", "4"},
		{"caliaaaa/arp_ignore", "0"},
		{"all/arp_ignore", "0"},
		{"all/arp_filter", "1"},
		{"all/arp_announce", "1"},
		{"all/arp_announce", "2"},
		{"all/proxy_arp", "1"},
		{"all/proxy_arp_pvlan", "1"},
		{"all/accept_local", "1"},
	} {
		h.SetSysctl("net/ipv4/conf/"+c.name, c.value)
		for e, gateway := range map[*endpoint]netip.Addr{a: nettest.Gateway, b: secondGateway} {
			e.forgetNeighbours()
			if _, err := e.Ping(gateway, answer); err != nil {
				t.Errorf("%s=%s: %v", c.name, c.value, err)
			}
		}
		if _, err := a.Ping(b.addr, answer); err != nil {
			t.Errorf("%s=%s: %v", c.name, c.value, err)
		}
	}
	if got := h.Run("ip", "-4", "addr", "show", "dev", "caliaaaa"); got != "" {
		t.Errorf("the host's end has an IPv4 address: %s", got)
	}
}

func TestSettingsThatTheKernelDoesNotTellOfAreRepaired(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	// As a file of sysctl.d with a * does it.
	h.Run("sh", "-c", "cd /proc/sys/net/ipv4; for i in conf/*/arp_ignore; do echo 1 > $i; done; for i in neigh/cali*/proxy_delay; do echo 80 > $i; done")
	for _, e := range []*endpoint{a, b} {
		nettest.Eventually(t, patience, func() error {
			for name, want := range map[string]string{"conf/" + e.value.Interface + "/arp_ignore": "3", "neigh/" + e.value.Interface + "/proxy_delay": "0"} {
				if got := h.Sysctl("net/ipv4/" + name); got != want {
					return fmt.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			return nil
		})
		e.forgetNeighbours()
		if _, err := e.Ping(nettest.Gateway, answer); err != nil {
			t.Error(err)
		}
	}
}

func TestAHostThatAnswersNoARPIsNamed(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	const setting = "net/ipv4/conf/all/arp_ignore"
	h.SetSysctl(setting, "8")
	h.eventuallyProblem(true, setting, "set it to 0, 1, 2 or 3")
	h.refuses(a, 0, codes.DeadlineExceeded, setting+" is 8")
	// Nor does a start take the endpoint for in force.
	h.felix.Kill()
	h.startInSync()
	h.refuses(a, 0, codes.DeadlineExceeded, setting+" is 8")
	h.SetSysctl(setting, "0")
	h.await(a)
	h.eventuallyProblem(false, setting, "")
	a.forgetNeighbours()
	if _, err := a.Ping(nettest.Gateway, answer); err != nil {
		t.Error(err)
	}
}

func TestSettingsOfOthersAreFollowedAndNamed(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	for _, c := range []struct{ setting, bad, good, reason string }{
		{"net/ipv4/conf/all/rp_filter", "1", "0", "is 1: the kernel checks sources"},
		{"net/ipv4/conf/all/rp_filter", "2", "0", "is 2: the kernel checks sources"},
		{"net/ipv4/conf/eth0/forwarding", "0", "1", "packets for containers that come in by eth0 are dropped"},
		{"net/ipv6/conf/all/disable_ipv6", "1", "0", "IPv6 of its containers ends at this host"},
	} {
		h.SetSysctl(c.setting, c.bad)
		h.eventuallyProblem(true, c.setting, c.reason)
		nettest.Eventually(t, patience, func() error { // IPv6 of the interfaces has to come back first
			_, err := a.Ping(b.addr6, noAnswer)
			return err
		})
		w.canReach(a, b)
		h.SetSysctl(c.setting, c.good)
		h.eventuallyProblem(false, c.setting, "")
	}
}

func TestAContainerDoesNotReachTheHostsLoopbackWhateverTheHostRoutes(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		h.startInSync("DEFAULTENDPOINTTOHOSTACTION=ACCEPT")
		a := h.container("aaaa", "net1", "192.168.0.1")
		h.ServeUDP(udpPort)
		if err := a.UDP(netip.AddrPortFrom(h.Addr(false), udpPort), answer); err != nil {
			t.Fatal(err) // the host itself is reached, so what follows proves something
		}
		h.SetSysctl("net/ipv4/conf/all/route_localnet", "1")
		a.SetSysctl("net/ipv4/conf/cali0/route_localnet", "1")
		a.Run("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
		a.Run("ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
		a.Run("ip", "route", "add", "127.0.0.1", "via", "169.254.1.1", "dev", "cali0", "onlink", "src", "192.168.0.1")
		loopback := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), udpPort)
		if err := a.UDP(loopback, noAnswer); !errors.Is(err, nettest.ErrNoAnswer) {
			t.Errorf("the container reaches the host's loopback: %v", err)
		}
		chain := h.Run("iptables-"+variant, "-w", "-t", "raw", "-L", "cali-PREROUTING", "-v", "-x", "-n")
		for line := range strings.Lines(chain) {
			if packets := 0; strings.Contains(line, "127.0.0.0/8") {
				if _, _ = fmt.Sscan(line, &packets); packets > 0 {
					return
				}
			}
		}
		t.Errorf("the packet did not come as far as the rule against it:\n%s", chain)
	})
}

func TestIPv6GatewaysAreRepaired(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	// As the plugin makes it: the pair has its gateway before felix knows of it.
	a := h.attach("aaaa", "net1", "192.168.0.1")
	h.Run("ip", "addr", "add", "fe80::a9fe:101/64", "dev", "caliaaaa", "nodad")
	w.put(a.key, a.value)
	h.await(a)
	b := h.container("bbbb", "net1", "192.168.0.2")
	c := h.attach("cccc", "net1", "192.168.0.3")
	c.value.IPv6Gateway = netip.MustParseAddr("fe80::a9fe:102")
	w.put(c.key, c.value)
	h.await(c)
	gateways := map[*endpoint]string{a: "fe80::a9fe:101", b: "fe80::a9fe:101", c: "fe80::a9fe:102"}
	for e, gateway := range gateways {
		e.Run("ip", "-6", "route", "replace", "default", "via", gateway, "dev", "cali0")
	}
	reach := func(what string) {
		t.Helper()
		for e, gateway := range gateways {
			e.forgetNeighbours()
			nettest.Eventually(t, 2*time.Second, func() error {
				have := h.Run("ip", "addr", "show", "dev", e.value.Interface)
				if !strings.Contains(have, gateway+"/64") {
					return fmt.Errorf("%s: %s has no %s: %s", what, e.value.Interface, gateway, have)
				}
				to := a
				if e == a {
					to = b
				}
				_, err := e.Ping(to.addr6, noAnswer)
				return err
			})
		}
	}
	reach("at first")
	for _, damage := range []string{
		"ip addr del fe80::a9fe:101/64 dev caliaaaa; ip addr flush dev calicccc",
		"sysctl -qw net.ipv6.conf.caliaaaa.disable_ipv6=1",
		"sysctl -qw net.ipv6.conf.all.disable_ipv6=1; sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0; ip addr add " + h.Spec.Addrs[1].String() + " dev eth0 nodad",
		"ip link set caliaaaa down; ip link set caliaaaa up",
	} {
		h.Run("sh", "-c", damage)
		reach(damage)
	}
	// An interface with the same name that is made anew, with IPv6 off, as the host has it by now.
	a.Remove()
	a.Container = h.AddContainer("caliaaaa", a.addr)
	a.Run("ip", "addr", "add", a.addr6.String()+"/128", "dev", "cali0", "nodad")
	a.Run("ip", "-6", "route", "replace", "fe80::a9fe:101", "dev", "cali0")
	a.Run("ip", "-6", "route", "replace", "default", "via", "fe80::a9fe:101", "dev", "cali0")
	reach("an interface made anew")
	if got := h.Run("ip", "addr", "show", "dev", "calicccc"); strings.Contains(got, "fe80::a9fe:101") {
		t.Errorf("the second network's interface has the first's gateway: %s", got)
	}
}

func TestAGatewayAddressThatAnotherNetworkHoldsIsLeftToIt(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	// A machine on another link of the host has the address, as a server's own management
	// controller may. A third machine is on that link too.
	device, third := h.AddContainer("usb0"), h.AddContainer("usb1")
	h.Run("sh", "-c", "ip link add br0 type bridge; ip link set usb0 master br0; ip link set usb1 master br0; ip link set br0 up; ip addr add 169.254.1.5/24 dev br0")
	device.Run("ip", "addr", "add", "169.254.1.1/24", "dev", "cali0")
	third.Run("ip", "addr", "add", "169.254.1.9/24", "dev", "cali0")
	third.Run("ip", "link", "set", "cali0", "address", "02:00:00:00:00:09")

	mac := func(s *nettest.Space) string {
		t.Helper()
		s.Run("ip", "neigh", "flush", "dev", "cali0")
		if _, err := s.Ping(nettest.Gateway, answer); err != nil {
			t.Fatal(err)
		}
		return s.Run("ip", "neigh", "show", "169.254.1.1")
	}
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	h.eventuallyProblem(true, "gateway 169.254.1.1", "interface br0 has the network 169.254.1.0/24: the address may be another machine's")
	check := func() {
		t.Helper()
		a.forgetNeighbours()
		w.canReach(a, b)
		for range 5 {
			if have := mac(third.Space); !strings.Contains(have, nettest.ContainerMAC) {
				t.Errorf("another machine on the link is answered by the host: %s", have)
			}
		}
		if _, err := h.Ping(nettest.Gateway, answer); err != nil {
			t.Errorf("the host does not reach the machine: %v", err)
		}
		if have := h.Run("ip", "route", "get", "169.254.1.1"); !strings.Contains(have, "dev br0") {
			t.Errorf("the address is not the machine's: %s", have)
		}
	}
	check()
	h.felix.Kill()
	h.startInSync()
	check()
	// The network goes, and comes back while felix runs.
	h.Run("ip", "addr", "del", "169.254.1.5/24", "dev", "br0")
	h.eventuallyProblem(false, "gateway 169.254.1.1", "")
	a.forgetNeighbours()
	if _, err := a.Ping(nettest.Gateway, answer); err != nil {
		t.Error(err)
	}
	w.canReach(a, b)
	h.Run("ip", "addr", "add", "169.254.1.5/24", "dev", "br0")
	h.eventuallyProblem(true, "gateway 169.254.1.1", "interface br0 has the network 169.254.1.0/24")
	check()
	h.Run("ip", "link", "set", "br0", "down")
	h.eventuallyProblem(false, "gateway 169.254.1.1", "")
	a.forgetNeighbours()
	w.canReach(a, b)
}

func TestANetworkOfAddressesThatMachinesChooseTakesNoGatewayAway(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.Run("ip", "addr", "add", "169.254.77.5/16", "dev", "eth0")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	h.eventuallyProblem(true, "gateway 169.254.1.1", "interface eth0 has the network 169.254.0.0/16: this host has the address for its containers")
	if have := h.Run("ip", "addr", "show", "dev", "lo"); !strings.Contains(have, "169.254.1.1/32") {
		t.Errorf("the gateway is gone: %s", have)
	}
	if _, err := a.Ping(nettest.Gateway, answer); err != nil {
		t.Error(err)
	}
	h.Run("ip", "addr", "del", "169.254.77.5/16", "dev", "eth0")
	h.eventuallyProblem(false, "gateway 169.254.1.1", "")
}

// router is a machine that advertises itself as router of IPv6 to the host.
func (w *world) router(n int) *nettest.Host {
	w.Helper()
	if _, err := exec.LookPath("bird"); err != nil {
		w.Skip("BIRD 2 is missing: apt-get install bird2")
	}
	r := w.net.AddHost(nettest.HostSpec{Name: "router", Addrs: []netip.Prefix{netip.MustParsePrefix("fd00:77::1/64")}})
	dir := w.TempDir()
	conf := filepath.Join(dir, "bird.conf")
	text := `log stderr all; router id 10.0.0.1; protocol device { }
protocol radv { interface "eth0" { min ra interval 3; max ra interval 4; default lifetime 30; }; }
`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
	r.StartCommand(r.Command(context.Background(), "bird", "-f", "-c", conf, "-s", filepath.Join(dir, "ctl"), "-P", filepath.Join(dir, "pid")))
	return r
}

// advertised is how long the default route by advertisement of a host is good for.
func (h *host) advertised() (seconds int, err error) {
	text := h.Run("ip", "-6", "route", "show", "default", "proto", "ra")
	_, rest, found := strings.Cut(text, "expires ")
	if _, err := fmt.Sscanf(rest, "%dsec", &seconds); !found || err != nil {
		return 0, fmt.Errorf("no default route by advertisement: %q", h.Run("ip", "-6", "route"))
	}
	return seconds, nil
}

// staysAdvertised fails the test unless the default route by advertisement is there, and
// is renewed, and never goes meanwhile.
func (h *host) staysAdvertised(what string) {
	h.w.Helper()
	last, err := h.advertised()
	if err != nil {
		h.w.Fatalf("%s: %v", what, err)
	}
	nettest.Eventually(h.w, patience, func() error {
		now, err := h.advertised()
		if err != nil {
			h.w.Fatalf("%s: %v", what, err)
		}
		if now <= last {
			last = now
			return errors.New("the route is not renewed")
		}
		return nil
	})
}

func TestAHostKeepsItsIPv6RouteByAdvertisement(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.router(9)
	for name, value := range map[string]string{"all/forwarding": "0", "eth0/accept_ra": "1", "default/accept_ra": "1"} {
		h.SetSysctl("net/ipv6/conf/"+name, value)
	}
	h.Run("ip", "link", "set", "eth0", "down") // and ask for routers
	h.Run("ip", "link", "set", "eth0", "up")
	nettest.Eventually(t, patience, func() error { _, err := h.advertised(); return err })
	forwarding := func() string { return h.Sysctl("net/ipv6/conf/all/forwarding") }

	// A start, and a container without IPv6, leave the host what it is.
	w.network("net1")
	h.startInSync()
	only4 := h.attach("only4", "net1", "192.168.0.9")
	only4.value.IPv6Nets = nil
	w.put(only4.key, only4.value)
	h.await(only4)
	if got := forwarding(); got != "0" || h.Sysctl("net/ipv6/conf/eth0/accept_ra") != "1" {
		t.Errorf("forwarding is %s without a container that has IPv6", got)
	}
	h.staysAdvertised("after a start")

	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	if got := forwarding(); got != "1" {
		t.Errorf("forwarding is %s where containers have IPv6", got)
	}
	w.canReach(a, b)
	h.staysAdvertised("with forwarding")
	if got := h.Sysctl("net/ipv6/conf/caliaaaa/accept_ra"); got != "0" {
		t.Errorf("a container's advertisements are taken: accept_ra is %s", got)
	}

	// Somebody switches it off while it is needed.
	h.SetSysctl("net/ipv6/conf/all/forwarding", "0")
	nettest.Eventually(t, time.Second, func() error {
		if got := forwarding(); got != "1" {
			return fmt.Errorf("forwarding is %s", got)
		}
		return nil
	})
	w.canReach(a, b)
	h.staysAdvertised("after the repair")

	// With the last container that has IPv6 it is nobody's to repair, nor to switch off.
	w.remove(a.key)
	w.remove(b.key)
	gone(t, h, a, b)
	if got := forwarding(); got != "1" {
		t.Errorf("forwarding was switched off: %s", got)
	}
	h.SetSysctl("net/ipv6/conf/all/forwarding", "0")
	rev := w.put(model.NewPolicyKey("", "any"), &model.Policy{Selector: "all()"})
	if err := h.wait(only4, rev, patience); err != nil {
		t.Fatal(err)
	}
	if got := forwarding(); got != "0" {
		t.Errorf("forwarding was switched on again without need: %s", got)
	}
	h.staysAdvertised("at the end")
}

// gone waits until felix has nothing left of endpoints.
func gone(t *testing.T, h *host, endpoints ...*endpoint) {
	t.Helper()
	nettest.Eventually(t, patience, func() error {
		for _, e := range endpoints {
			if have := h.Run("ip", "-6", "route"); strings.Contains(have, "dev "+e.value.Interface+" metric") && strings.Contains(have, e.addr6.String()) {
				return errors.New(have)
			}
		}
		return nil
	})
}

func TestAHostThatForwardsAndTakesAdvertisementsOnOneInterfaceKeepsThem(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.router(9)
	// Forwarding is on for all, as its owner wanted, but for the way to the router.
	for _, s := range [][2]string{{"all/forwarding", "1"}, {"default/forwarding", "0"}, {"eth0/forwarding", "0"}, {"eth0/accept_ra", "1"}} {
		h.SetSysctl("net/ipv6/conf/"+s[0], s[1])
	}
	h.Run("ip", "link", "set", "eth0", "down")
	h.Run("ip", "link", "set", "eth0", "up")
	nettest.Eventually(t, patience, func() error { _, err := h.advertised(); return err })
	w.network("net1")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	w.canReach(a, b)
	h.staysAdvertised("with containers")
}
