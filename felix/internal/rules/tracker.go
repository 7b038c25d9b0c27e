package rules

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

// ChainChanges is the difference between two rule sets of one family.
type ChainChanges struct {
	// Set are new or changed chains, complete, sorted by table and name.
	Set []Chain
	// Delete are chains that are not wanted any more, sorted.
	Delete []ChainID
}

// Tracker keeps the chains of one family in step with the desired state: each change of
// the state gives the chains that it touches, and no others. It belongs to one
// goroutine.
type Tracker struct {
	r       *Renderer
	f       Family
	started bool

	endpoints map[model.Key]*desired.Endpoint
	policies  map[model.PolicyKey]*desired.Policy
	profiles  map[string]*desired.Profile
	tree      tree

	// addrs are the addresses of the host's interfaces, by which host endpoints without
	// an interface's name are found; host are the chains of host endpoints.
	addrs map[string][]netip.Addr
	host  map[ChainID]Chain
	// hostChanged says that the chains of host endpoints must be rendered anew, and
	// natChanged those of floating addresses.
	hostChanged, natChanged bool

	// set and gone collect one pass's outcome.
	set  map[ChainID]Chain
	gone map[ChainID]struct{}
}

// NewTracker starts with an empty state; its first Apply gives the static chains too.
func NewTracker(r *Renderer, f Family) *Tracker {
	return &Tracker{
		r: r, f: f, tree: newTree(),
		endpoints: map[model.Key]*desired.Endpoint{}, policies: map[model.PolicyKey]*desired.Policy{},
		profiles: map[string]*desired.Profile{}, set: map[ChainID]Chain{}, gone: map[ChainID]struct{}{},
	}
}

// Apply takes over a change of the desired state and returns what becomes of the chains.
func (t *Tracker) Apply(c desired.Changes) ChainChanges {
	if !t.started {
		t.started = true
		t.put(t.r.Static(t.f)...)
		t.tree.rootChanged = true
		t.hostChanged, t.natChanged = true, true
	}
	for _, k := range c.EndpointsDeleted {
		t.removeEndpoint(k)
	}
	for _, k := range c.PoliciesDeleted {
		if p := t.policies[k]; p != nil {
			t.drop(PolicyChains(p)...)
			delete(t.policies, k)
		}
	}
	for _, name := range c.ProfilesDeleted {
		if t.profiles[name] != nil {
			t.drop(ProfileChains(name)...)
			delete(t.profiles, name)
		}
	}
	for _, p := range c.Policies {
		if old := t.policies[p.Key]; old != nil {
			t.drop(PolicyChains(old)...) // of which most are put again
		}
		t.policies[p.Key] = p
		t.hostChanged = t.hostChanged || t.askedAfterDNAT(policyChain(desired.Egress, p.Key))
		t.put(t.r.Policy(t.f, p)...)
	}
	for _, p := range c.Profiles {
		t.profiles[p.Name] = p
		t.hostChanged = t.hostChanged || t.askedAfterDNAT(profileChain(desired.Egress, p.Name))
		t.put(t.r.Profile(t.f, p)...)
	}
	// An interface may go from one endpoint to another.
	for _, e := range c.Endpoints {
		if old := t.endpoints[e.Key]; old != nil && old.Interface != e.Interface {
			t.removeEndpoint(e.Key)
		}
	}
	for _, e := range c.Endpoints {
		t.setEndpoint(e)
	}
	t.renderTree()
	t.renderHost()
	t.renderNAT()
	return t.take()
}

// SetInterfaces takes over the addresses of the host's interfaces, by which host
// endpoints without an interface's name are found.
func (t *Tracker) SetInterfaces(addrs map[string][]netip.Addr) ChainChanges {
	t.addrs = addrs
	t.hostChanged = true
	if !t.started {
		return ChainChanges{}
	}
	t.renderHost()
	return t.take()
}

// Unbound lists the host endpoints that are not in force because no interface has one
// of their addresses, sorted.
func (t *Tracker) Unbound() []model.Key {
	_, unbound := bindHosts(t.endpoints, t.addrs)
	return unbound
}

// renderHost renders the chains of host endpoints anew, if something about them changed.
func (t *Tracker) renderHost() {
	if !t.hostChanged {
		return
	}
	t.hostChanged = false
	before := t.host
	t.host = map[ChainID]Chain{}
	bound, _ := bindHosts(t.endpoints, t.addrs)
	for _, c := range append(t.r.hostEndpoints(t.f, bound), t.afterDNAT(bound)...) {
		t.host[c.ChainID] = c
		if old, ok := before[c.ChainID]; !ok || !reflect.DeepEqual(old, c) {
			t.put(c)
		}
	}
	for id := range before {
		if _, ok := t.host[id]; !ok {
			t.drop(id)
		}
	}
}

// afterDNAT renders the egress policies and profiles of host endpoints once more, for
// packets whose destination the host itself rewrote.
func (t *Tracker) afterDNAT(bound []boundHost) (list []Chain) {
	rules := map[string][]desired.Rule{}
	for _, b := range bound {
		for _, tier := range b.endpoint.Tiers {
			for _, k := range tier.Egress {
				if p := t.policies[k]; p != nil {
					rules[policyChain(desired.Egress, k)] = p.Egress
				}
			}
		}
		for _, name := range b.endpoint.Profiles {
			if p := t.profiles[name]; p != nil {
				rules[profileChain(desired.Egress, name)] = p.Egress
			}
		}
	}
	for name, r := range rules {
		list = append(list, t.r.afterDNAT(t.f, name, r))
	}
	return list
}

// askedAfterDNAT reports whether afterDNAT rendered a chain of that name.
func (t *Tracker) askedAfterDNAT(name string) bool {
	_, asked := t.host[ChainID{Mangle, name}]
	return asked
}

// renderNAT renders the chains of floating addresses anew, if something about them
// changed.
func (t *Tracker) renderNAT() {
	if !t.natChanged {
		return
	}
	t.natChanged = false
	var nats []desired.NAT
	for _, e := range t.endpoints {
		nats = append(nats, e.NATs...)
	}
	slices.SortFunc(nats, desired.NAT.Compare)
	t.put(t.r.floating(t.f, nats)...)
}

// Reconfigure renders everything anew for other settings and returns what differs.
func (t *Tracker) Reconfigure(r *Renderer) ChainChanges {
	before := t.all()
	next := NewTracker(r, t.f)
	next.addrs = t.addrs
	after := next.Apply(t.state())
	var c ChainChanges
	for _, chain := range after.Set {
		if old, ok := before[chain.ChainID]; !ok || !reflect.DeepEqual(old, chain) {
			c.Set = append(c.Set, chain)
		}
		delete(before, chain.ChainID)
	}
	c.Delete = slices.SortedFunc(maps.Keys(before), ChainID.Compare)
	*t = *next
	return c
}

// Hooks are the rules that lead from the kernel's chains to ours.
func (t *Tracker) Hooks() []Hook { return t.r.Hooks() }

// all renders every chain that there is now.
func (t *Tracker) all() map[ChainID]Chain {
	chains := map[ChainID]Chain{}
	if !t.started {
		return chains
	}
	fresh := NewTracker(t.r, t.f)
	fresh.addrs = t.addrs
	for _, c := range fresh.Apply(t.state()).Set {
		chains[c.ChainID] = c
	}
	return chains
}

// state is the tracker's state as a change from nothing.
func (t *Tracker) state() desired.Changes {
	return desired.Changes{
		Policies:  slices.Collect(maps.Values(t.policies)),
		Profiles:  slices.Collect(maps.Values(t.profiles)),
		Endpoints: slices.Collect(maps.Values(t.endpoints)),
	}
}

// setEndpoint takes over an endpoint. A workload's must have a workload's interface to be
// rendered.
func (t *Tracker) setEndpoint(e *desired.Endpoint) {
	if old := t.endpoints[e.Key]; len(e.NATs) > 0 || old != nil && len(old.NATs) > 0 {
		t.natChanged = true
	}
	t.endpoints[e.Key] = e
	t.hostChanged = t.hostChanged || !e.IsWorkload()
	if b, ok := t.r.binOf(e.Interface); ok && e.IsWorkload() {
		t.tree.add(b, e.Interface)
		t.put(t.r.Endpoint(e)...)
	}
}

func (t *Tracker) removeEndpoint(k model.Key) {
	e := t.endpoints[k]
	if e == nil {
		return
	}
	delete(t.endpoints, k)
	t.natChanged = t.natChanged || len(e.NATs) > 0
	t.hostChanged = t.hostChanged || !e.IsWorkload()
	if b, ok := t.r.binOf(e.Interface); ok && e.IsWorkload() {
		t.tree.remove(b, e.Interface)
		t.drop(EndpointChains(e)...)
	}
}

// renderTree renders what changed of the dispatch chains.
func (t *Tracker) renderTree() {
	for _, d := range []desired.Direction{desired.Ingress, desired.Egress} {
		if t.tree.rootChanged {
			t.put(t.r.dispatchRootChain(d, t.tree.sortedBins()))
		}
		for suffix := range t.tree.changed {
			if names := t.tree.names(suffix); len(names) > 0 {
				t.put(t.r.dispatchChild(d, suffix, names))
			} else {
				t.drop(ChainID{Filter, childChain(d, suffix)})
			}
		}
	}
	t.tree.settle()
}

func (t *Tracker) put(chains ...Chain) {
	for _, c := range chains {
		t.set[c.ChainID] = c
		delete(t.gone, c.ChainID)
	}
}

func (t *Tracker) drop(chains ...ChainID) {
	for _, id := range chains {
		t.gone[id] = struct{}{}
		delete(t.set, id)
	}
}

// take returns the outcome of a pass and begins the next.
func (t *Tracker) take() ChainChanges {
	var c ChainChanges
	c.Set = slices.SortedFunc(maps.Values(t.set), func(a, b Chain) int { return a.ChainID.Compare(b.ChainID) })
	c.Delete = slices.SortedFunc(maps.Keys(t.gone), ChainID.Compare)
	clear(t.set)
	clear(t.gone)
	return c
}

// Compare orders chains: by table, as a packet meets them, then by name.
func (c ChainID) Compare(d ChainID) int {
	return cmp.Or(
		cmp.Compare(slices.Index(Tables[:], c.Table), slices.Index(Tables[:], d.Table)),
		strings.Compare(c.Name, d.Name))
}

// tree is what the dispatch chains are made from: the interfaces by bin.
type tree struct {
	bins map[bin]map[string]struct{}
	// changed are the suffixes whose interfaces changed since the last pass.
	changed     map[string]struct{}
	rootChanged bool
}

func newTree() tree {
	return tree{bins: map[bin]map[string]struct{}{}, changed: map[string]struct{}{}}
}

func (t *tree) add(b bin, iface string) {
	if _, ok := t.bins[b][iface]; ok {
		return
	}
	if t.bins[b] == nil {
		t.bins[b] = map[string]struct{}{}
		t.rootChanged = true
	}
	t.bins[b][iface] = struct{}{}
	t.changed[b.suffix] = struct{}{}
}

func (t *tree) remove(b bin, iface string) {
	delete(t.bins[b], iface)
	if len(t.bins[b]) == 0 {
		delete(t.bins, b)
		t.rootChanged = true
	}
	t.changed[b.suffix] = struct{}{}
}

// names lists the interfaces that stand in the child chain of a suffix, sorted.
func (t *tree) names(suffix string) []string {
	var list []string
	for b, names := range t.bins {
		if b.suffix == suffix {
			list = slices.AppendSeq(list, maps.Keys(names))
		}
	}
	slices.Sort(list)
	return list
}

func (t *tree) sortedBins() []bin {
	return slices.SortedFunc(maps.Keys(t.bins), func(a, b bin) int { return strings.Compare(a.match.Name, b.match.Name) })
}

func (t *tree) settle() {
	clear(t.changed)
	t.rootChanged = false
}
