package resource

import (
	"context"
	"slices"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// What is looked for is read with all that is known of where it stands: other resources of
// its kind may be many.

// ListIn is [Store.List] of the resources in a scope.
func (s *Store) ListIn(ctx context.Context, kind model.Kind, scope model.Scope, match func(model.Key) bool) ([]etcdstore.Entry, []store.Quarantined, error) {
	if isSettings(kind) {
		return s.listSettings(ctx, kind, match)
	}
	entries, _, bad, err := s.etcd.ListIn(ctx, kind, scope, match)
	return entries, bad, err
}

// Keys lists the keys of the resources of a kind in a scope, sorted, without reading more
// than that of what may be large. ok is false when there are more than most.
func (s *Store) Keys(ctx context.Context, kind model.Kind, scope model.Scope, most int) (keys []model.Key, ok bool, err error) {
	if !isSettings(kind) {
		return s.etcd.Keys(ctx, kind, scope, most)
	}
	entries, _, err := s.listSettings(ctx, kind, nil)
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	return keys, true, err
}

// Named is [Store.List] of the resources that have certain keys, and for a policy of all
// that have its name, whatever their tier.
func (s *Store) Named(ctx context.Context, kind model.Kind, keys []model.Key) ([]etcdstore.Entry, []store.Quarantined, error) {
	if isSettings(kind) {
		return s.listSettings(ctx, kind, func(k model.Key) bool { return slices.Contains(keys, k) })
	}
	keys, err := s.inAllTiers(ctx, keys)
	if err != nil {
		return nil, nil, err
	}
	return s.etcd.GetAll(ctx, keys)
}

// inAllTiers adds to the keys of policies those that they would have in other tiers.
func (s *Store) inAllTiers(ctx context.Context, keys []model.Key) ([]model.Key, error) {
	if !slices.ContainsFunc(keys, func(k model.Key) bool { return k.Kind() == model.KindPolicy }) {
		return keys, nil
	}
	tiers, err := s.tiers(ctx)
	if err != nil {
		return nil, err
	}
	var all []model.Key
	for _, k := range keys {
		policy, ok := k.(model.PolicyKey)
		if !ok {
			all = append(all, k)
			continue
		}
		for _, tier := range tiers {
			all = append(all, model.NewPolicyKey(tier, policy.Name))
		}
	}
	return all, nil
}

// tiers lists the tiers that there are, be it that they only have policies.
func (s *Store) tiers(ctx context.Context) ([]string, error) {
	var tiers []string
	for _, prefix := range model.ListPrefixes(model.KindTier) {
		branches, err := s.etcd.Branches(ctx, prefix)
		if err != nil {
			return nil, err
		}
		for _, branch := range branches {
			if k, ok := model.ParsePath(prefix + branch + "/metadata"); ok {
				tiers = append(tiers, k.(model.TierKey).Name)
			}
		}
	}
	return tiers, nil
}

// withNames is [Store.List] of the resources of a kind that have certain names, and maybe of
// others.
func (s *Store) withNames(ctx context.Context, kind *dialect.Kind, names []dialect.NameKey) ([]etcdstore.Entry, []store.Quarantined, error) {
	if keys, ok := keysOf(kind, names); ok {
		return s.Named(ctx, kind.Model, keys)
	}
	return s.List(ctx, kind.Model, kind.OwnedBy)
}

// keysOf is the keys of names; ok is false when one has to be looked for.
func keysOf(kind *dialect.Kind, names []dialect.NameKey) (keys []model.Key, ok bool) {
	if kind.KeyOf == nil {
		return nil, false
	}
	for _, name := range names {
		key, ok := kind.KeyOf(name.Namespace, name.Name)
		if !ok {
			return nil, false
		}
		keys = append(keys, key)
	}
	return keys, true
}

// namesOf is what some objects of a kind are called.
func namesOf(kind *dialect.Kind, objects []manifest.Object) []dialect.NameKey {
	var names []dialect.NameKey
	for _, o := range objects {
		if name, ok := o.Shown().(dialect.NameKey); ok && name.Of == kind {
			names = append(names, name)
		}
	}
	return names
}

// objectsOf is what some steps are about.
func objectsOf(steps []step) []manifest.Object {
	objects := make([]manifest.Object, len(steps))
	for i, st := range steps {
		objects[i] = st.object
	}
	return objects
}
