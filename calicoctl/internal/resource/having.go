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

// having is which workload endpoints have an address. It is nil until somebody asks, since
// all endpoints are read for it, and once for all that one command deletes.
type having map[netip.Addr][]model.WorkloadEndpointKey

// withoutUsed drops those addresses that an endpoint has beside one that goes, which is the
// zero one where none does.
func (s *Store) withoutUsed(ctx context.Context, held []ipam.Holding, going model.WorkloadEndpointKey) ([]ipam.Holding, error) {
	var out []ipam.Holding
	for _, h := range held {
		users, err := s.usersBeside(ctx, h.Addr, going)
		if err != nil {
			return nil, err
		}
		if len(users) == 0 {
			out = append(out, h)
		}
	}
	return out, nil
}

// usersBeside are the endpoints that have an address beside one that goes.
func (s *Store) usersBeside(ctx context.Context, a netip.Addr, going model.WorkloadEndpointKey) ([]model.WorkloadEndpointKey, error) {
	if s.having == nil {
		if err := s.readHaving(ctx); err != nil {
			return nil, fmt.Errorf("read which endpoints have the addresses that would be released: %w", err)
		}
	}
	users := slices.Clone(s.having[a])
	return slices.DeleteFunc(users, func(k model.WorkloadEndpointKey) bool { return k == going }), nil
}

func (s *Store) readHaving(ctx context.Context) error {
	type user struct {
		key   model.WorkloadEndpointKey
		addrs []netip.Addr
	}
	users, _, err := etcdstore.Gather(ctx, s.etcd, model.ListPrefixes(model.KindWorkloadEndpoint), func(e etcdstore.Entry) (user, bool) {
		k, ok := e.Key.(model.WorkloadEndpointKey)
		addrs := endpointAddresses(e.Value)
		return user{k, addrs}, ok && len(addrs) > 0
	})
	if err != nil {
		return err
	}
	s.having = having{}
	for _, u := range users {
		for _, a := range u.addrs {
			s.having[a] = append(s.having[a], u.key)
		}
	}
	return nil
}

// forget takes out an endpoint, which is deleted.
func (h having) forget(k model.WorkloadEndpointKey, v model.Resource) {
	for _, a := range endpointAddresses(v) {
		if users := h[a]; len(users) > 0 {
			h[a] = slices.DeleteFunc(users, func(u model.WorkloadEndpointKey) bool { return u == k })
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
