package ipam

import (
	"context"
	"fmt"
)

// lostAddress finds addresses that are neither in use nor free, and frees them.
type lostAddress struct{}

func (lostAddress) find(c *checker) {
	for _, cidr := range c.sorted {
		b := c.blocks[cidr]
		for _, ordinal := range b.lost {
			a := addrAt(cidr, ordinal)
			c.add(Problem{
				ID: ID{Kind: ProblemLostAddress, Addr: a, Block: cidr}, rev: b.rev,
				Text: fmt.Sprintf("address %s is neither in use nor free", a),
			}.with("make it free"))
		}
	}
}

func (lostAddress) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	return cl.rebuild(ctx, p.Block)
}
