package resource

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// isSettings tells the kinds that are made of raw settings.
func isSettings(kind model.Kind) bool { return slices.Contains(settings.Kinds(), kind) }

// listSettings gathers the raw settings of a kind, by what they belong to.
func (s *Store) listSettings(ctx context.Context, of model.Kind, match func(model.Key) bool) ([]etcdstore.Entry, []store.Quarantined, error) {
	byKey := map[settings.Key]*etcdstore.Entry{}
	add := func(k settings.Key, from etcdstore.Entry) *settings.Settings {
		e := byKey[k]
		if e == nil {
			e = &etcdstore.Entry{Key: k, Value: &settings.Settings{Of: of, Values: map[string]string{}, Revisions: map[model.Key]int64{}}}
			byKey[k] = e
		}
		e.Revision = max(e.Revision, from.Revision)
		value, _ := e.Value.(*settings.Settings)
		value.Revisions[from.Key] = from.Revision
		return value
	}
	sources := map[model.Kind][]model.Kind{
		settings.KindFelix:   {model.KindFelixConfig, model.KindConfiguration},
		settings.KindBGP:     {model.KindBGPConfig, model.KindConfiguration},
		settings.KindCluster: {model.KindFelixConfig, model.KindReady},
	}[of]
	var bad []store.Quarantined
	for _, source := range sources {
		entries, _, faults, err := s.etcd.List(ctx, source, nil)
		if err != nil {
			return nil, nil, err
		}
		for _, q := range faults {
			if k, _, ok := settings.Of(q.Key); ok && k.Of == of {
				bad = append(bad, store.Quarantined{Key: q.Key, Path: q.Path, Err: q.Err})
			}
		}
		for _, e := range entries {
			gather(of, e, add)
		}
	}
	var out []etcdstore.Entry
	for k, e := range byKey {
		value, _ := e.Value.(*settings.Settings)
		if value.Exists() && (match == nil || match(k)) {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, func(a, b etcdstore.Entry) int { return cmp.Compare(nameOf(a.Key), nameOf(b.Key)) })
	return out, bad, nil
}

func nameOf(k model.Key) string {
	key, _ := k.(settings.Key)
	return key.Name()
}

// gather adds what an entry of the store says to the settings that it belongs to.
func gather(of model.Kind, e etcdstore.Entry, add func(settings.Key, etcdstore.Entry) *settings.Settings) {
	switch v := e.Value.(type) {
	case *model.Setting:
		if k, name, ok := settings.Of(e.Key); ok && k.Of == of {
			add(k, e).Values[name] = v.Value
		}
	case *model.Ready:
		add(settings.Key{Of: of}, e).Values[settings.Ready] = strconv.FormatBool(bool(*v))
	case *model.Configuration:
		key, _ := e.Key.(model.ConfigurationKey)
		k, ok := settings.ParseName(of, key.Name)
		if own, has := k.Metadata(); ok && has && own == key {
			add(k, e).Meta = v.Meta
		}
	}
}

// readSettings reads those of the keys that exist.
func (s *Store) readSettings(ctx context.Context, of model.Kind, keys []model.Key, out map[model.Key]stored) error {
	entries, _, err := s.listSettings(ctx, of, func(k model.Key) bool { return slices.Contains(keys, k) })
	for _, e := range entries {
		out[e.Key] = stored{value: e.Value, revision: e.Revision}
	}
	return err
}

// settingsWrites is what it takes to make old settings (nil: none) the next ones. Raw
// settings that the dialect has no word for are in both.
func settingsWrites(k settings.Key, old, next *settings.Settings) ([]etcdstore.Write, error) {
	var writes []etcdstore.Write
	if old == nil {
		old = &settings.Settings{}
	}
	before := old.Values
	for _, name := range slices.Sorted(maps.Keys(next.Values)) {
		if value, ok := before[name]; ok && value == next.Values[name] {
			continue
		}
		key := k.Raw(name)
		w, err := replaceWrite(key, &model.Setting{Of: key.Kind(), Value: next.Values[name]}, old.Revisions)
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, kept := next.Values[name]; kept {
			continue
		}
		w, err := etcdstore.DeleteWrite(k.Raw(name), old.Revisions[k.Raw(name)])
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	if key, ok := k.Metadata(); ok {
		w, err := replaceWrite(key, &model.Configuration{Meta: next.Meta}, old.Revisions)
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	return writes, nil
}

// replaceWrite writes what is still at the revision at which it was read, or is still
// not there.
func replaceWrite(k model.Key, v model.Resource, revisions map[model.Key]int64) (etcdstore.Write, error) {
	if revision := revisions[k]; revision != 0 {
		return etcdstore.UpdateWrite(k, v, revision)
	}
	return etcdstore.CreateWrite(k, v)
}

// decideSettings plans the write of settings; whether they may be written is decided.
func decideSettings(st step, o manifest.Object, old stored, exists bool) (step, error) {
	key, _ := o.Key.(settings.Key)
	next, _ := o.Value.(*settings.Settings)
	before, _ := old.value.(*settings.Settings)
	switch {
	case before != nil && before.Equal(next):
		st.did = Unchanged
		return st, nil
	case exists && o.Revision != 0 && o.Revision != old.revision:
		return st, outdated(o, old)
	}
	var err error
	st.writes, err = settingsWrites(key, before, next)
	st.ops = len(st.writes)
	for name, value := range next.Values {
		st.size += len(name) + len(value)
	}
	return st, err
}

// deleteSettings removes settings; of raw ones that the dialect has no word for only
// those that nothing else knows stay.
func (s *Store) deleteSettings(ctx context.Context, o manifest.Object, e stored) error {
	key, _ := o.Key.(settings.Key)
	old, ok := e.value.(*settings.Settings)
	if !ok {
		return nil
	}
	next := &settings.Settings{Of: old.Of, Values: map[string]string{}}
	o.Kind.Carry(old, next)
	writes, err := settingsWrites(key, old, next)
	if err != nil {
		return err
	}
	if meta, ok := key.Metadata(); ok {
		writes = writes[:len(writes)-1]
		w, err := etcdstore.DeleteWrite(meta, 0)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	_, err = s.etcd.Commit(ctx, writes...)
	return err
}
