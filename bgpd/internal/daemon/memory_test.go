package daemon

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/bgpd/internal/config"
	"calico.internal/bgpd/internal/memory"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// knowing is a core that has heard of nodes, blocks of its own, and containers.
func knowing(t testing.TB, dir string, nodes, blocks int) *core {
	t.Helper()
	c := newCore(Config{Node: "node0000", StateDir: dir, Log: slog.New(slog.DiscardHandler)}, nil, nil, nil)
	c.doc, c.text = config.Config{Hash: "x", Node: "node0000"}, []byte("node = \"node0000\"\n")
	puts := map[string][]byte{}
	put := func(k model.Key, r model.Resource) {
		parts, err := model.Encode(k, r)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(puts, parts)
	}
	as := model.ASNumber(64512)
	for i := range nodes {
		n := &model.Node{IPv4: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), ASNumber: &as, Labels: map[string]string{"rack": "r1"}}
		n.IPv4Net = netip.PrefixFrom(n.IPv4, 16).Masked()
		put(model.NodeKey{Name: fmt.Sprintf("node%04d", i)}, n)
	}
	for i := range blocks {
		put(model.BlockAffinityKey{Node: "node0000", CIDR: blockOf(i)}, &model.BlockAffinity{State: model.AffinityConfirmed})
	}
	container := func(name string, a netip.Addr) {
		put(model.WorkloadEndpointKey{Node: "node0000", Orchestrator: "libnetwork", Workload: "libnetwork", Name: name}, &model.WorkloadEndpoint{
			State: "active", Interface: "cali" + name, Profiles: []string{"net1"}, Labels: map[string]string{"a": "b"}, IPv4Nets: []netip.Prefix{netip.PrefixFrom(a, 32)},
		})
	}
	container("inside", blockOf(0).Addr().Next())
	container("borrowed", netip.MustParseAddr("172.20.0.9"))
	for _, s := range c.sources {
		b := store.Batch{Snapshot: true, Revision: 5}
		for path, value := range puts {
			if strings.HasPrefix(path, s.prefix) {
				b.Puts = append(b.Puts, store.KV{Path: path, Value: value, ModRevision: 5})
			}
		}
		c.apply(s, b)
	}
	c.inSync = true
	return c
}

func blockOf(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + i>>10), byte(i >> 2), byte(i << 6)}), 26)
}

// TestWhatIsRememberedIsWhatIsUsed: what is put down and taken up again makes the engine ask
// for the same, and holds no more than that needs.
func TestWhatIsRememberedIsWhatIsUsed(t *testing.T) {
	c := knowing(t, t.TempDir(), 3, 2)
	r, ok := c.collectLast()
	if !ok {
		t.Fatal("there is nothing to remember")
	}
	var got []string
	for path := range r.Resources {
		got = append(got, path)
	}
	if len(got) != 2*3+2+1 { // an address each family of a node, a block, the container outside
		t.Errorf("remembered are %q", got)
	}

	again := newCore(c.cfg, nil, nil, nil)
	for _, s := range again.sources {
		again.tell(s.recall(r.Resources, func(string) bool { return true }))
		if s.view.InSync() || s.view.Connected() {
			t.Errorf("%s takes what is remembered for what etcd says", s.prefix)
		}
	}
	again.recalledAt = time.Now()
	again.doc, again.text = c.doc, c.text
	twice, ok := again.collectLast()
	if diff := cmp.Diff(r, twice); !ok || diff != "" {
		t.Errorf("what is remembered of what is remembered (-first +second):\n%s", diff)
	}
	// etcd says the same, and nothing follows from it.
	for i, s := range again.sources {
		b := store.Batch{Snapshot: true, Revision: 6}
		for path, value := range r.Resources {
			if strings.HasPrefix(path, s.prefix) {
				b.Puts = append(b.Puts, store.KV{Path: path, Value: []byte(value)})
			}
		}
		if events := again.sources[i].view.Apply(b); len(events) > 0 {
			t.Errorf("%s: %v", s.prefix, events)
		}
	}
}

// TestNothingIsRememberedBeforeItIsKnown: half of what etcd holds must not take the place of
// what an earlier start knew.
func TestNothingIsRememberedBeforeItIsKnown(t *testing.T) {
	c := knowing(t, t.TempDir(), 3, 2)
	c.inSync = false
	if r, ok := c.collectLast(); ok {
		t.Errorf("not in sync, and %v is remembered", r)
	}
	c.inSync, c.doc = true, config.Config{}
	if r, ok := c.collectLast(); ok {
		t.Errorf("without a document, and %v is remembered", r)
	}
}

// BenchmarkRemember measures what writing and taking up costs with 1,000 nodes: how long the
// one goroutine is held up, how long the rest takes, and the file's size.
func BenchmarkRemember(b *testing.B) {
	for _, blocks := range []int{10, 10000} {
		c := knowing(b, b.TempDir(), 1000, blocks)
		name := fmt.Sprintf("blocks=%d", blocks)
		b.Run("collect/"+name, func(b *testing.B) {
			for b.Loop() {
				c.known()
			}
		})
		b.Run("encode/"+name, func(b *testing.B) {
			for b.Loop() {
				c.collectLast()
			}
		})
		b.Run("write/"+name, func(b *testing.B) {
			dir := b.TempDir()
			r, _ := c.collectLast()
			n := 0
			for b.Loop() {
				n++
				r.Document = fmt.Sprint("document ", n) // else it is not written
				k := memory.NewKeeper(dir, nil, slog.New(slog.DiscardHandler))
				k.Changed()
				k.Finish(func() (memory.Record, bool) { return r, true })
			}
			b.ReportMetric(size(b, filepath.Join(dir, memory.File)), "bytes")
		})
		b.Run("recall/"+name, func(b *testing.B) {
			dir := b.TempDir()
			r, _ := c.collectLast()
			k := memory.NewKeeper(dir, nil, slog.New(slog.DiscardHandler))
			k.Changed()
			k.Finish(func() (memory.Record, bool) { return r, true })
			for b.Loop() {
				again := newCore(Config{Node: c.cfg.Node, StateDir: dir, Log: c.cfg.Log}, nil, nil, nil)
				if again.before == nil {
					b.Fatal("nothing is remembered")
				}
				for _, s := range again.sources {
					again.tell(s.recall(again.before.Resources, again.stillTrue))
				}
			}
		})
	}
}

func size(b *testing.B, file string) float64 {
	b.Helper()
	info, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	return float64(info.Size())
}
