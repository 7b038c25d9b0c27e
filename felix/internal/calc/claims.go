package calc

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/libcalico/model"
)

// interfaceClaim names an interface that an endpoint says is its own.
type interfaceClaim struct {
	workload bool
	name     string
}

// claims says which endpoints want a thing that only one can have.
type claims[T comparable] map[T]map[*endpoint]struct{}

// winner is the endpoint that has the thing: one that is up before one that is down, then
// the one written last, so that what an endpoint left behind does not stop its successor.
// A host endpoint of which nobody knows the interface has all that none names, since one of
// them may be its own; of several, one that any policy may select.
func (c claims[T]) winner(t T) *endpoint {
	if len(c[t]) == 1 {
		for ep := range c[t] {
			return ep
		}
	}
	return first(slices.Collect(maps.Keys(c[t])))
}

// first is the one of several claimants that has what they want.
func first(of []*endpoint) *endpoint {
	return slices.MinFunc(of, func(a, b *endpoint) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.rev, a.rev), model.Compare(a.key, b.key))
	})
}

// holder is the endpoint that has an address, of those that ep shares it with; ep is in
// force. One that is not gets no packet, so it takes no address from one that is.
func (e *Engine) holder(n netip.Prefix, ep *endpoint) *endpoint {
	if len(e.nets[n]) == 1 {
		return ep
	}
	return first(slices.DeleteFunc(slices.Collect(maps.Keys(e.nets[n])), func(other *endpoint) bool {
		r, ok := other.res.(*model.WorkloadEndpoint)
		return !ok || !e.isWorkloadInterface(r.Interface) ||
			e.interfaces.winner(interfaceClaim{true, r.Interface}) != other
	}))
}

func rank(ep *endpoint) int {
	if r, ok := ep.res.(*model.WorkloadEndpoint); ok && r.State != "active" {
		return 1
	}
	switch {
	case ep.anywhere && ep.unlabelled:
		return -2
	case ep.anywhere:
		return -1
	}
	return 0
}

// claim enters or withdraws what the endpoint wants for itself alone, and marks the
// endpoints that want the same, and those that share an address with one that may have got
// its interface by that, or lost it.
func (e *Engine) claim(ep *endpoint, enter bool) {
	switch r := ep.res.(type) {
	case *model.WorkloadEndpoint:
		rivals := e.interfaces.set(interfaceClaim{true, r.Interface}, ep, enter)
		e.claimOne(rivals)
		for rival := range rivals {
			for n := range routedNets(rival.res) {
				e.claimOne(e.nets[n])
			}
		}
		for n := range routedNets(r) {
			e.claimOne(e.nets.set(n, ep, enter))
		}
	case *model.HostEndpoint:
		if r.Interface != "" {
			e.claimOne(e.interfaces.set(interfaceClaim{false, r.Interface}, ep, enter))
		}
	}
}

func (e *Engine) claimOne(rivals map[*endpoint]struct{}) {
	for rival := range rivals {
		e.dirtyEndpoints[rival] = struct{}{}
	}
}

// set enters or withdraws a claim and returns all who have one now.
func (c claims[T]) set(t T, ep *endpoint, enter bool) map[*endpoint]struct{} {
	if enter {
		if c[t] == nil {
			c[t] = map[*endpoint]struct{}{}
		}
		c[t][ep] = struct{}{}
		return c[t]
	}
	delete(c[t], ep)
	rivals := c[t]
	if len(rivals) == 0 {
		delete(c, t)
	}
	return rivals
}
