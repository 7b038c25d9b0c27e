package ipam

import (
	"net/netip"

	"calico.internal/libcalico/model"
)

// Merged is what two accounts of the same addresses come to.
type Merged struct {
	// Block is the first account with what the second adds; neither is changed.
	Block *model.Block
	// Added are the addresses that only the second has in use. Those that both have in use
	// are Agreed when the owners have one handle, and else Disputed.
	Added, Agreed, Disputed []netip.Addr
}

// Merge adds to a block what another account of its addresses, which may be of a block of
// another size, has in use: an address in use on either side stays in use, and the owner
// that the block knows of stays the owner.
func Merge(block, other *model.Block) Merged {
	m := Merged{Block: cloneBlock(block)}
	for ordinal := range other.Allocations {
		attrs, taken := attributesOf(other, ordinal)
		addr := addrOf(other, ordinal)
		mine, inside := ordinalOf(block, addr)
		if !taken || !inside {
			continue
		}
		have, inUse := attributesOf(block, mine)
		switch {
		case !inUse:
			takeAs(m.Block, mine, attrs)
			m.Added = append(m.Added, addr)
		case handleOf(have) != handleOf(attrs):
			m.Disputed = append(m.Disputed, addr)
		default:
			m.Agreed = append(m.Agreed, addr)
		}
	}
	return m
}

// Part is a block of another size with what a block has in use there, of the same owner.
func Part(b *model.Block, cidr netip.Prefix) *model.Block {
	empty := newBlock(cidr, "", b.StrictAffinity)
	empty.Affinity = b.Affinity
	return Merge(empty, b).Block
}

// Without is a block in which none of some addresses is in use; the block itself when that is
// so already.
func Without(b *model.Block, gone func(netip.Addr) bool) *model.Block {
	out := b
	for ordinal := range b.Allocations {
		if b.Allocations[ordinal] == nil || !gone(addrOf(b, ordinal)) {
			continue
		}
		if out == b {
			out = cloneBlock(b)
		}
		giveBack(out, ordinal)
	}
	return out
}

// HandleCounts counts the addresses that each handle has in a block.
func HandleCounts(b *model.Block) map[string]int {
	counts := map[string]int{}
	for ordinal := range b.Allocations {
		if attrs, taken := attributesOf(b, ordinal); taken && handleOf(attrs) != "" {
			counts[handleOf(attrs)]++
		}
	}
	return counts
}

// InUse lists the addresses of a block that somebody has.
func InUse(b *model.Block) []Holding { return appendAll(nil, b) }

// NodeOf is the node that owns a block; it is empty when none does.
func NodeOf(b *model.Block) string { return nodeOf(b) }
