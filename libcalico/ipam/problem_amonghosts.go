package ipam

import (
	"fmt"

	"calico.internal/libcalico/localnet"
)

// amongHosts finds blocks that touch what hosts have for themselves.
type amongHosts struct{ noRemedy }

func (amongHosts) find(c *checker) {
	for _, cidr := range c.sorted {
		places := localnet.Overlap(c.env.taken, cidr)
		if places == "" || c.blocks[cidr].fault != nil {
			continue
		}
		c.add(Problem{
			ID: ID{Kind: ProblemAmongHosts, Block: cidr}, Text: fmt.Sprintf("block %s touches %s; no new address comes from it", cidr, places),
			Advice: "move the containers that have addresses of it to a pool elsewhere",
		})
	}
}
