package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/libnetwork-plugin/internal/address"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	"calico.internal/libnetwork-plugin/internal/veth"
)

func TestMain(m *testing.M) {
	os.Exit(nettest.Main(func() int { return etcdtest.Main(m) }))
}

// node is a node with real etcd and kernel, and an engine that answers as told.
type node struct {
	t      *testing.T
	store  *etcdstore.Client
	pool   *ipam.Client
	links  *veth.Links
	engine *enginetest.Engine
	docker *dockerapi.Client
	log    *slog.Logger
}

func newNode(t *testing.T) *node {
	t.Helper()
	nettest.NeedPrivate(t)
	n := &node{t: t, engine: enginetest.Start(t, enginetest.Docker20), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	var err error
	n.store, err = etcdstore.New(etcdstore.Config{Endpoints: etcdtest.Shared(t).Endpoints()})
	must(t, err)
	n.pool = ipam.New(n.store, "node00")
	n.links, err = veth.New()
	must(t, err)
	n.docker, err = dockerapi.New(n.engine.Host())
	must(t, err)
	cidr := netip.MustParsePrefix("192.168.0.0/16")
	_, err = n.store.Create(t.Context(), model.IPPoolKey{CIDR: cidr}, &model.IPPool{CIDR: cidr, IPAM: true})
	must(t, err)
	t.Cleanup(func() {
		pairs, err := n.links.List()
		must(t, err)
		for name := range pairs {
			_, err := n.links.Remove(strings.TrimPrefix(name, veth.HostPrefix))
			must(t, err)
		}
		n.links.Close()
		n.docker.Close()
		must(t, n.store.Close())
	})
	return n
}

// book is what a process keeps; a new one remembers nothing.
func (n *node) book() *address.Book {
	return address.New(n.pool, n.store, n.links, "node00", n.log)
}

// sweep sweeps with the book of a process. It calls between between the two looks.
func (n *node) sweep(b *address.Book, between func()) error {
	n.t.Helper()
	looks := 0
	s := New(b, n.links, engine{n.docker, func() {
		if looks++; looks == 2 && between != nil {
			between()
		}
	}}, time.Millisecond, time.Hour, n.log)
	return s.Sweep(n.t.Context())
}

// engine lets a test do something before the engine is asked.
type engine struct {
	*dockerapi.Client
	before func()
}

func (e engine) Containers(ctx context.Context) ([]dockerapi.Container, error) {
	e.before()
	return e.Client.Containers(ctx)
}

// bind makes an endpoint with an address and an idle pair.
func (n *node) bind(b *address.Book, i int) (id string, addr netip.Addr) {
	n.t.Helper()
	id = fmt.Sprintf("%011d", i) + strings.Repeat("f", 53)
	addr, err := b.Pick(n.t.Context(), false, netip.Prefix{}, "")
	must(n.t, err)
	ep := endpoint.New(id, endpoint.DefaultMAC, addr, netip.Addr{})
	put, err := etcdstore.PutWrite(endpoint.Key("node00", id), ep)
	must(n.t, err)
	_, err = b.Bind(n.t.Context(), endpoint.Key("node00", id), ep, put)
	must(n.t, err)
	_, err = n.links.Ensure(veth.Pair{Endpoint: id})
	must(n.t, err)
	return id, addr
}

// expect compares what there is with what there should be.
func (n *node) expect(id string, endpoint, pair bool) {
	n.t.Helper()
	endpoints, err := n.book().Endpoints(n.t.Context())
	must(n.t, err)
	if (endpoints[id] != nil) != endpoint {
		n.t.Errorf("endpoint %s is there: %v, want %v", id, !endpoint, endpoint)
	}
	state, err := n.links.State(id)
	must(n.t, err)
	if (state != veth.Absent) != pair {
		n.t.Errorf("pair of %s: state %v, want it there: %v", id, state, pair)
	}
}

// assigned reports whether somebody has an address.
func (n *node) assigned(a netip.Addr) bool {
	n.t.Helper()
	_, err := n.pool.Lookup(n.t.Context(), a)
	if err != nil && !errors.Is(err, ipam.ErrNotAssigned) {
		n.t.Fatal(err)
	}
	return err == nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatACrashLeavesIsRemoved(t *testing.T) {
	n := newNode(t)
	before := n.book()
	id, addr := n.bind(before, 1)
	asked, err := before.Pick(t.Context(), false, netip.Prefix{}, "")
	must(t, err)
	stray := strings.Repeat("0", 11) + "x"
	_, err = n.links.Ensure(veth.Pair{Endpoint: stray})
	must(t, err)

	must(t, n.sweep(n.book(), nil)) // A new process.
	n.expect(id, false, false)
	n.expect(stray, false, false)
	if n.assigned(addr) || n.assigned(asked) {
		t.Error("addresses are left")
	}
}

func TestNothingIsRemovedWhileDockerIsAtWorkOnIt(t *testing.T) {
	n := newNode(t)
	b := n.book()
	id, addr := n.bind(b, 1)
	asked, err := b.Pick(t.Context(), false, netip.Prefix{}, "")
	must(t, err)
	must(t, n.sweep(b, nil)) // The process that was just called.
	n.expect(id, true, true)
	if !n.assigned(addr) || !n.assigned(asked) {
		t.Error("addresses were released")
	}
}

func TestWhatAContainerHasIsKept(t *testing.T) {
	n := newNode(t)
	b := n.book()
	known, knownAddr := n.bind(b, 1)
	n.engine.SetContainer(enginetest.Container{ID: "c1", Name: "a", State: "running", Endpoints: map[string]enginetest.Endpoint{
		"net1": {ID: known, IPv4: knownAddr.String() + "/32"},
	}})
	used, usedAddr := n.bind(b, 2)
	toSandbox(t, veth.PeerName(used))
	must(t, n.sweep(n.book(), nil))
	n.expect(known, true, true)
	n.expect(used, true, true)
	if !n.assigned(knownAddr) || !n.assigned(usedAddr) {
		t.Error("addresses were released")
	}
}

func TestAnAddressOfALiveContainerIsKeptWithoutItsEndpoint(t *testing.T) {
	n := newNode(t)
	addr, err := n.book().Pick(t.Context(), false, netip.Prefix{}, "")
	must(t, err)
	n.engine.SetContainer(enginetest.Container{ID: "c1", Name: "a", State: "running", Endpoints: map[string]enginetest.Endpoint{
		"net1": {ID: "e", IPv4: addr.String() + "/32"},
	}})
	must(t, n.sweep(n.book(), nil))
	if !n.assigned(addr) {
		t.Error("the address was released")
	}
}

func TestOneLookIsNotEnough(t *testing.T) {
	n := newNode(t)
	id, addr := n.bind(n.book(), 1)
	must(t, n.sweep(n.book(), func() {
		n.engine.SetContainer(enginetest.Container{ID: "c1", Name: "a", State: "running", Endpoints: map[string]enginetest.Endpoint{
			"net1": {ID: id, IPv4: addr.String() + "/32"},
		}})
	}))
	n.expect(id, true, true)
}

func TestWithoutTheEngineNothingIsRemoved(t *testing.T) {
	n := newNode(t)
	id, _ := n.bind(n.book(), 1)
	n.engine.Down(t)
	if err := n.sweep(n.book(), nil); !errors.Is(err, dockerapi.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	n.expect(id, true, true)
	n.engine.Up(t)
	if err := n.sweep(n.book(), func() { n.engine.Down(t) }); !errors.Is(err, dockerapi.ErrUnavailable) {
		t.Errorf("error when it goes between the looks: %v", err)
	}
	n.expect(id, true, true)
	n.engine.Up(t)
}

func TestOtherNodesThingsAreNotTouched(t *testing.T) {
	n := newNode(t)
	other := ipam.New(n.store, "node01")
	addrs, err := other.AutoAssign(t.Context(), ipam.Request{IPv4: 1})
	must(t, err)
	tunnel, err := n.pool.AutoAssign(t.Context(), ipam.Request{IPv4: 1, Owner: ipam.Owner{
		Attrs: map[string]string{ipam.AttrType: "ipipTunnelAddress"},
	}})
	must(t, err)
	vm, err := n.pool.AutoAssign(t.Context(), ipam.Request{IPv4: 1, Owner: ipam.Owner{Handle: "vm7"}})
	must(t, err)
	key := endpoint.Key("node01", strings.Repeat("9", 64))
	_, err = n.store.Create(t.Context(), key, endpoint.New(key.Name, endpoint.DefaultMAC, addrs[0], netip.Addr{}))
	must(t, err)
	must(t, n.sweep(n.book(), nil))
	if !n.assigned(addrs[0]) || !n.assigned(tunnel[0]) || !n.assigned(vm[0]) {
		t.Error("addresses were released")
	}
	if _, err := n.store.Get(t.Context(), key); err != nil {
		t.Error(err)
	}
}

func TestRunSweepsWhenItIsKicked(t *testing.T) {
	n := newNode(t)
	id, _ := n.bind(n.book(), 1)
	s := New(n.book(), n.links, n.docker, time.Millisecond, time.Hour, n.log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.Kick()
	s.Kick()
	enginetest.Eventually(t, "the endpoint is removed", func() bool {
		endpoints, err := n.book().Endpoints(t.Context())
		return err == nil && endpoints[id] == nil
	})
	cancel()
	must(t, <-done)
}

// toSandbox puts an interface into a new namespace, as the engine does.
func toSandbox(t *testing.T, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	must(t, err)
	defer here.Close() //nolint:errcheck // nothing is buffered
	sandbox, err := netns.New()
	must(t, err)
	must(t, netns.Set(here))
	t.Cleanup(func() { _ = sandbox.Close() })
	must(t, netlink.LinkSetNsFd(link, int(sandbox)))
}
