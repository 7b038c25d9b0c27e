package resource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
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
		for _, name := range reservedLabels(st.object.Value) {
			s.warnOnce(fmt.Sprintf("%s: the label %s has no effect: it is Calico's own to give, and no policy sees what others give it",
				st.object.Shown(), name))
		}
		for _, name := range neverGiven(st.object.Value) {
			s.warnOnce(fmt.Sprintf("%s: the label %s in a selector is one that nothing has: it is Calico's own to give, and it gives it to nothing; select by another label",
				st.object.Shown(), name))
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

// reservedLabels names labels that selectors do not see.
func reservedLabels(v model.Resource) []string {
	var labels map[string]string
	switch v := v.(type) {
	case *model.WorkloadEndpoint:
		labels = v.Labels
	case *model.HostEndpoint:
		labels = v.Labels
	case *model.NetworkSet:
		labels = v.Labels
	case *model.Profile:
		labels = v.Labels
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(labels)), func(name string) bool { return !selector.Reserved(name) })
}

// neverGiven names labels that selectors of a policy or of rules go by, and that nobody can
// give and Calico does not.
func neverGiven(v model.Resource) []string {
	var texts []string
	rules := func(lists ...[]model.Rule) {
		for _, r := range slices.Concat(lists...) {
			for _, m := range []model.Match{r.Source, r.Destination} {
				texts = append(texts, m.Selector, m.NotSelector)
			}
		}
	}
	switch v := v.(type) {
	case *model.Policy:
		texts = append(texts, v.Selector)
		rules(v.InboundRules, v.OutboundRules)
	case *model.Profile:
		rules(v.InboundRules, v.OutboundRules)
	}
	used := map[string]bool{}
	for _, text := range texts {
		sel, err := selector.Parse(text)
		if err != nil {
			continue
		}
		for _, name := range sel.LabelNames() {
			used[name] = used[name] || selector.Reserved(name) && name != selector.NamespaceLabel
		}
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(used)), func(name string) bool { return !used[name] })
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
