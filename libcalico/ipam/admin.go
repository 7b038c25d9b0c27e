package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// PoolUsage tells how a pool is used.
type PoolUsage struct {
	// Pool is the pool's range; it is not valid for the blocks that are in no pool.
	Pool     netip.Prefix
	Disabled bool
	// Size is the number of addresses.
	Size *big.Int
	// InUse is the number of those that somebody has.
	InUse  int
	Blocks []BlockUsage
}

// BlockUsage tells how a block is used.
type BlockUsage struct {
	CIDR netip.Prefix
	// Node owns the block; it is empty when none does.
	Node string
	// Size is the number of addresses, InUse how many of them somebody has, and
	// Borrowed how many of those are of other nodes.
	Size, InUse, Borrowed int
	// Damaged says that the stored value cannot be used, so that the figures are not
	// known.
	Damaged bool
}

// Usage tells how every pool is used, in the order of their addresses, as of one
// revision. What is in no pool comes last, if there is any.
func (c *Client) Usage(ctx context.Context) ([]PoolUsage, error) {
	env, err := c.backend.environment(ctx, c.node)
	if err != nil {
		return nil, fmt.Errorf("read the use of pools: %w", err)
	}
	out := make([]PoolUsage, len(env.pools), len(env.pools)+1)
	for i, p := range env.pools {
		out[i] = PoolUsage{Pool: p.cidr, Disabled: p.disabled, Size: p.size()}
	}
	orphans := PoolUsage{Size: new(big.Int)}
	err = c.backend.eachBlock(ctx, func(u BlockUsage) {
		into := &orphans
		if p, ok := env.poolOf(u.CIDR.Addr()); ok {
			into = &out[slices.IndexFunc(env.pools, func(q pool) bool { return q.cidr == p.cidr })]
		} else {
			orphans.Size.Add(orphans.Size, sizeOf(u.CIDR))
		}
		into.Blocks = append(into.Blocks, u)
		into.InUse += u.InUse
	})
	if err != nil {
		return nil, fmt.Errorf("read the use of pools: %w", err)
	}
	if len(orphans.Blocks) > 0 {
		out = append(out, orphans)
	}
	for _, u := range out {
		slices.SortFunc(u.Blocks, func(a, b BlockUsage) int { return a.CIDR.Compare(b.CIDR) })
	}
	return out, nil
}

// giveUpBlock ends a node's ownership of a block: an empty one is deleted, one with
// addresses in use belongs to nobody until they are released. An affinity whose block
// is another node's, or is gone, is deleted by itself.
type giveUpBlock struct {
	cidr netip.Prefix
	node string // empty: whoever owns it
	// onlyEmpty leaves a block with addresses in use alone.
	onlyEmpty bool
}

func (g *giveUpBlock) run(w *work) *stop {
	if s := w.afresh(model.BlockKey{CIDR: g.cidr}); s != nil {
		return s
	}
	b, s := w.block(g.cidr)
	if s != nil && !errors.Is(s.err, ErrDamaged) {
		return s
	}
	w.relyOn(g.cidr) // so as not to take away what somebody claims just now
	if b == nil || b.Affinity == nil || g.node != "" && nodeOf(b) != g.node {
		g.dropAffinity(w, g.node)
		return nil
	}
	if g.onlyEmpty && inUse(b) > 0 {
		return nil
	}
	w.result.done = true
	g.dropAffinity(w, nodeOf(b))
	delete(w.checks, model.BlockKey{CIDR: g.cidr}) // it is written
	b = w.edit(b)
	b.Affinity = nil
	w.settle(b)
	return nil
}

func (g *giveUpBlock) dropAffinity(w *work, node string) {
	if node != "" {
		w.writes[model.BlockAffinityKey{Node: node, CIDR: g.cidr}] = nil
	}
}

// ReleaseNode takes all blocks from a node that is no more: empty ones are deleted,
// others belong to nobody until their last address is released. Each of its transactions
// has the other writes in it. It can be repeated when it was interrupted.
func (c *Client) ReleaseNode(ctx context.Context, node string, also ...etcdstore.Write) error {
	env, err := c.backend.environment(ctx, node)
	if err != nil {
		return fmt.Errorf("release the blocks of node %s: %w", node, err)
	}
	for _, cidr := range env.affine {
		if _, err := c.queue.do(ctx, &call{op: &giveUpBlock{cidr: cidr, node: node}, also: also}); err != nil {
			return fmt.Errorf("release block %s of node %s: %w", cidr, node, err)
		}
	}
	return nil
}

// ReleasePool deletes the empty blocks of a pool. Those with addresses in use stay their
// nodes', which have routes by them, until a node finds them empty. The pool must give out no
// addresses any more, or nodes claim blocks again. Each transaction has the other writes in it.
func (c *Client) ReleasePool(ctx context.Context, cidr netip.Prefix, also ...etcdstore.Write) error {
	blocks, affinities, err := c.backend.blocksIn(ctx, cidr)
	if err != nil {
		return fmt.Errorf("release the blocks of pool %s: %w", cidr, err)
	}
	ops := make([]*giveUpBlock, 0, len(affinities)+len(blocks))
	for _, a := range affinities {
		ops = append(ops, &giveUpBlock{cidr: a.CIDR, node: a.Node, onlyEmpty: true})
	}
	for _, b := range blocks {
		ops = append(ops, &giveUpBlock{cidr: b, onlyEmpty: true})
	}
	for _, op := range ops {
		if _, err := c.queue.do(ctx, &call{op: op, also: also}); err != nil {
			return fmt.Errorf("release block %s of pool %s: %w", op.cidr, cidr, err)
		}
	}
	return nil
}

// spare is an empty block as it was first seen.
type spare struct {
	rev   int64
	since time.Time
}

// ReleaseSpareBlocks gives back the node's blocks that have been empty for the grace
// time, but for one in each enabled pool, and returns them. Only what it has itself
// seen empty counts, so call it now and then.
func (c *Client) ReleaseSpareBlocks(ctx context.Context, grace time.Duration) ([]netip.Prefix, error) {
	env, err := c.backend.environment(ctx, c.node)
	if err != nil {
		return nil, fmt.Errorf("release spare blocks: %w", err)
	}
	empty, err := c.emptyBlocks(ctx, env)
	if err != nil {
		return nil, fmt.Errorf("release spare blocks: %w", err)
	}
	var released []netip.Prefix
	for _, cidr := range c.overdue(env, empty, grace) {
		gone, err := c.queue.do(ctx, &call{op: &giveUpBlock{cidr: cidr, node: c.node, onlyEmpty: true}})
		if err != nil {
			return released, fmt.Errorf("release spare block %s: %w", cidr, err)
		}
		if gone.done {
			released = append(released, cidr)
		}
	}
	return released, nil
}

// emptyBlocks returns the revisions of the node's blocks without addresses in use.
func (c *Client) emptyBlocks(ctx context.Context, env *environment) (map[netip.Prefix]int64, error) {
	out := map[netip.Prefix]int64{}
	for some := range slices.Chunk(env.affine, pointReads) {
		keys := make([]model.Key, len(some))
		for i, cidr := range some {
			keys[i] = model.BlockKey{CIDR: cidr}
		}
		found, err := c.backend.read(ctx, keys)
		if err != nil {
			return nil, err
		}
		for i, cidr := range some {
			s := found[keys[i]]
			if b, ok := s.value.(*model.Block); ok && nodeOf(b) == c.node && inUse(b) == 0 {
				out[cidr] = s.rev
			}
		}
	}
	return out, nil
}

// overdue chooses the empty blocks that go back.
func (c *Client) overdue(env *environment, empty map[netip.Prefix]int64, grace time.Duration) []netip.Prefix {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	seen := map[netip.Prefix]spare{}
	for cidr, rev := range empty {
		s, ok := c.spares[cidr]
		if !ok || s.rev != rev {
			s = spare{rev, now}
		}
		seen[cidr] = s
	}
	c.spares = seen
	kept := map[netip.Prefix]bool{} // pools that have their spare
	var out []netip.Prefix
	for _, cidr := range slices.SortedFunc(maps.Keys(seen), netip.Prefix.Compare) {
		p, ok := env.poolOf(cidr.Addr())
		switch {
		case ok && !p.disabled && !kept[p.cidr]:
			kept[p.cidr] = true
		case now.Sub(seen[cidr].since) >= grace:
			out = append(out, cidr)
		}
	}
	return out
}

// Taken lists what nodes and the store have for themselves: networks before the
// addresses in them. No address comes from a block that touches any of it.
func (c *Client) Taken(ctx context.Context) ([]localnet.Place, error) {
	places, err := c.backend.places(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the networks of nodes: %w", err)
	}
	return places, nil
}

// InUse is how many addresses of a range somebody has, by the blocks in it. A block
// that cannot be read counts as one.
func (c *Client) InUse(ctx context.Context, within netip.Prefix) (int, error) {
	n := 0
	err := c.backend.eachBlock(ctx, func(u BlockUsage) {
		switch {
		case !u.CIDR.Overlaps(within):
		case u.Damaged:
			n++
		default:
			n += u.InUse
		}
	})
	if err != nil {
		return 0, fmt.Errorf("count the addresses of %s in use: %w", within, err)
	}
	return n, nil
}
