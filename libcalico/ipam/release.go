package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/libcalico/model"
)

// release frees addresses.
type release struct {
	addrs []netip.Addr
	// only, when not nil, frees an address only if it still has this owner.
	only *Owner
	// notAssigned are those of addrs that nobody had.
	notAssigned []netip.Addr
}

func (r *release) run(w *work) error {
	r.notAssigned = nil
	blocks, err := w.locateAll(r.addrs)
	if err != nil {
		return err
	}
	for i, a := range r.addrs {
		freed, err := r.one(w, blocks[i], a)
		if err != nil {
			return err
		}
		if !freed {
			r.notAssigned = append(r.notAssigned, a)
		}
	}
	if len(r.notAssigned) > 0 && !w.fresh {
		return errStale
	}
	return nil
}

// locateAll finds the blocks of addresses; nil stands for one that has none.
func (w *work) locateAll(addrs []netip.Addr) ([]*model.Block, error) {
	blocks := make([]*model.Block, len(addrs))
	var unknown error
	for i, a := range addrs {
		b, err := w.locate(a)
		switch {
		case errors.Is(err, errNeed):
			unknown = err // go on: all that is needed is read at once
		case err != nil:
			return nil, err
		}
		blocks[i] = b
	}
	return blocks, unknown
}

func (r *release) one(w *work, b *model.Block, a netip.Addr) (freed bool, err error) {
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
	if !taken || r.only != nil && !sameOwner(ownerOf(attrs), *r.only) {
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
func (w *work) free(b *model.Block, ordinal int) error {
	attrs, _ := attributesOf(b, ordinal)
	b = w.edit(b)
	giveBack(b, ordinal)
	if err := w.count(handleOf(attrs), b.CIDR, -1); err != nil {
		return err
	}
	w.settle(b)
	return nil
}

// releaseHandle frees all addresses of a handle, and the handle itself.
type releaseHandle struct {
	handle string
	// whole refuses a handle with addresses in more than handleBlocks blocks, which one
	// transaction cannot free; without it, the first ones are freed and more is set.
	whole bool
	more  bool
}

// handleBlocks is how many blocks one transaction frees addresses in.
const handleBlocks = 40

var errTooMany = errors.New("the handle has addresses in too many blocks for one transaction")

func (r *releaseHandle) run(w *work) error {
	r.more = false
	h, err := w.handle(r.handle, false)
	if err != nil {
		return err
	}
	if h == nil {
		return unlessFreshNil(w)
	}
	cidrs, err := blocksOf(r.handle, h)
	if err != nil {
		return err
	}
	if len(cidrs) > handleBlocks {
		if r.whole {
			return unlessFresh(w, errTooMany)
		}
		cidrs, r.more = cidrs[:handleBlocks], true
	}
	var unknown error
	for _, cidr := range cidrs {
		if err := r.fromBlock(w, cidr); errors.Is(err, errNeed) {
			unknown = err
		} else if err != nil {
			return err
		}
	}
	if unknown == nil && !r.more {
		w.writes[model.HandleKey{ID: r.handle}] = nil
	}
	return unknown
}

// unlessFreshNil is for an operation that has nothing to do, if that is so.
func unlessFreshNil(w *work) error {
	if w.fresh {
		return nil
	}
	return errStale
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
func (r *releaseHandle) fromBlock(w *work, cidr netip.Prefix) error {
	b, err := w.block(cidr)
	if err != nil {
		return err
	}
	h, err := w.handle(r.handle, false)
	if err != nil {
		return err
	}
	if h != nil {
		if err := w.count(r.handle, cidr, -h.Block[cidr.String()]); err != nil {
			return err
		}
	}
	if b == nil {
		return nil // the handle counts addresses of a block that is gone
	}
	freed := false
	for ordinal := range b.Allocations {
		if attrs, taken := attributesOf(b, ordinal); taken && handleOf(attrs) == r.handle {
			b, freed = w.edit(b), true
			giveBack(b, ordinal)
		}
	}
	if freed {
		w.settle(b)
	}
	return nil
}
