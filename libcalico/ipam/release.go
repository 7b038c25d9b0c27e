package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/libcalico/model"
)

// release frees addresses; the result tells which of them nobody had.
type release struct {
	addrs []netip.Addr
	// only, when not nil, frees an address only if it still has this owner.
	only *Owner
}

func (r *release) run(w *work) *stop {
	blocks, s := w.locateAll(r.addrs)
	if s != nil {
		return s
	}
	for i, a := range r.addrs {
		freed, s := w.freeOne(blocks[i], a, r.only)
		if s != nil {
			return s
		}
		if !freed {
			w.result.notAssigned = append(w.result.notAssigned, a)
		}
	}
	if len(w.result.notAssigned) > 0 {
		return w.surely()
	}
	return nil
}

// locateAll finds the blocks of addresses; nil stands for one that has none.
func (w *work) locateAll(addrs []netip.Addr) ([]*model.Block, *stop) {
	blocks := make([]*model.Block, len(addrs))
	var unknown *stop
	for i, a := range addrs {
		b, s := w.locate(a)
		switch {
		case s.is(unread):
			unknown = s // go on: all that is needed is read at once
		case s != nil:
			return nil, s
		}
		blocks[i] = b
	}
	return blocks, unknown
}

// freeOne frees an address of a block, which may be nil, if somebody has it, or its one
// possible owner does.
func (w *work) freeOne(b *model.Block, a netip.Addr, only *Owner) (freed bool, s *stop) {
	if b == nil {
		return false, nil
	}
	if b = w.current(b); b == nil {
		return false, nil
	}
	ordinal, ok := ordinalOf(b, a)
	if !ok {
		return false, nil
	}
	attrs, taken := attributesOf(b, ordinal)
	if !taken || only != nil && !sameOwner(ownerOf(attrs), *only) {
		return false, nil
	}
	return true, w.free(b, ordinal)
}

func sameOwner(a, b Owner) bool { return a.Handle == b.Handle && maps.Equal(a.Attrs, b.Attrs) }

// current returns a block as the operation has left it: its own copy if it changed
// it, nil if it deleted it.
func (w *work) current(b *model.Block) *model.Block {
	r, ok := w.writes[model.BlockKey{CIDR: b.CIDR}]
	if !ok {
		return b
	}
	mine, _ := r.(*model.Block)
	return mine
}

// free frees one address and counts its handle down.
func (w *work) free(b *model.Block, ordinal int) *stop {
	attrs, _ := attributesOf(b, ordinal)
	b = w.edit(b)
	w.giveBack(b, ordinal)
	if s := w.count(handleOf(attrs), b.CIDR, -1); s != nil {
		return s
	}
	w.settle(b)
	return nil
}

// giveBack frees an address of a block that may be changed, and notes whose it was.
func (w *work) giveBack(b *model.Block, ordinal int) {
	attrs, _ := attributesOf(b, ordinal)
	w.result.freed = append(w.result.freed, Holding{Addr: addrOf(b, ordinal), Block: b.CIDR, Owner: ownerOf(attrs)})
	giveBack(b, ordinal)
}

// releaseHandle frees all addresses of a handle, and the handle itself.
type releaseHandle struct {
	handle string
	// heirs become the owners of some of the addresses, which are not freed.
	heirs map[netip.Addr]Owner
	// whole refuses a handle with addresses in more than handleBlocks blocks, which one
	// transaction cannot free; without it, the first ones are freed and the result says
	// that there are more.
	whole bool
}

// handleBlocks is how many blocks one transaction frees addresses in.
const handleBlocks = 40

var errTooMany = errors.New("the handle has addresses in too many blocks for one transaction")

func (r *releaseHandle) run(w *work) *stop {
	h, s := w.handle(r.handle, false)
	if s != nil {
		return s
	}
	if h == nil {
		return w.surely()
	}
	cidrs, err := blocksOf(r.handle, h)
	if err != nil {
		return refuse(err)
	}
	if len(cidrs) > handleBlocks {
		if r.whole {
			return w.unlessFresh(errTooMany)
		}
		cidrs, w.result.more = cidrs[:handleBlocks], true
	}
	var unknown *stop
	for _, cidr := range cidrs {
		if s := r.fromBlock(w, cidr); s.is(unread) {
			unknown = s
		} else if s != nil {
			return s
		}
	}
	if unknown == nil && !w.result.more && !r.livesOn() {
		w.writes[model.HandleKey{ID: r.handle}] = nil
	}
	return unknown
}

// livesOn says that an heir is called as the one that goes, on another node.
func (r *releaseHandle) livesOn() bool {
	for _, heir := range r.heirs {
		if heir.Handle == r.handle {
			return true
		}
	}
	return false
}

func blocksOf(id string, h *model.Handle) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, name := range slices.Sorted(maps.Keys(h.Block)) {
		cidr, err := netip.ParsePrefix(name)
		if err != nil {
			return nil, fmt.Errorf("handle %s names block %q: %w", id, name, ErrDamaged)
		}
		out = append(out, cidr)
	}
	return out, nil
}

// fromBlock frees what the handle has in one block, whatever the handle's count says.
func (r *releaseHandle) fromBlock(w *work, cidr netip.Prefix) *stop {
	b, s := w.block(cidr)
	if s != nil {
		return s
	}
	h, s := w.handle(r.handle, false)
	if s != nil {
		return s
	}
	if h != nil {
		if s := w.count(r.handle, cidr, -h.Block[cidr.String()]); s != nil {
			return s
		}
	}
	if b == nil {
		return nil // the handle counts addresses of a block that is gone
	}
	freed := false
	for ordinal := range b.Allocations {
		attrs, taken := attributesOf(b, ordinal)
		if !taken || handleOf(attrs) != r.handle {
			continue
		}
		b = w.edit(b)
		if heir, ok := r.heirs[addrOf(b, ordinal)]; ok {
			setOwner(b, ordinal, heir)
			if s := w.count(heir.Handle, cidr, 1); s != nil {
				return s
			}
			continue
		}
		freed = true
		w.giveBack(b, ordinal)
	}
	if freed {
		w.settle(b)
	}
	return nil
}
