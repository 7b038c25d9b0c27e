package routes

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"calico.internal/libcalico/reconcile"
)

// Routes is the target for routes to workloads.
type Routes struct {
	kernel *Kernel
	// known are the routes that were last read or written.
	known map[Key]Route
}

// Routes is the target for routes.
func (k *Kernel) Routes() *Routes { return &Routes{kernel: k, known: map[Key]Route{}} }

// List reads the main table's routes over workload interfaces, but for those that the
// kernel made by itself.
func (t *Routes) List(context.Context) (map[Key]Route, error) {
	out := map[Key]Route{}
	for _, family := range t.kernel.families() {
		list, err := again(func() ([]netlink.Route, error) {
			return t.kernel.handle.RouteListFiltered(family, &netlink.Route{Table: MainTable}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			if key, route, ok := t.ours(r, family); ok {
				out[key] = route
			}
		}
	}
	t.known = maps.Clone(out)
	return out, nil
}

func (t *Routes) ours(r netlink.Route, family int) (Key, Route, bool) {
	if r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST {
		return Key{}, Route{}, false
	}
	if !t.kernel.cfg.RemoveExternal && int(r.Protocol) != t.kernel.cfg.Protocol {
		return Key{}, Route{}, false
	}
	link, ok := t.kernel.cfg.Interfaces.ByIndex(r.LinkIndex)
	if !ok || !t.kernel.ours(link.Name) {
		return Key{}, Route{}, false
	}
	route := Route{Interface: link.Name, Protocol: int(r.Protocol)}
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		route.Gateway = gw.Unmap()
	}
	return Key{Table: r.Table, Prefix: prefixOf(r.Dst, family)}, route, true
}

// Apply writes and deletes routes. A route whose interface is absent or down is an error
// of that route.
func (t *Routes) Apply(_ context.Context, c reconcile.Changes[Key, Route]) error {
	var faults reconcile.KeyErrors[Key]
	for _, s := range c.Set {
		if err := t.set(s.Key, s.Value); err != nil {
			faults.Add(s.Key, err)
		}
	}
	for _, key := range c.Delete {
		if err := t.remove(key); err != nil {
			faults.Add(key, err)
		}
	}
	return faults.Err()
}

func (t *Routes) set(key Key, r Route) error {
	route, err := t.kernel.routeOf(key, r)
	if err != nil {
		return err
	}
	if err := t.kernel.handle.RouteReplace(route); err != nil {
		return fmt.Errorf("dev %s: %w", r.Interface, err)
	}
	t.known[key] = r
	return nil
}

// remove deletes the route of a prefix over the interface on which it was last seen.
// Another interface's route to the same prefix stays.
func (t *Routes) remove(key Key) error {
	route, known := t.known[key]
	if !known {
		return nil
	}
	link, ok := t.kernel.cfg.Interfaces.ByName(route.Interface)
	if !ok {
		// The kernel took the route with the interface.
		delete(t.known, key)
		return nil
	}
	err := t.kernel.handle.RouteDel(&netlink.Route{
		LinkIndex: link.Index,
		Dst:       ipNet(key.Prefix),
		Table:     key.Table,
		Scope:     netlink.SCOPE_NOWHERE,
	})
	if err != nil && !gone(err) {
		return fmt.Errorf("delete, dev %s: %w", route.Interface, err)
	}
	delete(t.known, key)
	return nil
}
