package resource

import (
	"context"
	"errors"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// stored is a resource as the store has it.
type stored struct {
	// value is nil when what is stored cannot be read at all.
	value model.Resource
	// err says why, or why it is not in force.
	err      error
	revision int64
	// rest is set of settings that do not exist for anybody: what is stored of them all
	// the same, and at which revisions.
	rest map[model.Key]int64
}

// exists reports whether there is anything to show.
func (s stored) exists() bool { return s.revision != 0 }

// read returns what is stored of the objects' keys.
func (s *Store) read(ctx context.Context, objects []manifest.Object) (map[model.Key]stored, error) {
	byKind := map[model.Kind][]model.Key{}
	for _, o := range objects {
		byKind[o.Key.Kind()] = append(byKind[o.Key.Kind()], o.Key)
	}
	out := map[model.Key]stored{}
	for kind, keys := range byKind {
		if err := s.readKind(ctx, kind, keys, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *Store) readKind(ctx context.Context, kind model.Kind, keys []model.Key, out map[model.Key]stored) error {
	if isSettings(kind) {
		return s.readSettings(ctx, kind, keys, out)
	}
	entries, bad, err := s.etcd.GetAll(ctx, keys)
	for _, e := range entries {
		out[e.Key] = stored{value: e.Value, revision: e.Revision}
	}
	for _, b := range bad {
		out[b.Key] = stored{value: b.Value, err: b.Err, revision: b.Revision}
	}
	return err
}

// Get returns the resources of the given keys, in their order, or says which of them
// do not exist.
func (s *Store) Get(ctx context.Context, objects []manifest.Object) ([]etcdstore.Entry, error) {
	objects, unknown, err := s.Resolve(ctx, objects)
	if err != nil {
		return nil, err
	}
	found, err := s.read(ctx, objects)
	if err != nil {
		return nil, err
	}
	var out []etcdstore.Entry
	var faults []error
	for _, o := range unknown {
		faults = append(faults, Missing(o.Key))
	}
	for _, o := range objects {
		e := found[o.Key]
		switch {
		case !e.exists():
			faults = append(faults, Missing(o.Key))
		case e.value == nil:
			faults = append(faults, Unreadable(o.Key, e.err))
		default:
			out = append(out, etcdstore.Entry{Key: o.Key, Value: e.value, Revision: e.revision})
		}
	}
	return out, errors.Join(faults...)
}

// List returns all resources of a kind whose key matches, sorted by key, and the
// stored values that cannot be read.
func (s *Store) List(ctx context.Context, kind model.Kind, match func(model.Key) bool) ([]etcdstore.Entry, []store.Quarantined, error) {
	if isSettings(kind) {
		return s.listSettings(ctx, kind, match)
	}
	entries, _, bad, err := s.etcd.List(ctx, kind, match)
	return entries, bad, err
}
