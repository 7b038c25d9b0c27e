package resource

import (
	"context"
	"slices"

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
	out := Event{Type: EventModified, Key: e.Key, Value: e.Value, Err: e.Err}
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

// Await watches kinds until done says that what it sees is what is waited for. It is
// called with the view whenever that has changed, and once at the start.
func (s *Store) Await(ctx context.Context, kinds []model.Kind, done func(*store.View) (bool, error)) error {
	var prefixes []string
	for _, kind := range kinds {
		prefixes = append(prefixes, model.ListPrefixes(kind)...)
	}
	view := store.New(store.Options{Filter: func(k model.Key) bool { return slices.Contains(kinds, k.Kind()) }})
	for b := range s.etcd.Watch(ctx, prefixes, etcdstore.WatchOptions{}) {
		view.Apply(b)
		if !view.InSync() {
			continue
		}
		if ok, err := done(view); ok || err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
