package ifmonitor

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Links is what is known of the host's interfaces: the sum of all events. It belongs to
// one goroutine.
type Links struct {
	byIndex map[int]Link
	byName  map[string]int
	// addrs are the interfaces' addresses, each with the length of its network.
	addrs map[int]map[netip.Prefix]struct{}
}

// NewLinks knows no interface.
func NewLinks() *Links {
	return &Links{byIndex: map[int]Link{}, byName: map[string]int{}, addrs: map[int]map[netip.Prefix]struct{}{}}
}

// Apply takes over an event's links and addresses and lists the interfaces that changed
// in index, name, hardware address or state. One that is gone, or has another name now, is listed as gone.
func (l *Links) Apply(e Event) (changed []Link) {
	if e.Snapshot {
		present := make(map[int]bool, len(e.Links))
		for _, link := range e.Links {
			present[link.Index] = true
		}
		for index, link := range l.byIndex {
			if !present[index] {
				changed = append(changed, l.remove(link))
			}
		}
		clear(l.addrs)
	}
	for _, a := range e.Addrs {
		l.applyAddr(a)
	}
	for _, link := range e.Links {
		changed = append(changed, l.apply(link)...)
	}
	return changed
}

func (l *Links) apply(link Link) (changed []Link) {
	old, known := l.byIndex[link.Index]
	if link.Gone {
		delete(l.addrs, link.Index)
		if known {
			changed = append(changed, l.remove(old))
		}
		return changed
	}
	if known && old.Name == link.Name && old.Up == link.Up && old.MAC.String() == link.MAC.String() {
		return nil
	}
	if known && old.Name != link.Name {
		changed = append(changed, l.remove(old))
	}
	l.byIndex[link.Index] = link
	l.byName[link.Name] = link.Index
	return append(changed, link)
}

func (l *Links) applyAddr(a Addr) {
	if a.Gone {
		delete(l.addrs[a.Index], a.Prefix)
		return
	}
	if l.addrs[a.Index] == nil {
		l.addrs[a.Index] = map[netip.Prefix]struct{}{}
	}
	l.addrs[a.Index][a.Prefix] = struct{}{}
}

// Names lists the interfaces that want chooses, sorted.
func (l *Links) Names(want func(name string) bool) []string {
	var list []string
	for name := range l.byName {
		if want(name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// IsBridge reports whether an interface is a bridge.
func (l *Links) IsBridge(name string) bool {
	index, known := l.byName[name]
	return known && l.byIndex[index].Bridge
}

// Addrs lists the addresses of the interfaces that want accepts, sorted, by the
// interfaces' names.
func (l *Links) Addrs(want func(name string) bool) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for index, addrs := range l.addrs {
		if link, known := l.byIndex[index]; known && len(addrs) > 0 && want(link.Name) {
			out[link.Name] = addressesOf(addrs)
		}
	}
	return out
}

func addressesOf(prefixes map[netip.Prefix]struct{}) []netip.Addr {
	out := make([]netip.Addr, 0, len(prefixes))
	for p := range prefixes {
		out = append(out, p.Addr())
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// NetworkOf finds the narrowest network in which an address is, among those of the
// interfaces that are up, are not the loopback and are accepted by want: the interface's
// name, and its address with the network's length.
func (l *Links) NetworkOf(a netip.Addr, want func(name string) bool) (name string, own netip.Prefix, ok bool) {
	for index, addrs := range l.addrs {
		link, known := l.byIndex[index]
		if !known || !link.Up || link.Name == loopback || !want(link.Name) {
			continue
		}
		for p := range addrs {
			if p.Contains(a) && (!ok || cmp.Or(own.Bits()-p.Bits(), strings.Compare(link.Name, name), p.Compare(own)) < 0) {
				name, own, ok = link.Name, p, true
			}
		}
	}
	return name, own, ok
}

// loopback is the name of the interface that is always there.
const loopback = "lo"

func (l *Links) remove(link Link) Link {
	delete(l.byIndex, link.Index)
	if l.byName[link.Name] == link.Index {
		delete(l.byName, link.Name)
	}
	link.Gone, link.Up = true, false
	return link
}

// ByName finds an interface by its name.
func (l *Links) ByName(name string) (Link, bool) {
	index, ok := l.byName[name]
	if !ok {
		return Link{}, false
	}
	return l.byIndex[index], true
}

// ByIndex finds an interface by its index.
func (l *Links) ByIndex(index int) (Link, bool) {
	link, ok := l.byIndex[index]
	return link, ok
}
