package sweep

import (
	"bytes"
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
	"calico.internal/libcalico/liveness"
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
	dir    string
}

func newNode(t *testing.T) *node {
	t.Helper()
	nettest.NeedPrivate(t)
	n := &node{t: t, dir: t.TempDir(), engine: enginetest.Start(t, enginetest.Docker20), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
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

// book is what a process keeps; a new one remembers nothing but what is in its folder.
func (n *node) book() *address.Book { return n.bookOf(n.links) }

func (n *node) bookOf(links address.Links) *address.Book {
	borrowed := address.OpenBorrowed(n.dir, n.log)
	pool := ipam.New(n.store, "node00", ipam.Borrowing(borrowed.Note))
	return address.New(pool, borrowed, n.store, links, "node00", n.log)
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

// TestAfterAPowerCut has an engine that still tells of the endpoint of a container that ended by
// a power cut, and so has no pair.
func TestAfterAPowerCut(t *testing.T) {
	n := newNode(t)
	id, addr := n.bind(n.book(), 1)
	must(t, n.links.RemoveIdle(veth.HostName(id)))
	n.engine.SetContainer(enginetest.Container{ID: "c1", Name: "a", State: "exited", PowerCut: true, Endpoints: map[string]enginetest.Endpoint{
		"net1": {ID: id, IPv4: addr.String() + "/32"},
	}})
	must(t, n.sweep(n.book(), nil))
	n.expect(id, false, false)
	if n.assigned(addr) {
		t.Error("its address is not free")
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

// TestNothingIsRemovedWhileAnotherHostHasTheName has two hosts of one name, of which each knows
// its own containers only.
func TestNothingIsRemovedWhileAnotherHostHasTheName(t *testing.T) {
	n := newNode(t)
	me, other := model.Identity{ID: "1", Boot: "a"}, model.Identity{ID: "2", Boot: "b"}
	key, node := model.LivenessKey{Node: "node00", Program: "felix"}, model.NodeKey{Name: "node00"}
	set := func(k model.Key, r model.Resource) {
		t.Helper()
		_, _, err := n.store.Apply(t.Context(), k, r)
		must(t, err)
	}
	id, addr := n.bind(n.book(), 1)
	refusedOn := func(me model.Identity, what string) {
		t.Helper()
		b := n.book().On(me)
		err := n.sweep(b, nil)
		if taken, is := errors.AsType[*liveness.TakenError](err); !is || taken.Host != other {
			t.Errorf("%s: a sweep ends with %v", what, err)
		}
		if err := b.Take(t.Context(), addr, "c"); err == nil {
			t.Errorf("%s: the address is taken from the endpoint", what)
		}
		if _, err := b.ReleaseSpares(t.Context(), 0); err == nil {
			t.Errorf("%s: blocks are given back", what)
		}
		n.expect(id, true, true)
		if !n.assigned(addr) {
			t.Errorf("%s: the address is free", what)
		}
	}
	refused := func(what string) {
		t.Helper()
		refusedOn(me, what)
		refusedOn(model.Identity{Boot: "a"}, what+", and no id") // it could not be read
	}
	set(node, &model.Node{Host: other})
	refused("a node of the other's")
	set(node, &model.Node{Host: me})
	set(key, &model.Liveness{Version: "v1", Host: other})
	refused("a program of the other's")

	// It comes between the two looks.
	_, err := n.store.Delete(t.Context(), key, 0)
	must(t, err)
	err = n.sweep(n.book().On(me), func() { set(key, &model.Liveness{Version: "v1", Host: other}) })
	if err == nil {
		t.Error("a host that comes between the two looks is not noticed")
	}
	n.expect(id, true, true)
	set(key, &model.Liveness{Version: "v1", Host: me})
	must(t, n.sweep(n.book().On(me), nil))
	n.expect(id, false, false)
}

// removing are the links of a host, with something that happens when one is removed.
type removing struct {
	address.Links
	do func()
}

func (r removing) Remove(id string) (bool, error) {
	r.do()
	return r.Links.Remove(id)
}

// TestAHostThatComesWhileSomethingIsRemoved has one that takes the name when it was already
// looked whether one has it.
func TestAHostThatComesWhileSomethingIsRemoved(t *testing.T) {
	n := newNode(t)
	me, other := model.Identity{ID: "1", Boot: "a"}, model.Identity{ID: "2", Boot: "b"}
	id, addr := n.bind(n.book(), 1)
	for what, set := range map[string]func() error{
		"its program": func() error {
			_, _, err := n.store.Apply(t.Context(), model.LivenessKey{Node: "node00", Program: "felix"}, &model.Liveness{Version: "v1", Host: other})
			return err
		},
		"its node": func() error {
			_, _, err := n.store.Apply(t.Context(), model.NodeKey{Name: "node00"}, &model.Node{Host: other})
			return err
		},
	} {
		_, _, err := n.store.Apply(t.Context(), model.LivenessKey{Node: "node00", Program: "felix"}, &model.Liveness{Version: "v1", Host: me})
		must(t, err)
		_, _, err = n.store.Apply(t.Context(), model.NodeKey{Name: "node00"}, &model.Node{Host: me})
		must(t, err)
		comes := removing{n.links, func() { must(t, set()) }}
		if err := n.bookOf(comes).On(me).Bury(t.Context(), id); !errors.Is(err, etcdstore.ErrConflict) {
			t.Errorf("%s: error %v", what, err)
		}
		if !n.assigned(addr) {
			t.Errorf("%s: the address is free", what)
		}
		_, err = n.store.Get(t.Context(), endpoint.Key("node00", id))
		must(t, err)
	}
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

// borrow has another node own a block, and a process of this one take addresses of it.
func (n *node) borrow(b *address.Book, addresses int) (out []netip.Addr) {
	n.t.Helper()
	other := ipam.New(n.store, "node01")
	got, err := other.AutoAssign(n.t.Context(), ipam.Request{IPv4: 1})
	must(n.t, err)
	block := netip.PrefixFrom(got[0], 26).Masked()
	for range addresses {
		a, err := b.Pick(n.t.Context(), false, block, "")
		must(n.t, err)
		out = append(out, a)
	}
	if own, _, err := n.pool.Holdings(n.t.Context(), "node00"); err != nil || len(own) > 0 {
		n.t.Fatalf("the node has addresses of its own: %v, %v", own, err)
	}
	return out
}

// Borrowed addresses that came to no endpoint are given back as those of own blocks are, also
// by a process that knows of them by its folder only; those in use are not, nor those of
// others.
func TestBorrowedAddressesAreGivenBack(t *testing.T) {
	n := newNode(t)
	before := n.book()
	addrs := n.borrow(before, 4)
	lost, used, live, vm := addrs[0], addrs[1], addrs[2], addrs[3]
	id := strings.Repeat("e", 64)
	ep := endpoint.New(id, endpoint.DefaultMAC, used, netip.Addr{})
	put, err := etcdstore.PutWrite(endpoint.Key("node00", id), ep)
	must(t, err)
	_, err = before.Bind(t.Context(), endpoint.Key("node00", id), ep, put)
	must(t, err)
	_, err = n.links.Ensure(veth.Pair{Endpoint: id})
	must(t, err)
	toSandbox(t, veth.PeerName(id))
	n.engine.SetContainer(enginetest.Container{ID: "c1", Name: "a", State: "running", Endpoints: map[string]enginetest.Endpoint{
		"net1": {ID: "e", IPv4: live.String() + "/32"},
	}})
	_, err = n.pool.SetOwner(t.Context(), []netip.Addr{vm}, ipam.Owner{Handle: "vm7"})
	must(t, err)

	must(t, n.sweep(before, nil)) // Docker may still be at work on it
	if !n.assigned(lost) {
		t.Error("an address was released that Docker had just asked for")
	}
	must(t, n.sweep(n.book(), nil))
	if n.assigned(lost) {
		t.Error("a borrowed address is left")
	}
	if !n.assigned(used) || !n.assigned(live) || !n.assigned(vm) {
		t.Error("addresses in use were released")
	}
	again, err := n.book().Holdings(t.Context())
	if _, there := again[used]; err != nil || !there {
		t.Errorf("a new process does not know what is borrowed: %v, %v", again, err)
	}
}

// One look is not enough to give a borrowed address back either.
func TestABorrowedAddressThatCameToUseIsKept(t *testing.T) {
	n := newNode(t)
	addr := n.borrow(n.book(), 1)[0]
	must(t, n.sweep(n.book(), func() {
		n.engine.SetContainer(enginetest.Container{ID: "c1", Name: "a", State: "running", Endpoints: map[string]enginetest.Endpoint{
			"net1": {ID: "e", IPv4: addr.String() + "/32"},
		}})
	}))
	if !n.assigned(addr) {
		t.Error("the address was released")
	}
}

// damage makes the value of the block of an address one that contradicts itself, and returns
// what mends it.
func (n *node) damage(a netip.Addr) (mend func()) {
	n.t.Helper()
	path := model.Paths(model.BlockKey{CIDR: netip.PrefixFrom(a, 26).Masked()})[0]
	was, err := n.store.Raw().Get(n.t.Context(), path)
	must(n.t, err)
	if len(was.Kvs) != 1 {
		n.t.Fatalf("no block at %s", path)
	}
	put := func(value string) {
		_, err := n.store.Raw().Put(n.t.Context(), path, value)
		must(n.t, err)
	}
	put("[not a block")
	return func() { put(string(was.Kvs[0].Value)) }
}

// While one of the node's blocks is damaged, all that is not in it is swept, and the block is
// named once; what is in it comes when it is mended.
func TestADamagedBlockKeepsNothingElse(t *testing.T) {
	n := newNode(t)
	var logged bytes.Buffer
	n.log = slog.New(slog.NewTextHandler(&logged, nil))
	before := n.book()
	lost, err := before.Pick(t.Context(), false, netip.Prefix{}, "")
	must(t, err)
	within := netip.PrefixFrom(lost, 26).Masked()
	there := within.Addr().As4()
	there[3] ^= 64
	beside := netip.AddrFrom4(there) // in the block beside it
	must(t, before.Take(t.Context(), beside, ""))
	mend := n.damage(lost)
	after := n.book()
	for range 2 {
		must(t, n.sweep(after, nil))
	}
	if n.assigned(beside) {
		t.Error("an address of another block is left")
	}
	if got := strings.Count(logged.String(), within.String()); got != 1 {
		t.Errorf("the block is named %d times:\n%s", got, logged.String())
	}
	mend()
	must(t, n.sweep(after, nil))
	if n.assigned(lost) {
		t.Error("the address is left when its block is mended")
	}
}

// An address of an endpoint that was swept is given back by who takes it next.
func TestAnAddressThatWasSweptIsReleasedByItsNextHolder(t *testing.T) {
	n := newNode(t)
	id, addr := n.bind(n.book(), 1)
	b := n.book()
	must(t, n.sweep(b, nil))
	n.expect(id, false, false)
	must(t, b.Take(t.Context(), addr, "")) // of a start that fails before its endpoint
	must(t, b.Release(t.Context(), addr))
	if n.assigned(addr) {
		t.Error("Docker has released the address, and it is in use")
	}
	id, addr = n.bind(n.book(), 2)
	b = n.book()
	must(t, b.Take(t.Context(), addr, "")) // takes it from an endpoint that no container has
	n.expect(id, false, false)
	must(t, b.Release(t.Context(), addr))
	if n.assigned(addr) {
		t.Error("Docker has released the address that was taken from an endpoint, and it is in use")
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

var errStubborn = errors.New("it does not go")

// stubborn is a kernel that removes nothing.
type stubborn struct{ *veth.Links }

func (stubborn) RemoveIdle(string) error { return errStubborn }

// TestARemovalThatFailsIsAnError: whoever sweeps tries again then, and not in an hour.
func TestARemovalThatFailsIsAnError(t *testing.T) {
	n := newNode(t)
	_, err := n.links.Ensure(veth.Pair{Endpoint: strings.Repeat("a", 64)})
	must(t, err)
	s := New(n.book(), stubborn{n.links}, n.docker, time.Millisecond, time.Hour, n.log)
	if err := s.Sweep(t.Context()); !errors.Is(err, errStubborn) {
		t.Errorf("got %v, want %v", err, errStubborn)
	}
}
