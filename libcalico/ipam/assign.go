package ipam

import (
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// autoAssign gives out addresses of any value.
type autoAssign struct{ Request }

func (a *autoAssign) run(w *work) *stop {
	w.result.owner = a.Owner
	for _, family := range []struct {
		ipv6 bool
		n    int
	}{{false, a.IPv4}, {true, a.IPv6}} {
		if family.n == 0 {
			continue
		}
		if s := a.family(w, family.ipv6, family.n); s != nil {
			return s
		}
	}
	return nil
}

// family takes n addresses: from the node's own blocks, then from blocks that nobody
// has, then from those of others.
func (a *autoAssign) family(w *work, ipv6 bool, n int) *stop {
	within := ofFamily(a.Within, ipv6)
	pools, err := w.env.choose(a.Pools, within, ipv6)
	if err != nil {
		return w.unlessFresh(err)
	}
	t := &taking{work: w, owner: a.Owner, missing: n, usable: usable{w.env.reserved, within}}
	for _, step := range []func([]pool) *stop{t.fromOwn, t.fromVacant, t.fromOthers} {
		if t.missing == 0 {
			break
		}
		if s := step(pools); s != nil {
			return s
		}
	}
	if t.missing > 0 {
		return &stop{why: tooFew, short: shortage{
			ipv6: ipv6, pools: pools, usable: t.usable, missing: t.missing, limited: w.atLimit(ipv6), err: t.full(n, ipv6, pools),
		}}
	}
	w.result.addrs = append(w.result.addrs, t.addrs...)
	return nil
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

func (t *taking) fromOwn(pools []pool) *stop {
	var unknown *stop
	own := t.ownBlocks()
	for _, p := range pools {
		for _, cidr := range own {
			if !p.owns(cidr) || t.missing == 0 || !t.usable.reaches(cidr) || !t.env.leaves(cidr) {
				continue
			}
			b, s := t.block(cidr)
			switch {
			case s.is(unread):
				unknown = s
			case s != nil || b == nil || !t.owns(b):
				// A damaged block, or an affinity without its block, is no reason to
				// refuse addresses; ipam check reports it.
			default:
				if s := t.from(p, b); s != nil {
					return s
				}
			}
		}
	}
	if t.missing > 0 {
		return unknown
	}
	return nil
}

func (t *taking) fromVacant(pools []pool) *stop {
	if !t.env.config.AutoAllocateBlocks {
		return nil
	}
	for _, p := range pools {
		for _, cidr := range t.finds.vacant[p.cidr] {
			if t.missing == 0 {
				return nil
			}
			if !p.cuts(cidr) || !t.usable.reaches(cidr) || !t.env.leaves(cidr) || t.env.overlapped[cidr].IsValid() {
				continue // another call's find, or things have changed since
			}
			b, s := t.block(cidr)
			switch {
			case s.is(unread):
				return s
			case s != nil || b != nil:
				continue // somebody was faster
			}
			if t.limited = t.atLimit(p.ipv6()); t.limited {
				return nil
			}
			if any, _ := free(newBlock(cidr, t.node, false), 1, t.usable); len(any) == 0 {
				continue
			}
			t.chosen[cidr] = true
			if s := t.from(p, t.claim(p, cidr)); s != nil {
				return s
			}
		}
	}
	return nil
}

// atLimit says whether the node has as many blocks of a family as one may have.
func (w *work) atLimit(ipv6 bool) bool {
	limit := w.env.config.MaxBlocksPerHost
	if limit == 0 {
		return false
	}
	n := 0
	for _, cidr := range w.ownBlocks() {
		if cidr.Addr().Is6() == ipv6 {
			n++
		}
	}
	return n >= limit
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

func (t *taking) fromOthers(pools []pool) *stop {
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
			b, s := t.block(cidr)
			switch {
			case s.is(unread):
				return s
			case s != nil || b == nil:
				continue
			}
			if s := t.from(p, b); s != nil {
				return s
			}
		}
	}
	return nil
}

// from takes as many addresses of a block as are missing and free.
func (t *taking) from(p pool, b *model.Block) *stop {
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
	e := &PoolFullError{Wanted: n, IPv6: ipv6, Within: t.usable.within, Strict: t.env.config.StrictAffinity, Taken: slices.Concat(t.env.taken, t.finds.live, t.env.inTheWay())}
	for _, p := range pools {
		fill, ok := t.finds.fill[p.cidr]
		if !ok {
			fill = emptyFill(p, t.usable)
		}
		e.Pools = append(e.Pools, fill)
	}
	if t.limited || t.atLimit(ipv6) {
		e.Limit = t.env.config.MaxBlocksPerHost
	}
	return e
}

// assign gives out one certain address.
type assign struct {
	addr  netip.Addr
	owner Owner
	// held says that a container has the address already, so that it does not matter
	// whether the pool gives out new ones, and to this node.
	held bool
	// locked says that the caller has locked the store, on which the transaction depends by the
	// caller's own conditions.
	locked bool
}

func (a *assign) run(w *work) *stop {
	if w.env.locked && !a.locked {
		return w.unlessFresh(etcdstore.Locked(w.env.lockedBy))
	}
	p, ok := w.env.poolOf(a.addr)
	switch {
	case !ok, p.disabled && !a.held:
		return w.unlessFresh(fmt.Errorf("%s: %w", a.addr, ErrNotInPool))
	case !a.held && !w.env.admits(p):
		return w.unlessFresh(fmt.Errorf("%s: %w", a.addr, notForNode(p)))
	}
	if place, taken := localnet.Across(w.env.taken, p.blockOf(a.addr)); taken {
		return w.unlessFresh(fmt.Errorf("%s: %w: block %s and %s", a.addr, ErrTaken, p.blockOf(a.addr), place))
	}
	b, s := w.locate(a.addr)
	if s != nil {
		return s
	}
	if b == nil {
		if b, s = a.claim(w, p); s != nil {
			return s
		}
	}
	ordinal, ok := ordinalOf(b, a.addr)
	if !ok {
		return refuse(fmt.Errorf("block %s: %w", b.CIDR, ErrDamaged))
	}
	if attrs, taken := attributesOf(b, ordinal); taken {
		return w.unlessFresh(&InUseError{Addr: a.addr, Owner: ownerOf(attrs)})
	}
	if !w.owns(b) && w.env.config.StrictAffinity {
		return w.unlessFresh(fmt.Errorf("%s: %w (block %s, node %s)", a.addr, ErrStrictAffinity, b.CIDR, nodeOf(b)))
	}
	take(w.edit(b), ordinal, a.owner)
	w.result.addrs, w.result.owner = []netip.Addr{a.addr}, a.owner
	if w.rely(p); a.locked {
		delete(w.checks, model.ReadyKey{})
	}
	return w.count(a.owner.Handle, b.CIDR, 1)
}

// claim makes the address's block one of the node's own, if that is possible.
func (a *assign) claim(w *work, p pool) (*model.Block, *stop) {
	block := p.blockOf(a.addr)
	if other := w.env.overlapped[block]; other.IsValid() {
		return nil, w.unlessFresh(fmt.Errorf("%s: %w: block %s cannot be claimed beside block %s", a.addr, ErrOverlap, block, other))
	}
	if w.atLimit(p.ipv6()) {
		return nil, w.unlessFresh(fmt.Errorf("%s: %w (%d)", a.addr, ErrBlockLimit, w.env.config.MaxBlocksPerHost))
	}
	return w.reclaim(p, a)
}

// reclaim makes a block of the node's own for a certain address. It may have been the node's
// before a backup was restored: what the routes say of its other containers is assigned to
// them again, for whoever writes their endpoints, or releases them, to find.
func (w *work) reclaim(p pool, a *assign) (*model.Block, *stop) {
	if w.env.here == nil {
		w.needsHere = true
		return nil, &stop{why: unread}
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
