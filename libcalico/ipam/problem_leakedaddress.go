package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// leakedAddress finds addresses in use that no endpoint has, and releases them.
type leakedAddress struct{}

func (k leakedAddress) find(c *checker) {
	for _, t := range c.taken {
		if len(c.usersOf(t.addr)) == 0 && !c.held(t) && !k.excused(c, t.owner) {
			c.add(k.judge(c, t))
		}
	}
}

// held says that a container has an address: looseContainer tells.
func (c *checker) held(t taken) bool {
	if c.engine != nil && c.engine.Addresses[t.addr].Running {
		return true
	}
	return c.routed[t.addr] || c.sandboxed(t.owner.attr(AttrEndpoint))
}

// excused says that an address needs no endpoint: it is a node's own, or its container is
// being started.
func (leakedAddress) excused(c *checker, o *packedOwner) bool {
	if t, err := time.Parse(time.RFC3339, o.attr(AttrTimestamp)); err == nil && c.now.Sub(t) < startTime {
		return true
	}
	_, known := c.nodes[o.attr(AttrNode)]
	return known && o.attr(AttrType) != ""
}

// judge says what proves that an address has leaked, or why nothing does.
func (leakedAddress) judge(c *checker, t taken) Problem {
	o := t.owner.owner()
	node := o.Attrs[AttrNode]
	p := Problem{
		ID:    ID{Kind: ProblemLeakedAddress, Addr: t.addr, Handle: o.Handle, Node: node, Endpoint: o.Attrs[AttrEndpoint], Since: o.Attrs[AttrTimestamp]},
		owner: *t.owner,
		Text:  fmt.Sprintf("address %s is in use by %s, and no endpoint has it", t.addr, o),
	}
	p.rev = c.endpoint(endpointKey(p)).rev
	_, known := c.nodes[node]
	switch {
	case node == "":
		p.Advice = fmt.Sprintf("nothing proves that no container has it; if none does: calicoctl ipam release --ip=%s", t.addr)
	case !known:
		p.Text += "; the node does not exist"
		p = p.with("release the address")
	case o.Attrs[AttrType] != "" || o.Handle != "" && o.Attrs[AttrEndpoint] == "":
		p.Advice = fmt.Sprintf("it is not Docker's, so nothing proves that it is of no use; if it is: calicoctl ipam release --ip=%s", t.addr)
	case c.engine == nil || c.engine.Node != node:
		p.Advice = fmt.Sprintf("run calicoctl ipam check on node %s, whose engine knows whether a container has it", node)
	case c.engine.Addresses[t.addr].Name != "":
		p.Advice = fmt.Sprintf("container %s, which does not run, has it by the engine; remove the container", c.engine.Addresses[t.addr].Name)
	case c.doubted:
		p.Advice = c.doubt()
	default:
		p.Text += ", nor any container on the node"
		p = p.with("release the address")
	}
	return p
}

// mend releases an address that still has the owner that it was found with, whose endpoint
// has not changed since either.
func (leakedAddress) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	var also []etcdstore.Write
	if p.Endpoint != "" && p.Node != "" {
		same, err := etcdstore.CheckWrite(endpointKey(p), p.rev)
		if err != nil {
			return false, err
		}
		also = append(also, same)
	}
	owner := p.owner.owner()
	r, err := cl.whileOpen(ctx, &release{addrs: []netip.Addr{p.Addr}, only: &owner}, also...)
	return len(r.freed) > 0, err
}

// endpointKey is that of the endpoint of Docker's that a problem is about.
func endpointKey(p Problem) model.WorkloadEndpointKey {
	return model.WorkloadEndpointKey{Node: p.Node, Orchestrator: orchestrator, Workload: orchestrator, Name: p.Endpoint}
}
