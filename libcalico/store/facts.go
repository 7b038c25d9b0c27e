package store

import (
	"slices"

	"calico.internal/libcalico/model"
)

func (v *View) isFact(k model.Key) bool { return slices.Contains(v.opts.Facts, k.Kind()) }

// keep leaves those parts of a resource as they are that the datastore lacks.
func (v *View) keep(k model.Key, o *object, missing func(part) bool) {
	for _, p := range o.parts {
		if missing(p) && !v.keeps(k, o, p.path) {
			o.kept = true
			v.kept[k] = append(v.kept[k], p.path)
		}
	}
}

// keeps reports whether a part of a resource is kept.
func (v *View) keeps(k model.Key, o *object, path string) bool {
	return o.kept && slices.Contains(v.kept[k], path)
}

// unkeep makes a part of a resource follow the datastore again.
func (v *View) unkeep(k model.Key, o *object, path string) {
	if !v.keeps(k, o, path) {
		return
	}
	left := slices.DeleteFunc(v.kept[k], func(p string) bool { return p == path })
	if v.kept[k] = left; len(left) == 0 {
		o.kept = false
		delete(v.kept, k)
	}
}

// Kept lists the facts that the view holds although the datastore lacks them (see
// [Options]), in the order of their keys.
func (v *View) Kept() []model.Key {
	if len(v.kept) == 0 {
		return nil
	}
	return sortKeys(v.kept)
}

// KeptCount is how many [View.Kept] lists.
func (v *View) KeptCount() int { return len(v.kept) }

// RestoredAt is the revision of the latest snapshot of a restored store.
func (v *View) RestoredAt() int64 { return v.restoredAt }

// Events tells of all that the view holds, as the first snapshot does.
func (v *View) Events() []Event {
	all := make(map[model.Key]struct{}, len(v.objects))
	for k := range v.objects {
		all[k] = struct{}{}
	}
	events := make([]Event, 0, len(all))
	for _, k := range sortKeys(all) {
		o := v.objects[k]
		events = append(events, Event{Key: k, Value: o.value, Revision: o.revision(), Err: o.err})
	}
	return events
}

// Release gives up the kept facts for which match says that they are no more, and tells
// about them as [View.Apply] does.
func (v *View) Release(match func(model.Key) bool) []Event {
	released := map[model.Key]struct{}{}
	for k := range v.kept {
		if match(k) {
			o := v.objects[k]
			o.parts = slices.DeleteFunc(o.parts, func(p part) bool { return v.keeps(k, o, p.path) })
			o.kept = false
			delete(v.kept, k)
			released[k] = struct{}{}
		}
	}
	return v.events(released, v.revision)
}
