package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/libcalico/etcdstore"
)

// wrongOwner finds addresses of endpoints that are in use by others. When those are gone,
// it makes the endpoints the owners. An owner without a handle, as older programs gave
// none, can be anybody.
type wrongOwner struct{}

func (k wrongOwner) find(c *checker) {
	for _, t := range c.taken {
		users := c.usersOf(t.addr)
		if len(users) == 0 || t.owner.handle == "" || slices.ContainsFunc(users, func(u addressUser) bool { return k.owns(u, t.owner) }) {
			continue
		}
		e, o := users[0].endpoint, t.owner.owner()
		p := Problem{
			ID:    ID{Kind: ProblemWrongOwner, Addr: t.addr, Handle: o.Handle, Node: e.key.Node, Endpoint: e.key.Name},
			owner: *t.owner, rev: e.rev,
			Text: fmt.Sprintf("address %s of endpoint %s on node %s is in use by %s", t.addr, e.key.Name, e.key.Node, o),
		}
		if o.Attrs[AttrEndpoint] != "" && len(users) == 1 && !c.endpointExists(o.Attrs[AttrEndpoint]) {
			p = p.with("make the endpoint the owner")
		} else {
			p.Advice = "restart the container"
		}
		c.add(p)
	}
}

func (wrongOwner) owns(u addressUser, o *packedOwner) bool {
	k := u.endpoint.key
	return o.handle == k.Name || k.Orchestrator != orchestrator || o.attr(AttrEndpoint) == k.Name
}

func (wrongOwner) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	same, err := etcdstore.CheckWrite(endpointKey(p), p.rev)
	if err != nil {
		return false, err
	}
	node := cl.As(p.Node)
	return node.mendBy(ctx, &replaceOwner{addr: p.Addr, from: p.owner.owner(), to: node.ownerFor(p)}, same)
}

// replaceOwner changes who has an address, if it is still whom it was.
type replaceOwner struct {
	addr     netip.Addr
	from, to Owner
}

func (r *replaceOwner) run(w *work) *stop {
	b, s := w.locate(r.addr)
	if s != nil {
		return s
	}
	if b == nil {
		return w.surely()
	}
	ordinal, _ := ordinalOf(b, r.addr)
	if attrs, taken := attributesOf(b, ordinal); !taken || !sameOwner(ownerOf(attrs), r.from) {
		return w.surely()
	}
	w.result.done = true
	setOwner(w.edit(b), ordinal, r.to)
	if s := w.count(r.from.Handle, b.CIDR, -1); s != nil {
		return s
	}
	return w.count(r.to.Handle, b.CIDR, 1)
}
