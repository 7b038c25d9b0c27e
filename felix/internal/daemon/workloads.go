package daemon

import (
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/felix/internal/routes"
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
	// ipv6 are endpoints with IPv6, for which the host has to forward it.
	ipv6 map[model.WorkloadEndpointKey]struct{}
	// dirty are endpoints whose state has to be looked at again.
	dirty map[model.WorkloadEndpointKey]struct{}
}

// workload is one endpoint, and what is wanted for it at the moment.
type workload struct {
	endpoint   *desired.Endpoint
	settings   map[sysctls.Key]string
	addresses  []routes.AddrKey
	neighbours []routes.NeighKey
	routes     []routes.Key
}

func newWorkloads(d *dataplane) *workloads {
	return &workloads{
		d: d, byKey: map[model.WorkloadEndpointKey]*workload{}, byIface: map[string]*workload{},
		dirty: map[model.WorkloadEndpointKey]struct{}{}, ipv6: map[model.WorkloadEndpointKey]struct{}{},
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
		if w.hasIPv6(e) {
			w.ipv6[key] = struct{}{}
		} else {
			delete(w.ipv6, key)
		}
		changed = append(changed, one)
		w.dirty[key] = struct{}{}
	}
	for _, one := range changed {
		w.byIface[one.endpoint.Interface] = one
		w.want(one)
	}
	w.forwardIPv6()
}

// forwardIPv6 makes the host a router of IPv6 while an endpoint has it. That it is
// switched off with the last one is not wanted: others may rely on it by then.
func (w *workloads) forwardIPv6() {
	if len(w.ipv6) > 0 {
		w.d.sysctls.Set(sysctls.ForwardIPv6, "1")
	} else {
		w.d.sysctls.Delete(sysctls.ForwardIPv6)
	}
}

// hasIPv6 reports whether an endpoint has an IPv6 address, and the host handles IPv6.
func (w *workloads) hasIPv6(e *desired.Endpoint) bool {
	return w.d.ipv6 && slices.ContainsFunc(e.Nets, func(n netip.Prefix) bool { return n.Addr().Is6() })
}

func (w *workloads) remove(key model.WorkloadEndpointKey) {
	one := w.byKey[key]
	if one == nil {
		return
	}
	w.withdraw(one, nil)
	delete(w.byKey, key)
	delete(w.ipv6, key)
	w.dirty[key] = struct{}{}
}

// linkChanged follows the interface of an endpoint, and reports whether it is one.
func (w *workloads) linkChanged(l ifmonitor.Link) bool {
	one := w.byIface[l.Name]
	if one == nil {
		return false
	}
	w.forget(one, l)
	w.dirty[one.endpoint.Key.(model.WorkloadEndpointKey)] = struct{}{}
	if l.Gone {
		w.leave(one.endpoint, nil)
	}
	w.want(one)
	return true
}

// forget has written again, if it is still wanted, what the kernel takes along without a
// word with an interface that goes down or away. Nothing is read or deleted for it: a
// thousand containers may end at once.
func (w *workloads) forget(one *workload, l ifmonitor.Link) {
	if l.Up && !l.Gone {
		return
	}
	w.d.routes.Lost(one.routes...)
	w.d.neighbours.Lost(one.neighbours...)
	w.d.addresses.Forget(one.addresses...)
	if l.Gone {
		for k := range one.settings {
			w.d.sysctls.Forget(k)
		}
	}
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
		w.replace(one, wants{})
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
		w.replace(one, wants{})
		return
	}
	needed := wants{settings: sysctls.OfInterface(e.Interface, w.hasIPv6(e))}
	if !link.Up || !e.Up {
		w.replace(one, needed)
		return
	}
	if gateway := w.d.gatewaysOf(e).v6; gateway.IsValid() && w.hasIPv6(e) {
		needed.addresses = map[routes.AddrKey]struct{}{addressOn(e.Interface, gateway): {}}
	}
	needed.neighbours = map[routes.NeighKey]routes.MAC{}
	needed.routes = map[routes.Key]routes.Route{}
	mac, hasMAC := routes.MACOf(e.MAC)
	for _, n := range e.Nets {
		if n.Addr().Is6() && !w.d.ipv6 {
			continue
		}
		needed.routes[routes.Key{Table: routes.MainTable, Prefix: n}] = routes.Route{Interface: e.Interface, Protocol: w.d.cfg.DeviceRouteProtocol}
		if hasMAC && n.IsSingleIP() {
			needed.neighbours[routes.NeighKey{Interface: e.Interface, Addr: n.Addr()}] = mac
		}
	}
	w.replace(one, needed)
}

// wants is an endpoint's part of the tables.
type wants struct {
	settings   map[sysctls.Key]string
	addresses  map[routes.AddrKey]struct{}
	neighbours map[routes.NeighKey]routes.MAC
	routes     map[routes.Key]routes.Route
}

// replace makes an endpoint's part of the tables what is given.
func (w *workloads) replace(one *workload, now wants) {
	for k := range one.settings {
		if _, still := now.settings[k]; !still {
			w.d.sysctls.Delete(k)
		}
	}
	for k, v := range now.settings {
		w.d.sysctls.Set(k, v)
	}
	one.settings = now.settings
	one.addresses = replaceIn(w.d.addresses, one.addresses, now.addresses, func(routes.AddrKey) bool { return true })
	one.neighbours = replaceIn(w.d.neighbours, one.neighbours, now.neighbours, func(routes.NeighKey) bool { return true })
	// Another endpoint may have taken over an address; then the route is its.
	one.routes = replaceIn(w.d.routes, one.routes, now.routes, func(k routes.Key) bool {
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

// state looks whether an endpoint is in force. faults are what is wrong with chains.
func (w *workloads) state(one *workload, faults filterFaults) statusapi.Endpoint {
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
func (w *workloads) why(one *workload, faults filterFaults) string {
	e := one.endpoint
	if why := faults.concerning(w.d, e); why != "" {
		return why
	}
	if why := w.d.unfiltered(e); why != "" {
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
	if why := w.d.hostFault(e); why != "" {
		return why
	}
	for _, k := range one.addresses {
		if why := missing(w.d.addresses, k); why != "" {
			return "gateway " + k.String() + why
		}
	}
	for _, k := range one.neighbours {
		if why := missing(w.d.neighbours, k); why != "" {
			return "neighbour entry " + k.String() + why
		}
	}
	for _, k := range one.routes {
		if w.d.chains.without(familyOf(k)) {
			continue
		}
		if why := missing(w.d.routes, k); why != "" {
			return "route to " + k.String() + why
		}
	}
	if e.Up && len(one.routes) == 0 && len(e.Nets) > 0 && len(w.d.familiesOf(e)) > 0 {
		return "its routes are not wanted yet"
	}
	return ""
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
