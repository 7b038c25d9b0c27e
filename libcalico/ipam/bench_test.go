package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// BenchmarkRoundTrip is the floor of all others: one bare write.
func BenchmarkRoundTrip(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		if _, err := w.store.Raw().Put(b.Context(), "/bench", "x"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRoundTripOf8 is the floor for 8 hosts: writes by 8 at once, bare ones, and
// ones with the conditions and the size of a block.
func BenchmarkRoundTripOf8(b *testing.B) {
	for _, tc := range []struct {
		name string
		size int
		cmps int
	}{{"put", 1, 0}, {"swap of a block", swapSize, swapCmps}} {
		b.Run(tc.name, func(b *testing.B) {
			w := newWorld(b)
			b.ResetTimer()
			b.ReportMetric(float64(b.N)/w.swaps(8, b.N, tc.size, tc.cmps).Seconds(), "writes/s")
		})
	}
}

// What a transaction that assigns or releases an address writes, and asks.
const (
	swapSize = 900
	swapCmps = 3
)

// swaps is how long so many clients take for bare writes of a size under some conditions.
func (w *world) swaps(clients, writes, size, conditions int) time.Duration {
	w.Helper()
	value := strings.Repeat("x", size)
	var cmps []clientv3.Cmp
	for n := range conditions {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(fmt.Sprint("/none/", n)), "=", 0))
	}
	start := time.Now()
	work := make(chan int)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for range work {
				_, err := w.store.Raw().Txn(w.ctx()).If(cmps...).Then(clientv3.OpPut(fmt.Sprint("/bench/", i), value)).Commit()
				if err != nil {
					w.Error(err)
				}
			}
		})
	}
	for n := range writes {
		work <- n
	}
	close(work)
	wg.Wait()
	return time.Since(start)
}

// BenchmarkAssignRelease is cycles of assign and release from a held block. Beside them stands
// the floor: how many cycles there would be, were each of the transactions a bare write of the
// same size, by as many hosts at once. It is measured right after, on the same etcd.
func BenchmarkAssignRelease(b *testing.B) {
	for _, tc := range []struct {
		name           string
		hosts, callers int
		handles        bool
	}{
		{"1 caller", 1, 1, false},
		{"8 callers on one host", 1, 8, false},
		{"8 callers on one host with handles", 1, 8, true},
		{"8 callers on 8 hosts", 8, 1, false},
	} {
		b.Run(tc.name, func(b *testing.B) {
			w := newWorld(b, "10.0.0.0/16")
			var clients []*Client
			counted := &countingStore{store: etcd{w.store}}
			for i := range tc.hosts {
				c := newClient(counted, fmt.Sprint("host", i))
				w.release(c, w.assign(c, 1, "")...)
				clients = append(clients, c)
			}
			work := make(chan int, 64)
			var wg sync.WaitGroup
			for i := range tc.hosts * tc.callers {
				c := clients[i%tc.hosts]
				wg.Go(func() {
					for n := range work {
						r := Request{IPv4: 1}
						if tc.handles {
							r.Owner.Handle = fmt.Sprint(n)
						}
						got, err := c.AutoAssign(b.Context(), r)
						if err == nil {
							_, err = c.Release(b.Context(), got...)
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			counted.commits.Store(0)
			for n := range b.N {
				work <- n
			}
			close(work)
			wg.Wait()
			b.StopTimer()
			commits := int(counted.commits.Load())
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "cycles/s")
			b.ReportMetric(2*float64(b.N)/float64(commits), "calls/txn")
			b.ReportMetric(float64(b.N)/w.swaps(tc.hosts, commits, swapSize, swapCmps).Seconds(), "floor-cycles/s")
		})
	}
}

// fill makes full blocks of other nodes in a pool.
func (w *world) fill(cidr string, blocks int) {
	w.Helper()
	p := newPool(&model.IPPool{CIDR: netip.MustParsePrefix(cidr)}, 1)
	var writes []etcdstore.Write
	for i := range blocks {
		node := fmt.Sprint("other", i%50)
		b := newBlock(p.block(uint64(i)), node, false)
		for ordinal := range b.Allocations {
			take(b, ordinal, Owner{
				Handle: fmt.Sprintf("0123456789abcdef-%d-%d", i, ordinal),
				Attrs:  map[string]string{AttrNode: node, AttrTimestamp: "2026-01-02T03:04:05.123456Z", AttrNetwork: "net1"},
			})
		}
		for k, r := range map[model.Key]model.Resource{
			model.BlockKey{CIDR: b.CIDR}:                     b,
			model.BlockAffinityKey{Node: node, CIDR: b.CIDR}: &model.BlockAffinity{State: model.AffinityConfirmed},
		} {
			step, err := etcdstore.PutWrite(k, r)
			if err != nil {
				w.Fatal(err)
			}
			writes = append(writes, step)
		}
		if len(writes) >= 60 || i == blocks-1 {
			if _, err := w.store.Commit(w.ctx(), writes...); err != nil {
				w.Fatal(err)
			}
			writes = nil
		}
	}
}

// BenchmarkFirstAddress is a new host's first address, with 5,000 full blocks there.
func BenchmarkFirstAddress(b *testing.B) {
	w := newWorld(b, "10.0.0.0/8")
	w.fill("10.0.0.0/8", 5000)
	n := 0
	for b.Loop() {
		n++
		w.assign(w.node(fmt.Sprint("new", n)), 1, "h")
	}
}

// BenchmarkFirstAddressInANarrowPool has 5,000 of 8,192 blocks full.
func BenchmarkFirstAddressInANarrowPool(b *testing.B) {
	w := newWorld(b, "10.0.0.0/13")
	w.fill("10.0.0.0/13", 5000)
	n := 0
	for b.Loop() {
		n++
		w.assign(w.node(fmt.Sprint("new", n%2000)), 1, "h")
	}
}

// BenchmarkFullPool is a request that cannot be met: all 1,024 blocks are full.
func BenchmarkFullPool(b *testing.B) {
	w := newWorld(b, "10.0.0.0/16")
	w.fill("10.0.0.0/16", 1024)
	c := w.node("a")
	for b.Loop() {
		if _, err := c.AutoAssign(b.Context(), Request{IPv4: 1}); err == nil {
			b.Fatal("an address from a full pool")
		}
	}
}

// BenchmarkAtTheBlockLimit is a request that cannot be met because the node has as many blocks
// as it may: of a pool of 2^58 blocks 5,000 are full, and all that exist are looked at.
func BenchmarkAtTheBlockLimit(b *testing.B) {
	w := newWorld(b, "fd80::/64")
	w.config(model.IPAMConfig{AutoAllocateBlocks: true, MaxBlocksPerHost: 1})
	w.fill("fd80::/64", 5000)
	c := w.node("a")
	if _, err := c.AutoAssign(b.Context(), Request{IPv6: 64}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.AutoAssign(b.Context(), Request{IPv6: 1}); !errors.Is(err, ErrBlockLimit) {
			b.Fatal(err)
		}
	}
}

// BenchmarkClaim is 64 addresses, for which a block is claimed, in a pool with 5,000 full ones.
func BenchmarkClaim(b *testing.B) {
	w := newWorld(b, "10.0.0.0/8")
	w.fill("10.0.0.0/8", 5000)
	c := w.node("a")
	for b.Loop() {
		w.assign(c, 64, "")
	}
}

// BenchmarkUsage reads 5,000 full blocks.
func BenchmarkUsage(b *testing.B) {
	w := newWorld(b, "10.0.0.0/8")
	w.fill("10.0.0.0/8", 5000)
	c := w.node("a")
	b.ReportAllocs()
	for b.Loop() {
		usage, err := c.Usage(b.Context())
		if err != nil || usage[0].InUse != 5000*64 {
			b.Fatalf("%v, %v", usage, err)
		}
	}
}
