package resource

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// isSettings tells the kinds that are made of raw settings.
func isSettings(kind model.Kind) bool { return slices.Contains(settings.Kinds(), kind) }

// sourcesOf is the kinds that settings of a kind are made of; none for other kinds.
func sourcesOf(of model.Kind) []model.Kind {
	switch of {
	case settings.KindFelix:
		return []model.Kind{model.KindFelixConfig, model.KindConfiguration}
	case settings.KindBGP:
		return []model.Kind{model.KindBGPConfig, model.KindConfiguration}
	case settings.KindCluster:
		return []model.Kind{model.KindFelixConfig, model.KindReady}
	default:
		return nil
	}
}

// listSettings lists the settings of a kind.
func (s *Store) listSettings(ctx context.Context, of model.Kind, match func(model.Key) bool) ([]etcdstore.Entry, []store.Quarantined, error) {
	raw, bad, err := s.rawSettings(ctx, of)
	if err != nil {
		return nil, nil, err
	}
	there, _ := settingsFrom(of, raw)
	return slices.DeleteFunc(there, func(e etcdstore.Entry) bool { return match != nil && !match(e.Key) }), bad, nil
}

// rawSettings is what the sources of a kind of settings hold, also what cannot be read.
func (s *Store) rawSettings(ctx context.Context, of model.Kind) ([]etcdstore.Entry, []store.Quarantined, error) {
	var raw []etcdstore.Entry
	var bad []store.Quarantined
	for _, source := range sourcesOf(of) {
		entries, _, faults, err := s.etcd.List(ctx, source, nil)
		if err != nil {
			return nil, nil, err
		}
		for _, q := range faults {
			raw = append(raw, etcdstore.Entry{Key: q.Key, Revision: q.Revision})
			if k, _, ok := settings.Of(q.Key); ok && k.Of == of {
				bad = append(bad, store.Quarantined{Key: q.Key, Path: q.Path, Err: q.Err})
			}
		}
		raw = append(raw, entries...)
	}
	return raw, bad, nil
}

// settingsFrom puts the settings of a kind together from what their sources hold, where a
// value that cannot be read is nil. rest is what is stored of settings that nothing shows.
func settingsFrom(of model.Kind, raw []etcdstore.Entry) (there, rest []etcdstore.Entry) {
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
	unreadable := map[settings.Key]bool{}
	for _, e := range raw {
		if k, name, ok := gather(of, e, add); ok && e.Value == nil && (name == "" || slices.Contains(settings.Known(of), name)) {
			unreadable[k] = true
		}
	}
	for k, e := range byKey {
		if value, _ := e.Value.(*settings.Settings); value.Exists() || unreadable[k] {
			there = append(there, *e)
		} else {
			rest = append(rest, *e)
		}
	}
	slices.SortFunc(there, func(a, b etcdstore.Entry) int { return cmp.Compare(nameOf(a.Key), nameOf(b.Key)) })
	return there, rest
}

func nameOf(k model.Key) string {
	key, _ := k.(settings.Key)
	return key.Name()
}

// gather adds what an entry of the store says to the settings that it belongs to, if to
// any. Of one that cannot be read only the revision is known.
func gather(of model.Kind, e etcdstore.Entry, add func(settings.Key, etcdstore.Entry) *settings.Settings) (k settings.Key, name string, ok bool) {
	if k, name, ok = belongs(of, e.Key); !ok {
		return k, "", false
	}
	into := add(k, e)
	switch v := e.Value.(type) {
	case *model.Setting:
		into.Values[name] = v.Value
	case *model.Ready:
		into.Values[name] = strconv.FormatBool(bool(*v))
	case *model.Configuration:
		into.Meta = v.Meta
	}
	return k, name, true
}

// belongs says which settings of a kind a key of the store is a part of, and as what.
func belongs(of model.Kind, raw model.Key) (k settings.Key, name string, ok bool) {
	switch raw := raw.(type) {
	case model.ReadyKey:
		return settings.Key{Of: of}, settings.Ready, of == settings.KindCluster
	case model.ConfigurationKey:
		k, ok = settings.ParseName(of, raw.Name)
		own, has := k.Metadata()
		return k, "", ok && has && own == raw
	default:
		k, name, ok = settings.Of(raw)
		return k, name, ok && k.Of == of
	}
}

// readSettings reads those of the keys that exist, and what is left of the others.
func (s *Store) readSettings(ctx context.Context, of model.Kind, keys []model.Key, out map[model.Key]stored) error {
	raw, _, err := s.rawSettings(ctx, of)
	if err != nil {
		return err
	}
	there, rest := settingsFrom(of, raw)
	for _, e := range there {
		if slices.Contains(keys, e.Key) {
			out[e.Key] = stored{value: e.Value, revision: e.Revision}
		}
	}
	for _, e := range rest {
		value, _ := e.Value.(*settings.Settings)
		if slices.Contains(keys, e.Key) {
			out[e.Key] = stored{rest: value.Revisions}
		}
	}
	return nil
}

// settingsWrites is what it takes to make old settings the next ones. Raw settings that
// the dialect has no word for are in both.
func settingsWrites(k settings.Key, old, next *settings.Settings) ([]etcdstore.Write, error) {
	var writes []etcdstore.Write
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
	if before != nil && next != nil {
		next = next.Keeping(before)
		st.object.Value = next
	}
	switch {
	case before != nil && before.Equal(next):
		st.did = Unchanged
		return st, nil
	case exists && o.Revision != 0 && o.Revision != old.revision:
		return st, outdated(o, old)
	}
	if before == nil {
		before = &settings.Settings{Revisions: old.rest}
	}
	stamp(next, time.Now()) // what was raw settings alone has no identity yet
	var err error
	st.writes, err = settingsWrites(key, before, next)
	st.ops = len(st.writes)
	for name, value := range next.Values {
		st.size += len(name) + len(value)
	}
	return st, err
}

// deleteSettings removes settings, also what no field can have as its value or nobody can
// read. Raw ones that the dialect has no word for stay.
func (s *Store) deleteSettings(ctx context.Context, o manifest.Object, e stored) error {
	key, _ := o.Key.(settings.Key)
	old, ok := e.value.(*settings.Settings)
	if !ok {
		return nil
	}
	var keys []model.Key
	if meta, ok := key.Metadata(); ok {
		keys = append(keys, meta)
	}
	for _, name := range settings.Known(key.Of) {
		if raw := key.Raw(name); old.Revisions[raw] != 0 {
			keys = append(keys, raw)
		}
	}
	writes := make([]etcdstore.Write, len(keys))
	for i, k := range keys {
		var err error
		if writes[i], err = etcdstore.DeleteWrite(k, old.Revisions[k]); err != nil {
			return err
		}
	}
	return s.write(ctx, writes...)
}
