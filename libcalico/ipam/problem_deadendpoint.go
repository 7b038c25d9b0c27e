package ipam

import (
	"context"
	"fmt"

	"calico.internal/libcalico/etcdstore"
)

// deadEndpoint finds endpoints that no container has, and removes them with their
// addresses.
type deadEndpoint struct{}

func (deadEndpoint) find(c *checker) {
	for _, e := range c.dead {
		p := Problem{
			ID: ID{Kind: ProblemDeadEndpoint, Node: e.key.Node, Endpoint: e.key.Name}, rev: e.rev,
			Text: fmt.Sprintf("endpoint %s on node %s belongs to no container there", e.key.Name, e.key.Node),
		}
		if c.doubted {
			p.Advice = c.doubt()
		} else {
			p = p.with("remove the endpoint and release its addresses")
		}
		c.add(p)
	}
}

// doubt says why an engine that says little of what is known is not believed.
func (v evidence) doubt() string {
	return fmt.Sprintf("the engine knows none of the containers of %d of the node's %d endpoints, which is more than half; "+
		"if they are gone: calicoctl ipam check --fix --force", len(v.dead), v.all)
}

func (deadEndpoint) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	remove, err := etcdstore.DeleteWrite(endpointKey(p), p.rev)
	if err == nil {
		_, err = cl.whileOpen(ctx, &releaseHandle{handle: p.Endpoint, whole: true}, remove)
	}
	return err == nil, err
}
