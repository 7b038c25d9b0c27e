package daemon

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/felix/internal/routes"
	"calico.internal/libcalico/reconcile"
)

// connections are the host's tracked connections; [conntrack.Cleaner] is.
type connections interface {
	Remove(addrs ...netip.Addr) (int, error)
	Addresses() (map[netip.Addr]struct{}, error)
}

// handover is the target for routes, which besides sees to it that nobody inherits the
// tracked connections of an address's former owner: they are removed before its route
// leads to another interface than before, and soon after its owner has left. A route that
// is only repaired keeps its connections.
//
// To look through the table of connections takes the kernel many milliseconds however
// few there are. A connection that rules accept as established can only be one of an
// address that has had an owner, here or on another host; so felix remembers those, and a
// new endpoint with an address that nobody had does not wait.
type handover struct {
	reconcile.Target[routes.Key, routes.Route]

	connections connections
	// owner is the interface to which each address was routed last.
	owner map[routes.Key]string
	// suspect are addresses that have, or had, an owner and may have connections.
	suspect map[netip.Addr]struct{}
	// leaving are addresses whose owner is gone, until their connections are removed.
	leaving map[netip.Addr]struct{}
	// begun is set once the connections from before felix's start are known.
	begun bool
	// onError is told when connections could not be removed.
	onError func(error)
}

func newHandover(target reconcile.Target[routes.Key, routes.Route], c connections, onError func(error)) *handover {
	return &handover{
		Target: target, connections: c, onError: onError,
		owner: map[routes.Key]string{}, suspect: map[netip.Addr]struct{}{}, leaving: map[netip.Addr]struct{}{},
	}
}

// owned says that an endpoint, of any host, has the address.
func (h *handover) owned(a netip.Addr) { h.suspect[a] = struct{}{} }

// leave says that no endpoint of this host has the address any more.
func (h *handover) leave(k routes.Key) {
	if _, known := h.owner[k]; !known || !k.Prefix.IsSingleIP() {
		return
	}
	delete(h.owner, k)
	h.leaving[k.Prefix.Addr()] = struct{}{}
	h.owned(k.Prefix.Addr())
}

// List reads the routes. What was routed before felix started keeps its connections.
func (h *handover) List(ctx context.Context) (map[routes.Key]routes.Route, error) {
	h.begin()
	have, err := h.Target.List(ctx)
	if err != nil {
		return nil, err
	}
	for k, r := range have {
		if _, known := h.owner[k]; !known {
			h.owner[k] = r.Interface
		}
	}
	return have, nil
}

// begin finds out which addresses had owners before felix started.
func (h *handover) begin() {
	if h.begun || h.connections == nil {
		return
	}
	tracked, err := h.connections.Addresses()
	if err != nil {
		h.onError(err)
		return
	}
	maps.Copy(h.suspect, tracked)
	h.begun = true
}

// Apply removes connections of addresses that get a new owner, then writes and deletes
// routes.
func (h *handover) Apply(ctx context.Context, c reconcile.Changes[routes.Key, routes.Route]) error {
	var moved []netip.Addr
	for _, s := range c.Set {
		a := s.Key.Prefix.Addr()
		if h.owner[s.Key] == s.Value.Interface || !s.Key.Prefix.IsSingleIP() {
			continue
		}
		h.owner[s.Key] = s.Value.Interface
		if _, yes := h.suspect[a]; yes || !h.begun {
			moved = append(moved, a)
		}
		h.owned(a)
	}
	h.remove(moved)
	return h.Target.Apply(ctx, c)
}

// sweep removes the connections of addresses that have left.
func (h *handover) sweep() {
	if len(h.leaving) == 0 {
		return
	}
	gone := slices.Collect(maps.Keys(h.leaving))
	if h.remove(gone) {
		for _, a := range gone {
			delete(h.suspect, a)
		}
	}
}

func (h *handover) remove(addrs []netip.Addr) (done bool) {
	if len(addrs) == 0 || h.connections == nil {
		return false
	}
	if _, err := h.connections.Remove(addrs...); err != nil {
		h.onError(err)
		return false
	}
	for _, a := range addrs {
		delete(h.leaving, a)
	}
	return true
}
