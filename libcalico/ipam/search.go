package ipam

import (
	"context"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"sync"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

const (
	// pointReads is how many keys one transaction reads, and readsAtOnce how many such
	// transactions a long search has under way.
	pointReads  = 64
	readsAtOnce = 4
)

// walkOf goes on with a call's walk through a pool.
func (q *queue) walkOf(c *call, p pool, u usable) *walk {
	if c.walks == nil {
		c.walks = map[netip.Prefix]*walk{}
	}
	if c.walks[p.cidr] == nil {
		c.walks[p.cidr] = newWalk(q.node, p.parts(u.within)...)
	}
	return c.walks[p.cidr]
}

// findVacant looks for as many blocks that nobody owns as the call needs, in the
// first pool that has some. found is false when no pool has any.
func (q *queue) findVacant(ctx context.Context, c *call, short *shortage) (found bool, err error) {
	for _, p := range short.pools {
		missing := short.missing
		// A pool seldom is so full that the first look finds nothing.
		for chunks := 1; missing > 0; chunks = readsAtOnce {
			some := q.walkOf(c, p, short.usable).chunks(chunks)
			if len(some) == 0 {
				break
			}
			exist, err := atOnce(ctx, some, q.backend.exist)
			if err != nil {
				return false, err
			}
			var absent []netip.Prefix
			for i, cidr := range slices.Concat(some...) {
				if !exist[i/pointReads][i%pointReads] && !q.heldBack(cidr) && q.env.leaves(cidr) {
					absent = append(absent, cidr)
				}
			}
			vacant, err := q.withoutLive(c, absent)
			if err != nil {
				return false, err
			}
			for _, cidr := range vacant {
				q.vacant[p.cidr] = append(q.vacant[p.cidr], cidr)
				q.known[model.BlockKey{CIDR: cidr}] = stored{}
				missing -= blockSize(cidr)
				found = true
			}
		}
		if missing <= 0 {
			return true, nil
		}
	}
	return found, nil
}

// withoutLive takes away those of some blocks that are not in the store, but some node's by
// the routes of this host; they are noted.
func (q *queue) withoutLive(c *call, blocks []netip.Prefix) ([]netip.Prefix, error) {
	live, err := q.places.live(blocks)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(blocks, func(cidr netip.Prefix) bool {
		if live[cidr] {
			c.finds.live = append(c.finds.live, localnet.Place{Prefix: cidr, What: "a block by this host's routes, which etcd does not know"})
		}
		return live[cidr]
	}), nil
}

// chunks returns up to n times the next blocks of a walk.
func (w *walk) chunks(n int) [][]netip.Prefix {
	var out [][]netip.Prefix
	for range n {
		some := w.next(pointReads)
		if len(some) == 0 {
			break
		}
		out = append(out, some)
	}
	return out
}

// atOnce reads several lots of blocks, all at the same time.
func atOnce[T any](ctx context.Context, lots [][]netip.Prefix, read func(context.Context, []netip.Prefix) (T, error)) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	out, errs := make([]T, len(lots)), make([]error, len(lots))
	var wg sync.WaitGroup
	for i, lot := range lots {
		wg.Go(func() { out[i], errs[i] = read(ctx, lot) })
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// heldBack says that a reservation covers the whole block.
func (q *queue) heldBack(cidr netip.Prefix) bool {
	for _, r := range q.env.reserved {
		if r.Bits() <= cidr.Bits() && r.Contains(cidr.Addr()) {
			return true
		}
	}
	return false
}

// findRoomy looks for blocks of others with free addresses, until there are enough,
// and counts the use of the pools that it has seen completely.
func (q *queue) findRoomy(ctx context.Context, c *call, short *shortage) error {
	missing := short.missing
	for _, p := range short.pools {
		fill := emptyFill(p, short.usable)
		for chunks := 1; missing > 0; chunks = readsAtOnce {
			some := q.walkOf(c, p, short.usable).chunks(chunks)
			if len(some) == 0 {
				break
			}
			found, err := atOnce(ctx, some, q.backend.room)
			if err != nil {
				return err
			}
			for i, blocks := range found {
				if n := q.useRoom(c, p, short.usable, some[i], blocks, &fill); !q.env.config.StrictAffinity {
					missing -= n
				}
			}
		}
		c.finds.fill[p.cidr] = fill
	}
	return nil
}

// useRoom takes note of blocks that were read and returns how many usable addresses
// they have.
func (q *queue) useRoom(c *call, p pool, u usable, candidates []netip.Prefix, blocks known, fill *PoolFill) (n int) {
	for _, cidr := range candidates {
		s, ok := blocks[model.BlockKey{CIDR: cidr}]
		if !ok || s.rev == 0 {
			continue
		}
		fill.Blocks++
		b, ok := s.value.(*model.Block)
		if ok && !q.env.leaves(cidr) {
			fill.InUse += inUseOf(b, u)
			continue
		}
		if !ok { // full, or not usable
			fill.InUse += overlap(cidr, u)
			continue
		}
		fill.InUse += inUseOf(b, u)
		ordinals, held := free(b, len(b.Allocations), u)
		fill.Reserved += held
		if len(ordinals) > 0 {
			q.known[model.BlockKey{CIDR: cidr}] = s
			c.finds.roomy[p.cidr] = append(c.finds.roomy[p.cidr], cidr)
			n += len(ordinals)
		}
	}
	return n
}

// emptyFill is the use of a pool, or of the part of it that can be used, of which
// nothing has been counted yet.
func emptyFill(p pool, u usable) PoolFill {
	if len(u.within) == 0 {
		return PoolFill{Pool: p.cidr, Size: p.size()}
	}
	fill := PoolFill{Pool: p.cidr, Size: new(big.Int)}
	for _, r := range distinct(u.within, p.cidr) {
		fill.Size.Add(fill.Size, sizeOf(r))
	}
	return fill
}

// overlap is how many addresses of a block are in the ranges that are asked for.
func overlap(block netip.Prefix, u usable) int {
	if len(u.within) == 0 {
		return blockSize(block)
	}
	n := 0
	for i := range blockSize(block) {
		if holds(u.within, addTo(block.Addr(), uint64(i))) {
			n++
		}
	}
	return n
}

// inUseOf is how many of these addresses somebody has.
func inUseOf(b *model.Block, u usable) int {
	if len(u.within) == 0 {
		return inUse(b)
	}
	n := 0
	for ordinal, taken := range b.Allocations {
		if taken != nil && holds(u.within, addrOf(b, ordinal)) {
			n++
		}
	}
	return n
}
