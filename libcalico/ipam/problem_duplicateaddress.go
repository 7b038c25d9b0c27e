package ipam

import (
	"fmt"
	"net/netip"
)

// duplicateAddress finds addresses of several endpoints.
type duplicateAddress struct{ noRemedy }

func (duplicateAddress) find(c *checker) {
	c.eachUsed(func(a netip.Addr, users []addressUser) {
		if len(users) > 1 {
			last := users[1].endpoint.key
			c.add(Problem{
				ID:   ID{Kind: ProblemDuplicate, Addr: a},
				Text: fmt.Sprintf("address %s is that of %d endpoints: %s and %s", a, len(users), users[0].endpoint.key, last),
				Advice: fmt.Sprintf("restart one of the containers, or, if one is no more: calicoctl delete workloadEndpoint --node=%s --orchestrator=%s --workload=%s %s",
					last.Node, last.Orchestrator, last.Workload, last.Name),
			})
		}
	})
}
