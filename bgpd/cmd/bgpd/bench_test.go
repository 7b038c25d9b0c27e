//go:build !race

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// BenchmarkNewBlock measures from the write to etcd until the block is in the kernels
// of all nodes of a mesh. The kernel's limit of 1,024 neighbours for all namespaces of a
// machine together (gc_thresh3) allows no more nodes on one bridge.
func BenchmarkNewBlock(b *testing.B) {
	for _, nodes := range []int{3, 10, 25} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			l := newLab(b, nodes)
			for i, n := range l.nodes {
				n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
			}
			start := time.Now()
			l.startAll()
			b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/mesh")
			var watchers []*watcher
			for _, n := range l.nodes {
				watchers = append(watchers, n.watch())
			}
			var took []time.Duration
			for b.Loop() {
				i := len(took)
				block := fmt.Sprintf("192.168.%d.%d/26", 100+i/4%100, i%4*64)
				start := time.Now()
				l.nodes[nodes-1].giveBlock(block)
				for _, w := range watchers {
					w.await(b, block)
				}
				took = append(took, time.Since(start))
				b.StopTimer()
				l.remove(affinity(l.nodes[nodes-1].name, block))
				l.nodes[0].awaitRoute(block, "")
				b.StartTimer()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/p50")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms/max")
		})
	}
}

// count is how many routes of ours the node has.
func (n *node) count() (count int) {
	n.Do(func() {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: 12}, netlink.RT_FILTER_PROTOCOL)
		if err == nil {
			count = len(routes)
		}
	})
	return count
}

// BenchmarkTenThousandRoutes has BIRD advertise 10,000 blocks at once, to bgpd and, as
// the floor, to another BIRD.
func BenchmarkTenThousandRoutes(b *testing.B) {
	const routes = 10000
	for _, receiver := range []string{"bgpd", "BIRD"} {
		b.Run("to="+receiver, func(b *testing.B) {
			l := newLab(b, 2)
			us, it := l.nodes[0], l.nodes[1]
			sender := runBird(it, us, "203.0.113.0/24", "fd99::/64", false)
			sender.proc.Kill()
			addRoutes(b, filepath.Join(it.dir, "bird.conf"), routes)
			sender.start()
			if receiver == "bgpd" {
				us.write()
				us.start()
				us.awaitPeers(2)
			} else {
				runBird(us, it, "192.168.0.0/26", "fd80::1:0/122", true)
			}
			await := func(want int) {
				l.eventually(fmt.Sprintf("%d routes", want), func() error {
					if got := us.count(); got < want || want == 0 && got > 10 {
						return fmt.Errorf("%d routes", got)
					}
					return nil
				})
			}
			await(routes)
			for b.Loop() {
				b.StopTimer()
				sender.control("disable", "many")
				await(0)
				w := us.watch()
				b.StartTimer()
				sender.control("enable", "many")
				w.awaitMany(b, routes)
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/10000")
			if receiver == "bgpd" {
				b.ReportMetric(us.rss(), "MB/rss")
			}
		})
	}
}

// awaitMany waits until so many different prefixes were added.
func (w *watcher) awaitMany(b *testing.B, n int) {
	b.Helper()
	timer := time.NewTimer(2 * converge)
	defer timer.Stop()
	for seen := map[string]bool{}; len(seen) < n; {
		select {
		case p := <-w.added:
			seen[p] = true
		case <-timer.C:
			b.Fatalf("only %d of %d routes came", len(seen), n)
		}
	}
}

func addRoutes(b *testing.B, conf string, n int) {
	b.Helper()
	text, err := os.ReadFile(conf)
	if err != nil {
		b.Fatal(err)
	}
	var s strings.Builder
	s.Write(text)
	s.WriteString("protocol static many { ipv4;\n")
	for i := range n {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + i>>10), byte(i >> 2), byte(i << 6)}), 26)
		fmt.Fprintf(&s, "route %s blackhole;\n", p)
	}
	s.WriteString("}\n")
	if err := os.WriteFile(conf, []byte(s.String()), 0o644); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRestart measures how long a node that was killed needs, from its start until
// all its sessions are back.
func BenchmarkRestart(b *testing.B) {
	for i, role := range []string{"listens", "dials"} {
		b.Run(role, func(b *testing.B) {
			l := newLab(b, 2)
			l.startAll()
			victim, survivor := l.nodes[i], l.nodes[1-i]
			var took []time.Duration
			for b.Loop() {
				b.StopTimer()
				victim.proc.Kill()
				survivor.awaitPeers(0)
				b.StartTimer()
				start := time.Now()
				victim.start()
				survivor.awaitPeers(2)
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms/p50")
			b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "ms/p99")
		})
	}
}

// BenchmarkRestartWithoutEtcd measures the same of a node that finds neither etcd nor its
// document: from its start until all its sessions are up.
func BenchmarkRestartWithoutEtcd(b *testing.B) {
	for i, role := range []string{"listens", "dials"} {
		b.Run(role, func(b *testing.B) {
			l := newLab(b, 2)
			for i, n := range l.nodes {
				n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
			}
			l.startAll()
			victim, survivor := l.nodes[i], l.nodes[1-i]
			victim.awaitMemory("192.168.")
			l.setEtcd(false)
			victim.loseDocument()
			var took []time.Duration
			for b.Loop() {
				b.StopTimer()
				victim.proc.Kill()
				survivor.awaitPeers(0)
				b.StartTimer()
				start := time.Now()
				victim.start()
				survivor.awaitPeers(2)
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms/p50")
			b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "ms/p99")
		})
	}
}
