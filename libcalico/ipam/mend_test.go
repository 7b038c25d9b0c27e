package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

func (w *world) lock(locked bool) {
	w.Helper()
	r := model.Ready(!locked)
	w.apply(model.ReadyKey{}, &r)
}

// contents is everything in the store but the lock.
func (w *world) contents() map[string]string {
	w.Helper()
	got, err := w.store.Raw().Get(w.ctx(), "/calico/", clientv3.WithPrefix())
	if err != nil {
		w.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range got.Kvs {
		out[string(kv.Key)] = string(kv.Value)
	}
	delete(out, model.Paths(model.ReadyKey{})[0])
	return out
}

// mendable is a store with a problem of each kind that can be mended, and what shows them.
func mendable(t *testing.T) (*world, Seen) {
	t.Helper()
	w := newWorld(t, "10.0.0.0/16")
	w.nodeResource("a", "b")
	a := w.node("a")
	seen := Seen{Engine: engineOf("a")}
	seen.Engine.run("web", "live", w.container(a, "live"))
	seen.Engine.run("loose", "x", addrs("10.0.6.6")[0])
	w.container(a, "dead")
	w.assign(a, 1, "") // leaked
	w.put(model.HandleKey{ID: "live"}, `{"id":"live","block":{"10.0.0.0/26":3}}`)
	w.put(model.BlockAffinityKey{Node: "a", CIDR: netip.MustParsePrefix("10.0.7.0/26")}, `{}`)
	w.endpoint("b", "unassigned", addrs("10.0.1.1")...)
	if err := w.node("b").Assign(w.ctx(), addrs("10.0.1.2")[0], Owner{Handle: "old", Attrs: map[string]string{AttrEndpoint: "old"}}); err != nil {
		t.Fatal(err)
	}
	w.endpoint("b", "robbed", addrs("10.0.1.2")...)
	spoil := func(cidr string, change func(*model.Block)) {
		k := model.BlockKey{CIDR: netip.MustParsePrefix(cidr)}
		b := newBlock(k.CIDR, "a", false)
		change(b)
		parts, err := model.Encode(k, b)
		if err != nil {
			t.Fatal(err)
		}
		w.put(k, string(parts[model.Paths(k)[0]]))
		if b.Affinity != nil {
			w.apply(model.BlockAffinityKey{Node: nodeOf(b), CIDR: k.CIDR}, &model.BlockAffinity{State: model.AffinityConfirmed})
		}
	}
	spoil("10.0.2.0/26", func(b *model.Block) { b.Unallocated[0] = b.Unallocated[1] })
	spoil("10.0.3.0/26", func(b *model.Block) { b.Unallocated = b.Unallocated[1:] })
	spoil("10.0.4.0/26", func(b *model.Block) { b.Affinity = nil })
	spoil("10.0.5.0/26", func(b *model.Block) { b.Affinity = new(affinityPrefix + "gone") })
	spoil("10.9.0.0/26", func(*model.Block) {})
	return w, seen
}

// mendableKinds are the kinds that mendable has.
var mendableKinds = []string{
	ProblemDamagedBlock, ProblemLostAddress, ProblemOutsidePools, ProblemAbandonedBlock, ProblemAffinity, ProblemHandle,
	ProblemLeakedAddress, ProblemUnassigned, ProblemWrongOwner, ProblemDeadEndpoint, ProblemLooseContainer,
}

// TestALockStopsMending sets the lock after the problems were found, and again just before
// the first write of each remedy: nothing is written, and the caller hears why.
func TestALockStopsMending(t *testing.T) {
	w, seen := mendable(t)
	found := w.check(seen)
	missing := slices.Clone(mendableKinds)
	for _, p := range found {
		missing = slices.DeleteFunc(missing, func(kind string) bool { return kind == p.Kind && p.Proven() })
	}
	if len(missing) > 0 {
		t.Fatalf("there is no %v in %v", missing, found)
	}
	before := w.contents()
	for _, p := range found {
		if !p.Proven() {
			continue
		}
		late := newClient(&countingStore{store: etcd{w.store}, fail: func(int64) error { w.lock(true); return nil }}, "")
		for when, c := range map[string]*Client{"before": w.node(""), "between look and write": late} {
			w.lock(when == "before")
			done, err := c.Mend(w.ctx(), p, Forced)
			if done || !errors.Is(err, etcdstore.ErrLocked) {
				t.Errorf("%s, locked %s: mended %t, %v", p.Kind, when, done, err)
			}
			if !maps.Equal(w.contents(), before) {
				t.Fatalf("%s, locked %s: something was written", p.Kind, when)
			}
		}
	}
	w.lock(false)
	if left := w.mend(seen); len(left) > 1 || len(left) == 1 && left[0].Kind != ProblemLooseContainer {
		t.Errorf("left is %v", left)
	}
	w.consistent()
}

// TestALockThatCameAndWentDoesNotStopMending: only its revision is another.
func TestALockThatCameAndWentDoesNotStopMending(t *testing.T) {
	w, seen := mendable(t)
	for _, p := range w.check(seen) {
		if !p.Proven() || p.Kind == ProblemLooseContainer {
			continue
		}
		once := true
		c := newClient(&countingStore{store: etcd{w.store}, fail: func(int64) error {
			if once {
				once = false
				w.lock(true)
				w.lock(false)
			}
			return nil
		}}, "")
		if _, err := c.Mend(w.ctx(), p, OnlyProven); err != nil {
			t.Errorf("%s: %v", p.Kind, err)
		}
	}
}

// TestAHandleThatCameToMoreKeepsIt: between the look and the remedy the endpoint got an
// address in another block, as from a second network.
func TestAHandleThatCameToMoreKeepsIt(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"wrong": func(w *world) { w.put(model.HandleKey{ID: "e"}, `{"id":"e","block":{"10.0.0.0/26":7}}`) },
		"gone":  func(w *world) { w.drop(model.HandleKey{ID: "e"}) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "10.0.0.0/24", "fd80::/120")
			w.nodeResource("a")
			w.container(w.node("a"), "e")
			spoil(w)
			found := w.check(Seen{})
			if kinds(found) != ProblemHandle {
				t.Fatalf("found %v", found)
			}
			owner := Owner{Handle: "e", Attrs: map[string]string{AttrEndpoint: "e"}}
			if _, err := w.node("a").AutoAssign(w.ctx(), Request{IPv6: 1, Owner: owner}); err != nil {
				t.Fatal(err)
			}
			if done, err := w.node("").Mend(w.ctx(), found[0], OnlyProven); !done || err != nil {
				t.Errorf("mended: %t, %v", done, err)
			}
			w.consistent()
			if err := w.node("a").ReleaseByHandle(w.ctx(), "e"); err != nil {
				t.Error(err)
			}
			if left := w.consistent(); len(left) > 0 {
				t.Errorf("after the release of the handle there are %v", left)
			}
		})
	}
}

// TestWhoeverLeavesAMendingReadsNothingOfIt is for the race detector: the batch goes on.
func TestWhoeverLeavesAMendingReadsNothingOfIt(t *testing.T) {
	w, seen := mendable(t)
	for _, p := range w.check(seen) {
		s := &countingStore{store: etcd{w.store}, hold: make(chan struct{}), holding: make(chan struct{})}
		ctx, cancel := context.WithCancel(w.ctx())
		go func() {
			select {
			case <-s.holding:
				cancel()
				close(s.hold)
			case <-ctx.Done():
			}
		}()
		if done, err := newClient(s, "").Mend(ctx, p, OnlyProven); p.Proven() && p.Kind != ProblemDamagedBlock && p.Kind != ProblemLostAddress &&
			p.Kind != ProblemLooseContainer && p.Kind != ProblemUnassigned && (done || err == nil) {
			t.Errorf("%s: mended %t, %v", p.Kind, done, err)
		}
		cancel()
	}
}

// TestAnInventoryThatIsLeftIsNone: half of what there is would prove that the other half is
// of no use.
func TestAnInventoryThatIsLeftIsNone(t *testing.T) {
	w := newWorld(t, "10.0.0.0/20")
	a := w.node("a")
	for range 10 {
		w.assign(a, 60, "h")
	}
	for i := range 2*firstPage + 10 {
		w.endpoint("a", fmt.Sprintf("%064d", i))
	}
	for _, at := range []int{1, firstPage, firstPage + 1, 2*firstPage + 1} {
		ctx, cancel := context.WithCancel(w.ctx())
		n := 0
		_, _, err := a.backend.each(ctx, inventoryPrefixes(), func(*mvccpb.KeyValue) {
			if n++; n == at {
				cancel()
			}
		})
		if err == nil {
			t.Errorf("left at value %d, and %d were read", at, n)
		}
		cancel()
	}
}

func TestReleaseUnused(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24", "fd80::/120")
	w.nodeResource("a")
	c := w.node("a")
	owner := Owner{Handle: "e", Attrs: map[string]string{AttrEndpoint: "e", AttrContainer: "web", AttrNetwork: "net1"}}
	got, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, IPv6: 1, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	ep := &model.WorkloadEndpoint{
		State: "active", Interface: "calie", IPv4Nets: []netip.Prefix{netip.PrefixFrom(got[0], 32)}, IPv6Nets: []netip.Prefix{netip.PrefixFrom(got[1], 128)},
	}
	w.apply(endpointKey(Problem{ID: ID{Node: "a", Endpoint: "e"}}), ep)
	other := w.assign(c, 1, "")[0] // an endpoint has it, and its block does not say so
	w.endpoint("b", "f", other)
	for _, a := range got {
		err := c.ReleaseUnused(w.ctx(), a, OnlyProven)
		if held, ok := errors.AsType[*HeldError](err); !ok || held.Endpoint.Name != "e" || !errors.Is(err, ErrInUse) {
			t.Errorf("%s: %v", a, err)
		}
		for _, word := range []string{a.String(), "endpoint e", "node a", "container web", "network net1"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%v: lacks %q", err, word)
			}
		}
	}
	if err := c.ReleaseUnused(w.ctx(), other, OnlyProven); !errors.Is(err, ErrInUse) || strings.Contains(err.Error(), "container") {
		t.Errorf("%s: %v", other, err)
	}
	w.lock(true)
	if err := c.ReleaseUnused(w.ctx(), other, Forced); !errors.Is(err, etcdstore.ErrLocked) {
		t.Errorf("locked: %v", err)
	}
	w.lock(false)
	for _, a := range append(got, other) {
		if err := c.ReleaseUnused(w.ctx(), a, Forced); err != nil {
			t.Errorf("forced: %v", err)
		}
		if err := c.ReleaseUnused(w.ctx(), a, Forced); !errors.Is(err, ErrNotAssigned) {
			t.Errorf("twice: %v", err)
		}
	}
	unused := w.assign(c, 1, "")[0]
	if err := c.ReleaseUnused(w.ctx(), unused, OnlyProven); err != nil {
		t.Error(err)
	}
	w.consistent()
}

// TestAnAddressThatCameToAnEndpointIsNotReleased: it got one after it was looked at.
func TestAnAddressThatCameToAnEndpointIsNotReleased(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	w.nodeResource("a")
	a := w.assign(w.node("a"), 1, "")[0]
	once := true
	c := newClient(&countingStore{store: etcd{w.store}, fail: func(int64) error {
		if once {
			once = false
			w.endpoint("a", "e", a)
			if _, err := w.node("a").SetOwner(w.ctx(), []netip.Addr{a}, Owner{Handle: "e", Attrs: map[string]string{AttrEndpoint: "e"}}); err != nil {
				t.Error(err)
			}
		}
		return nil
	}}, "")
	if err := c.ReleaseUnused(w.ctx(), a, OnlyProven); !errors.Is(err, ErrBusy) {
		t.Errorf("error %v", err)
	}
	if o, err := c.Lookup(w.ctx(), a); err != nil || o.Handle != "e" {
		t.Errorf("%v, %v", o, err)
	}
}
