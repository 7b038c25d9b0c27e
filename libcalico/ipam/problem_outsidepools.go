package ipam

import (
	"context"
	"fmt"
)

// outsidePools finds blocks in no pool, and deletes those that are empty.
type outsidePools struct{}

func (outsidePools) find(c *checker) {
	for _, cidr := range c.sorted {
		b := c.blocks[cidr]
		_, inPool := c.env.poolOf(cidr.Addr())
		if b.fault != nil || inPool || c.isAbandoned(b) {
			continue
		}
		p := Problem{
			ID:   ID{Kind: ProblemOutsidePools, Block: cidr, Node: b.node},
			Text: fmt.Sprintf("block %s (%d addresses in use) is in no pool", cidr, len(b.uses)),
		}
		if len(b.uses) == 0 {
			p = p.with("delete the block")
		} else {
			p.Advice = "create a pool for it, or stop the containers that have its addresses"
		}
		c.add(p)
	}
}

func (outsidePools) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	return cl.mendBy(ctx, &giveUpBlock{cidr: p.Block, onlyEmpty: true})
}
