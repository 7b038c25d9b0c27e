package ipam

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// world is an empty store with a few helpers.
type world struct {
	testing.TB
	store *etcdstore.Client
}

// newWorld has the given pools.
func newWorld(tb testing.TB, pools ...string) *world {
	tb.Helper()
	s := etcdtest.Shared(tb)
	w := &world{TB: tb, store: openStore(tb, s)}
	for _, p := range pools {
		w.pool(p, nil)
	}
	return w
}

func openStore(tb testing.TB, s *etcdtest.Server) *etcdstore.Client {
	tb.Helper()
	c, err := etcdstore.New(etcdstore.Config{Endpoints: s.Endpoints()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	w.Cleanup(cancel)
	return ctx
}

func (w *world) node(name string) *Client { return New(w.store, name) }

func (w *world) pool(cidr string, change func(*model.IPPool)) {
	w.Helper()
	p := &model.IPPool{CIDR: netip.MustParsePrefix(cidr), IPAM: true}
	if change != nil {
		change(p)
	}
	w.apply(model.IPPoolKey{CIDR: p.CIDR}, p)
}

func (w *world) config(c model.IPAMConfig) {
	w.Helper()
	w.apply(model.IPAMConfigKey{}, &c)
}

func (w *world) apply(k model.Key, r model.Resource) {
	w.Helper()
	if _, _, err := w.store.Apply(w.ctx(), k, r); err != nil {
		w.Fatal(err)
	}
}

func (w *world) assign(c *Client, n int, handle string) []netip.Addr {
	w.Helper()
	addrs, err := c.AutoAssign(w.ctx(), Request{IPv4: n, Owner: Owner{Handle: handle}})
	if err != nil {
		w.Fatal(err)
	}
	if len(addrs) != n {
		w.Fatalf("asked for %d addresses, got %v", n, addrs)
	}
	return addrs
}

func (w *world) release(c *Client, addrs ...netip.Addr) {
	w.Helper()
	missing, err := c.Release(w.ctx(), addrs...)
	if err != nil || len(missing) > 0 {
		w.Fatalf("release %v: not assigned %v, %v", addrs, missing, err)
	}
}

func (w *world) blocks() []*model.Block {
	w.Helper()
	entries, _, bad, err := w.store.List(w.ctx(), model.KindBlock, nil)
	if err != nil || len(bad) > 0 {
		w.Fatalf("list blocks: %v, unusable: %v", err, bad)
	}
	var out []*model.Block
	for _, e := range entries {
		out = append(out, e.Value.(*model.Block))
	}
	return out
}

func (w *world) block(cidr string) *model.Block {
	w.Helper()
	for _, b := range w.blocks() {
		if b.CIDR == netip.MustParsePrefix(cidr) {
			return b
		}
	}
	return nil
}

// emptyBlock stores an empty block of a node.
func (w *world) emptyBlock(cidr netip.Prefix) {
	w.Helper()
	w.apply(model.BlockKey{CIDR: cidr}, newBlock(cidr, "other", false))
}

func (w *world) affinities() []model.BlockAffinityKey {
	w.Helper()
	entries, _, _, err := w.store.List(w.ctx(), model.KindBlockAffinity, nil)
	if err != nil {
		w.Fatal(err)
	}
	var out []model.BlockAffinityKey
	for _, e := range entries {
		out = append(out, e.Key.(model.BlockAffinityKey))
	}
	return out
}

func (w *world) handles() map[string]map[string]int {
	w.Helper()
	entries, _, bad, err := w.store.List(w.ctx(), model.KindHandle, nil)
	if err != nil || len(bad) > 0 {
		w.Fatalf("list handles: %v, unusable: %v", err, bad)
	}
	out := map[string]map[string]int{}
	for _, e := range entries {
		out[e.Key.(model.HandleKey).ID] = e.Value.(*model.Handle).Block
	}
	return out
}

// inUse lists the addresses that somebody has.
func (w *world) inUse() map[netip.Addr]Owner {
	w.Helper()
	owners := map[netip.Addr]Owner{}
	for _, b := range w.blocks() {
		for _, h := range appendAll(nil, b) {
			owners[h.Addr] = h.Owner
		}
	}
	return owners
}

// await waits until something holds that is done in the background.
func (w *world) await(what string, holds func() bool) {
	w.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	end := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-ticker.C:
		case <-end:
			w.Fatalf("it never holds that %s", what)
		}
	}
}

// consistent checks that blocks, affinities and handles agree, and returns the
// addresses in use with their owners.
func (w *world) consistent() map[netip.Addr]Owner {
	w.Helper()
	owners := map[netip.Addr]Owner{}
	counted := map[string]map[string]int{}
	owned := map[model.BlockAffinityKey]bool{}
	for _, b := range w.blocks() {
		if b.Affinity != nil {
			owned[model.BlockAffinityKey{Node: nodeOf(b), CIDR: b.CIDR}] = true
		}
		inBlock := 0
		for ordinal := range b.Allocations {
			attrs, taken := attributesOf(b, ordinal)
			if !taken {
				continue
			}
			inBlock++
			owners[addrOf(b, ordinal)] = ownerOf(attrs)
			if h := handleOf(attrs); h != "" {
				if counted[h] == nil {
					counted[h] = map[string]int{}
				}
				counted[h][b.CIDR.String()]++
			}
		}
		if inBlock+len(b.Unallocated) != len(b.Allocations) {
			w.Errorf("block %s: %d in use and %d free", b.CIDR, inBlock, len(b.Unallocated))
		}
		if inBlock == 0 && b.Affinity == nil {
			w.Errorf("block %s is empty and belongs to nobody", b.CIDR)
		}
	}
	for _, a := range w.affinities() {
		if !owned[a] {
			w.Errorf("affinity %v without such a block", a)
		}
		delete(owned, a)
	}
	for a := range owned {
		w.Errorf("block without its affinity %v", a)
	}
	w.sameHandles(counted)
	return owners
}

func (w *world) sameHandles(counted map[string]map[string]int) {
	w.Helper()
	stored := w.handles()
	for id, blocks := range counted {
		for cidr, n := range blocks {
			if stored[id][cidr] != n {
				w.Errorf("handle %s has %d addresses in %s, and counts %d", id, n, cidr, stored[id][cidr])
			}
		}
	}
	for id, blocks := range stored {
		for cidr, n := range blocks {
			if counted[id][cidr] != n {
				w.Errorf("handle %s counts %d addresses in %s, and has %d", id, n, cidr, counted[id][cidr])
			}
		}
	}
}

func addrs(ss ...string) []netip.Addr {
	out := make([]netip.Addr, len(ss))
	for i, s := range ss {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}

func sorted(list []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(list), netip.Addr.Compare)
}
