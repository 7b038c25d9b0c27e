package transfer

import (
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// twofold tells the endpoints of a source that have an address in common. One of them alone may
// come: the one that the source's own blocks name.
type twofold struct {
	seen  sighted
	twice map[netip.Addr][]model.WorkloadEndpointKey
	// refused are those that do not come, with the reasons.
	refused map[model.Key]string
}

// meet takes note of the addresses of an endpoint, which it has not met before.
func (t *twofold) meet(it item) {
	if t.refused != nil {
		return
	}
	for _, a := range addressesOf(it) {
		if t.seen.wasInUse(a) {
			if t.twice == nil {
				t.twice = map[netip.Addr][]model.WorkloadEndpointKey{}
			}
			t.twice[a] = nil
		}
		t.seen.addInUse([]netip.Addr{a})
	}
}

// judge finds out which endpoints do not come.
func (t *twofold) judge(s Source) error {
	t.refused = map[model.Key]string{}
	err := s.items(isOf([]model.Kind{model.KindWorkloadEndpoint}), func(it item) error {
		for _, a := range addressesOf(it) {
			if users, ok := t.twice[a]; ok {
				t.twice[a] = append(users, it.key.(model.WorkloadEndpointKey))
			}
		}
		return nil
	}, ignore)
	if err != nil {
		return err
	}
	owners := map[netip.Addr]ipam.Owner{}
	err = s.items(isOf([]model.Kind{model.KindBlock}), func(it item) error {
		for _, h := range ipam.InUse(it.value.(*model.Block)) {
			if _, ok := t.twice[h.Addr]; ok {
				owners[h.Addr] = h.Owner
			}
		}
		return nil
	}, ignore)
	for a, users := range t.twice {
		t.refuse(a, users, owners[a])
	}
	return err
}

// refuse keeps out the users of an address that are not its owner.
func (t *twofold) refuse(a netip.Addr, users []model.WorkloadEndpointKey, owner ipam.Owner) {
	rightful := slices.DeleteFunc(slices.Clone(users), func(k model.WorkloadEndpointKey) bool { return !owner.IsEndpoint(k) })
	for _, k := range users {
		switch {
		case len(rightful) != 1:
			other := users[0]
			if other == k {
				other = users[1]
			}
			t.refused[k] = fmt.Sprintf("its address %s is also that of endpoint %s on node %s in the source, and no block there says which of them has it", a, other.Name, other.Node)
		case rightful[0] != k:
			t.refused[k] = fmt.Sprintf("its address %s is that of endpoint %s on node %s in the source, by its block", a, rightful[0].Name, rightful[0].Node)
		}
	}
}

// addressesOf are those of an endpoint; other resources have none. None is twice in it.
func addressesOf(it item) []netip.Addr {
	ep, ok := it.value.(*model.WorkloadEndpoint)
	if !ok {
		return nil
	}
	var out []netip.Addr
	for _, n := range slices.Concat(ep.IPv4Nets, ep.IPv6Nets) {
		if a := n.Addr().Unmap(); !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
