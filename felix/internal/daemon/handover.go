package daemon

import (
	"context"
	"net/netip"

	"calico.internal/felix/internal/routes"
	"calico.internal/libcalico/reconcile"
)

// connections removes tracked connections; [conntrack.Cleaner] does.
type connections interface {
	Remove(addrs ...netip.Addr) (int, error)
}

// handover is the target for routes, which besides removes the tracked connections of an
// address before its route leads to another interface than before, and after the address
// has left: nobody inherits them. A route that is only repaired keeps its connections.
type handover struct {
	reconcile.Target[routes.Key, routes.Route]

	connections connections
	// owner is the interface to which each address was routed last.
	owner map[routes.Key]string
	// leaving are addresses whose endpoint is gone.
	leaving map[routes.Key]struct{}
	// onError is told when connections could not be removed.
	onError func(error)
}

func newHandover(target reconcile.Target[routes.Key, routes.Route], c connections, onError func(error)) *handover {
	return &handover{
		Target: target, connections: c, onError: onError,
		owner: map[routes.Key]string{}, leaving: map[routes.Key]struct{}{},
	}
}

// leave says that no endpoint has the address any more.
func (h *handover) leave(k routes.Key) {
	if _, known := h.owner[k]; known {
		h.leaving[k] = struct{}{}
	}
}

// List reads the routes. What was routed before felix started keeps its connections.
func (h *handover) List(ctx context.Context) (map[routes.Key]routes.Route, error) {
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

// Apply removes connections of addresses that get a new owner, then writes and deletes
// routes.
func (h *handover) Apply(ctx context.Context, c reconcile.Changes[routes.Key, routes.Route]) error {
	moved := map[routes.Key]struct{}{}
	for _, s := range c.Set {
		delete(h.leaving, s.Key)
		if h.owner[s.Key] != s.Value.Interface {
			h.owner[s.Key] = s.Value.Interface
			moved[s.Key] = struct{}{}
		}
	}
	h.remove(moved)
	return h.Target.Apply(ctx, c)
}

// finish removes the connections of addresses that have left; it is called at the end of
// a pass, when their routes are gone.
func (h *handover) finish() {
	for k := range h.leaving {
		delete(h.owner, k)
	}
	h.remove(h.leaving)
	clear(h.leaving)
}

func (h *handover) remove(keys map[routes.Key]struct{}) {
	var addrs []netip.Addr
	for k := range keys {
		if k.Prefix.IsSingleIP() {
			addrs = append(addrs, k.Prefix.Addr())
		}
	}
	if len(addrs) == 0 || h.connections == nil {
		return
	}
	if _, err := h.connections.Remove(addrs...); err != nil {
		h.onError(err)
	}
}
