package zone

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/networks"
)

// Askers knows who may ask for what: the containers of this host by their addresses, and
// the networks that each is in. It is safe for concurrent use.
type Askers struct {
	mu        sync.RWMutex
	endpoints map[string]asker
	byAddr    map[netip.Addr]string
	// byContainer holds the endpoints of a container, which is known by its sandbox.
	byContainer map[string]map[string]bool
	ids         map[string]bool
	// known says that a snapshot was taken in.
	known bool
}

// asker is one endpoint of a container.
type asker struct {
	container string
	network   Network
	addrs     []netip.Addr
}

// NewAskers returns askers that know nobody.
func NewAskers() *Askers {
	a := &Askers{}
	a.reset()
	return a
}

func (a *Askers) reset() {
	a.endpoints, a.byAddr, a.byContainer = make(map[string]asker), make(map[netip.Addr]string), make(map[string]map[string]bool)
	a.ids = make(map[string]bool)
}

// Apply takes in a batch of this host's endpoints.
func (a *Askers) Apply(b store.Batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.Snapshot {
		a.reset()
		a.known = true
	}
	for _, path := range b.Deletes {
		a.remove(path)
	}
	for _, kv := range b.Puts {
		a.remove(kv.Path)
		key, ok := model.ParsePath(kv.Path)
		if !ok {
			continue
		}
		k, ok := key.(model.WorkloadEndpointKey)
		if !ok || k.Orchestrator != endpoint.Orchestrator {
			continue
		}
		if r, err := model.Decode(k, map[string][]byte{kv.Path: kv.Value}); err == nil {
			a.add(kv.Path, k, r.(*model.WorkloadEndpoint))
		}
	}
}

func (a *Askers) add(path string, k model.WorkloadEndpointKey, ep *model.WorkloadEndpoint) {
	a.ids[k.Name] = true
	name := ep.Annotations[endpoint.Network]
	if name == "" {
		return
	}
	who := asker{
		container: ep.Annotations[endpoint.Sandbox],
		network:   Network{Key: networks.Key(name), Name: name},
		addrs:     endpoint.Addresses(ep),
	}
	if who.container == "" {
		who.container = k.Name // it is in this network alone, as far as is known
	}
	a.endpoints[path] = who
	for _, addr := range who.addrs {
		a.byAddr[addr] = path
	}
	if a.byContainer[who.container] == nil {
		a.byContainer[who.container] = make(map[string]bool)
	}
	a.byContainer[who.container][path] = true
}

func (a *Askers) remove(path string) {
	if key, ok := model.ParsePath(path); ok {
		if k, ok := key.(model.WorkloadEndpointKey); ok {
			delete(a.ids, k.Name)
		}
	}
	who, ok := a.endpoints[path]
	if !ok {
		return
	}
	delete(a.endpoints, path)
	for _, addr := range who.addrs {
		if a.byAddr[addr] == path {
			delete(a.byAddr, addr)
		}
	}
	delete(a.byContainer[who.container], path)
	if len(a.byContainer[who.container]) == 0 {
		delete(a.byContainer, who.container)
	}
}

// Networks lists the networks of the container that has an address, in the order of their
// names; there are none of an address that is nobody's here.
func (a *Askers) Networks(addr netip.Addr) []Network {
	a.mu.RLock()
	defer a.mu.RUnlock()
	path, ok := a.byAddr[addr.Unmap().WithZone("")]
	if !ok {
		return nil
	}
	var list []Network
	for other := range a.byContainer[a.endpoints[path].container] {
		list = append(list, a.endpoints[other].network)
	}
	slices.SortFunc(list, func(x, y Network) int { return strings.Compare(x.Key, y.Key) })
	return slices.Compact(list)
}

// Known reports whether this host's endpoints have been read.
func (a *Askers) Known() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.known
}

// Has reports whether this host has an endpoint.
func (a *Askers) Has(id string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.ids[id]
}

// InUse lists the keys of the networks that containers of this host are in.
func (a *Askers) InUse() []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	used := make(map[string]bool)
	for _, who := range a.endpoints {
		used[who.network.Key] = true
	}
	return slices.Sorted(maps.Keys(used))
}
