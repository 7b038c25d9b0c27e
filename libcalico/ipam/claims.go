package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/libcalico/model"
)

// Claims tells who has which address, as of an inventory.
type Claims struct{ c *checker }

// Claims puts in order what the inventory knows of the addresses in use.
func (i *Inventory) Claims() Claims {
	c := &checker{Inventory: i, sorted: slices.SortedFunc(maps.Keys(i.blocks), netip.Prefix.Compare)}
	c.listTaken()
	c.listUsers()
	return Claims{c}
}

// Against says why an endpoint that comes cannot have an address: somebody else has it, or
// that is not known, since its block is damaged. It is empty when nothing stands against it,
// also when the endpoint is there and has the address already.
func (cl Claims) Against(k model.WorkloadEndpointKey, a netip.Addr) string {
	c := cl.c
	users := c.usersOf(a)
	if slices.ContainsFunc(users, func(u addressUser) bool { return u.endpoint.key == k }) {
		return ""
	}
	if len(users) > 0 {
		other := users[0].endpoint.key
		return fmt.Sprintf("its address %s is that of endpoint %s on node %s in the datastore", a, other.Name, other.Node)
	}
	if n := slices.IndexFunc(c.damaged, func(p netip.Prefix) bool { return p.Contains(a) }); n >= 0 {
		return fmt.Sprintf("its address %s is in block %s of the datastore, which is damaged, so that it is not known who has it: calicoctl ipam check --fix", a, c.damaged[n])
	}
	if t, ok := c.takenAt(a); ok && !mayBe(t.owner, k) {
		return fmt.Sprintf("its address %s is in use by %s in the datastore", a, t.owner.owner())
	}
	return ""
}

// mayBe says whether the owner of an address may be an endpoint. One without a handle and a
// node, as older programs gave, can be anybody.
func mayBe(o *packedOwner, k model.WorkloadEndpointKey) bool {
	return wrongOwner{}.owns(addressUser{endpoint: &keptEndpoint{key: k}}, o) || o.handle == "" && o.attr(AttrNode) == ""
}
