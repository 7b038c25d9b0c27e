package resource

import (
	"context"
	"errors"
	"fmt"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// OnWarning sets what is called with each warning about what is written.
func (s *Store) OnWarning(warn func(string)) { s.warn = warn }

// review warns about what is without effect, and about references to what is not there.
// They are not refused: what they lead to may come later.
func (s *Store) review(ctx context.Context, steps []step) {
	if s.warn == nil {
		return
	}
	known := map[model.Key]bool{}
	for _, st := range steps {
		known[st.object.Key] = true
	}
	for _, st := range steps {
		for _, msg := range st.warnings {
			s.warnOnce(msg)
		}
		if len(st.writes) == 0 {
			continue
		}
		for _, ref := range references(st.object.Key, st.object.Value) {
			there, seen := known[ref.to]
			if !seen {
				_, err := s.etcd.Get(ctx, ref.to)
				there = !errors.Is(err, etcdstore.ErrNotFound)
				known[ref.to] = there
			}
			if !there {
				s.warnOnce(fmt.Sprintf("%s: %s: there is no %s", st.object.Shown(), ref.field, ref.to))
			}
		}
	}
}

func (s *Store) warnOnce(msg string) {
	if s.warn == nil {
		return
	}
	if s.warned == nil {
		s.warned = map[string]bool{}
	}
	if !s.warned[msg] {
		s.warned[msg] = true
		s.warn(msg)
	}
}

// reference is a field that names another resource.
type reference struct {
	field string
	to    model.Key
}

func references(k model.Key, v model.Resource) []reference {
	var out []reference
	profiles := func(names []string) {
		for _, name := range names {
			out = append(out, reference{"spec.profiles", model.ProfileKey{Name: name}})
		}
	}
	node := func(name string) {
		if name != "" {
			out = append(out, reference{"node", model.NodeKey{Name: name}})
		}
	}
	switch v := v.(type) {
	case *model.HostEndpoint:
		node(k.(model.HostEndpointKey).Node)
		profiles(v.Profiles)
	case *model.WorkloadEndpoint:
		node(k.(model.WorkloadEndpointKey).Node)
		profiles(v.Profiles)
	case *model.BGPPeer:
		node(k.(model.BGPPeerKey).Node)
		for _, name := range v.Filters {
			out = append(out, reference{"spec.filters", model.BGPFilterKey{Name: name}})
		}
	}
	return out
}
