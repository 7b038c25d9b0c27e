package daemon

import (
	"fmt"
	"slices"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/rules"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/felix/internal/sysctls"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
)

// workloads keeps what each workload endpoint needs besides chains: settings of its
// interface, neighbour entries and routes. These are wanted only while the interface is
// there and up, since the kernel takes them away with it.
type workloads struct {
	d       *dataplane
	byKey   map[model.WorkloadEndpointKey]*workload
	byIface map[string]*workload
	// dirty are endpoints whose state has to be looked at again.
	dirty map[model.WorkloadEndpointKey]struct{}
}

// workload is one endpoint, and what is wanted for it at the moment.
type workload struct {
	endpoint   *desired.Endpoint
	settings   map[sysctls.Key]string
	neighbours []routes.NeighKey
	routes     []routes.Key
}

func newWorkloads(d *dataplane) *workloads {
	return &workloads{
		d: d, byKey: map[model.WorkloadEndpointKey]*workload{}, byIface: map[string]*workload{},
		dirty: map[model.WorkloadEndpointKey]struct{}{},
	}
}

func (w *workloads) update(c desired.Changes) {
	for _, k := range c.EndpointsDeleted {
		if key, ok := k.(model.WorkloadEndpointKey); ok {
			w.remove(key)
		}
	}
	// What an endpoint gives up goes before what another one takes over.
	var changed []*workload
	for _, e := range c.Endpoints {
		key, ok := e.Key.(model.WorkloadEndpointKey)
		if !ok {
			continue
		}
		one := w.byKey[key]
		if one == nil {
			one = &workload{}
			w.byKey[key] = one
		}
		w.withdraw(one, e)
		one.endpoint = e
		changed = append(changed, one)
		w.dirty[key] = struct{}{}
	}
	for _, one := range changed {
		w.byIface[one.endpoint.Interface] = one
		w.want(one)
	}
}

func (w *workloads) remove(key model.WorkloadEndpointKey) {
	one := w.byKey[key]
	if one == nil {
		return
	}
	w.withdraw(one, nil)
	delete(w.byKey, key)
	w.dirty[key] = struct{}{}
}

// linkChanged follows the interface of an endpoint.
func (w *workloads) linkChanged(l ifmonitor.Link) {
	one := w.byIface[l.Name]
	if one == nil {
		return
	}
	w.dirty[one.endpoint.Key.(model.WorkloadEndpointKey)] = struct{}{}
	if l.Gone {
		w.leave(one.endpoint, nil)
	}
	w.want(one)
}

// withdraw takes back what is wanted for an endpoint that goes, or becomes next.
func (w *workloads) withdraw(one *workload, next *desired.Endpoint) {
	if one.endpoint == nil {
		return
	}
	w.leave(one.endpoint, next)
	if w.byIface[one.endpoint.Interface] == one &&
		(next == nil || next.Interface != one.endpoint.Interface) {
		delete(w.byIface, one.endpoint.Interface)
	}
	if next == nil || next.Interface != one.endpoint.Interface {
		w.replace(one, nil, nil, nil)
	}
}

// leave says that the addresses of an endpoint which next does not have are nobody's.
func (w *workloads) leave(e, next *desired.Endpoint) {
	for _, n := range e.Nets {
		if next == nil || !slices.Contains(next.Nets, n) {
			w.d.handover.leave(routes.Key{Table: routes.MainTable, Prefix: n})
		}
	}
}

// want puts into the tables what an endpoint needs as its interface is now.
func (w *workloads) want(one *workload) {
	e := one.endpoint
	link, exists := w.d.links.ByName(e.Interface)
	if !exists {
		w.replace(one, nil, nil, nil)
		return
	}
	settings := sysctls.OfInterface(e.Interface, w.d.ipv6)
	if !link.Up || !e.Up {
		w.replace(one, settings, nil, nil)
		return
	}
	neighbours := map[routes.NeighKey]routes.MAC{}
	wanted := map[routes.Key]routes.Route{}
	mac, hasMAC := routes.MACOf(e.MAC)
	for _, n := range e.Nets {
		if n.Addr().Is6() && !w.d.ipv6 {
			continue
		}
		wanted[routes.Key{Table: routes.MainTable, Prefix: n}] = routes.Route{Interface: e.Interface}
		if hasMAC && n.IsSingleIP() {
			neighbours[routes.NeighKey{Interface: e.Interface, Addr: n.Addr()}] = mac
		}
	}
	w.replace(one, settings, neighbours, wanted)
}

// replace makes an endpoint's part of the tables what is given.
func (w *workloads) replace(one *workload, settings map[sysctls.Key]string, neighbours map[routes.NeighKey]routes.MAC, wanted map[routes.Key]routes.Route) {
	for k := range one.settings {
		if _, still := settings[k]; !still {
			w.d.sysctls.Delete(k)
		}
	}
	for k, v := range settings {
		w.d.sysctls.Set(k, v)
	}
	one.settings = settings
	one.neighbours = replaceIn(w.d.neighbours, one.neighbours, neighbours, func(_ routes.NeighKey) bool { return true })
	// Another endpoint may have taken over an address; then the route is its.
	one.routes = replaceIn(w.d.routes, one.routes, wanted, func(k routes.Key) bool {
		now, _ := w.d.routes.Desired(k)
		return now.Interface == one.endpoint.Interface
	})
}

func replaceIn[K comparable, V any](t *reconcile.Table[K, V], old []K, wanted map[K]V, mine func(K) bool) []K {
	for _, k := range old {
		if _, still := wanted[k]; !still && mine(k) {
			t.Delete(k)
		}
	}
	keys := make([]K, 0, len(wanted))
	for k, v := range wanted {
		t.Set(k, v)
		keys = append(keys, k)
	}
	return keys
}

// state looks whether an endpoint is in force. faults are what is wrong with chains and
// sets.
func (w *workloads) state(one *workload, faults *filterFaults) statusapi.Endpoint {
	e := one.endpoint
	out := statusapi.Endpoint{
		Interface: e.Interface, Addresses: e.Nets, Profiles: e.Profiles, Up: e.Up,
		Why: w.why(one, faults),
	}
	seen := map[model.PolicyKey]bool{}
	for _, t := range e.Tiers {
		for _, k := range append(append([]model.PolicyKey{}, t.Ingress...), t.Egress...) {
			if !seen[k] {
				seen[k] = true
				out.Policies = append(out.Policies, policyName(k))
			}
		}
	}
	return out
}

func policyName(k model.PolicyKey) string {
	if k.Tier == model.DefaultTier {
		return k.Name
	}
	return k.Tier + "/" + k.Name
}

// why names the first thing that is missing for an endpoint.
func (w *workloads) why(one *workload, faults *filterFaults) string {
	e := one.endpoint
	if why := faults.of(e); why != "" {
		return why
	}
	link, exists := w.d.links.ByName(e.Interface)
	switch {
	case !exists:
		return fmt.Sprintf("interface %s does not exist", e.Interface)
	case !link.Up:
		return fmt.Sprintf("interface %s is down", e.Interface)
	}
	for k := range one.settings {
		if why := missing(w.d.sysctls, k); why != "" {
			return "setting " + string(k) + why
		}
	}
	for _, k := range one.neighbours {
		if why := missing(w.d.neighbours, k); why != "" {
			return "neighbour entry " + k.String() + why
		}
	}
	for _, k := range one.routes {
		if why := missing(w.d.routes, k); why != "" {
			return "route to " + k.String() + why
		}
	}
	if e.Up && len(one.routes) == 0 && w.routable(e) {
		return "its routes are not wanted yet"
	}
	return ""
}

// routable reports whether the endpoint has an address of a family that is handled.
func (w *workloads) routable(e *desired.Endpoint) bool {
	for _, n := range e.Nets {
		for _, f := range w.d.families {
			if f.Of(n) {
				return true
			}
		}
	}
	return false
}

// missing says in what way an object is not in force; empty when it is.
func missing[K comparable, V any](t *reconcile.Table[K, V], k K) string {
	if t.InForce(k) {
		return ""
	}
	if s := t.Explain(k); s.Err != nil {
		return ": " + s.Err.Error()
	}
	return " is not in the kernel yet"
}

// filterFaults are the chains and sets that are not in force, for the question which
// endpoints that concerns.
type filterFaults struct {
	d *dataplane
	// chains and sets say why, by name.
	chains map[string]string
	sets   map[string]string
	// owned are the names of all chains that belong to one endpoint, policy or profile.
	owned map[string]bool
}

// filterFaults collects what is wrong with chains and sets; nil when nothing is.
func (d *dataplane) filterFaults() *filterFaults {
	f := &filterFaults{d: d, chains: map[string]string{}, sets: map[string]string{}}
	for t := range d.chains.all() {
		for _, failed := range t.Status().Failed {
			f.chains[failed.Key] = failed.Err.Error()
		}
	}
	for k, err := range d.filters.unprintable {
		f.chains[k.Name] = err.Error()
	}
	f.sets = d.setFaults()
	for k, set := range d.filters.closedBySet() {
		f.chains[k.Name] = "set " + set + ": " + f.sets[set]
	}
	if len(f.chains)+len(f.sets) == 0 {
		return nil
	}
	f.owned = map[string]bool{}
	for _, one := range d.workloads.byKey {
		f.own(d.renderer.Endpoint(one.endpoint))
	}
	for _, family := range d.families {
		for _, p := range d.policies {
			f.own(d.renderer.Policy(family, p))
		}
		for _, p := range d.profiles {
			f.own(d.renderer.Profile(family, p))
		}
	}
	return f
}

func (f *filterFaults) own(chains []rules.Chain) {
	for _, c := range chains {
		f.owned[c.Name] = true
	}
}

// of says what is wrong with the chains that an endpoint needs: its own, those of its
// policies and profiles, and those of the frame.
func (f *filterFaults) of(e *desired.Endpoint) string {
	if f == nil {
		return ""
	}
	relevant := f.d.renderer.Endpoint(e)
	for _, family := range f.d.families {
		for _, t := range e.Tiers {
			for _, k := range append(append([]model.PolicyKey{}, t.Ingress...), t.Egress...) {
				if p := f.d.policies[k]; p != nil {
					relevant = append(relevant, f.d.renderer.Policy(family, p)...)
				}
			}
		}
		for _, name := range e.Profiles {
			if p := f.d.profiles[name]; p != nil {
				relevant = append(relevant, f.d.renderer.Profile(family, p)...)
			}
		}
	}
	for _, c := range relevant {
		if why, bad := f.chains[c.Name]; bad {
			return "chain " + c.Name + ": " + why
		}
		for _, set := range setsOf(c) {
			if why, bad := f.sets[set]; bad {
				return "set " + set + ": " + why
			}
		}
	}
	for name, why := range f.chains {
		if !f.owned[name] {
			return "chain " + name + ": " + why
		}
	}
	return ""
}
