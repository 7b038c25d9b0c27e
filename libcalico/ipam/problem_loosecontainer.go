package ipam

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// looseContainer finds running containers without their endpoints, and sees to it that
// their addresses stay theirs.
type looseContainer struct{}

func (k looseContainer) find(c *checker) {
	k.byEngine(c)
	k.bySandbox(c)
}

func (looseContainer) byEngine(c *checker) {
	if c.engine == nil {
		return
	}
	for _, a := range slices.SortedFunc(maps.Keys(c.engine.Addresses), netip.Addr.Compare) {
		_, inPool := c.env.poolOf(a)
		container := c.engine.Addresses[a]
		if !inPool || !container.Running || len(c.usersOf(a)) > 0 {
			continue
		}
		p := Problem{
			ID:   ID{Kind: ProblemLooseContainer, Addr: a, Node: c.engine.Node, Container: container.Name},
			Text: fmt.Sprintf("container %s on node %s has address %s, and no endpoint in the datastore", container.Name, c.engine.Node, a), Advice: "restart the container",
		}
		if !c.isTaken(a) && !c.isDamaged(a) {
			p.Text += "; the address is not in use"
			p = p.with("mark the address as in use by the container")
		}
		c.add(p)
	}
}

// bySandbox tells the containers that this host's kernel knows and that no engine that was
// asked does.
func (looseContainer) bySandbox(c *checker) {
	for _, t := range c.taken {
		if c.engine != nil && c.engine.Addresses[t.addr].Running || len(c.usersOf(t.addr)) > 0 || !c.held(t) {
			continue
		}
		o := t.owner.owner()
		c.add(Problem{
			ID:     ID{Kind: ProblemLooseContainer, Addr: t.addr, Node: o.Attrs[AttrNode], Endpoint: o.Attrs[AttrEndpoint], Container: o.Attrs[AttrContainer]},
			Text:   fmt.Sprintf("a container on this host has address %s (%s), and no endpoint in the datastore", t.addr, o),
			Advice: "restart the container",
		})
	}
}

func (looseContainer) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	err := cl.As(p.Node).Keep(ctx, p.Addr, Owner{Attrs: map[string]string{AttrContainer: p.Container}})
	return err == nil, err
}
