package calc

import (
	"net/netip"
	"slices"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// Engine is the incremental calculation: it takes the store's events in any order and
// gives the difference that they make to the desired state.
type Engine struct {
	node     string
	prefixes []string

	sets  *sets
	local *index // policy selectors × endpoints of this host

	endpoints map[model.Key]*endpoint
	policies  map[model.PolicyKey]*policy
	profiles  map[string]*profile
	tiers     map[string]*model.Tier
	pools     map[netip.Prefix]*model.IPPool

	interfaces claims[interfaceClaim]
	nets       claims[netip.Prefix]
	// unlabelled are this host's endpoints whose labels are not known.
	unlabelled map[*endpoint]struct{}

	dirtyEndpoints map[*endpoint]struct{}
	dirtyPolicies  map[*policy]struct{}
	dirtyProfiles  map[*profile]struct{}

	// unusable says of stored values that cannot be used why, rejected what can be read of
	// those of which no older version is in force.
	unusable map[model.Key]unusable
	rejected map[model.Key]remnant
	// doubtful are the endpoints and network sets whose addresses are not known.
	doubtful map[model.Key]doubt
	// masquerading are the pools that were masqueraded when felix started.
	masquerading []netip.Prefix
}

// New makes the engine of a node. Workload endpoints of the node must have an interface
// whose name begins with one of prefixes, unless there are none.
func New(node string, prefixes ...string) *Engine {
	e := &Engine{
		node: node, prefixes: prefixes, sets: newSets(),
		endpoints: map[model.Key]*endpoint{}, policies: map[model.PolicyKey]*policy{},
		profiles: map[string]*profile{}, tiers: map[string]*model.Tier{}, pools: map[netip.Prefix]*model.IPPool{},
		interfaces: claims[interfaceClaim]{}, nets: claims[netip.Prefix]{},
		dirtyEndpoints: map[*endpoint]struct{}{}, dirtyPolicies: map[*policy]struct{}{},
		dirtyProfiles: map[*profile]struct{}{}, unusable: map[model.Key]unusable{}, unlabelled: map[*endpoint]struct{}{},
		rejected: map[model.Key]remnant{}, doubtful: map[model.Key]doubt{},
	}
	matchChanged := func(_ *subscription, it *item) { e.dirtyEndpoints[e.endpoints[it.key]] = struct{}{} }
	e.local = newIndex(matchChanged, matchChanged)
	return e
}

// Apply takes over events of the store. Nothing is given out before Flush. Events of
// kinds that have no part in the desired state are ignored.
func (e *Engine) Apply(events []store.Event) {
	for _, ev := range events {
		e.apply(ev)
	}
}

func (e *Engine) apply(ev store.Event) {
	e.withdraw(ev.Key)
	switch k := ev.Key.(type) {
	case model.WorkloadEndpointKey:
		e.setEndpoint(k, k.Node, ev)
	case model.HostEndpointKey:
		e.setEndpoint(k, k.Node, ev)
	case model.NetworkSetKey:
		e.setItem(k, ev.Value)
	case model.ProfileKey:
		e.setProfile(k, value[*model.Profile](ev))
	case model.PolicyKey:
		e.setPolicy(k, value[*model.Policy](ev))
	case model.TierKey:
		e.setTier(k.Name, value[*model.Tier](ev))
	case model.IPPoolKey:
		e.setPool(k, value[*model.IPPool](ev))
	default:
		return
	}
	if ev.Err == nil {
		delete(e.unusable, ev.Key)
	} else {
		e.unusable[ev.Key] = unusable{ev.Err, ev.Revision, ev.Value != nil}
	}
}

// value is the event's resource, or nil.
func value[T model.Resource](ev store.Event) T {
	v, _ := ev.Value.(T)
	return v
}

// setItem takes over an endpoint or network set of any host as a source of addresses.
func (e *Engine) setItem(k model.Key, v model.Resource) {
	if v == nil {
		e.sets.deleteItem(k)
	} else {
		e.sets.setItem(k, v)
	}
}

// setTier takes over a tier's order and default action.
func (e *Engine) setTier(name string, t *model.Tier) {
	if t == nil {
		delete(e.tiers, name)
	} else {
		e.tiers[name] = t
	}
	e.touchTier(name)
}

// setPool takes over a pool's range for the sets with fixed ids.
func (e *Engine) setPool(k model.IPPoolKey, p *model.IPPool) {
	m := desired.Member{Net: k.CIDR.Masked()}
	old := e.pools[k.CIDR]
	// Added before it is removed, so that a pool that stays makes no change.
	if p != nil {
		e.pools[k.CIDR] = p
		e.sets.addFixed(desired.SetAllPools, m)
		if p.Masquerade {
			e.sets.addFixed(desired.SetMasqPools, m)
		}
	} else {
		delete(e.pools, k.CIDR)
	}
	if old != nil {
		e.sets.removeFixed(desired.SetAllPools, m)
		if old.Masquerade {
			e.sets.removeFixed(desired.SetMasqPools, m)
		}
	}
}

// Flush returns the difference between the desired state and the one at the last Flush.
func (e *Engine) Flush() desired.Changes {
	var c desired.Changes
	e.flushEndpoints(&c)
	e.flushPolicies(&c)
	e.flushProfiles(&c)
	e.sets.flush(&c)
	sortChanges(&c)
	return c
}

func sortChanges(c *desired.Changes) {
	byID := func(a, b desired.IPSet) int { return strings.Compare(string(a.ID), string(b.ID)) }
	slices.SortFunc(c.SetsAdded, byID)
	slices.SortFunc(c.SetsDeleted, byID)
	slices.SortFunc(c.SetsChanged, func(a, b desired.SetDelta) int { return strings.Compare(string(a.ID), string(b.ID)) })
	slices.SortFunc(c.Policies, func(a, b *desired.Policy) int { return model.Compare(a.Key, b.Key) })
	slices.SortFunc(c.PoliciesDeleted, func(a, b model.PolicyKey) int { return model.Compare(a, b) })
	slices.SortFunc(c.Profiles, func(a, b *desired.Profile) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(c.ProfilesDeleted)
	slices.SortFunc(c.Endpoints, func(a, b *desired.Endpoint) int { return model.Compare(a.Key, b.Key) })
	slices.SortFunc(c.EndpointsDeleted, model.Compare)
}

// Problems lists the objects of the store that are not in force as written, sorted.
func (e *Engine) Problems() []desired.Problem {
	var list []desired.Problem
	add := func(k model.Key, reason string) {
		if reason != "" {
			list = append(list, desired.Problem{Key: k, Reason: reason})
		}
	}
	for k, u := range e.unusable {
		add(k, u.err.Error()+"; "+e.consequence(k, u))
	}
	for k, ep := range e.endpoints {
		for _, fault := range ep.faults {
			add(k, fault)
		}
	}
	for k, p := range e.policies {
		add(k, p.fault)
	}
	for name, p := range e.profiles {
		add(model.ProfileKey{Name: name}, p.fault)
		_, stored := e.unusable[model.ProfileKey{Name: name}]
		if p.given != nil && p.given.Missing && !stored {
			add(model.ProfileKey{Name: name}, "no such profile, but an endpoint of this host names it; it denies what reaches it")
		}
	}
	slices.SortFunc(list, func(a, b desired.Problem) int {
		if d := model.Compare(a.Key, b.Key); d != 0 {
			return d
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	return list
}
