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

// Watch calls each with what exists of a kind, and then with every change, until ctx
// ends or each fails. lost is set, and no event given, when the datastore is away; the
// changes of the meantime follow when it is back.
func (s *Store) Watch(ctx context.Context, kind model.Kind, match func(model.Key) bool, each func(events []Event, lost error) error) error {
	view := store.New(store.Options{Filter: func(k model.Key) bool { return k.Kind() == kind && match(k) }})
	known := map[model.Key]model.Resource{}
	first := true
	for b := range s.etcd.Watch(ctx, model.ListPrefixes(kind), etcdstore.WatchOptions{}) {
		var events []Event
		for _, e := range view.Apply(b) {
			events = append(events, eventOf(known, e))
		}
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
type Seen struct {
	view *store.View
	all  map[model.Key]model.Resource
}

// Get returns a resource; ok is false when there is none that can be used.
func (s *Seen) Get(k model.Key) (model.Resource, bool) { return s.view.Get(k) }

// Find returns the resource that an object names, by its key or by the name that its
// dialect has for it. value is nil when what is stored cannot be used.
func (s *Seen) Find(o manifest.Object) (k model.Key, value model.Resource, ok bool) {
	name, named := o.Key.(dialect.NameKey)
	if !named {
		value, ok = s.view.Get(o.Key)
		bad := slices.ContainsFunc(s.view.Quarantined(), func(q store.Quarantined) bool { return q.Key == o.Key })
		return o.Key, value, ok || bad
	}
	for k, v := range s.all {
		if k.Kind() != name.Of.Model || !name.Of.OwnedBy(k) {
			continue
		}
		if namespace, called := name.Of.NameOf(k, v); namespace == name.Namespace && called == name.Name {
			return k, v, true
		}
	}
	return nil, nil, false
}

// Await watches kinds until done says that what it sees is what is waited for. It is
// called whenever that has changed, and once at the start.
func (s *Store) Await(ctx context.Context, kinds []model.Kind, done func(*Seen) (bool, error)) error {
	var prefixes []string
	for _, kind := range kinds {
		prefixes = append(prefixes, model.ListPrefixes(kind)...)
	}
	seen := &Seen{
		view: store.New(store.Options{Filter: func(k model.Key) bool { return slices.Contains(kinds, k.Kind()) }}),
		all:  map[model.Key]model.Resource{},
	}
	for b := range s.etcd.Watch(ctx, prefixes, etcdstore.WatchOptions{}) {
		for _, e := range seen.view.Apply(b) {
			if e.Value == nil {
				delete(seen.all, e.Key)
				continue
			}
			seen.all[e.Key] = e.Value
		}
		if !seen.view.InSync() {
			continue
		}
		if ok, err := done(seen); ok || err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
