package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// later is long after everything that tests do.
func later() time.Time { return time.Now().Add(time.Hour) }

func (w *world) check(seen Seen) []Problem {
	w.Helper()
	return Check(w.inventory(), seen, later())
}

func (w *world) inventory() *Inventory {
	w.Helper()
	i, err := w.node("").Inventory(w.ctx())
	if err != nil {
		w.Fatal(err)
	}
	return i
}

// mend mends until nothing can be mended any more, and returns what is left.
func (w *world) mend(seen Seen) []Problem {
	w.Helper()
	for range 5 {
		mended := false
		for _, p := range w.check(seen) {
			done, err := w.node("").Mend(w.ctx(), p, OnlyProven)
			if err != nil {
				w.Errorf("%s: %v", p.Text, err)
			}
			mended = mended || done
		}
		if !mended {
			break
		}
	}
	return w.check(seen)
}

// nodeResource makes nodes, each with a network of its engine's.
func (w *world) nodeResource(names ...string) {
	for _, name := range names {
		w.apply(model.NodeKey{Name: name}, &model.Node{IPv4: netip.MustParseAddr("192.0.2.1")})
		w.apply(model.DockerNetworkKey{Name: "net-" + name}, &model.DockerNetwork{IDs: map[string]string{name: "id-" + name}})
	}
}

func (w *world) endpoint(node, id string, addrs ...netip.Addr) {
	ep := &model.WorkloadEndpoint{State: "active", Interface: linkOf(id), Profiles: []string{}}
	for _, a := range addrs {
		ep.IPv4Nets = append(ep.IPv4Nets, netip.PrefixFrom(a, a.BitLen()))
	}
	w.apply(endpointKey(Problem{ID: ID{Node: node, Endpoint: id}}), ep)
}

// container gives an address to an endpoint, as Docker's calls do.
func (w *world) container(c *Client, id string) netip.Addr {
	w.Helper()
	got, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Owner: Owner{Handle: id, Attrs: map[string]string{AttrEndpoint: id}}})
	if err != nil {
		w.Fatal(err)
	}
	w.endpoint(c.node, id, got...)
	return got[0]
}

func (w *world) put(k model.Key, value string) {
	w.Helper()
	if _, err := w.store.Raw().Put(w.ctx(), model.Paths(k)[0], value); err != nil {
		w.Fatal(err)
	}
}

func (w *world) drop(k model.Key) {
	w.Helper()
	if _, err := w.store.Raw().Delete(w.ctx(), model.Paths(k)[0]); err != nil {
		w.Fatal(err)
	}
}

// emptyHost is a node whose engine has no container, and is known to have none.
func emptyHost(node string) Seen { return Seen{Engine: engineOf(node), Sure: true} }

// engineOf is a node's engine, as one of its networks shows.
func engineOf(node string) *Engine {
	return &Engine{Node: node, Networks: []string{"id-" + node}, Endpoints: map[string]Container{}, Addresses: map[netip.Addr]Container{}}
}

// run has a container in the engine.
func (e *Engine) run(name, endpoint string, addrs ...netip.Addr) {
	e.Endpoints[endpoint] = Container{name, true}
	for _, a := range addrs {
		e.Addresses[a] = Container{name, true}
	}
}

func kinds(problems []Problem) string {
	var out []string
	for _, p := range problems {
		out = append(out, p.Kind)
	}
	return strings.Join(out, " ")
}

func TestNothingIsWrongWithWhatIsInUse(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24", "fd80::/120")
	w.nodeResource("a", "b")
	a := w.node("a")
	e := engineOf("a")
	for i := range 5 {
		id := fmt.Sprint("e", i)
		e.run("web", id, w.container(a, id))
		w.container(w.node("b"), fmt.Sprint("f", i))
	}
	if err := a.Assign(w.ctx(), addrs("10.0.0.200")[0], Owner{Handle: "t", Attrs: map[string]string{AttrType: "ipipTunnelAddress"}}); err != nil {
		t.Fatal(err)
	}
	for _, seen := range []Seen{{}, {Engine: e}} {
		if got := w.check(seen); len(got) > 0 {
			t.Errorf("found %v", got)
		}
	}
}

// TestProblems makes each kind of problem, and has it mended as far as there is proof.
func TestProblems(t *testing.T) {
	block := model.BlockKey{CIDR: netip.MustParsePrefix("10.0.0.0/26")}
	affinity := model.BlockAffinityKey{Node: "a", CIDR: block.CIDR}
	change := func(f func(*model.Block)) func(*world) {
		return func(w *world) {
			b := cloneBlock(w.block(block.CIDR.String()))
			f(b)
			parts, err := model.Encode(block, b)
			if err != nil {
				w.Fatal(err)
			}
			w.put(block, string(parts[model.Paths(block)[0]]))
		}
	}
	tests := []struct {
		name  string
		spoil func(*world)
		seen  *Seen // nil: an engine that has the container
		found string
		left  string
	}{
		{"handle gone", func(w *world) { w.drop(model.HandleKey{ID: "e"}) }, nil, ProblemHandle, ""},
		{"handle counts too many", func(w *world) {
			w.put(model.HandleKey{ID: "e"}, `{"id":"e","block":{"10.0.0.0/26":3,"10.0.0.64/26":1}}`)
		}, nil, ProblemHandle, ""},
		{"handle of nothing", func(w *world) { w.put(model.HandleKey{ID: "x"}, `{"id":"x","block":{"10.0.0.64/26":1}}`) }, nil, ProblemHandle, ""},
		{"handle unreadable", func(w *world) { w.put(model.HandleKey{ID: "e"}, `nonsense`) }, nil, ProblemHandle, ""},
		{"affinity gone", func(w *world) { w.drop(affinity) }, nil, ProblemAffinity, ""},
		{"affinity pending", func(w *world) { w.put(affinity, `{"state":"pending"}`) }, nil, ProblemAffinity, ""},
		{"affinity without block", func(w *world) {
			w.put(model.BlockAffinityKey{Node: "a", CIDR: netip.MustParsePrefix("10.0.0.64/26")}, `{"state":"confirmed"}`)
		}, nil, ProblemAffinity, ""},
		{"affinity of another", func(w *world) { w.put(model.BlockAffinityKey{Node: "b", CIDR: block.CIDR}, `{}`) }, nil, ProblemAffinity, ""},
		{
			"lost address", change(func(b *model.Block) { b.Unallocated = b.Unallocated[3:] }), nil,
			ProblemLostAddress + " " + ProblemLostAddress + " " + ProblemLostAddress, "",
		},
		{"free twice", change(func(b *model.Block) { b.Unallocated[0] = b.Unallocated[1] }), nil, ProblemDamagedBlock, ""},
		{"dangling attributes", change(func(b *model.Block) { b.Allocations[9] = new(7) }), nil, ProblemDamagedBlock, ProblemLeakedAddress},
		{"not a block", func(w *world) { w.put(block, `nonsense`) }, nil, ProblemDamagedBlock, ProblemDamagedBlock},
		{"empty block of nobody", func(w *world) {
			k := model.BlockKey{CIDR: netip.MustParsePrefix("10.0.0.64/26")}
			b := newBlock(k.CIDR, "a", false)
			b.Affinity = nil
			w.apply(k, b)
		}, nil, ProblemAbandonedBlock, ""},
		{"node gone", func(w *world) { w.assign(w.node("gone"), 1, "g") }, nil, ProblemAbandonedBlock + " " + ProblemLeakedAddress, ""},
		{
			"pool gone", func(w *world) { w.drop(model.IPPoolKey{CIDR: netip.MustParsePrefix("10.0.0.0/24")}) }, nil,
			ProblemOutsidePools, ProblemOutsidePools,
		},
		{"endpoint outside pools", func(w *world) { w.endpoint("b", "x", addrs("10.9.0.7")...) }, nil, ProblemNotInPool, ProblemNotInPool},
		{"overlap", func(w *world) {
			k := model.BlockKey{CIDR: netip.MustParsePrefix("10.0.0.32/27")}
			w.apply(k, newBlock(k.CIDR, "a", false))
			w.apply(model.BlockAffinityKey{Node: "a", CIDR: k.CIDR}, &model.BlockAffinity{State: model.AffinityConfirmed})
		}, nil, ProblemOverlap, ProblemOverlap},
		{"leak, by a container's start", func(w *world) { w.assign(w.node("a"), 1, "") }, nil, ProblemLeakedAddress, ""},
		{"leak, by an endpoint", func(w *world) {
			w.container(w.node("a"), "x")
			w.drop(endpointKey(Problem{ID: ID{Node: "a", Endpoint: "x"}}))
		}, nil, ProblemLeakedAddress, ""},
		{"leak on another host", func(w *world) { w.assign(w.node("b"), 1, "") }, nil, ProblemLeakedAddress, ProblemLeakedAddress},
		{"leak of an unknown owner", func(w *world) {
			if err := w.node("a").Assign(w.ctx(), netip.MustParseAddr("10.0.0.9"), Owner{Attrs: map[string]string{AttrNode: ""}}); err != nil {
				w.Fatal(err)
			}
		}, nil, ProblemLeakedAddress, ProblemLeakedAddress},
		{"unassigned", func(w *world) { w.endpoint("b", "x", addrs("10.0.0.77")...) }, nil, ProblemUnassigned, ""},
		{"unassigned, in a pool that gives out none any more", func(w *world) {
			w.endpoint("b", "x", addrs("10.0.0.77")...)
			w.pool("10.0.0.0/24", func(p *model.IPPool) { p.Disabled = true })
		}, nil, ProblemUnassigned, ""},
		{"wrong owner", func(w *world) {
			if err := w.node("b").Assign(w.ctx(), netip.MustParseAddr("10.0.0.77"), Owner{Handle: "old", Attrs: map[string]string{AttrEndpoint: "old"}}); err != nil {
				w.Fatal(err)
			}
			w.endpoint("b", "x", addrs("10.0.0.77")...)
		}, nil, ProblemWrongOwner, ""},
		{"two endpoints", func(w *world) { w.endpoint("b", "x", w.containerAddr()) }, nil, ProblemDuplicate, ProblemDuplicate},
		{"dead endpoint", func(*world) {}, new(emptyHost("a")), ProblemDeadEndpoint, ""},
		{"endpoint of a host that was not asked", func(*world) {}, new(emptyHost("b")), "", ""},
		{
			"container without endpoint", func(w *world) { w.drop(endpointKey(Problem{ID: ID{Node: "a", Endpoint: "e"}})) }, nil,
			ProblemLooseContainer, ProblemLooseContainer,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "10.0.0.0/24")
			w.nodeResource("a", "b")
			c := w.node("a")
			addr := addrs("10.0.0.5")[0]
			if err := c.Assign(w.ctx(), addr, Owner{Handle: "e", Attrs: map[string]string{AttrEndpoint: "e"}}); err != nil {
				t.Fatal(err)
			}
			w.endpoint("a", "e", addr)
			tt.spoil(w)
			seen := tt.seen
			if seen == nil {
				seen = &Seen{Engine: engineOf("a")}
				seen.Engine.run("web", "e", addr)
			}
			before := w.check(*seen)
			if got := kinds(before); got != tt.found {
				t.Fatalf("found %v\nwant %s", before, tt.found)
			}
			for _, p := range before {
				if p.Text == "" || p.Proven() != (p.Remedy != "") || (p.Remedy == "") == (p.Advice == "") && p.Kind != ProblemNotInPool && p.Kind != ProblemLooseContainer {
					t.Errorf("problem %+v", p)
				}
			}
			left := w.mend(*seen)
			if got := strings.Join(slices.Compact(strings.Fields(kinds(left))), " "); got != tt.left && !strings.HasSuffix(got, tt.left) {
				t.Errorf("left is %v\nwant %s", left, tt.left)
			}
			if tt.seen == nil && tt.name != "not a block" { // the container's address is never touched
				if o, err := c.Lookup(w.ctx(), addr); err != nil || o.Handle != "e" {
					t.Errorf("the container's address: %v, %v", o, err)
				}
			}
			if tt.left == "" {
				w.consistent()
			}
		})
	}
}

func (w *world) containerAddr() netip.Addr { return netip.MustParseAddr("10.0.0.5") }

func TestAnAddressThatWasGivenToAnotherIsNotReleased(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.nodeResource("a")
	c := w.node("a")
	leaked := w.assign(c, 1, "")
	found := w.check(emptyHost("a"))
	w.release(c, leaked...)
	if err := c.Assign(w.ctx(), leaked[0], Owner{Handle: "new"}); err != nil {
		t.Fatal(err)
	}
	if done, err := c.Mend(w.ctx(), found[0], OnlyProven); done || err != nil {
		t.Errorf("mended: %v, %v", done, err)
	}
	if o, err := c.Lookup(w.ctx(), leaked[0]); err != nil || o.Handle != "new" {
		t.Errorf("%v, %v", o, err)
	}
}

func TestAnEndpointThatChangedIsNotRemoved(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.nodeResource("a")
	c := w.node("a")
	a := w.container(c, "e")
	found := w.check(emptyHost("a"))
	w.endpoint("a", "e", a, addrs("10.0.0.99")[0])
	if done, err := c.Mend(w.ctx(), found[0], OnlyProven); done || err != nil {
		t.Errorf("mended: %v, %v", done, err)
	}
}

func TestANodeThatCameBackKeepsItsBlocks(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	c := w.node("a")
	w.release(c, w.assign(c, 1, "")...)
	found := w.check(Seen{})
	w.nodeResource("a")
	if done, err := c.Mend(w.ctx(), found[0], OnlyProven); done || err != nil || len(found) != 1 {
		t.Errorf("mended %v: %v, %v", found, done, err)
	}
	if len(w.affinities()) != 1 {
		t.Error("its block is gone")
	}
}

func TestAnAddressOfAContainerThatStartsIsNoLeak(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.nodeResource("a")
	w.assign(w.node("a"), 1, "")
	if got := Check(w.inventory(), emptyHost("a"), time.Now()); len(got) > 0 {
		t.Errorf("found %v", got)
	}
}

// TestACrashAtAnyWriteIsMended ends programs between any two transactions, before or
// after one was done; what check finds of it is mended, and then all is as if nothing
// had been.
func TestACrashAtAnyWriteIsMended(t *testing.T) {
	crash := fmt.Errorf("%w: crash", etcdstore.ErrUnavailable)
	for _, late := range []bool{false, true} {
		for at := int64(1); at <= 9; at++ {
			w := newWorld(t, "10.0.0.0/24")
			w.nodeResource("a")
			failing := &countingStore{store: etcd{w.store}, late: late, fail: func(n int64) error {
				if n >= at {
					return crash
				}
				return nil
			}}
			c := newClient(failing, "a")
			c.queue.patience = 0 // the program is dead
			dockerScript(w, c)
			if left := w.mend(emptyHost("a")); len(left) > 0 {
				t.Errorf("crash at write %d: left is %v", at, left)
			}
			if owners := w.consistent(); len(owners) > 0 {
				t.Errorf("crash at write %d: in use are %v", at, owners)
			}
		}
	}
}

// dockerScript does what the plugin does, and does not mind errors.
func dockerScript(w *world, c *Client) {
	for i := range 3 {
		got, _ := c.AutoAssign(w.ctx(), Request{IPv4: 1})
		if len(got) == 0 {
			continue
		}
		id := fmt.Sprint("e", i)
		key := endpointKey(Problem{ID: ID{Node: "a", Endpoint: id}})
		write, err := etcdstore.PutWrite(key, &model.WorkloadEndpoint{
			State: "active", Interface: "cali" + id, IPv4Nets: []netip.Prefix{netip.PrefixFrom(got[0], 32)},
		})
		if err != nil {
			w.Fatal(err)
		}
		_, _ = c.SetOwner(w.ctx(), got, Owner{Handle: id, Attrs: map[string]string{AttrEndpoint: id}}, write)
		if i == 1 {
			remove, _ := etcdstore.DeleteWrite(key, 0)
			_, _ = c.ReleaseOf(w.ctx(), id, remove)
		}
	}
	_, _ = c.ReleaseSpareBlocks(w.ctx(), 0)
}

// TestAnyLossIsMended deletes any keys of a store in use, as if each had been written
// by itself and the program had ended in between. No container loses its address.
func TestAnyLossIsMended(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, "10.0.0.0/24")
		w.nodeResource("a", "b")
		live := map[netip.Addr]string{}
		engine := engineOf("a")
		for i := range 90 {
			id := fmt.Sprint("e", i)
			node := []string{"a", "b"}[r.IntN(2)]
			a := w.container(w.node(node), id)
			if node == "b" || r.IntN(4) > 0 {
				live[a] = id
			}
			if node == "a" && live[a] != "" {
				engine.run("c"+id, id, a)
			}
		}
		got, err := w.store.Raw().Get(w.ctx(), model.PrefixIPAM, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range got.Kvs {
			if r.IntN(3) == 0 {
				if _, err := w.store.Raw().Delete(w.ctx(), string(kv.Key)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if left := w.mend(Seen{Engine: engine}); len(left) > 0 {
			t.Errorf("seed %d: left is %v", seed, left)
		}
		owners := w.consistent()
		for a, id := range live {
			if owners[a].Handle != id {
				t.Errorf("seed %d: %s of %s is in use by %v", seed, a, id, owners[a])
			}
		}
		if len(owners) != len(live) {
			t.Errorf("seed %d: %d addresses in use, by %d endpoints", seed, len(owners), len(live))
		}
	}
}

func TestMendingWithoutTheStore(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.nodeResource("a")
	w.assign(w.node("a"), 1, "")
	found := w.check(emptyHost("a"))
	lost := errors.New("lost")
	c := newClient(&countingStore{store: etcd{w.store}, fail: func(int64) error { return lost }}, "")
	if done, err := c.Mend(w.ctx(), found[0], OnlyProven); done || !errors.Is(err, lost) {
		t.Errorf("got %v, %v", done, err)
	}
}
