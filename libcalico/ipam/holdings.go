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
// borrowed elsewhere is not among them; an [Inventory] has all. Only this node's blocks
// are read, so that it takes the same time with many nodes as with few.
func (c *Client) Holdings(ctx context.Context, node string) ([]Holding, error) {
	env, err := c.backend.environment(ctx, node)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of node %s: %w", node, err)
	}
	var out []Holding
	for some := range slices.Chunk(env.affine, pointReads) {
		keys := make([]model.Key, len(some))
		for i, cidr := range some {
			keys[i] = model.BlockKey{CIDR: cidr}
		}
		found, err := c.backend.read(ctx, keys)
		if err != nil {
			return nil, fmt.Errorf("list the addresses of node %s: %w", node, err)
		}
		for _, k := range keys {
			switch b := found[k].value.(type) {
			case *model.Block:
				out = appendHoldings(out, b, node)
			case damaged:
				return nil, fmt.Errorf("list the addresses of node %s: %v: %w", node, k, ErrDamaged)
			}
		}
	}
	return out, nil
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
