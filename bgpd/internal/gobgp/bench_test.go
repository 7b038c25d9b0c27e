//go:build !race

package gobgp

import (
	"net/netip"
	"testing"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/reconcile"
)

// BenchmarkReceive measures what one speaker needs to hear of 10,000 prefixes from
// another, with decoding, and both ends in one process.
func BenchmarkReceive(b *testing.B) {
	const prefixes = 10000
	sender, receiver := pair(b)
	sender.setPeers(sender.peerOf(receiver, nil))
	receiver.setPeers(receiver.peerOf(sender, nil))
	receiver.awaitEvent("eor")
	var set, del reconcile.Changes[netip.Prefix, calc.Advert]
	for i := range prefixes {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + i>>10), byte(i >> 2), byte(i << 6)}), 26)
		set.Set = append(set.Set, reconcile.Item[netip.Prefix, calc.Advert]{Key: p})
		del.Delete = append(del.Delete, p)
	}
	for b.Loop() {
		if err := sender.Paths().Apply(b.Context(), set); err != nil {
			b.Fatal(err)
		}
		receiver.await("all prefixes", func() bool { return len(receiver.routes) == prefixes })
		b.StopTimer()
		if err := sender.Paths().Apply(b.Context(), del); err != nil {
			b.Fatal(err)
		}
		receiver.await("no prefixes", func() bool { return len(receiver.routes) == 0 })
		receiver.history = nil
		b.StartTimer()
	}
}
