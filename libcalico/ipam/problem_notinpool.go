package ipam

import (
	"fmt"
	"net/netip"
)

// notInPool finds addresses of endpoints that are in no pool.
type notInPool struct{ noRemedy }

func (notInPool) find(c *checker) {
	c.eachUsed(func(a netip.Addr, users []addressUser) {
		if _, inPool := c.env.poolOf(a); inPool || c.isTaken(a) || c.isDamaged(a) {
			return
		}
		k := users[0].endpoint.key
		c.add(Problem{
			ID:   ID{Kind: ProblemNotInPool, Addr: a, Node: k.Node, Endpoint: k.Name},
			Text: fmt.Sprintf("endpoint %s on node %s has address %s, which is in no pool", k.Name, k.Node, a),
		})
	})
}
