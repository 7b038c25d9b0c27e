package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/libcalico/model"
)

// Holding is an address that somebody has.
type Holding struct {
	Addr netip.Addr
	// Block is the block that the address is in.
	Block netip.Prefix
	Owner Owner
}

// Holdings lists the addresses in use in the blocks of a node, in order, also those
// that other nodes have borrowed there ([AttrNode] tells). What the node itself has
// borrowed elsewhere is not among them ([Client.Borrowed]). Only this node's blocks
// are read, so that it takes the same time with many nodes as with few. What is in the
// damaged ones is not known.
func (c *Client) Holdings(ctx context.Context, node string) (held []Holding, damaged []netip.Prefix, err error) {
	env, err := c.backend.environment(ctx, node)
	if err == nil {
		damaged, err = c.eachOf(ctx, env.affine, func(b *model.Block) { held = appendHoldings(held, b, node) })
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list the addresses of node %s: %w", node, err)
	}
	return held, damaged, nil
}

// Borrowed lists the addresses in some blocks that were given to a node ([AttrNode]), but for
// those in blocks of its own, which [Client.Holdings] lists. What is in the damaged ones is not
// known.
func (c *Client) Borrowed(ctx context.Context, node string, blocks []netip.Prefix) (held []Holding, damaged []netip.Prefix, err error) {
	damaged, err = c.eachOf(ctx, blocks, func(b *model.Block) {
		if nodeOf(b) != node {
			held = appendGiven(held, b, node)
		}
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list what node %s has borrowed: %w", node, err)
	}
	return held, damaged, nil
}

// eachOf reads blocks and calls f with those that exist, but for the damaged ones.
func (c *Client) eachOf(ctx context.Context, blocks []netip.Prefix, f func(*model.Block)) (broken []netip.Prefix, err error) {
	for some := range slices.Chunk(blocks, pointReads) {
		keys := make([]model.Key, len(some))
		for i, cidr := range some {
			keys[i] = model.BlockKey{CIDR: cidr}
		}
		found, err := c.backend.read(ctx, keys)
		if err != nil {
			return nil, err
		}
		for i, k := range keys {
			switch b := found[k].value.(type) {
			case *model.Block:
				f(b)
			case damaged:
				broken = append(broken, some[i])
			}
		}
	}
	return broken, nil
}

// appendHoldings adds the addresses in use in a block, if it is the node's.
func appendHoldings(out []Holding, b *model.Block, node string) []Holding {
	if b.Affinity == nil || nodeOf(b) != node {
		return out // an affinity left over
	}
	return appendAll(out, b)
}

func appendAll(out []Holding, b *model.Block) []Holding {
	for ordinal := range b.Allocations {
		if attrs, taken := attributesOf(b, ordinal); taken {
			out = append(out, Holding{Addr: addrOf(b, ordinal), Block: b.CIDR, Owner: ownerOf(attrs)})
		}
	}
	return out
}
