package resource

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/settings"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// What can happen to a watched resource.
const (
	EventAdded    = "added"
	EventModified = "modified"
	EventDeleted  = "deleted"
)

// Event says what happened to a resource.
type Event struct {
	// Type is EventAdded, EventModified or EventDeleted. What exists when the watch
	// begins is added.
	Type string
	Key  model.Key
	// Value is what is stored now, or was last.
	Value model.Resource
	// Revision is the one at which it happened.
	Revision int64
	// Err says why what is stored is not in force.
	Err error
}

// Watched is what is watched of a kind.
type Watched struct {
	Kind model.Kind
	// Scope is what is known of where the resources stand.
	Scope model.Scope
	// Keys are the only ones that matter, if there are any; and Names are those of settings.
	Keys  []model.Key
	Names []string
}

// Watch calls each with what exists of what is watched and matches, and then with every
// change, until ctx ends or each fails. lost is set, and no event given, when the datastore
// is away; the changes of the meantime follow when it is back.
func (s *Store) Watch(ctx context.Context, what Watched, match func(model.Key) bool, each func(events []Event, lost error) error) error {
	ctx, cancel := context.WithCancel(ctx) // each may fail while the watch goes on
	defer cancel()
	batches, err := s.follow(ctx, what.inTiers(), what.places)
	if err != nil {
		return err
	}
	look := newWatching([]model.Kind{what.Kind}, match)
	first := true
	for b := range batches {
		events := look.apply(b)
		if len(events) == 0 && b.Err == nil && !first {
			continue
		}
		first = first && b.Err != nil
		if err := each(events, b.Err); err != nil {
			return err
		}
	}
	return nil
}

// inTiers says whether the keys are those of policies, of which the tier is not known.
func (w Watched) inTiers() bool { return w.Kind == model.KindPolicy && len(w.Keys) > 0 }

// places is where what is watched stands; of policies that are named, in which tiers ever.
func (w Watched) places(tiers []string) ([]etcdstore.Place, error) {
	paths := settingsPaths(w.Kind, w.Names)
	switch {
	case len(paths) > 0:
		return []etcdstore.Place{etcdstore.Under(paths...)}, nil
	case w.inTiers():
		return []etcdstore.Place{etcdstore.At(eachIn(tiers, w.Keys)...)}, nil
	case len(w.Keys) > 0 && !isSettings(w.Kind): // which are made of others
		return []etcdstore.Place{etcdstore.At(w.Keys...)}, nil
	}
	return whereabouts(w.Kind, w.Scope)
}

// eachIn is keys with those that policies of these names would have in some tiers.
func eachIn(tiers []string, keys []model.Key) []model.Key {
	all := slices.Clone(keys)
	for _, k := range keys {
		for _, tier := range tiers {
			if policy, ok := k.(model.PolicyKey); ok && tier != policy.Tier {
				all = append(all, model.NewPolicyKey(tier, policy.Name))
			}
		}
	}
	return all
}

// tiersEvery is how often is looked whether there are other tiers, in which a policy that is
// watched may be made. To hear of them would be to hear of all policies, which are below them.
const tiersEvery = 2 * time.Second

// follow watches places, which depend on the tiers that there are or do not.
func (s *Store) follow(ctx context.Context, onTiers bool, places func(tiers []string) ([]etcdstore.Place, error)) (<-chan store.Batch, error) {
	at, err := places(nil)
	if err != nil {
		return nil, err
	}
	if !onTiers {
		return s.etcd.WatchPlaces(ctx, at, etcdstore.WatchOptions{}), nil
	}
	out := make(chan store.Batch)
	go func() {
		defer close(out)
		for s.followIn(ctx, places, out) {
		}
	}()
	return out, nil
}

// followIn follows the places as long as there are the same tiers, and says whether to go on.
// What it follows then begins anew with all that there is.
func (s *Store) followIn(ctx context.Context, places func(tiers []string) ([]etcdstore.Place, error), out chan<- store.Batch) (goOn bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	send := func(b store.Batch) bool {
		select {
		case out <- b:
			return true
		case <-ctx.Done():
			return false
		}
	}
	tiers, err := s.tiers(ctx)
	if err != nil {
		return send(store.Batch{Err: err}) && wait(ctx, tiersEvery)
	}
	at, err := places(tiers)
	if err != nil {
		return false // it did not fail before
	}
	others := make(chan struct{})
	go func() {
		if s.awaitTiers(ctx, tiers) {
			close(others)
		}
	}()
	batches := s.etcd.WatchPlaces(ctx, at, etcdstore.WatchOptions{})
	for {
		select {
		case <-others:
			return true
		case b, ok := <-batches:
			if !ok || !send(b) {
				return false
			}
		}
	}
}

// awaitTiers waits until there are other tiers than these, and returns false when ctx ends.
func (s *Store) awaitTiers(ctx context.Context, than []string) bool {
	for wait(ctx, tiersEvery) {
		if tiers, err := s.tiers(ctx); err == nil && !slices.Equal(tiers, than) {
			return true
		}
	}
	return false
}

// wait waits for a time, and returns false when ctx ends first.
func wait(ctx context.Context, long time.Duration) bool {
	select {
	case <-time.After(long):
		return true
	case <-ctx.Done():
		return false
	}
}

// whereabouts is where the resources of a kind in a scope stand, those that are made of others
// too.
func whereabouts(kind model.Kind, scope model.Scope) ([]etcdstore.Place, error) {
	of := []model.Kind{kind}
	if isSettings(kind) {
		of = sourcesOf(kind)
	}
	places := make([]etcdstore.Place, len(of))
	for i, source := range of {
		if len(model.ListPrefixes(source)) == 0 {
			return nil, fmt.Errorf("watch %s: unknown kind", source)
		}
		places[i] = etcdstore.In(source, scope)
	}
	return places, nil
}

// awaited is what is watched of an object, and its key if that is known. A policy that is named
// by its key, and not as a dialect calls it, stands there and nowhere else.
func awaited(o manifest.Object) (what Watched, key model.Key) {
	what = Watched{Kind: o.Key.Kind()}
	key, name := o.Key, nameOf(o.Key)
	if named, ok := o.Key.(dialect.NameKey); ok {
		name, key = named.Name, nil
		if keys, ok := keysOf(named.Of, []dialect.NameKey{named}); ok {
			key = keys[0]
		}
	}
	if what.Names = []string{name}; key != nil {
		what.Keys = []model.Key{key}
	}
	return what, key
}

// placesFor is where some objects stand, and what programs report of them as resources of some
// kinds; onTiers says that this depends on the tiers that there are.
func placesFor(objects []manifest.Object, reports []model.Kind) (onTiers bool, places func(tiers []string) ([]etcdstore.Place, error)) {
	named := func(o manifest.Object) bool {
		_, ok := o.Key.(dialect.NameKey)
		return ok
	}
	for _, o := range objects {
		what, _ := awaited(o)
		onTiers = onTiers || named(o) && what.inTiers()
	}
	return onTiers, func(tiers []string) ([]etcdstore.Place, error) {
		var all []etcdstore.Place
		for _, o := range objects {
			what, key := awaited(o)
			in := tiers
			if !named(o) {
				in = nil
			}
			of, err := what.places(in)
			if err != nil {
				return nil, err
			}
			all = append(all, of...)
			for _, kind := range reports {
				all = append(all, reportsOf(key, kind))
			}
		}
		return all, nil
	}
}

// reportsOf is where programs report of what has a key, or, when it is not known, of all.
func reportsOf(k model.Key, kind model.Kind) etcdstore.Place {
	switch k := k.(type) {
	case model.NodeKey:
		return etcdstore.In(kind, model.Scope{Node: k.Name})
	case model.WorkloadEndpointKey:
		return etcdstore.At(model.EndpointStatusKey(k))
	default:
		return etcdstore.In(kind, model.Scope{})
	}
}

// settingsPaths is the beginnings of the paths of settings with some names; nothing for
// other kinds, and when a name is none of settings.
func settingsPaths(of model.Kind, names []string) []string {
	if !isSettings(of) {
		return nil
	}
	const anyName = "x"
	var out []string
	for _, name := range names {
		k, ok := settings.ParseName(of, name)
		if !ok {
			return nil
		}
		keys := []model.Key{}
		if meta, ok := k.Metadata(); ok {
			keys = append(keys, meta)
		}
		if of == settings.KindCluster {
			keys = append(keys, model.ReadyKey{})
		}
		for _, path := range model.Paths(k.Raw(anyName)) {
			out = append(out, strings.TrimSuffix(path, anyName))
		}
		for _, key := range keys {
			out = append(out, model.Paths(key)...)
		}
	}
	return out
}

// watching makes events of what a watch brings.
type watching struct {
	view *store.View
	// known is what exists, as it was seen last; a value that was never usable is nil.
	known map[model.Key]model.Resource

	// The rest is for settings: the kinds that are watched, which of them, and what their
	// sources hold.
	settings []model.Kind
	match    func(model.Key) bool
	raw      map[model.Key]etcdstore.Entry
}

func newWatching(kinds []model.Kind, match func(model.Key) bool) *watching {
	w := &watching{known: map[model.Key]model.Resource{}, match: match, raw: map[model.Key]etcdstore.Entry{}}
	for _, kind := range kinds {
		if isSettings(kind) {
			w.settings = append(w.settings, kind)
		}
	}
	w.view = store.New(store.Options{Filter: func(k model.Key) bool {
		return w.isPart(k) || slices.Contains(kinds, k.Kind()) && (match == nil || match(k))
	}})
	return w
}

// isPart says whether a key of the store is a part of settings that are watched.
func (w *watching) isPart(k model.Key) bool {
	return slices.ContainsFunc(w.settings, func(of model.Kind) bool {
		whole, _, ok := belongs(of, k)
		return ok && (w.match == nil || w.match(whole))
	})
}

// apply takes a step of the watch, and says what it did to what is watched.
func (w *watching) apply(b store.Batch) []Event {
	var events []Event
	for _, e := range w.view.Apply(b) {
		if !w.isPart(e.Key) {
			events = append(events, eventOf(w.known, e))
			continue
		}
		w.raw[e.Key] = etcdstore.Entry{Key: e.Key, Value: e.Value, Revision: e.Revision}
		if e.Value == nil && e.Err == nil {
			delete(w.raw, e.Key)
		}
	}
	for _, of := range w.settings {
		events = append(events, w.changed(of, b.Revision)...)
	}
	return events
}

// changed is what became of the settings of a kind since it was asked last.
func (w *watching) changed(of model.Kind, revision int64) []Event {
	now, _ := settingsFrom(of, slices.Collect(maps.Values(w.raw)))
	var events []Event
	gone := map[model.Key]bool{}
	for k := range w.known {
		gone[k] = k.Kind() == of
	}
	for _, e := range now {
		gone[e.Key] = false
		was, _ := w.known[e.Key].(*settings.Settings)
		if is, _ := e.Value.(*settings.Settings); was == nil || !was.Equal(is) {
			events = append(events, eventOf(w.known, store.Event{Key: e.Key, Value: e.Value, Revision: e.Revision}))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(gone), func(a, b model.Key) int { return cmp.Compare(a.String(), b.String()) }) {
		if gone[k] {
			events = append(events, eventOf(w.known, store.Event{Key: k, Revision: revision}))
		}
	}
	return events
}

func eventOf(known map[model.Key]model.Resource, e store.Event) Event {
	was, exists := known[e.Key]
	out := Event{Type: EventModified, Key: e.Key, Value: e.Value, Revision: e.Revision, Err: e.Err}
	switch {
	case e.Value == nil && e.Err == nil:
		out.Type, out.Value = EventDeleted, was
		delete(known, e.Key)
		return out
	case !exists:
		out.Type = EventAdded
	}
	if e.Value == nil {
		out.Value = was
	}
	known[e.Key] = out.Value
	return out
}

// Seen is what a watch has seen.
type Seen struct{ watching *watching }

// Get returns a resource; ok is false when there is none that can be used.
func (s *Seen) Get(k model.Key) (model.Resource, bool) { return s.watching.view.Get(k) }

// Find returns the resource that an object names, by its key or by the name that its
// dialect has for it. value is nil when what is stored cannot be used.
func (s *Seen) Find(o manifest.Object) (k model.Key, value model.Resource, ok bool) {
	name, named := o.Key.(dialect.NameKey)
	if !named {
		value, ok = s.watching.known[o.Key]
		return o.Key, value, ok
	}
	for k, v := range s.watching.known {
		if k.Kind() != name.Of.Model || !name.Of.OwnedBy(k) {
			continue
		}
		if namespace, called := name.Of.NameOf(k, v); namespace == name.Namespace && called == name.Name {
			return k, v, true
		}
	}
	return nil, nil, false
}

// Await watches objects, and what programs report of them as resources of some kinds, until
// done says that what it sees is what is waited for. It is called whenever that has changed,
// and once at the start.
func (s *Store) Await(ctx context.Context, objects []manifest.Object, reports []model.Kind, done func(*Seen) (bool, error)) error {
	kinds := slices.Clone(reports)
	for _, o := range objects {
		if kind := o.Key.Kind(); !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	seen := &Seen{newWatching(kinds, nil)}
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	onTiers, places := placesFor(objects, reports)
	batches, err := s.follow(watch, onTiers, places)
	if err != nil {
		return err
	}
	for b := range batches {
		seen.watching.apply(b)
		if !seen.watching.view.InSync() {
			continue
		}
		if ok, err := done(seen); ok || err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
