package resource

import (
	"context"
	"fmt"
	"net/netip"

	"calico.internal/libcalico/model"
)

// check finds what is wrong among resources rather than in one: pools that overlap,
// nodes that have the same address, pools over hosts' networks, names that another resource has, and tiers that are
// not there.
func (s *Store) check(ctx context.Context, steps []step) []error {
	var faults []error
	for kind, conflict := range map[model.Kind]func(a, b model.Resource) string{
		model.KindIPPool: poolConflict, model.KindNode: nodeConflict,
	} {
		faults = append(faults, s.checkKind(ctx, kind, conflict, steps)...)
	}
	faults = append(faults, s.checkNames(ctx, steps)...)
	faults = append(faults, s.checkBlocks(ctx, steps)...)
	faults = append(faults, s.checkPlaces(ctx, steps)...)
	return append(faults, s.checkTiers(ctx, steps)...)
}

func (s *Store) checkKind(ctx context.Context, kind model.Kind, conflict func(a, b model.Resource) string, steps []step) []error {
	all := map[model.Key]model.Resource{}
	var changed []model.Key
	for _, st := range steps {
		if st.object.Key.Kind() == kind && len(st.writes) > 0 {
			all[st.object.Key] = st.object.Value
			changed = append(changed, st.object.Key)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	entries, _, _, err := s.etcd.List(ctx, kind, nil)
	if err != nil {
		return []error{err}
	}
	others := changed
	for _, e := range entries {
		if _, replaced := all[e.Key]; !replaced {
			all[e.Key] = e.Value
			others = append(others, e.Key)
		}
	}
	var faults []error
	for i, k := range changed {
		for _, other := range others[i+1:] {
			if why := conflict(all[k], all[other]); why != "" {
				faults = append(faults, fmt.Errorf("%s %s %s", k, why, other))
			}
		}
	}
	return faults
}

func poolConflict(a, b model.Resource) string {
	p, ok1 := a.(*model.IPPool)
	q, ok2 := b.(*model.IPPool)
	if ok1 && ok2 && p.CIDR.Overlaps(q.CIDR) {
		return "overlaps"
	}
	return ""
}

func nodeConflict(a, b model.Resource) string {
	n, ok1 := a.(*model.Node)
	m, ok2 := b.(*model.Node)
	if !ok1 || !ok2 {
		return ""
	}
	for _, pair := range [][2]netip.Addr{{n.IPv4, m.IPv4}, {n.IPv6, m.IPv6}} {
		if pair[0].IsValid() && pair[0] == pair[1] {
			return fmt.Sprintf("has the address %s of", pair[0])
		}
	}
	return ""
}

// checkBlocks finds new pools in whose range there are blocks of another size.
func (s *Store) checkBlocks(ctx context.Context, steps []step) []error {
	var faults []error
	for _, st := range steps {
		pool, ok := st.object.Value.(*model.IPPool)
		if !ok || st.did != Created {
			continue
		}
		blocks, _, err := s.List(ctx, model.KindBlock, func(k model.Key) bool {
			b, isBlock := k.(model.BlockKey)
			return isBlock && b.CIDR.Overlaps(pool.CIDR) && b.CIDR.Bits() != blockSize(pool)
		})
		if err != nil {
			return []error{err}
		}
		if len(blocks) > 0 {
			faults = append(faults, fmt.Errorf("%s: spec.blockSize: is %d, but there is the block %s in its range with addresses in use",
				st.object.Shown(), blockSize(pool), blocks[0].Key.(model.BlockKey).CIDR))
		}
	}
	return faults
}
