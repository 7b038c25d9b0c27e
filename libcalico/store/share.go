package store

import (
	"maps"
	"slices"

	"calico.internal/libcalico/model"
)

// sharer makes the resources that came in one batch share what is equal among them.
// Thousands of endpoints have a handful of different labels and profiles, and a map of one
// label takes as much memory as all else that is known of an endpoint.
type sharer struct {
	lists  map[string][]string
	labels map[string]map[string]string
	// name is the room in which names of lists and labels are made.
	name []byte
}

func newSharer() *sharer {
	return &sharer{lists: map[string][]string{}, labels: map[string]map[string]string{}}
}

// share replaces parts of a resource by equal ones of earlier resources.
func (s *sharer) share(r model.Resource) {
	e, ok := r.(*model.WorkloadEndpoint)
	if !ok {
		return
	}
	s.name = s.name[:0]
	for _, profile := range e.Profiles {
		s.add(profile)
	}
	e.Profiles = earlier(s.lists, s.name, e.Profiles)
	s.name = s.name[:0]
	for _, label := range slices.Sorted(maps.Keys(e.Labels)) {
		s.add(label)
		s.add(e.Labels[label])
	}
	e.Labels = earlier(s.labels, s.name, e.Labels)
	// What was read item by item has room for more.
	e.IPv4Nets, e.IPv6Nets = slices.Clone(e.IPv4Nets), slices.Clone(e.IPv6Nets)
}

// earlier is the value that came first of those with a name. What is empty has none, and
// stays as it is: nil or not.
func earlier[V any](known map[string]V, name []byte, value V) V {
	if len(name) == 0 {
		return value
	}
	if first, ok := known[string(name)]; ok {
		return first
	}
	known[string(name)] = value
	return value
}

// add puts a word, with its length before it, behind the name.
func (s *sharer) add(word string) {
	n := len(word)
	s.name = append(s.name, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	s.name = append(s.name, word...)
}
