package model

import (
	"math"
	"net/netip"
	"strings"
)

func checkIPAMConfig(f *faults, _ IPAMConfigKey, c *IPAMConfig) {
	f.meta(c.Meta)
	f.unless(c.StrictAffinity || c.AutoAllocateBlocks, "spec.autoAllocateBlocks", false,
		"without it and without strictAffinity no address could be given out")
	f.unless(c.MaxBlocksPerHost >= 0, "spec.maxBlocksPerHost", c.MaxBlocksPerHost, "must not be negative")
	f.unless(c.MaxBlocksPerHost <= math.MaxInt32, "spec.maxBlocksPerHost", c.MaxBlocksPerHost, "must be at most 2147483647, as for Calico; 0 is no limit")
}

func checkBlockAffinity(f *faults, k BlockAffinityKey, a *BlockAffinity) {
	f.name("metadata.node", k.Node)
	f.blockCIDR(k.CIDR)
	switch a.State {
	case "", AffinityConfirmed, AffinityPending, AffinityPendingDeletion:
	default:
		f.add("state", a.State, "must be confirmed, pending or pendingDeletion")
	}
}

func (f *faults) blockCIDR(p netip.Prefix) bool {
	if !f.cidr("cidr", p) {
		return false
	}
	f.unless(p == p.Masked(), "cidr", p, "is not strictly masked")
	return true
}

func checkHandle(f *faults, k HandleKey, h *Handle) {
	f.unless(isHandle(k.ID), "id", k.ID, "must be 1 to 512 printable characters")
	f.unless(h.HandleID == "" || h.HandleID == k.ID, "id", h.HandleID, "differs from the handle's key "+k.ID)
	for _, cidr := range sortedKeys(h.Block) {
		_, err := netip.ParsePrefix(cidr)
		f.unless(err == nil, "block", cidr, "not the CIDR of a block")
		f.unless(h.Block[cidr] >= 0, "block["+cidr+"]", h.Block[cidr], "must not be negative")
	}
}

// checkBlock makes sure that whoever uses the block's indexes stays in range, and
// that each address is either given out or free.
func checkBlock(f *faults, k BlockKey, b *Block) {
	if !f.blockCIDR(b.CIDR) {
		return
	}
	f.unless(b.CIDR == k.CIDR, "cidr", b.CIDR, "differs from the block's key "+k.CIDR.String())
	if b.Affinity != nil {
		node, isHost := strings.CutPrefix(*b.Affinity, "host:")
		f.unless(isHost && isName(node), "affinity", *b.Affinity, "must be host:<node>")
	}
	hostBits := b.CIDR.Addr().BitLen() - b.CIDR.Bits()
	if hostBits > 16 || len(b.Allocations) != 1<<hostBits {
		f.add("allocations", len(b.Allocations), "not one entry for each address of the block")
		return
	}
	f.allocations(b)
	f.unallocated(b)
}

func (f *faults) allocations(b *Block) {
	for ordinal, attribute := range b.Allocations {
		if attribute != nil && (*attribute < 0 || *attribute >= len(b.Attributes)) {
			f.add(indexed("allocations", ordinal), *attribute, "no such entry in attributes")
			return
		}
	}
}

func (f *faults) unallocated(b *Block) {
	free := make([]bool, len(b.Allocations))
	for i, ordinal := range b.Unallocated {
		field := indexed("unallocated", i)
		switch {
		case ordinal < 0 || ordinal >= len(b.Allocations):
			f.add(field, ordinal, "not an address of the block")
			return
		case free[ordinal]:
			f.add(field, ordinal, "stands there twice")
			return
		case b.Allocations[ordinal] != nil:
			f.add(field, ordinal, "is given out")
			return
		}
		free[ordinal] = true
	}
}
