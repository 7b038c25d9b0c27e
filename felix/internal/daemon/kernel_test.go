package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"calico.internal/felix/internal/iptables"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	felixv1 "calico.internal/proto/felix/v1"
)

// opening is a policy that lets net1 reach net2.
func (w *world) opening() int64 {
	w.Helper()
	return w.put(model.NewPolicyKey("", "open"), &model.Policy{
		Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
		InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: "has(net1)"}}},
	})
}

func (w *world) closing() int64 {
	w.Helper()
	return w.remove(model.NewPolicyKey("", "open"))
}

func TestNetworksAreSeparateUntilAPolicyOpensThem(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		w.network("net2")
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		b := h.container("bbbb", "net1", "192.168.0.2")
		c := h.container("cccc", "net2", "192.168.0.3")
		w.canReach(a, b)
		w.canReach(b, a)
		w.cannotReach(a, c)
		w.cannotReach(c, a)

		if err := h.wait(c, w.opening(), patience); err != nil {
			t.Fatal(err)
		}
		w.canReach(a, c)
		w.cannotReach(c, a)
		if err := h.wait(c, w.closing(), patience); err != nil {
			t.Fatal(err)
		}
		w.cannotReach(a, c)
	})
}

func TestNetworksAreSeparateAcrossHosts(t *testing.T) {
	w := newWorld(t, nil)
	h0, h1 := w.addHost(0, iptables.Legacy), w.addHost(1, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h0.startInSync()
	h1.startInSync()
	a := h0.container("aaaa", "net1", "192.168.0.1")
	c := h1.container("cccc", "net1", "192.168.1.1")
	d := h1.container("dddd", "net2", "192.168.1.2")
	// What bgpd would do.
	h0.Run("ip", "route", "add", "192.168.1.0/26", "via", h1.Addr(false).String())
	h0.Run("ip", "-6", "route", "add", "fd00:80::1:0/122", "via", h1.Addr(true).String())
	h1.Run("ip", "route", "add", "192.168.0.0/26", "via", h0.Addr(false).String())
	h1.Run("ip", "-6", "route", "add", "fd00:80::0:0/122", "via", h0.Addr(true).String())

	w.canReach(a, c)
	if reply, err := a.Ping(c.addr, answer); err != nil || reply.TTL != 62 {
		t.Errorf("the reply over two routers is %+v, %v", reply, err)
	}
	w.cannotReach(a, d)
	if err := h1.wait(d, w.opening(), patience); err != nil {
		t.Fatal(err)
	}
	w.canReach(a, d)
	if err := h1.wait(d, w.closing(), patience); err != nil {
		t.Fatal(err)
	}
	w.cannotReach(a, d)
}

func TestAnEndpointsKernelState(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	for what, c := range map[string]struct{ have, want string }{
		"route":         {h.Run("ip", "route"), "192.168.0.1 dev caliaaaa scope link"},
		"IPv6 route":    {h.Run("ip", "-6", "route"), "fd00:80::1 dev caliaaaa"},
		"neighbour":     {h.Run("ip", "neigh"), "192.168.0.1 dev caliaaaa lladdr " + nettest.ContainerMAC + " PERMANENT"},
		"gateway":       {h.Run("ip", "addr", "show", "lo"), "inet 169.254.1.1/32 scope link lo"},
		"egress chain":  {h.dump(), ":cali-fw-caliaaaa"},
		"ingress chain": {h.dump(), ":cali-tw-caliaaaa"},
	} {
		if !strings.Contains(c.have, c.want) {
			t.Errorf("%s: %q is not in\n%s", what, c.want, c.have)
		}
	}
	for name, want := range map[string]string{
		"net/ipv4/conf/caliaaaa/proxy_arp": "1", "net/ipv4/neigh/caliaaaa/proxy_delay": "0", "net/ipv4/conf/caliaaaa/rp_filter": "0",
		"net/ipv4/conf/caliaaaa/forwarding": "1", "net/ipv4/conf/caliaaaa/route_localnet": "0", "net/ipv6/conf/caliaaaa/accept_ra": "0",
		"net/ipv6/conf/caliaaaa/proxy_ndp": "1", "net/ipv4/ip_forward": "1",
	} {
		if got := h.Sysctl(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	// The gateway answers ARP and ping although this host has no default route.
	if _, err := a.Ping(nettest.Gateway, answer); err != nil {
		t.Error(err)
	}
	// The host reaches its container; the container does not reach the host.
	h.ServeTCP(tcpPort)
	if err := h.TCP(netip.AddrPortFrom(a.addr, tcpPort), answer); err != nil {
		t.Error(err)
	}
	if err := a.TCP(netip.AddrPortFrom(h.Addr(false), tcpPort), noAnswer); !errors.Is(err, nettest.ErrNoAnswer) {
		t.Errorf("the container reaches its host: %v", err)
	}

	list, err := h.client.ListEndpoints(t.Context(), &felixv1.ListEndpointsRequest{})
	if err != nil || len(list.GetEndpoints()) != 1 || !list.GetEndpoints()[0].GetInForce() || list.GetEndpoints()[0].GetInterface() != "caliaaaa" {
		t.Errorf("ListEndpoints: %v, %v", list, err)
	}

	// A container's second network has the second gateway.
	second := netip.MustParseAddr("169.254.1.2")
	a.value.IPv4Gateway = second
	if err := h.wait(a, w.put(a.key, a.value), patience); err != nil {
		t.Fatal(err)
	}
	a.Run("ip", "route", "add", "169.254.1.2", "dev", "cali0")
	if _, err := a.Ping(second, answer); err != nil {
		t.Error(err)
	}

	w.remove(a.key)
	nettest.Eventually(t, patience, func() error {
		have := h.dump()
		for _, left := range []string{"-caliaaaa", "192.168.0.1", "fd00:80::1", "169.254.1.2"} {
			if strings.Contains(have, left) {
				return fmt.Errorf("%s is still there", left)
			}
		}
		return nil
	})
}

func TestARestartWritesNothingAndLosesNothing(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		w.network("net2")
		w.opening()
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		b := h.container("bbbb", "net1", "192.168.0.2")
		c := h.container("cccc", "net2", "192.168.0.3")
		w.canReach(a, b)
		w.canReach(a, c)
		before, conns := h.dump(), h.Run("conntrack", "-L")
		monitor := h.watchWrites()
		restores := h.shimRestore("")

		ctx, stop := context.WithCancel(t.Context())
		lost := make(chan int, 1)
		go func() { lost <- pingUntil(ctx, a, b.addr) }()
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			if err := h.felix.Signal(sig); err != nil {
				t.Fatal(err)
			}
			<-h.felix.Done()
			h.startInSync()
			h.await(a)
		}
		stop()
		if n := <-lost; n > 0 {
			t.Errorf("%d pings were lost", n)
		}
		if writes := monitor(); writes != "" {
			t.Errorf("the restart wrote:\n%s", writes)
		}
		if n := restores(); n > 0 {
			t.Errorf("the restart ran iptables-restore %d times", n)
		}
		if d := cmp.Diff(before, h.dump()); d != "" {
			t.Errorf("the restart changed the kernel: %s", d)
		}
		if !strings.Contains(conns, "src=192.168.0.1") || !strings.Contains(h.Run("conntrack", "-L"), "src=192.168.0.1") {
			t.Error("tracked connections were removed")
		}
		w.cannotReach(c, a)
	})
}

// pingUntil sends pings all the time and counts those that get no answer.
func pingUntil(ctx context.Context, from *endpoint, to netip.Addr) (lost int) {
	for ctx.Err() == nil {
		if _, err := from.Ping(to, answer); err != nil {
			lost++
		}
	}
	return lost
}

// watchWrites starts to watch what is written to the host's routes and addresses; the
// function that it returns stops that and tells what was.
func (h *host) watchWrites() func() string {
	h.w.Helper()
	path := filepath.Join(h.runDir, "monitor")
	out, err := os.Create(path)
	if err != nil {
		h.w.Fatal(err)
	}
	cmd := h.Command(context.Background(), "ip", "monitor", "route", "address")
	cmd.Stdout = out
	p := h.StartCommand(cmd)
	return func() string {
		p.Kill()
		_ = out.Close()
		text, err := os.ReadFile(path)
		if err != nil {
			h.w.Fatal(err)
		}
		return string(text)
	}
}

func TestKilledInAStormOfChangesTheNextStartPutsAllRight(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		h.startInSync()
		a := h.container("aaaa", "net1", "192.168.0.1")
		for round := range 6 {
			stop := time.After(time.Duration(20+17*round) * time.Millisecond)
			func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprintf("p%d", i%7)
					if i%3 == 2 {
						_, _ = w.store.Delete(t.Context(), model.NewPolicyKey("", name), 0)
						continue
					}
					w.put(model.NewPolicyKey("", name), &model.Policy{
						Selector: "all()", Types: []string{model.PolicyTypeEgress},
						OutboundRules: []model.Rule{
							{Action: model.ActionAllow, Protocol: "tcp", Destination: model.Match{Selector: fmt.Sprintf("role == 'r%d'", i%5), Ports: []model.Port{{First: uint16(1 + i%60000), Last: uint16(1 + i%60000)}}}},
							{Action: model.ActionAllow},
						},
					})
				}
			}()
			h.felix.Kill()
			h.startInSync()
			h.await(a)
			restarted := h.dump()
			fresh := w.fresh(h)
			if d := cmp.Diff(fresh, restarted); d != "" {
				t.Fatalf("round %d: a fresh start gives something else: %s", round, d)
			}
		}
	})
}

// fresh is what felix makes of the datastore on a host where nothing was.
func (w *world) fresh(h *host) string {
	w.Helper()
	h.felix.Kill()
	if out, err := h.command("cleanup").CombinedOutput(); err != nil {
		w.Fatalf("cleanup: %v: %s", err, out)
	}
	if left := h.dump(); strings.Contains(left, "cali-") || strings.Contains(left, "169.254.1.1") || strings.Contains(left, "dev cali") && strings.Contains(left, "192.168.") {
		w.Fatalf("cleanup left %s", left)
	}
	h.startInSync()
	return h.dump()
}

func TestAnAddressIsNotHandedOverWithItsConnections(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	w.canReach(a, b)
	has := func() bool { return strings.Contains(h.Run("conntrack", "-L"), "192.168.0.2") }
	if !has() {
		t.Fatal("the connection is not tracked")
	}
	b.Remove()
	w.remove(b.key)
	nettest.Eventually(t, patience, func() error {
		if has() {
			return errors.New("connections of the address are still tracked")
		}
		return nil
	})
	// The kernel is made to believe in a connection that the next owner would inherit.
	h.Run("conntrack", "-I", "-p", "udp", "-s", "192.168.0.1", "-d", "192.168.0.2", "--sport", "7777", "--dport", "5000",
		"--timeout", "600", "--status", "SEEN_REPLY,ASSURED")
	next := h.container("next", "net2", "192.168.0.2")
	w.cannotReach(a, next)
	// One that felix knows to have had an owner elsewhere.
	other := model.WorkloadEndpointKey{Node: "elsewhere", Orchestrator: "o", Workload: "w", Name: "e"}
	owned := w.put(other, &model.WorkloadEndpoint{State: "active", Interface: "caliother", IPv4Nets: []netip.Prefix{netip.MustParsePrefix("192.168.0.9/32")}})
	nettest.Eventually(t, patience, func() error { return h.has(owned) }) // else it may see both writes at once, and no owner
	w.remove(other)
	h.Run("conntrack", "-I", "-p", "udp", "-s", "192.168.0.1", "-d", "192.168.0.9", "--sport", "7777", "--dport", "5000",
		"--timeout", "600", "--status", "SEEN_REPLY,ASSURED")
	h.container("moved", "net2", "192.168.0.9")
	if strings.Contains(h.Run("conntrack", "-L"), "192.168.0.9") {
		t.Error("the new owner inherited a connection")
	}
}

func TestNoForbiddenPacketPassesAtAColdStart(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		w.network("net1")
		w.network("net2")
		for i := range 100 {
			w.put(model.NewPolicyKey("", fmt.Sprintf("p%03d", i)), &model.Policy{
				Selector: "has(net2)", Types: []string{model.PolicyTypeIngress},
				InboundRules: []model.Rule{{Action: model.ActionAllow, Protocol: "tcp", Source: model.Match{Nets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}}},
			})
		}
		a := h.attach("aaaa", "net1", "192.168.0.1")
		b := h.attach("bbbb", "net1", "192.168.0.2")
		c := h.attach("cccc", "net2", "192.168.0.3")
		for _, e := range []*endpoint{a, b, c} {
			w.put(e.key, e.value)
		}
		ctx, stop := context.WithCancel(t.Context())
		passed := make(chan int, 1)
		go func() {
			n := 0
			for ctx.Err() == nil {
				if a.UDP(netip.AddrPortFrom(c.addr, udpPort), time.Millisecond) == nil {
					n++
				}
			}
			passed <- n
		}()
		h.startInSync()
		h.await(c)
		stop()
		if n := <-passed; n > 0 {
			t.Errorf("%d forbidden packets passed", n)
		}
		// The container's own attempts to find its gateway may take a second more.
		nettest.Eventually(t, patience, func() error {
			_, err := a.Ping(b.addr, noAnswer)
			return err
		})
		w.canReach(a, b)
		w.cannotReach(a, c)
	})
}

func TestConfigurationChangesTakeEffectWhileFelixRuns(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	h.ServeTCP(tcpPort)
	server := netip.AddrPortFrom(h.Addr(false), tcpPort)
	if err := a.TCP(server, noAnswer); !errors.Is(err, nettest.ErrNoAnswer) {
		t.Fatalf("the container reaches its host: %v", err)
	}
	param := model.FelixConfigKey{Name: "DefaultEndpointToHostAction"}
	set := func(value string) {
		t.Helper()
		if err := h.wait(a, w.put(param, &model.Setting{Of: model.KindFelixConfig, Value: value}), patience); err != nil {
			t.Fatal(err)
		}
	}
	set("ACCEPT")
	if err := a.TCP(server, answer); err != nil {
		t.Error(err)
	}
	// A value that means nothing leaves the last one in force, and is reported.
	set("ACEPT")
	if err := a.TCP(server, answer); err != nil {
		t.Error(err)
	}
	nettest.Eventually(t, patience, func() error {
		st, err := h.status()
		if err == nil && (len(st.GetProblems()) == 0 || !strings.Contains(st.GetProblems()[0].GetReason(), "ACEPT")) {
			err = fmt.Errorf("problems are %v", st.GetProblems())
		}
		return err
	})
	if out, err := h.command("config").CombinedOutput(); err == nil || !strings.Contains(string(out), "DefaultEndpointToHostAction = ACEPT (datastore, global)") {
		t.Errorf("config prints %s, %v", out, err)
	}
	set("DROP")
	if out, err := h.command("config").CombinedOutput(); err != nil || !strings.Contains(string(out), "datastore, global") {
		t.Errorf("config prints %s, %v", out, err)
	}
	if err := a.TCP(server, noAnswer); !errors.Is(err, nettest.ErrNoAnswer) {
		t.Errorf("the container reaches its host: %v", err)
	}
	// Routes that are there get another protocol.
	protocol := w.put(model.FelixConfigKey{Name: "DeviceRouteProtocol"}, &model.Setting{Of: model.KindFelixConfig, Value: "80"})
	if err := h.wait(a, protocol, patience); err != nil {
		t.Error(err)
	}
	for _, family := range []string{"-4", "-6"} {
		if got := h.Run("ip", family, "route", "show", "dev", "caliaaaa", "proto", "80"); strings.Count(got, "\n") != 1 {
			t.Errorf("routes with the protocol are %q", got)
		}
	}
	// A parameter that is read at start only: felix starts again by itself.
	pid := h.felix.Process.Pid
	w.put(model.FelixConfigKey{Name: "Ipv6Support"}, &model.Setting{Of: model.KindFelixConfig, Value: "false"})
	nettest.Eventually(t, patience, func() error {
		st, err := h.status()
		for _, table := range st.GetTables() {
			if strings.HasPrefix(table.GetName(), "IPv6") {
				return errors.New("IPv6 is still handled")
			}
		}
		if err == nil && len(st.GetTables()) == 0 {
			return errors.New("no tables yet")
		}
		return err
	})
	if h.felix.Process.Pid != pid {
		t.Error("another process")
	}
	if _, err := a.Ping(nettest.Gateway, answer); err != nil {
		t.Error(err)
	}
}

func TestOneBadObjectDoesNotStopTheOthers(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	w.network("net2")
	// The set of net1's addresses has no room for two.
	h.startInSync("MAXIPSETSIZE=1")
	a := h.container("aaaa", "net1", "192.168.0.1")
	c := h.container("cccc", "net2", "192.168.0.3")
	if err := h.wait(c, w.opening(), patience); err != nil {
		t.Fatal(err)
	}
	w.canReach(a, c)
	b := h.attach("bbbb", "net1", "192.168.0.2")
	rev := w.put(b.key, b.value)
	h.refuses(b, rev, codes.DeadlineExceeded, "set is full")
	// The policies that name the set are closed; what does not need it works.
	w.cannotReach(a, c)
	if _, err := a.Ping(nettest.Gateway, answer); err != nil {
		t.Error(err)
	}
	w.remove(b.key)
	h.await(c)
	nettest.Eventually(t, patience, func() error {
		_, err := a.Ping(c.addr, noAnswer)
		return err
	})
	w.canReach(a, c)
}

func TestASlowRestoreDelaysOnlyWhatNeedsIt(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	slow := filepath.Join(t.TempDir(), "slow")
	h.shimRestore(fmt.Sprintf("while [ -e %s ]; do sleep 0.05; done", slow))
	h.startInSync()
	if err := os.WriteFile(slow, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := h.attach("aaaa", "net1", "192.168.0.1")
	rev := w.put(a.key, a.value)
	h.refuses(a, rev, codes.DeadlineExceeded, "felix has")
	if _, err := h.status(); err != nil {
		t.Errorf("status: %v", err)
	}
	if err := os.Remove(slow); err != nil {
		t.Fatal(err)
	}
	if err := h.wait(a, rev, patience); err != nil {
		t.Error(err)
	}
	b := h.container("bbbb", "net1", "192.168.0.2")
	w.canReach(a, b)
}

func TestBesideDocker(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		w := newWorld(t, nil)
		h := w.addHost(0, variant)
		ipt := func(args ...string) { h.Run("iptables-"+variant, append([]string{"-w"}, args...)...) }
		docker := func() {
			ipt("-P", "FORWARD", "DROP")
			for _, target := range []string{"DOCKER", "DOCKER-USER"} {
				ipt("-I", "FORWARD", "-j", target)
			}
		}
		for _, chain := range []string{"DOCKER", "DOCKER-USER"} {
			ipt("-N", chain)
		}
		docker()
		ipt("-A", "DOCKER", "-i", "docker0", "-j", "ACCEPT")
		h.variant = iptables.Auto
		w.network("net1")
		w.network("net2")
		h.startInSync()
		if st, err := h.status(); err != nil || st.GetDataplane() != "iptables-"+variant {
			t.Fatalf("the dataplane is %v, %v", st.GetDataplane(), err)
		}
		a := h.container("aaaa", "net1", "192.168.0.1")
		b := h.container("bbbb", "net1", "192.168.0.2")
		c := h.container("cccc", "net2", "192.168.0.3")
		w.canReach(a, b)
		w.cannotReach(a, c)
		// Docker starts again and puts its jumps before felix's.
		docker()
		nettest.Eventually(t, time.Second, func() error {
			if have := h.Run("iptables-"+variant, "-w", "-S", "FORWARD"); !strings.HasSuffix(strings.Split(have, "\n")[1], "-j cali-FORWARD") {
				return errors.New(have)
			}
			return nil
		})
		w.canReach(a, b)
		w.cannotReach(a, c)
		if have := h.Run("iptables-"+variant, "-w", "-S", "DOCKER"); !strings.Contains(have, "docker0") {
			t.Errorf("Docker's rules are %s", have)
		}
	})
}

func TestAForgedSourceIsDropped(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync()
	a := h.container("aaaa", "net1", "192.168.0.1")
	b := h.container("bbbb", "net1", "192.168.0.2")
	dropped := func(comment string) (n int) {
		for line := range strings.Lines(h.Run("iptables-nft", "-w", "-t", "raw", "-L", "cali-PREROUTING", "-v", "-x", "-n")) {
			if strings.Contains(line, comment) {
				packets := 0
				_, _ = fmt.Sscan(line, &packets)
				n += packets
			}
		}
		return n
	}
	const forged, loopback = "The source is not", "loopback"
	w.canReach(a, b)
	if n := dropped(forged); n != 0 {
		t.Errorf("%d packets with the right source were dropped", n)
	}
	a.Run("ip", "addr", "add", "192.168.0.2/32", "dev", "lo")
	_, _ = a.TryRun("ping", "-c", "1", "-W", "1", "-I", "192.168.0.2", "169.254.1.1")
	if dropped(forged) == 0 {
		t.Error("a packet with another container's source was not dropped")
	}
	a.Run("sysctl", "-q", "-w", "net.ipv4.conf.cali0.route_localnet=1")
	a.Run("ip", "route", "add", "127.9.9.9", "via", "169.254.1.1", "dev", "cali0", "onlink")
	a.Run("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
	_, _ = a.TryRun("ping", "-c", "1", "-W", "1", "127.9.9.9")
	if dropped(loopback) == 0 {
		t.Error("a packet to the host's loopback was not dropped")
	}
}

func TestTheOtherVariantIsSwept(t *testing.T) {
	for variant, other := range map[string]string{iptables.Legacy: iptables.NFT, iptables.NFT: iptables.Legacy} {
		t.Run("from "+other+" to "+variant, func(t *testing.T) {
			w := newWorld(t, nil)
			h := w.addHost(0, other)
			w.network("net1")
			h.startInSync()
			a := h.container("aaaa", "net1", "192.168.0.1")
			b := h.container("bbbb", "net1", "192.168.0.2")
			h.Run("iptables-"+other, "-w", "-A", "FORWARD", "-m", "mark", "--mark", "0x77", "-j", "DROP")
			h.felix.Kill()
			h.variant = variant
			h.startInSync()
			h.await(a)
			nettest.Eventually(t, patience, func() error {
				for _, name := range []string{"iptables-", "ip6tables-"} {
					if left := h.Run(name + other + "-save"); strings.Contains(left, "cali") {
						return errors.New("left are " + left)
					}
				}
				return nil
			})
			if left := h.Run("iptables-" + other + "-save"); !strings.Contains(left, "0x77") {
				t.Error("another one's rule was removed")
			}
			w.canReach(a, b)
		})
	}
}

// TestTheOtherVariantIsSweptWhenItCanBe has what an earlier felix left stay at first: another
// program holds the lock of the legacy tables, or has a rule lead to a chain.
func TestTheOtherVariantIsSweptWhenItCanBe(t *testing.T) {
	for variant, other := range map[string]string{iptables.Legacy: iptables.NFT, iptables.NFT: iptables.Legacy} {
		t.Run("from "+other+" to "+variant, func(t *testing.T) {
			w := newWorld(t, nil)
			h := w.addHost(0, other)
			w.network("net1")
			h.startInSync()
			a := h.container("aaaa", "net1", "192.168.0.1")
			h.felix.Kill()
			h.Run("iptables-"+other, "-w", "-N", "others")
			h.Run("iptables-"+other, "-w", "-A", "others", "-j", "cali-fw-caliaaaa")
			free := func() { h.Run("iptables-"+other, "-w", "-F", "others") }
			if other == iptables.Legacy {
				free()
				free = h.holdLock()
			}
			h.variant = variant
			h.startInSync()
			h.awaitProblemOf("rules of an earlier felix", "still in force in the other variant")
			free()
			h.awaitNoProblems()
			b := h.container("bbbb", "net1", "192.168.0.2")
			w.canReach(a, b)
			for _, name := range []string{"iptables-", "ip6tables-"} {
				if left := h.Run(name + other + "-save"); strings.Contains(left, "cali-") {
					t.Errorf("left are %s", left)
				}
			}
		})
	}
}

func TestASecondFelixIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	h.startInSync()
	out, err := h.command("run").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use by another process") {
		t.Errorf("got %v: %s", err, out)
	}
}

func TestReports(t *testing.T) {
	w := newWorld(t, nil)
	h := w.addHost(0, iptables.NFT)
	w.network("net1")
	h.startInSync("ENDPOINTREPORTINGENABLED=true", "ENDPOINTREPORTINGDELAYSECS=0")
	a := h.container("aaaa", "net1", "192.168.0.1")
	read := func(k model.Key) model.Resource {
		t.Helper()
		var r model.Resource
		nettest.Eventually(t, patience, func() error {
			e, err := w.store.Get(t.Context(), k)
			r = e.Value
			return err
		})
		return r
	}
	read(model.FelixStatusKey{Node: h.Name})
	read(model.FelixStatusKey{Node: h.Name, Last: true})
	if l, _ := read(model.LivenessKey{Node: h.Name, Program: "felix"}).(*model.Liveness); !l.Host.Known() {
		t.Error("felix does not say on which host it lives")
	}
	key := model.EndpointStatusKey(a.key)
	if got := read(key).(*model.EndpointStatus).Status; got != model.EndpointUp {
		t.Errorf("the endpoint's status is %s", got)
	}
	w.remove(a.key)
	nettest.Eventually(t, patience, func() error {
		if _, err := w.store.Get(t.Context(), key); err == nil {
			return errors.New("the status of an endpoint that is gone is still there")
		}
		return nil
	})
}
