package resource

import (
	"context"
	"errors"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// checkTiers finds policies in tiers that are not there, and makes the others need theirs.
func (s *Store) checkTiers(ctx context.Context, steps []step, _ *rests) []error {
	there := map[model.Key]bool{model.TierKey{Name: model.DefaultTier}: true}
	for _, st := range steps {
		if _, ok := st.object.Key.(model.TierKey); ok {
			there[st.object.Key] = true
		}
	}
	var faults []error
	for i := range steps {
		st := &steps[i]
		k, ok := st.object.Key.(model.PolicyKey)
		tier := model.TierKey{Name: model.NewPolicyKey(k.Tier, k.Name).Tier}
		if !ok || tier.Name == model.DefaultTier || len(st.writes) == 0 {
			continue
		}
		if _, looked := there[tier]; !looked {
			_, err := s.etcd.Get(ctx, tier)
			if err != nil && !errors.Is(err, etcdstore.ErrNotFound) && !errors.Is(err, etcdstore.ErrUnreadable) {
				return []error{err}
			}
			there[tier] = !errors.Is(err, etcdstore.ErrNotFound)
		}
		if !there[tier] {
			faults = append(faults, clashOf(k, "%s: spec.tier: there is no tier %s", st.object.Shown(), k.Tier))
		}
		st.needs = tier
	}
	return faults
}
