package ipam

import (
	"context"
	"fmt"
	"net/netip"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// damagedBlock finds blocks whose values contradict themselves, and rebuilds them.
type damagedBlock struct{}

func (damagedBlock) find(c *checker) {
	for _, cidr := range c.damaged {
		b := c.blocks[cidr]
		p := Problem{ID: ID{Kind: ProblemDamagedBlock, Block: cidr}, rev: b.rev, Text: fmt.Sprintf("block %s is damaged: %v", cidr, b.fault)}
		if b.repairable {
			p = p.with("rebuild the block; every address in use stays in use")
		} else {
			p.Advice = "no address of it can be given out or released"
		}
		c.add(p)
	}
}

func (damagedBlock) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	return cl.rebuild(ctx, p.Block)
}

// rebuild writes a block anew from what its value tells.
func (c *Client) rebuild(ctx context.Context, cidr netip.Prefix) (done bool, err error) {
	k := model.BlockKey{CIDR: cidr}
	found, err := c.backend.raw(ctx, k)
	if err != nil {
		return false, err
	}
	b := repaired(cidr, found.block)
	if b == nil {
		return false, nil
	}
	w, err := etcdstore.UpdateWrite(k, b, found.rev)
	if err != nil {
		return false, err
	}
	_, err = c.whileAllowed(ctx, func(open []etcdstore.Write) (int64, error) {
		return c.backend.commit(ctx, append([]etcdstore.Write{w}, open...))
	})
	return err == nil, err
}

// repaired rebuilds a block so that every address in use stays in use, and every other
// is free. It returns nil when the value does not tell which are in use.
func repaired(cidr netip.Prefix, b *model.Block) *model.Block {
	if b == nil || b.CIDR != cidr || len(b.Allocations) != blockSize(cidr) {
		return nil
	}
	out := cloneBlock(b)
	out.Unallocated = nil
	unknown := -1 // the attributes of addresses whose own are missing
	free := make([]bool, len(out.Allocations))
	for ordinal, i := range out.Allocations {
		switch {
		case i == nil:
			free[ordinal] = true
		case *i < 0 || *i >= len(b.Attributes):
			if unknown < 0 {
				unknown = intern(out, model.BlockAttributes{})
			}
			out.Allocations[ordinal] = new(unknown)
		}
	}
	for _, ordinal := range b.Unallocated { // in their order, as far as there is one
		if ordinal >= 0 && ordinal < len(free) && free[ordinal] {
			out.Unallocated = append(out.Unallocated, ordinal)
			free[ordinal] = false
		}
	}
	for ordinal, missing := range free {
		if missing {
			out.Unallocated = append(out.Unallocated, ordinal)
		}
	}
	if model.Validate(model.BlockKey{CIDR: cidr}, out) != nil {
		return nil
	}
	return out
}
