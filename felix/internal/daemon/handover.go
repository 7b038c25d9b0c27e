package daemon

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	"calico.internal/felix/internal/routes"
	"calico.internal/felix/internal/statusapi"
	"calico.internal/libcalico/reconcile"
)

// connections are the host's tracked connections; [conntrack.Cleaner] is.
type connections interface {
	Remove(addrs ...netip.Addr) (int, error)
	Addresses() (map[netip.Addr]struct{}, error)
}

// handover is the target for routes, which besides sees to it that nobody inherits the
// tracked connections of an address's former owner: they are removed before its route
// leads to another interface than before, and soon after its owner has left. As long as
// they cannot be removed the new owner gets no route. A route that is only repaired keeps
// its connections.
//
// To look through the table of connections takes the kernel many milliseconds however
// few there are. A connection that rules accept as established can only be one of an
// address that has had an owner, here or on another host; so felix remembers those, and a
// new endpoint with an address that nobody had does not wait.
type handover struct {
	reconcile.Target[routes.Key, routes.Route]

	// connections is nil where the kernel does not let them be removed.
	connections connections
	// owner is the interface to which each address was routed last.
	owner map[routes.Key]string
	// suspect are addresses that have, or had, an owner and may have connections; true
	// where that was an endpoint of another host, which may go on making some.
	suspect map[netip.Addr]bool
	// room is the number of suspects at which those are looked for that can be forgotten.
	room int
	// leaving are addresses whose owner is gone, until their connections are removed. left
	// says when to try that again, and why it failed.
	leaving map[netip.Addr]struct{}
	left    retry
	// begun is set once the connections from before felix's start are known.
	begun bool
}

// retry is a try that failed.
type retry struct {
	err   error
	tries int
	at    time.Time
}

// minSuspects is the number of suspects that may always be remembered.
const minSuspects = 4096

func newHandover(target reconcile.Target[routes.Key, routes.Route], c connections) *handover {
	return &handover{
		Target: target, connections: c, room: minSuspects,
		owner: map[routes.Key]string{}, suspect: map[netip.Addr]bool{}, leaving: map[netip.Addr]struct{}{},
	}
}

// owned says that an endpoint of another host has the address.
func (h *handover) owned(a netip.Addr) {
	if h.connections != nil {
		h.suspect[a] = true
	}
}

// ownedHere says that an endpoint of this host has, or had, the address.
func (h *handover) ownedHere(a netip.Addr) {
	if _, known := h.suspect[a]; !known && h.connections != nil {
		h.suspect[a] = false
	}
}

// leave says that no endpoint of this host has the address any more.
func (h *handover) leave(k routes.Key) {
	if _, known := h.owner[k]; !known {
		return
	}
	delete(h.owner, k)
	if h.connections != nil && k.Prefix.IsSingleIP() {
		h.leaving[k.Prefix.Addr()] = struct{}{}
		h.ownedHere(k.Prefix.Addr())
	}
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

// begin finds out which addresses had owners before felix started. Until that works, any
// address may have had one.
func (h *handover) begin() {
	if h.begun || h.connections == nil {
		return
	}
	tracked, err := h.connections.Addresses()
	if err != nil {
		return
	}
	for a := range tracked {
		h.ownedHere(a)
	}
	h.begun = true
}

// Apply removes connections of addresses that get a new owner, then writes and deletes
// routes. A route whose address's connections could not be removed is at fault, and is not
// written.
func (h *handover) Apply(ctx context.Context, c reconcile.Changes[routes.Key, routes.Route]) error {
	refused := h.handOver(c.Set)
	return errors.Join(refused.Err(), h.Target.Apply(ctx, h.without(c, refused)))
}

// without is changes without the routes that are refused. One of those may lead to the
// address's former owner, who is not to get the packets of the next: it is deleted.
func (h *handover) without(c reconcile.Changes[routes.Key, routes.Route], refused reconcile.KeyErrors[routes.Key]) reconcile.Changes[routes.Key, routes.Route] {
	if len(refused.Errs) == 0 {
		return c
	}
	clean := reconcile.Changes[routes.Key, routes.Route]{Delete: slices.Clone(c.Delete)}
	for _, s := range c.Set {
		switch {
		case refused.Errs[s.Key] == nil:
			clean.Set = append(clean.Set, s)
		case h.moves(s.Key, s.Value):
			clean.Delete = append(clean.Delete, s.Key)
		}
	}
	slices.SortFunc(clean.Delete, routes.Key.Compare)
	return clean
}

// moves reports whether a route is to lead to another interface than before.
func (h *handover) moves(k routes.Key, r routes.Route) bool { return h.owner[k] != r.Interface }

// handOver removes the connections of those addresses of routes that get a new owner and
// may have any.
func (h *handover) handOver(set []reconcile.Item[routes.Key, routes.Route]) (refused reconcile.KeyErrors[routes.Key]) {
	moved := map[netip.Addr]reconcile.Item[routes.Key, routes.Route]{}
	for _, s := range set {
		a := s.Key.Prefix.Addr()
		if !h.moves(s.Key, s.Value) {
			continue
		}
		single := s.Key.Prefix.IsSingleIP()
		if _, yes := h.suspect[a]; single && h.connections != nil && (yes || !h.begun) {
			moved[a] = s
			continue
		}
		h.owner[s.Key] = s.Value.Interface
		if single {
			h.ownedHere(a)
		}
	}
	faults := h.remove(keysOf(moved))
	for a, s := range moved {
		if err := faults[a]; err != nil {
			refused.Add(s.Key, fmt.Errorf("connections of the former owner of the address cannot be removed: %w", err))
			continue
		}
		h.owner[s.Key] = s.Value.Interface
		h.ownedHere(a)
		delete(h.leaving, a)
	}
	return refused
}

// remove removes the connections of addresses. Where that fails each address is tried by
// itself, so that the fault of one is not that of the others.
func (h *handover) remove(addrs []netip.Addr) (faults map[netip.Addr]error) {
	if len(addrs) == 0 {
		return nil
	}
	_, err := h.connections.Remove(addrs...)
	if err == nil {
		return nil
	}
	if len(addrs) == 1 {
		return map[netip.Addr]error{addrs[0]: err}
	}
	faults = map[netip.Addr]error{}
	for _, a := range addrs {
		if _, err := h.connections.Remove(a); err != nil {
			faults[a] = err
		}
	}
	return faults
}

func keysOf[V any](m map[netip.Addr]V) []netip.Addr {
	list := make([]netip.Addr, 0, len(m))
	for a := range m {
		list = append(list, a)
	}
	return list
}

// sweepAt is when addresses that have left are due; ok is false when there are none.
func (h *handover) sweepAt() (at time.Time, ok bool) { return h.left.at, len(h.leaving) > 0 }

// sweep removes the connections of addresses that have left, if they are due, and reports
// whether what [handover.problems] says may be another.
func (h *handover) sweep(now time.Time) (changed bool) {
	before := h.left
	if len(h.leaving) == 0 {
		h.left = retry{}
		return before.err != nil
	}
	if now.Before(h.left.at) {
		return false
	}
	gone := keysOf(h.leaving)
	faults := h.remove(gone)
	for _, a := range gone {
		if faults[a] == nil {
			delete(h.leaving, a)
			if elsewhere := h.suspect[a]; !elsewhere {
				delete(h.suspect, a)
			}
		}
	}
	h.left = retry{}
	for _, err := range faults {
		h.left = retry{err, before.tries + 1, now.Add(min(soon<<min(before.tries, 16), maxRetry))}
	}
	return before.err != nil || h.left.err != nil
}

// forget forgets suspects that have no connections and no owner any more, once there are
// many more than when it did so last. endpoints yields the addresses of all endpoints.
func (h *handover) forget(endpoints iter.Seq[netip.Addr]) {
	if len(h.suspect) < h.room {
		return
	}
	h.room = 2 * len(h.suspect) // should the connections not be readable now
	tracked, err := h.connections.Addresses()
	if err != nil {
		return
	}
	for a := range endpoints {
		tracked[a] = struct{}{}
	}
	for a := range h.leaving {
		tracked[a] = struct{}{}
	}
	kept := map[netip.Addr]bool{}
	for a, elsewhere := range h.suspect {
		if _, may := tracked[a]; may {
			kept[a] = elsewhere
		}
	}
	h.suspect, h.room = kept, max(minSuspects, 2*len(kept))
}

// problems says what cannot be removed.
func (h *handover) problems() []statusapi.Problem {
	const object = "tracked connections"
	if h.connections == nil {
		return []statusapi.Problem{{
			Object: object,
			Reason: "the kernel does not let them be removed, so that an address's new owner can be reached by what its former owner was connected to; load the module nf_conntrack_netlink and start felix again",
		}}
	}
	if h.left.err == nil {
		return nil
	}
	return []statusapi.Problem{{
		Object: object,
		Reason: fmt.Sprintf("those of %d addresses whose endpoints are gone cannot be removed; it is tried again: %v", len(h.leaving), h.left.err),
	}}
}
