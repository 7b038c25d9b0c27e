package transfer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// target is the datastore that a source goes to, as far as one must know it to compare.
type target struct {
	etcd *etcdstore.Client
	// intents says that only what is wanted is brought in.
	intents bool
	// living are the nodes of which a program lives.
	living map[string]bool
	// blocks are those that are stored, in order.
	blocks []netip.Prefix
	// disputed are addresses that the datastore has in use by others than the source says, and
	// agreed those that both have in use by one.
	disputed map[netip.Addr]bool
	agreed   sighted
	// inventory is what the datastore said of addresses at first, and claims who had them; nil
	// where none are brought in.
	inventory *ipam.Inventory
	claims    *ipam.Claims
}

func newTarget(ctx context.Context, c *etcdstore.Client, intents bool) (*target, error) {
	t := &target{etcd: c, intents: intents, living: map[string]bool{}, disputed: map[netip.Addr]bool{}}
	alive, _, _, err := c.List(ctx, model.KindLiveness, nil)
	if err != nil {
		return nil, err
	}
	for _, e := range alive {
		if k, ok := e.Key.(model.LivenessKey); ok {
			t.living[k.Node] = true
		}
	}
	blocks, _, err := c.Keys(ctx, model.KindBlock, model.Scope{}, 0)
	if err != nil {
		return nil, err
	}
	for _, k := range blocks {
		t.blocks = append(t.blocks, k.(model.BlockKey).CIDR)
	}
	slices.SortFunc(t.blocks, netip.Prefix.Compare)
	if intents {
		return t, nil
	}
	if t.inventory, err = inventoryOf(ctx, c); err == nil {
		t.claims = new(t.inventory.Claims())
	}
	return t, err
}

// read reads what is stored of some resources.
func (t *target) read(ctx context.Context, items []item) ([]etcdstore.Stored, error) {
	keys := make([]model.Key, len(items))
	for i, it := range items {
		keys[i] = it.key
	}
	stored, err := t.etcd.GetStored(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("compare with the datastore: %w", err)
	}
	return stored, nil
}

// judge compares a resource with what is stored of it.
func (t *target) judge(it item, stored etcdstore.Stored) State {
	s := stateOf(it, stored)
	if s == Different && (t.knowsBetter(it.key) || t.objection(it) != "") {
		return Kept
	}
	return s
}

var guidKey = model.FelixConfigKey{Name: model.ClusterGUID}

// knowsBetter says whether the datastore's own value of a resource stays. That of a node
// that lives is its own account; so is the id of a cluster that lives.
func (t *target) knowsBetter(k model.Key) bool {
	switch k := k.(type) {
	case model.NodeKey:
		return t.living[k.Name]
	case model.WorkloadEndpointKey:
		return t.living[k.Node]
	case model.DockerNetworkKey, model.AcceptedGUIDKey:
		return true
	case model.FelixConfigKey:
		return k == guidKey && (t.intents || len(t.living) > 0)
	}
	return false
}

// objection says why a resource is not brought in, whether the datastore has it with another
// value or not at all; empty when it is. It is for after the blocks, which tell whose the
// addresses are by the source.
func (t *target) objection(it item) string {
	ep, ok := it.value.(*model.WorkloadEndpoint)
	if !ok || t.claims == nil {
		return ""
	}
	for _, n := range slices.Concat(ep.IPv4Nets, ep.IPv6Nets) {
		switch a := n.Addr(); {
		case t.disputed[a]:
			return fmt.Sprintf("its address %s is in use by somebody else in the datastore", a)
		case t.agreed.wasInUse(a):
			// whoever it is, the source says the same
		default:
			if why := t.claims.Against(it.key.(model.WorkloadEndpointKey), a); why != "" {
				return why
			}
		}
	}
	return ""
}

// overlapping are the stored blocks that share addresses with a block: itself alone if it is
// stored.
func (t *target) overlapping(cidr netip.Prefix) []netip.Prefix {
	if _, exact := slices.BinarySearchFunc(t.blocks, cidr, netip.Prefix.Compare); exact {
		return []netip.Prefix{cidr}
	}
	var out []netip.Prefix
	for _, b := range t.blocks {
		if b.Overlaps(cidr) {
			out = append(out, b)
		}
	}
	return out
}

// hasBlock notes a block that is stored from now on, or no more.
func (t *target) hasBlock(cidr netip.Prefix, has bool) {
	i, found := slices.BinarySearchFunc(t.blocks, cidr, netip.Prefix.Compare)
	switch {
	case has && !found:
		t.blocks = slices.Insert(t.blocks, i, cidr)
	case !has && found:
		t.blocks = slices.Delete(t.blocks, i, i+1)
	}
}

// merge is what becomes of a stored block; ok is false when its value cannot be used.
func (t *target) merge(cidr netip.Prefix, stored etcdstore.Stored, from *model.Block) (m ipam.Merged, ok bool) {
	k := model.BlockKey{CIDR: cidr}
	r, err := model.Decode(k, stored.Parts)
	if err != nil || model.Validate(k, r) != nil {
		return m, false
	}
	m = ipam.Merge(r.(*model.Block), from)
	for _, a := range m.Disputed {
		t.disputed[a] = true
	}
	t.agreed.addInUse(m.Agreed)
	return m, true
}

// missing are the blocks that a datastore lacks where it has smaller ones in the range of a
// block of a source: they take up the addresses in use that are in none of its own. They are
// of the size of the smallest of these, so that they overlap with none.
func missing(from *model.Block, places []netip.Prefix) (out []*model.Block) {
	bits := from.CIDR.Bits()
	for _, p := range places {
		bits = max(bits, p.Bits())
	}
	for _, h := range ipam.InUse(from) {
		if slices.ContainsFunc(places, func(p netip.Prefix) bool { return p.Contains(h.Addr) }) {
			continue
		}
		cidr := netip.PrefixFrom(h.Addr, bits).Masked()
		places = append(places[:len(places):len(places)], cidr)
		out = append(out, ipam.Part(from, cidr))
	}
	return out
}
