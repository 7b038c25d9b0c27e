package calc

import (
	"cmp"
	"maps"
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
func (c claims[T]) winner(t T) *endpoint {
	if len(c[t]) == 1 {
		for ep := range c[t] {
			return ep
		}
	}
	return slices.MinFunc(slices.Collect(maps.Keys(c[t])), func(a, b *endpoint) int {
		return cmp.Or(cmp.Compare(downRank(a), downRank(b)), cmp.Compare(b.rev, a.rev), model.Compare(a.key, b.key))
	})
}

func downRank(ep *endpoint) int {
	if r, ok := ep.res.(*model.WorkloadEndpoint); ok && r.State != "active" {
		return 1
	}
	return 0
}

// claim enters or withdraws what the endpoint wants for itself alone, and marks the
// endpoints that want the same.
func (e *Engine) claim(ep *endpoint, enter bool) {
	switch r := ep.res.(type) {
	case *model.WorkloadEndpoint:
		e.claimOne(e.interfaces.set(interfaceClaim{true, r.Interface}, ep, enter))
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
