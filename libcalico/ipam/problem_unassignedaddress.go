package ipam

import (
	"context"
	"fmt"
	"net/netip"

	"calico.internal/libcalico/etcdstore"
)

// unassignedAddress finds addresses of endpoints that are not in use, and marks them as in
// use: also those of a pool that gives out none any more.
type unassignedAddress struct{}

func (unassignedAddress) find(c *checker) {
	c.eachUsed(func(a netip.Addr, users []addressUser) {
		_, inPool := c.env.poolOf(a)
		if !inPool || c.isTaken(a) || c.isDamaged(a) {
			return
		}
		e := users[0].endpoint
		c.add(Problem{
			ID: ID{Kind: ProblemUnassigned, Addr: a, Node: e.key.Node, Endpoint: e.key.Name}, rev: e.rev,
			Text: fmt.Sprintf("endpoint %s on node %s has address %s, which is not in use", e.key.Name, e.key.Node, a),
		}.with("mark the address as in use by the endpoint"))
	})
}

// mend makes an endpoint the owner of its address, if it is still there.
func (unassignedAddress) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	same, err := etcdstore.CheckWrite(endpointKey(p), p.rev)
	if err != nil {
		return false, err
	}
	node := cl.As(p.Node)
	op := &assign{addr: p.Addr, owner: node.ownerFor(p), held: true, locked: len(cl.under) > 0}
	_, err = node.queue.do(ctx, &call{op: op, also: append([]etcdstore.Write{same}, cl.under...)})
	return err == nil, err
}

// ownerFor is the endpoint that a problem is about, as the owner of its address.
func (c *Client) ownerFor(p Problem) Owner { return c.ownerBy(p.Endpoint) }

// ownerBy is an endpoint of the client's node as the owner of an address.
func (c *Client) ownerBy(endpoint string) Owner {
	return c.stamp(Owner{Handle: endpoint, Attrs: map[string]string{AttrEndpoint: endpoint}})
}
