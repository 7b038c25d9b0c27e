package calc

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/model"
)

func blockN(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + i>>10), byte(i >> 2), byte(i << 6)}), 26)
}

// bigEngine is an engine of a mesh of the given size that has heard of 10,000 blocks.
func bigEngine(b *testing.B, nodes int) (*Engine, time.Time) {
	b.Helper()
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	c := config.Config{Node: "n0", ASNumber: 64512, Mesh: true, Listen: []netip.Addr{addr(0)}, Pools: []config.Pool{{CIDR: netip.MustParsePrefix("100.64.0.0/10"), Export: true}}}
	for i := 1; i < nodes; i++ {
		c.Peers = append(c.Peers, config.Peer{Name: fmt.Sprint(i), Type: config.PeerMesh, Address: addr(i)})
	}
	e, now := New(), time.Unix(0, 0)
	e.SetConfig(c, now)
	e.SetInSync()
	for i := 1; i < nodes; i++ {
		e.OnResource(model.NodeKey{Name: fmt.Sprint("n", i)}, &model.Node{IPv4: addr(i)})
		e.SetHop(addr(i), Resolution{Hops: []Hop{{Gateway: addr(i), Link: 2}}})
		e.PeerUp(addr(i))
	}
	for i := range 10000 {
		node := 1 + i%(nodes-1)
		e.OnResource(model.BlockAffinityKey{Node: fmt.Sprint("n", node), CIDR: blockN(i)}, &model.BlockAffinity{})
		e.Update(addr(node), blockN(i), Path{NextHop: addr(node), LocalPref: 100})
	}
	if c := e.Flush(now); len(c.Routes) != 10000 {
		b.Fatalf("%d routes", len(c.Routes))
	}
	return e, now
}

// BenchmarkEngine_10000_blocks measures a cold start in one go.
func BenchmarkEngine_10000_blocks(b *testing.B) {
	for b.Loop() {
		bigEngine(b, 1000)
	}
}

// BenchmarkEngine_one_change measures what one block costs among 10,000 and 1,000 nodes.
func BenchmarkEngine_one_change(b *testing.B) {
	e, now := bigEngine(b, 1000)
	peer := e.cfg.Peers[5].Address
	p := netip.MustParsePrefix("100.100.0.0/26")
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			e.Update(peer, p, Path{NextHop: peer, LocalPref: 100})
		} else {
			e.Withdraw(peer, p)
		}
		if c := e.Flush(now); len(c.Routes) != 1 {
			b.Fatal(c)
		}
	}
}
