package daemon

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/felix/internal/ifmonitor"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// succession knows in whose place endpoints of the store are that a restored one lacks: an
// address matches the selectors of one that has it there, and not those of one that had it.
type succession struct {
	// kept are the endpoints that the restored store lacks, and byNet and byInterface where
	// to find them. They are as of its snapshot: some may be kept no longer.
	kept        map[model.WorkloadEndpointKey]bool
	byNet       map[netip.Prefix][]model.WorkloadEndpointKey
	byInterface map[hostInterface][]model.WorkloadEndpointKey
	// doubted are interfaces of this host that are not there, of endpoints that came back
	// with the restored store and have an address of a kept one.
	doubted map[string]bool
}

// hostInterface is an interface of a host.
type hostInterface struct{ node, name string }

// newSuccession takes what a view keeps.
func newSuccession(view *store.View) succession {
	s := succession{
		kept: map[model.WorkloadEndpointKey]bool{}, byNet: map[netip.Prefix][]model.WorkloadEndpointKey{},
		byInterface: map[hostInterface][]model.WorkloadEndpointKey{}, doubted: map[string]bool{},
	}
	for _, k := range view.Kept() {
		value, _ := view.Get(k)
		key, isKey := k.(model.WorkloadEndpointKey)
		e, ok := value.(*model.WorkloadEndpoint)
		if !isKey || !ok {
			continue
		}
		s.kept[key] = true
		at := hostInterface{key.Node, e.Interface}
		s.byInterface[at] = append(s.byInterface[at], key)
		for _, n := range netsOf(e) {
			s.byNet[n] = append(s.byNet[n], key)
		}
	}
	return s
}

// netsOf are the addresses by which selectors match a resource.
func netsOf(r model.Resource) (nets []netip.Prefix) {
	switch r := r.(type) {
	case *model.WorkloadEndpoint:
		return slices.Concat(r.IPv4Nets, r.IPv6Nets)
	case *model.HostEndpoint:
		for _, a := range slices.Concat(r.ExpectedIPv4Addrs, r.ExpectedIPv6Addrs) {
			nets = append(nets, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return nets
}

// rivals lists the kept endpoints that have the interface, or an address, of another resource.
func (s succession) rivals(k model.Key, r model.Resource) (out []model.WorkloadEndpointKey) {
	if key, ok := k.(model.WorkloadEndpointKey); ok {
		if e, usable := r.(*model.WorkloadEndpoint); usable {
			out = append(out, s.byInterface[hostInterface{key.Node, e.Interface}]...)
		}
	}
	for _, n := range netsOf(r) {
		out = append(out, s.byNet[n]...)
	}
	return slices.DeleteFunc(out, func(key model.WorkloadEndpointKey) bool { return !s.kept[key] })
}

// releaseSucceeded gives up the kept endpoints in whose place resources of the store are.
// live says that these were written since the restored store was seen; others came with it,
// and need not be there any more.
func (l *loop) releaseSucceeded(resources iter.Seq2[model.Key, model.Resource], live bool) error {
	s, gone := l.succession, map[model.WorkloadEndpointKey]bool{}
	for k, r := range resources {
		if key, ok := k.(model.WorkloadEndpointKey); ok && s.kept[key] {
			if !live {
				continue // one that is kept itself takes nobody's place
			}
			delete(s.kept, key)
		}
		for _, key := range s.rivals(k, r) {
			if live || l.gaveWay(key, k, r) {
				gone[key] = true
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	maps.DeleteFunc(s.kept, func(key model.WorkloadEndpointKey, _ bool) bool { return gone[key] })
	return l.release(func(key model.WorkloadEndpointKey) bool { return gone[key] })
}

// gaveWay reports whether a kept endpoint is no more since one that came with the restored
// store has its interface or an address of it. One of this host has its interface still, and
// with it the route: it is the other that must show that it is there.
func (l *loop) gaveWay(kept model.WorkloadEndpointKey, k model.Key, r model.Resource) bool {
	if kept.Node != l.node {
		return true
	}
	key, _ := k.(model.WorkloadEndpointKey)
	e, ok := r.(*model.WorkloadEndpoint)
	if !ok || key.Node != l.node {
		return false
	}
	_, exists := l.links.ByName(e.Interface)
	if !exists {
		l.succession.doubted[e.Interface] = true
	}
	return exists
}

// followSuccession takes all that a restored store lacks, and gives up what of it gave way.
func (l *loop) followSuccession() error {
	if l.view.KeptCount() == 0 {
		return nil
	}
	l.succession = newSuccession(l.view)
	return l.releaseSucceeded(l.view.All(), false)
}

// releaseBefore gives up kept endpoints before what was just written takes their place.
func (l *loop) releaseBefore(events []store.Event) error {
	if l.view.KeptCount() == 0 {
		return nil
	}
	return l.releaseSucceeded(func(yield func(model.Key, model.Resource) bool) {
		for _, e := range events {
			if e.Err == nil && !yield(e.Key, e.Value) {
				return
			}
		}
	}, true)
}

// linksCame gives up those kept endpoints that gave way to one whose interface is there now.
func (l *loop) linksCame(changed []ifmonitor.Link) error {
	if l.view.KeptCount() == 0 || !slices.ContainsFunc(changed, func(link ifmonitor.Link) bool {
		return !link.Gone && l.succession.doubted[link.Name]
	}) {
		return nil
	}
	return l.followSuccession()
}
