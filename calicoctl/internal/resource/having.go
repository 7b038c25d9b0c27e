package resource

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// having is which workload endpoints have some addresses. It is nil until somebody asks, since
// all endpoints are read for it: once for the address of one that goes, and once more, for
// all addresses, when a command deletes several.
type having struct {
	// about are the addresses in question; nil stands for all.
	about map[netip.Addr]bool
	users map[netip.Addr][]model.WorkloadEndpointKey
}

// knows says whether the users of an address were looked for.
func (h *having) knows(a netip.Addr) bool { return h != nil && (h.about == nil || h.about[a]) }

// withoutUsed drops those addresses that an endpoint has beside one that goes, which is the
// zero one where none does.
func (s *Store) withoutUsed(ctx context.Context, held []ipam.Holding, going model.WorkloadEndpointKey) ([]ipam.Holding, error) {
	addrs := make([]netip.Addr, len(held))
	for i, h := range held {
		addrs[i] = h.Addr
	}
	if err := s.findUsers(ctx, addrs); err != nil {
		return nil, err
	}
	var out []ipam.Holding
	for _, h := range held {
		if len(s.usersBeside(h.Addr, going)) == 0 {
			out = append(out, h)
		}
	}
	return out, nil
}

// findUsers makes [Store.usersBeside] know of some addresses.
func (s *Store) findUsers(ctx context.Context, addrs []netip.Addr) error {
	if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !s.having.knows(a) }) {
		return nil
	}
	var about map[netip.Addr]bool
	if s.having == nil {
		about = make(map[netip.Addr]bool, len(addrs))
		for _, a := range addrs {
			about[a] = true
		}
	}
	if err := s.readHaving(ctx, about); err != nil {
		return fmt.Errorf("read which endpoints have the addresses that would be released: %w", err)
	}
	return nil
}

// usersBeside are the endpoints that have an address, which is known, beside one that goes.
func (s *Store) usersBeside(a netip.Addr, going model.WorkloadEndpointKey) []model.WorkloadEndpointKey {
	users := slices.Clone(s.having.users[a])
	return slices.DeleteFunc(users, func(k model.WorkloadEndpointKey) bool { return k == going })
}

// readHaving reads who has the addresses in question; nil stands for all.
func (s *Store) readHaving(ctx context.Context, about map[netip.Addr]bool) error {
	type user struct {
		key   model.WorkloadEndpointKey
		addrs []netip.Addr
	}
	users, _, err := etcdstore.GatherValues(ctx, s.etcd, model.ListPrefixes(model.KindWorkloadEndpoint), func(k model.Key, value []byte) (user, bool) {
		key, ok := k.(model.WorkloadEndpointKey)
		if !ok {
			return user{}, false
		}
		addrs := model.EndpointAddrs(value)
		if about != nil {
			addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !about[a] })
		}
		return user{key, addrs}, len(addrs) > 0
	})
	if err != nil {
		return err
	}
	s.having = &having{about: about, users: map[netip.Addr][]model.WorkloadEndpointKey{}}
	for _, u := range users {
		for _, a := range u.addrs {
			s.having.users[a] = append(s.having.users[a], u.key)
		}
	}
	return nil
}

// forget takes out an endpoint, which is deleted.
func (h *having) forget(k model.WorkloadEndpointKey, v model.Resource) {
	if h == nil {
		return
	}
	for _, a := range endpointAddresses(v) {
		if users := h.users[a]; len(users) > 0 {
			h.users[a] = slices.DeleteFunc(users, func(u model.WorkloadEndpointKey) bool { return u == k })
		}
	}
}

// endpointAddresses are those of a workload endpoint; what is none has none.
func endpointAddresses(v model.Resource) []netip.Addr {
	wep, ok := v.(*model.WorkloadEndpoint)
	if !ok || wep == nil {
		return nil
	}
	var out []netip.Addr
	for _, n := range slices.Concat(wep.IPv4Nets, wep.IPv6Nets) {
		out = append(out, n.Addr().Unmap())
	}
	return out
}
