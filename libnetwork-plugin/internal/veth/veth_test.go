package veth

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"calico.internal/libcalico/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m.Run)) }

const (
	endpoint = "f24874aae57f0e8ad0ccd04f98f5a5c1b1c8e8f5ea9c6d7b0a1b2c3d4e5f6071"
	other    = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

var containerMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

// links returns the pairs of the test's namespace and removes what a test leaves.
func links(t *testing.T) *Links {
	t.Helper()
	nettest.NeedPrivate(t)
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range []string{endpoint, other} {
			if _, err := l.Remove(id); err != nil {
				t.Error(err)
			}
		}
		l.Close()
	})
	return l
}

// link looks an interface up that must be there.
func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	got, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return got
}

// sysctl reads a kernel parameter.
func sysctl(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// moveAway puts an interface into a new namespace, as the engine does.
func moveAway(t *testing.T, name string) netns.NsHandle {
	t.Helper()
	moved := link(t, name)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close() //nolint:errcheck // nothing is buffered
	sandbox, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := netns.Set(here); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sandbox.Close() })
	if err := netlink.LinkSetNsFd(moved, int(sandbox)); err != nil {
		t.Fatal(err)
	}
	return sandbox
}

func TestEnsureMakesAPairThatFelixAndTheEngineCanUse(t *testing.T) {
	l := links(t)
	created, err := l.Ensure(Pair{Endpoint: endpoint, MTU: 1400, MAC: containerMAC})
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	host, peer := link(t, "calif24874aae57"), link(t, "tempf24874aae57")
	if got := peer.Attrs().HardwareAddr.String(); got != "ee:ee:ee:ee:ee:ee" {
		t.Errorf("container's MAC %s", got)
	}
	if got := host.Attrs().HardwareAddr.String(); got == "ee:ee:ee:ee:ee:ee" {
		t.Error("both ends have one MAC: duplicate address detection would fail in the container")
	}
	for _, end := range []netlink.Link{host, peer} {
		if end.Attrs().MTU != 1400 {
			t.Errorf("%s: MTU %d", end.Attrs().Name, end.Attrs().MTU)
		}
		if end.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("%s is down", end.Attrs().Name)
		}
	}
	addrs, err := netlink.AddrList(host, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 0 {
		t.Errorf("IPv4 addresses of the host's end: %v, %v", addrs, err)
	}
	if got := sysctl(t, "ipv4/neigh/"+host.Attrs().Name+"/proxy_delay"); got != "0" {
		t.Errorf("proxy_delay %s: the first packet would wait for it", got)
	}
}

func TestEnsureWithoutMTULeavesTheKernels(t *testing.T) {
	l := links(t)
	if _, err := l.Ensure(Pair{Endpoint: endpoint, MAC: containerMAC}); err != nil {
		t.Fatal(err)
	}
	if got := link(t, HostName(endpoint)).Attrs().MTU; got != 1500 {
		t.Errorf("MTU %d", got)
	}
}

func TestEnsureTwiceKeepsThePairAndAdaptsIt(t *testing.T) {
	l := links(t)
	if _, err := l.Ensure(Pair{Endpoint: endpoint}); err != nil {
		t.Fatal(err)
	}
	before := link(t, HostName(endpoint)).Attrs().Index
	created, err := l.Ensure(Pair{Endpoint: endpoint, MTU: 1300, MAC: containerMAC})
	if err != nil || created {
		t.Fatalf("created %v, %v", created, err)
	}
	host, peer := link(t, HostName(endpoint)), link(t, PeerName(endpoint))
	if host.Attrs().Index != before {
		t.Error("the pair was made anew")
	}
	if host.Attrs().MTU != 1300 || peer.Attrs().MTU != 1300 || peer.Attrs().HardwareAddr.String() != containerMAC.String() {
		t.Errorf("not adapted: %+v %+v", host.Attrs(), peer.Attrs())
	}
}

func TestEnsureGivesTheHostsEndAnIPv6GatewayThatWorksAtOnce(t *testing.T) {
	l := links(t)
	gateway := netip.MustParseAddr("fe80::a9fe:101")
	for range 2 {
		if _, err := l.Ensure(Pair{Endpoint: endpoint, MAC: containerMAC, HostIPv6: gateway}); err != nil {
			t.Fatal(err)
		}
	}
	addrs, err := netlink.AddrList(link(t, HostName(endpoint)), netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.IP.String() != gateway.String() {
			continue
		}
		if a.Flags&0x40 != 0 {
			t.Error("the gateway's address is tentative")
		}
		return
	}
	t.Errorf("addresses %v", addrs)
}

func TestAPairInUseIsLeftAsItIs(t *testing.T) {
	l := links(t)
	if _, err := l.Ensure(Pair{Endpoint: endpoint, MTU: 1400, MAC: containerMAC}); err != nil {
		t.Fatal(err)
	}
	moveAway(t, PeerName(endpoint))
	if state, err := l.State(endpoint); state != InUse || err != nil {
		t.Fatalf("state %v, %v", state, err)
	}
	created, err := l.Ensure(Pair{Endpoint: endpoint, MTU: 1300, MAC: containerMAC})
	if err != nil || created {
		t.Fatalf("created %v, %v", created, err)
	}
	if got := link(t, HostName(endpoint)).Attrs().MTU; got != 1400 {
		t.Errorf("MTU of a pair in use became %d", got)
	}
	if removed, err := l.Remove(endpoint); !removed || err != nil {
		t.Errorf("removed %v, %v", removed, err)
	}
}

func TestRemoveIsIdempotent(t *testing.T) {
	l := links(t)
	if _, err := l.Ensure(Pair{Endpoint: endpoint}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, false} {
		removed, err := l.Remove(endpoint)
		if err != nil || removed != want {
			t.Errorf("call %d: removed %v, %v", i, removed, err)
		}
	}
	if state, err := l.State(endpoint); state != Absent || err != nil {
		t.Errorf("state %v, %v", state, err)
	}
}

func TestListTellsIdleFromUsedAndIgnoresOthers(t *testing.T) {
	l := links(t)
	for _, id := range []string{endpoint, other} {
		if _, err := l.Ensure(Pair{Endpoint: id}); err != nil {
			t.Fatal(err)
		}
	}
	foreign := netlink.NewVeth(netlink.LinkAttrs{Name: "cali0", MTU: 1500, TxQLen: -1})
	foreign.PeerName = "veth0"
	if err := netlink.LinkAdd(foreign); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(foreign) })
	moveAway(t, PeerName(other))

	got, err := l.List()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]State{HostName(endpoint): Idle, HostName(other): InUse}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAForeignInterfaceOfThatNameIsRefused(t *testing.T) {
	l := links(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: HostName(endpoint), TxQLen: -1}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Ensure(Pair{Endpoint: endpoint}); err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("Ensure: %v", err)
	}
	if _, err := l.Remove(endpoint); err == nil {
		t.Error("Remove touched an interface that is not ours")
	}
	if err := netlink.LinkDel(bridge); err != nil {
		t.Fatal(err)
	}
}

func TestAFailureLeavesNothingBehind(t *testing.T) {
	l := links(t)
	l.sysctl = t.TempDir()
	if _, err := l.Ensure(Pair{Endpoint: endpoint}); err == nil {
		t.Fatal("no error although the kernel parameter cannot be set")
	}
	for _, name := range []string{HostName(endpoint), PeerName(endpoint)} {
		if _, err := netlink.LinkByName(name); err == nil {
			t.Errorf("%s is left", name)
		}
	}
}

func TestMTUOfTheInterfaceWithAnAddress(t *testing.T) {
	l := links(t)
	addr4, addr6 := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00:1::3")
	if mtu, err := l.MTUOf(addr4, netip.Addr{}); err != nil || mtu != 0 {
		t.Errorf("of an address that nobody has: %d, %v", mtu, err)
	}
	for i, a := range []netip.Addr{addr4, addr6} {
		up := netlink.NewVeth(netlink.LinkAttrs{Name: fmt.Sprint("up", i), MTU: 1400 - 100*i, TxQLen: -1})
		up.PeerName = fmt.Sprint("peer", i)
		if err := netlink.LinkAdd(up); err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(link(t, up.Name), &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}); err != nil {
			t.Fatal(err)
		}
	}
	for want, addrs := range map[int][]netip.Addr{1400: {addr4}, 1300: {addr4, addr6}} {
		if mtu, err := l.MTUOf(addrs...); err != nil || mtu != want {
			t.Errorf("%v: %d, %v", addrs, mtu, err)
		}
	}
}
