package ipam

import (
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
)

const affinityPrefix = "host:"

// newBlock makes an empty block of a node.
func newBlock(cidr netip.Prefix, node string, strict bool) *model.Block {
	n := blockSize(cidr)
	b := &model.Block{
		CIDR:           cidr,
		Affinity:       new(affinityPrefix + node),
		StrictAffinity: strict,
		Allocations:    make([]*int, n),
		Unallocated:    make([]int, n),
		Attributes:     []model.BlockAttributes{},
	}
	for i := range n {
		b.Unallocated[i] = i
	}
	return b
}

// blockSize is the number of addresses of a block.
func blockSize(cidr netip.Prefix) int { return 1 << (cidr.Addr().BitLen() - cidr.Bits()) }

// widerBlocks lists the blocks of all larger sizes that a block could be a part of.
func widerBlocks(cidr netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for bits := widest(cidr.Addr()); bits < cidr.Bits(); bits++ {
		out = append(out, netip.PrefixFrom(cidr.Addr(), bits).Masked())
	}
	return out
}

// narrowerBlocks lists the blocks of all smaller sizes that could be a part of a block.
func narrowerBlocks(cidr netip.Prefix) []netip.Prefix {
	first := cidr.Addr()
	var out []netip.Prefix
	for bits := cidr.Bits() + 1; bits <= narrowest(first); bits++ {
		size := 1 << (narrowest(first) - bits)
		for i := 0; i < blockSize(cidr); i += size {
			out = append(out, netip.PrefixFrom(addTo(first, uint64(i)), bits))
		}
	}
	return out
}

// cloneBlock copies a block, so that the copy can be changed.
func cloneBlock(b *model.Block) *model.Block {
	c := *b
	c.Allocations = slices.Clone(b.Allocations) // what the pointers point at is never changed
	c.Unallocated = slices.Clone(b.Unallocated)
	c.Attributes = slices.Clone(b.Attributes) // nor are the maps
	return &c
}

// nodeOf is the node that owns the block; empty when none does.
func nodeOf(b *model.Block) string {
	if b.Affinity == nil {
		return ""
	}
	return strings.TrimPrefix(*b.Affinity, affinityPrefix)
}

func inUse(b *model.Block) int { return len(b.Allocations) - len(b.Unallocated) }

// ordinalOf is the place of an address in a block.
func ordinalOf(b *model.Block, a netip.Addr) (ordinal int, ok bool) {
	if !b.CIDR.Contains(a) {
		return 0, false
	}
	i := offset(b.CIDR.Addr(), a)
	return int(i), i < uint64(len(b.Allocations))
}

// addrOf is the inverse of ordinalOf.
func addrOf(b *model.Block, ordinal int) netip.Addr { return addTo(b.CIDR.Addr(), uint64(ordinal)) }

// attributesOf returns who has an address of the block; ok is false when it is free.
func attributesOf(b *model.Block, ordinal int) (attrs model.BlockAttributes, ok bool) {
	i := b.Allocations[ordinal]
	if i == nil {
		return attrs, false
	}
	return b.Attributes[*i], true
}

func handleOf(a model.BlockAttributes) string {
	if a.HandleID == nil {
		return ""
	}
	return *a.HandleID
}

func ownerOf(a model.BlockAttributes) Owner {
	return Owner{Handle: handleOf(a), Attrs: maps.Clone(a.Secondary)}
}

func attributesFor(o Owner) model.BlockAttributes {
	a := model.BlockAttributes{Secondary: maps.Clone(o.Attrs)}
	if o.Handle != "" {
		a.HandleID = new(o.Handle)
	}
	return a
}

// take gives out a free address.
func take(b *model.Block, ordinal int, o Owner) { takeAs(b, ordinal, attributesFor(o)) }

func takeAs(b *model.Block, ordinal int, attrs model.BlockAttributes) {
	b.Allocations[ordinal] = new(intern(b, attrs))
	if i := slices.Index(b.Unallocated, ordinal); i >= 0 {
		b.Unallocated = slices.Delete(b.Unallocated, i, i+1)
	}
}

// giveBack frees an address; it is the last to be given out again.
func giveBack(b *model.Block, ordinal int) {
	b.Allocations[ordinal] = nil
	b.Unallocated = append(b.Unallocated, ordinal)
	compactAttributes(b)
}

// setOwner changes who has an address; what a newer program noted about it stays.
func setOwner(b *model.Block, ordinal int, o Owner) {
	attrs := attributesFor(o)
	if old, ok := attributesOf(b, ordinal); ok {
		attrs.Unknown = old.Unknown
	}
	b.Allocations[ordinal] = new(intern(b, attrs))
	compactAttributes(b)
}

// intern returns the place of the attributes in the block's list.
func intern(b *model.Block, a model.BlockAttributes) int {
	for i, have := range b.Attributes {
		if handleOf(have) == handleOf(a) && maps.Equal(have.Secondary, a.Secondary) && have.Unknown == a.Unknown {
			return i
		}
	}
	b.Attributes = append(b.Attributes, a)
	return len(b.Attributes) - 1
}

// compactAttributes removes attributes that no address uses any more.
func compactAttributes(b *model.Block) {
	used := make([]bool, len(b.Attributes))
	for _, i := range b.Allocations {
		if i != nil {
			used[*i] = true
		}
	}
	moved := make([]int, len(b.Attributes))
	kept := 0
	for i, u := range used {
		if u {
			b.Attributes[kept] = b.Attributes[i]
			moved[i] = kept
			kept++
		}
	}
	if kept == len(b.Attributes) {
		return
	}
	clear(b.Attributes[kept:])
	b.Attributes = b.Attributes[:kept]
	for ordinal, i := range b.Allocations {
		if i != nil && moved[*i] != *i {
			b.Allocations[ordinal] = new(moved[*i])
		}
	}
}

// usable says which addresses may be given out.
type usable struct {
	reserved []netip.Prefix // those that are held back
	within   []netip.Prefix // those that are asked for; none means all
}

// free lists up to n free ordinals that can be used, the longest free first; held is
// how many it passed over because they are reserved.
func free(b *model.Block, n int, u usable) (ordinals []int, held int) {
	for _, ordinal := range b.Unallocated {
		if len(ordinals) == n {
			break
		}
		switch a := addrOf(b, ordinal); {
		case len(u.within) > 0 && !holds(u.within, a):
		case holds(u.reserved, a):
			held++
		default:
			ordinals = append(ordinals, ordinal)
		}
	}
	return ordinals, held
}

// holds says whether an address is in one of the ranges.
func holds(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// reaches says whether any of a range can be used as far as within says.
func (u usable) reaches(p netip.Prefix) bool {
	return len(u.within) == 0 || slices.ContainsFunc(u.within, p.Overlaps)
}

// ofFamily returns the ranges of one family, in their shortest form.
func ofFamily(ranges []netip.Prefix, ipv6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, r := range ranges {
		if r.Addr().Is6() == ipv6 {
			out = append(out, r.Masked())
		}
	}
	return out
}

// addTo returns the address n after a.
func addTo(a netip.Addr, n uint64) netip.Addr {
	high, low := halves(a)
	low, carry := bits.Add64(low, n, 0)
	return join(high+carry, low, a.Is4())
}

// offset is the distance from one address to a later one, if that is below 2^64.
func offset(from, to netip.Addr) uint64 {
	_, low := halves(from)
	_, low2 := halves(to)
	return low2 - low
}

func halves(a netip.Addr) (high, low uint64) {
	b := a.As16()
	if a.Is4() {
		clear(b[:12])
	}
	for i := range 8 {
		high = high<<8 | uint64(b[i])
		low = low<<8 | uint64(b[i+8])
	}
	return high, low
}

func join(high, low uint64, is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{byte(low >> 24), byte(low >> 16), byte(low >> 8), byte(low)})
	}
	var b [16]byte
	for i := range 8 {
		b[7-i] = byte(high >> (8 * i))
		b[15-i] = byte(low >> (8 * i))
	}
	return netip.AddrFrom16(b)
}
