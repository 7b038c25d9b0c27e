package ipam

import (
	"context"
	"net/netip"

	"calico.internal/libcalico/model"
)

// pointReads is how many keys one transaction reads.
const pointReads = 64

// walkOf goes on with a call's walk through a pool.
func (q *queue) walkOf(c *call, p pool) *walk {
	if c.walks == nil {
		c.walks = map[netip.Prefix]*walk{}
	}
	if c.walks[p.cidr] == nil {
		c.walks[p.cidr] = newWalk(p, q.node)
	}
	return c.walks[p.cidr]
}

// findVacant looks for as many blocks that nobody owns as the call needs, in the
// first pool that has some. found is false when no pool has any.
func (q *queue) findVacant(ctx context.Context, c *call, short *shortage) (found bool, err error) {
	for _, p := range short.pools {
		missing := short.missing
		for missing > 0 {
			candidates := q.walkOf(c, p).next(pointReads)
			if len(candidates) == 0 {
				break
			}
			ctx, cancel := context.WithTimeout(ctx, storeTimeout)
			exist, err := q.backend.exist(ctx, candidates)
			cancel()
			if err != nil {
				return false, err
			}
			for i, cidr := range candidates {
				if exist[i] || q.heldBack(cidr) {
					continue
				}
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
		fill := PoolFill{Pool: p.cidr, Size: p.size()}
		for missing > 0 {
			candidates := q.walkOf(c, p).next(pointReads)
			if len(candidates) == 0 {
				break
			}
			usable, err := q.roomIn(ctx, c, p, candidates, &fill)
			if err != nil {
				return err
			}
			if !q.env.config.StrictAffinity {
				missing -= usable
			}
		}
		c.finds.fill[p.cidr] = fill
	}
	return nil
}

// roomIn reads some blocks and returns how many usable addresses they have.
func (q *queue) roomIn(ctx context.Context, c *call, p pool, candidates []netip.Prefix, fill *PoolFill) (usable int, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	blocks, err := q.backend.room(ctx, candidates)
	if err != nil {
		return 0, err
	}
	for _, cidr := range candidates {
		s, ok := blocks[model.BlockKey{CIDR: cidr}]
		if !ok || s.rev == 0 {
			continue
		}
		fill.Blocks++
		b, ok := s.value.(*model.Block)
		if !ok { // full, or not usable
			fill.InUse += blockSize(cidr)
			continue
		}
		fill.InUse += inUse(b)
		ordinals, held := free(b, len(b.Allocations), q.env.reserved)
		fill.Reserved += held
		if len(ordinals) > 0 {
			q.known[model.BlockKey{CIDR: cidr}] = s
			c.finds.roomy[p.cidr] = append(c.finds.roomy[p.cidr], cidr)
			usable += len(ordinals)
		}
	}
	return usable, nil
}
