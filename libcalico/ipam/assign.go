package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// autoAssign gives out addresses of any value. It may be run several times; the last
// run counts.
type autoAssign struct {
	Request
	addrs []netip.Addr
}

func (a *autoAssign) run(w *work) error {
	a.addrs = nil
	for _, family := range []struct {
		ipv6 bool
		n    int
	}{{false, a.IPv4}, {true, a.IPv6}} {
		if family.n == 0 {
			continue
		}
		if err := a.family(w, family.ipv6, family.n); err != nil {
			return err
		}
	}
	return nil
}

// family takes n addresses: from the node's own blocks, then from blocks that nobody
// has, then from those of others.
func (a *autoAssign) family(w *work, ipv6 bool, n int) error {
	within := ofFamily(a.Within, ipv6)
	pools, err := w.env.choose(a.Pools, within, ipv6)
	if err != nil {
		return unlessFresh(w, err)
	}
	t := &taking{work: w, owner: a.Owner, missing: n, usable: usable{w.env.reserved, within}}
	for _, step := range []func([]pool) error{t.fromOwn, t.fromVacant, t.fromOthers} {
		if t.missing == 0 {
			break
		}
		if err := step(pools); err != nil {
			return err
		}
	}
	if t.missing > 0 {
		return &shortage{pools: pools, usable: t.usable, missing: t.missing, err: t.full(n, ipv6, pools)}
	}
	a.addrs = append(a.addrs, t.addrs...)
	return nil
}

// unlessFresh puts off a refusal until it rests on what was just read.
func unlessFresh(w *work, err error) error {
	if w.fresh {
		return err
	}
	return errStale
}

// taking collects free addresses for one owner.
type taking struct {
	*work
	owner   Owner
	usable  usable
	missing int
	addrs   []netip.Addr
	limited bool // maxBlocksPerHost kept it from claiming a block
}

func (t *taking) fromOwn(pools []pool) error {
	var unknown error
	own := t.ownBlocks()
	for _, p := range pools {
		for _, cidr := range own {
			if !p.owns(cidr) || t.missing == 0 || !t.usable.reaches(cidr) || !t.env.leaves(cidr) {
				continue
			}
			b, err := t.block(cidr)
			switch {
			case errors.Is(err, errNeed):
				unknown = err
			case err != nil || b == nil || !t.owns(b):
				// A damaged block, or an affinity without its block, is no reason to
				// refuse addresses; ipam check reports it.
			default:
				if err := t.from(p, b); err != nil {
					return err
				}
			}
		}
	}
	if t.missing > 0 {
		return unknown
	}
	return nil
}

func (t *taking) fromVacant(pools []pool) error {
	if !t.env.config.AutoAllocateBlocks {
		return nil
	}
	for _, p := range pools {
		for _, cidr := range t.finds.vacant[p.cidr] {
			if t.missing == 0 {
				return nil
			}
			if !t.usable.reaches(cidr) || !t.env.leaves(cidr) {
				continue // another call's find, or a host has come there since
			}
			b, err := t.block(cidr)
			switch {
			case errors.Is(err, errNeed):
				return err
			case err != nil || b != nil:
				continue // somebody was faster
			}
			if t.limited = t.atLimit(); t.limited {
				return nil
			}
			if any, _ := free(newBlock(cidr, t.node, false), 1, t.usable); len(any) == 0 {
				continue
			}
			t.chosen[cidr] = true
			if err := t.from(p, t.claim(p, cidr)); err != nil {
				return err
			}
		}
	}
	return nil
}

// atLimit says whether the node has as many blocks as one may have.
func (w *work) atLimit() bool {
	limit := w.env.config.MaxBlocksPerHost
	return limit > 0 && len(w.ownBlocks()) >= limit
}

// ownBlocks lists the node's blocks, those in the making included.
func (w *work) ownBlocks() []netip.Prefix {
	own := w.env.affine
	for layer := w; layer != nil; layer = layer.below {
		for k, r := range layer.writes {
			if a, ok := k.(model.BlockAffinityKey); ok && r != nil && a.Node == w.node && !slices.Contains(own, a.CIDR) {
				own = append(slices.Clip(own), a.CIDR)
			}
		}
	}
	return own
}

// claim makes a block of the node's own.
func (w *work) claim(p pool, cidr netip.Prefix) *model.Block {
	b := newBlock(cidr, w.node, w.env.config.StrictAffinity)
	w.writes[model.BlockKey{CIDR: cidr}] = b
	w.writes[model.BlockAffinityKey{Node: w.node, CIDR: cidr}] = &model.BlockAffinity{State: model.AffinityConfirmed}
	w.rely(p)
	return b
}

func (t *taking) fromOthers(pools []pool) error {
	if t.env.config.StrictAffinity {
		return nil
	}
	for _, p := range pools {
		for _, cidr := range t.finds.roomy[p.cidr] {
			if t.missing == 0 {
				return nil
			}
			if !t.env.leaves(cidr) {
				continue
			}
			b, err := t.block(cidr)
			switch {
			case errors.Is(err, errNeed):
				return err
			case err != nil || b == nil:
				continue
			}
			if err := t.from(p, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// from takes as many addresses of a block as are missing and free.
func (t *taking) from(p pool, b *model.Block) error {
	ordinals, _ := free(b, t.missing, t.usable)
	if len(ordinals) == 0 {
		return nil
	}
	b = t.edit(b)
	for _, ordinal := range ordinals {
		take(b, ordinal, t.owner)
		t.addrs = append(t.addrs, addrOf(b, ordinal))
	}
	t.missing -= len(ordinals)
	t.rely(p)
	return t.count(t.owner.Handle, b.CIDR, len(ordinals))
}

func (t *taking) full(n int, ipv6 bool, pools []pool) error {
	e := &PoolFullError{Wanted: n, IPv6: ipv6, Within: t.usable.within, Strict: t.env.config.StrictAffinity, Taken: slices.Concat(t.env.taken, t.finds.live)}
	for _, p := range pools {
		fill, ok := t.finds.fill[p.cidr]
		if !ok {
			fill = emptyFill(p, t.usable)
		}
		e.Pools = append(e.Pools, fill)
	}
	if t.limited || t.atLimit() && t.env.config.StrictAffinity {
		e.Limit = t.env.config.MaxBlocksPerHost
	}
	return e
}

// assign gives out one certain address.
type assign struct {
	addr  netip.Addr
	owner Owner
}

func (a *assign) run(w *work) error {
	if w.env.locked {
		return unlessFresh(w, etcdstore.ErrLocked)
	}
	p, ok := w.env.poolOf(a.addr)
	if !ok || p.disabled {
		return unlessFresh(w, fmt.Errorf("%s: %w", a.addr, ErrNotInPool))
	}
	if place, taken := localnet.Across(w.env.taken, p.blockOf(a.addr)); taken {
		return unlessFresh(w, fmt.Errorf("%s: %w: block %s and %s", a.addr, ErrTaken, p.blockOf(a.addr), place))
	}
	b, err := w.block(p.blockOf(a.addr))
	if err != nil {
		return err
	}
	if b == nil {
		if w.atLimit() {
			return unlessFresh(w, fmt.Errorf("%s: %w (%d)", a.addr, ErrBlockLimit, w.env.config.MaxBlocksPerHost))
		}
		if b, err = w.reclaim(p, a); err != nil {
			return err
		}
	}
	ordinal, ok := ordinalOf(b, a.addr)
	if !ok {
		return fmt.Errorf("block %s: %w", b.CIDR, ErrDamaged)
	}
	if attrs, taken := attributesOf(b, ordinal); taken {
		return unlessFresh(w, &InUseError{Addr: a.addr, Owner: ownerOf(attrs)})
	}
	if !w.owns(b) && w.env.config.StrictAffinity {
		return unlessFresh(w, fmt.Errorf("%s: %w (block %s, node %s)", a.addr, ErrStrictAffinity, b.CIDR, nodeOf(b)))
	}
	take(w.edit(b), ordinal, a.owner)
	w.rely(p)
	return w.count(a.owner.Handle, b.CIDR, 1)
}

// reclaim makes a block of the node's own for a certain address. It may have been the node's
// before a backup was restored: what the routes say of its other containers is assigned to
// them again, for whoever writes their endpoints, or releases them, to find.
func (w *work) reclaim(p pool, a *assign) (*model.Block, error) {
	if w.env.here == nil {
		w.needsHere = true
		return nil, errNeed
	}
	b := w.claim(p, p.blockOf(a.addr))
	nobodys := Owner{Attrs: map[string]string{AttrNode: w.node, AttrTimestamp: a.owner.Attrs[AttrTimestamp]}}
	for _, addr := range w.env.here {
		if ordinal, ok := ordinalOf(b, addr); ok && addr != a.addr {
			take(b, ordinal, nobodys)
		}
	}
	return b, nil
}
