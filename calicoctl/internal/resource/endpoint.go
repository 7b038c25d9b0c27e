package resource

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// belongings are the addresses that go with an endpoint.
type belongings struct {
	// handled says that some are assigned under the endpoint's name; those of them that another
	// endpoint has become that one's.
	handled bool
	heirs   map[netip.Addr]model.WorkloadEndpointKey
	// loose are such as have no owner, or the endpoint's node but no other endpoint of it, and
	// that no other endpoint has.
	loose []ipam.Holding
}

// deleteEndpoint deletes an endpoint, which must have the entry's revision, if that is not 0,
// under some conditions, and releases its addresses.
// Those that carry the endpoint as their handle go in the same transaction, as does the
// first of the others. The rest is released after the endpoint is gone.
func (s *Store) deleteEndpoint(ctx context.Context, e etcdstore.Entry, still ...etcdstore.Write) error {
	key, _ := e.Key.(model.WorkloadEndpointKey)
	its, err := s.addressesOf(ctx, key, e.Value)
	if err != nil {
		return err
	}
	w, err := etcdstore.DeleteWrite(e.Key, e.Revision)
	if err != nil {
		return err
	}
	err = s.whileUnlocked(ctx, append([]etcdstore.Write{w}, still...), func(with ...etcdstore.Write) error {
		switch {
		case its.handled:
			_, err := s.ipam.PassOn(ctx, key.Name, its.heirs, with...)
			return err
		case len(its.loose) > 0:
			return s.ipam.ReleaseHeld(ctx, its.loose[:1], with...)
		}
		_, err := s.etcd.Commit(ctx, with...)
		return err
	})
	if err != nil {
		s.having = nil // an heir may be gone
		return err
	}
	s.having.forget(key, e.Value)
	if len(its.loose) == 0 {
		return nil
	}
	return s.whileUnlocked(ctx, nil, func(open ...etcdstore.Write) error { return s.ipam.ReleaseHeld(ctx, its.loose, open...) })
}

// addressesOf finds out what becomes of an endpoint's addresses when it goes.
func (s *Store) addressesOf(ctx context.Context, key model.WorkloadEndpointKey, value model.Resource) (its belongings, err error) {
	if _, ok := value.(*model.WorkloadEndpoint); !ok {
		return belongings{handled: true}, nil // nobody can read which, but its name is there
	}
	var own []netip.Addr
	for _, a := range endpointAddresses(value) {
		owner, err := s.ipam.Lookup(ctx, a)
		switch {
		case errors.Is(err, ipam.ErrNotAssigned):
		case err != nil:
			return its, err
		case owner.Handle == key.Name:
			own = append(own, a)
		case owner.Attrs[ipam.AttrNode] == "" || owner.Attrs[ipam.AttrNode] == key.Node:
			has, err := s.hasEndpoint(ctx, key, owner.Handle)
			if err != nil {
				return its, err
			}
			if !has {
				its.loose = append(its.loose, ipam.Holding{Addr: a, Owner: owner})
			}
		}
	}
	its.handled = len(own) > 0
	if its.heirs, err = s.heirsOf(ctx, own, key); err == nil {
		its.loose, err = s.withoutUsed(ctx, its.loose, key)
	}
	return its, err
}

// heirsOf finds the endpoints that have some addresses beside one that goes.
func (s *Store) heirsOf(ctx context.Context, addrs []netip.Addr, going model.WorkloadEndpointKey) (map[netip.Addr]model.WorkloadEndpointKey, error) {
	if err := s.findUsers(ctx, addrs); err != nil {
		return nil, err
	}
	out := map[netip.Addr]model.WorkloadEndpointKey{}
	for _, a := range addrs {
		if users := s.usersBeside(a, going); len(users) > 0 {
			out[a] = slices.MinFunc(users, func(a, b model.WorkloadEndpointKey) int { return model.Compare(a, b) })
		}
	}
	return out, nil
}

// hasEndpoint says whether there is an endpoint beside another that has a name.
func (s *Store) hasEndpoint(ctx context.Context, beside model.WorkloadEndpointKey, name string) (bool, error) {
	if name == "" {
		return false, nil
	}
	beside.Name = name
	_, err := s.etcd.Get(ctx, beside)
	switch {
	case errors.Is(err, etcdstore.ErrNotFound):
		return false, nil
	case errors.Is(err, etcdstore.ErrUnreadable):
		return true, nil
	}
	return err == nil, err
}
