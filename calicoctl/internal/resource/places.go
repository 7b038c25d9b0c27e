package resource

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// Machine is the machine that a store is used on.
type Machine struct {
	// Node is the name that it has if it is a node.
	Node string
	// Taken lists what its network has taken, as [localnet.List] does; nil lists nothing.
	Taken func() ([]localnet.Place, error)
}

// OnMachine says where the store is used: a pool must not lie over the networks of the
// machine if it is a node.
func (s *Store) OnMachine(m Machine) { s.machine = m }

// AllowTaken lets new pools lie over what hosts have for themselves, with a warning.
func (s *Store) AllowTaken() { s.allowTaken = true }

// checkPlaces refuses new pools over what hosts have for themselves, as far as that is
// known here: by the store, and by this machine if it is a node. Of other pools, and of
// what an operator's own machine is connected to, there is a warning.
func (s *Store) checkPlaces(ctx context.Context, steps []step, _ *rests) []error {
	var taken, here []localnet.Place
	var faults []error
	for _, st := range steps {
		pool, ok := st.object.Value.(*model.IPPool)
		if !ok || len(st.writes) == 0 {
			continue
		}
		if taken == nil {
			var err error
			if taken, here, err = s.takenPlaces(ctx, steps); err != nil {
				return []error{err}
			}
		}
		covers := localnet.Overlap(taken, pool.CIDR)
		switch {
		case covers == "":
		case st.did == Created && !s.allowTaken:
			faults = append(faults, clashOf(st.object.Key, "%s covers %s: choose a range that no host has a part of, or use --force",
				st.object.Shown(), covers))
		default:
			s.warnOnce(fmt.Sprintf("%s covers %s: no address comes from its blocks there", st.object.Shown(), covers))
		}
		if covers := localnet.Overlap(here, pool.CIDR); covers != "" {
			s.warnOnce(fmt.Sprintf("%s covers %s of this machine: is it so on the nodes, too?", st.object.Shown(), covers))
		}
	}
	return append(faults, s.checkNodePlaces(ctx, steps)...)
}

// takenPlaces is what hosts have for themselves, and what this machine has that is no
// node.
func (s *Store) takenPlaces(ctx context.Context, steps []step) (taken, here []localnet.Place, err error) {
	if taken, err = s.ipam.Taken(ctx); err != nil {
		return nil, nil, err
	}
	for _, st := range steps {
		if n, ok := st.object.Value.(*model.Node); ok {
			taken = append(taken, placesOf(st.object.Shown(), n)...)
		}
	}
	if s.machine.Taken == nil {
		return taken, nil, nil
	}
	if here, err = s.machine.Taken(); err != nil {
		return nil, nil, err
	}
	if s.machine.Node == "" {
		return taken, here, nil
	}
	switch _, err := s.etcd.Get(ctx, model.NodeKey{Name: s.machine.Node}); {
	case errors.Is(err, etcdstore.ErrNotFound):
		return taken, here, nil
	case err != nil:
		return nil, nil, err
	}
	return append(taken, here...), nil, nil
}

func placesOf(k model.Key, n *model.Node) []localnet.Place {
	var out []localnet.Place
	for _, p := range []netip.Prefix{n.IPv4Net, n.IPv6Net} {
		if p.IsValid() {
			out = append(out, localnet.Place{Prefix: p, What: "network of " + k.String()})
		}
	}
	for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
		if a.IsValid() {
			out = append(out, localnet.Place{Prefix: netip.PrefixFrom(a, a.BitLen()), What: k.String()})
		}
	}
	return out
}

// checkNodePlaces warns of nodes that come to lie in a pool.
func (s *Store) checkNodePlaces(ctx context.Context, steps []step) []error {
	var pools []etcdstore.Entry
	for _, st := range steps {
		n, ok := st.object.Value.(*model.Node)
		if !ok || len(st.writes) == 0 {
			continue
		}
		if pools == nil {
			var err error
			if pools, _, _, err = s.etcd.List(ctx, model.KindIPPool, nil); err != nil {
				return []error{err}
			}
		}
		for _, e := range pools {
			if covers := localnet.Overlap(placesOf(st.object.Shown(), n), e.Key.(model.IPPoolKey).CIDR); covers != "" {
				s.warnOnce(fmt.Sprintf("%s covers %s: no address comes from its blocks there", e.Key, covers))
			}
		}
	}
	return nil
}
