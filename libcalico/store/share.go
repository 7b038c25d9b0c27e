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
	texts  map[string]string
	lists  map[string][]string
	labels map[string]map[string]string
	// joined is the room in which names of lists and labels are made.
	joined []byte
}

func newSharer() *sharer {
	return &sharer{texts: map[string]string{}, lists: map[string][]string{}, labels: map[string]map[string]string{}}
}

// share replaces parts of a resource by equal ones of earlier resources.
func (s *sharer) share(r model.Resource) {
	e, ok := r.(*model.WorkloadEndpoint)
	if !ok {
		return
	}
	e.State = s.text(e.State)
	e.Profiles = s.list(e.Profiles)
	e.Labels = s.labelSet(e.Labels)
	// What was read item by item has room for more.
	e.IPv4Nets, e.IPv6Nets = slices.Clone(e.IPv4Nets), slices.Clone(e.IPv6Nets)
}

func (s *sharer) text(t string) string {
	if known, ok := s.texts[t]; ok {
		return known
	}
	s.texts[t] = t
	return t
}

func (s *sharer) list(list []string) []string {
	if len(list) == 0 {
		return list
	}
	s.join(list...)
	if known, ok := s.lists[string(s.joined)]; ok {
		return known
	}
	s.lists[string(s.joined)] = list
	return list
}

func (s *sharer) labelSet(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return labels
	}
	s.joined = s.joined[:0]
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		s.add(name)
		s.add(labels[name])
	}
	if known, ok := s.labels[string(s.joined)]; ok {
		return known
	}
	s.labels[string(s.joined)] = labels
	return labels
}

func (s *sharer) join(words ...string) {
	s.joined = s.joined[:0]
	for _, w := range words {
		s.add(w)
	}
}

// add puts a word, with its length before it, behind the others.
func (s *sharer) add(word string) {
	n := len(word)
	s.joined = append(s.joined, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	s.joined = append(s.joined, word...)
}
