package resource

import (
	"context"
	"errors"
	"fmt"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Resolve finds the keys of objects of which only a name is known. unknown are those
// that do not exist.
func (s *Store) Resolve(ctx context.Context, objects []manifest.Object) (known, unknown []manifest.Object, err error) {
	index := map[*dialect.Kind]map[dialect.NameKey]model.Key{}
	for _, o := range objects {
		name, ok := o.Key.(dialect.NameKey)
		if !ok {
			known = append(known, o)
			continue
		}
		names := index[name.Of]
		if names == nil {
			if names, err = s.names(ctx, name.Of); err != nil {
				return nil, nil, err
			}
			index[name.Of] = names
		}
		if key, found := names[name]; found {
			o.Key = key
			known = append(known, o)
		} else {
			unknown = append(unknown, o)
		}
	}
	return known, unknown, nil
}

// names is the keys of all resources of a kind by their names, also of those that are
// not valid.
func (s *Store) names(ctx context.Context, kind *dialect.Kind) (map[dialect.NameKey]model.Key, error) {
	entries, bad, err := s.List(ctx, kind.Model, kind.OwnedBy)
	if err != nil {
		return nil, err
	}
	for _, b := range bad {
		entries = append(entries, etcdstore.Entry{Key: b.Key, Value: b.Value})
	}
	names := make(map[dialect.NameKey]model.Key, len(entries))
	for _, e := range entries {
		if !kind.OwnedBy(e.Key) {
			continue
		}
		namespace, name := kind.NameOf(e.Key, e.Value)
		names[dialect.NameKey{Of: kind, Namespace: namespace, Name: name}] = e.Key
	}
	return names, nil
}

// checkNames finds names that another resource of the kind has: what identifies a
// resource in the store cannot be changed under its name.
func (s *Store) checkNames(ctx context.Context, steps []step) []error {
	index := map[*dialect.Kind]map[dialect.NameKey]model.Key{}
	var faults []error
	for _, st := range steps {
		kind := st.object.Kind
		if kind.NameOf == nil || len(st.writes) == 0 {
			continue
		}
		names := index[kind]
		if names == nil {
			var err error
			if names, err = s.names(ctx, kind); err != nil {
				return []error{err}
			}
			index[kind] = names
		}
		name, _ := st.object.Shown().(dialect.NameKey)
		if other, taken := names[name]; taken && other != st.object.Key {
			faults = append(faults, fmt.Errorf("%s is the name of %s, which cannot become %s: delete it first, or use another name",
				name, other, st.object.Key))
		}
		names[name] = st.object.Key
	}
	return faults
}

// fixed refuses a change of what must stay as it is for the life of a resource.
func fixed(o manifest.Object, old model.Resource) error {
	before, ok1 := old.(*model.IPPool)
	after, ok2 := o.Value.(*model.IPPool)
	if !ok1 || !ok2 || o.Kind.NameOf == nil {
		return nil // other dialects keep the size
	}
	if a, b := blockSize(before), blockSize(after); a != b {
		return fmt.Errorf("%s: spec.blockSize: is %d and cannot become %d", o.Shown(), a, b)
	}
	return nil
}

func blockSize(p *model.IPPool) int {
	switch {
	case p.BlockSize != 0:
		return p.BlockSize
	case p.CIDR.Addr().Is4():
		return model.DefaultBlockSizeV4
	}
	return model.DefaultBlockSizeV6
}

// checkTiers finds policies in tiers that are not there.
func (s *Store) checkTiers(ctx context.Context, steps []step) []error {
	known := map[string]bool{"": true, model.DefaultTier: true}
	for _, st := range steps {
		if k, ok := st.object.Key.(model.TierKey); ok {
			known[k.Name] = true
		}
	}
	var faults []error
	for _, st := range steps {
		k, ok := st.object.Key.(model.PolicyKey)
		if !ok || known[k.Tier] {
			continue
		}
		_, err := s.etcd.Get(ctx, model.TierKey{Name: k.Tier})
		switch {
		case errors.Is(err, etcdstore.ErrNotFound):
			faults = append(faults, fmt.Errorf("%s: spec.tier: there is no tier %s", st.object.Shown(), k.Tier))
		case errors.Is(err, etcdstore.ErrUnavailable), ctx.Err() != nil:
			return []error{err}
		default:
			known[k.Tier] = true
		}
	}
	return faults
}
