package zone

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// Network is a network as names in it are asked for.
type Network struct {
	// Key is that of its records, Name the one that Docker's users know.
	Key, Name string
}

// Zone holds the names of some networks. It is safe for concurrent use.
type Zone struct {
	mu       sync.RWMutex
	networks map[string]*network
}

// network is the names of one network.
type network struct {
	names map[string]map[string]*model.DockerName // by name and endpoint
	addrs map[netip.Addr]map[model.DockerNameKey]string
}

// New returns an empty zone.
func New() *Zone { return &Zone{networks: make(map[string]*network)} }

// Apply takes in a batch of the records of one network. What cannot be read is left out.
func (z *Zone) Apply(key string, b store.Batch) {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := z.networks[key]
	if n == nil || b.Snapshot {
		n = &network{names: make(map[string]map[string]*model.DockerName), addrs: make(map[netip.Addr]map[model.DockerNameKey]string)}
		z.networks[key] = n
	}
	for _, path := range b.Deletes {
		if k, ok := nameKey(path); ok {
			n.remove(k)
		}
	}
	for _, kv := range b.Puts {
		k, ok := nameKey(kv.Path)
		if !ok {
			continue
		}
		n.remove(k)
		if r, err := model.Decode(k, map[string][]byte{kv.Path: kv.Value}); err == nil {
			n.add(k, r.(*model.DockerName))
		}
	}
}

// Drop forgets a network that no container of this host is in any more.
func (z *Zone) Drop(key string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.networks, key)
}

func nameKey(path string) (model.DockerNameKey, bool) {
	key, ok := model.ParsePath(path)
	if !ok {
		return model.DockerNameKey{}, false
	}
	k, ok := key.(model.DockerNameKey)
	return k, ok
}

func (n *network) add(k model.DockerNameKey, v *model.DockerName) {
	if n.names[k.Name] == nil {
		n.names[k.Name] = make(map[string]*model.DockerName)
	}
	n.names[k.Name][k.Endpoint] = v
	if !v.Own {
		return
	}
	for _, a := range v.Addresses {
		if n.addrs[a] == nil {
			n.addrs[a] = make(map[model.DockerNameKey]string)
		}
		n.addrs[a][k] = k.Name
	}
}

func (n *network) remove(k model.DockerNameKey) {
	v, ok := n.names[k.Name][k.Endpoint]
	if !ok {
		return
	}
	for _, a := range v.Addresses {
		delete(n.addrs[a], k)
		if len(n.addrs[a]) == 0 {
			delete(n.addrs, a)
		}
	}
	delete(n.names[k.Name], k.Endpoint)
	if len(n.names[k.Name]) == 0 {
		delete(n.names, k.Name)
	}
}

// Lookup returns the addresses of a name in the networks of whoever asks: of <name> in all
// of them, of <name>.<network> in that one. known tells whether there is such a name; what
// is not known may be somebody else's.
func (z *Zone) Lookup(in []Network, name string) (addrs []netip.Addr, known bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	z.mu.RLock()
	defer z.mu.RUnlock()
	seen := make(map[netip.Addr]bool)
	for _, nw := range in {
		n := z.networks[nw.Key]
		if n == nil {
			continue
		}
		for _, form := range forms(name, nw) {
			endpoints := n.names[form]
			known = known || len(endpoints) > 0
			for _, v := range endpoints {
				for _, a := range v.Addresses {
					seen[a] = true
				}
			}
		}
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare), known
}

// Known reports whether the names of all these networks have been read.
func (z *Zone) Known(in []Network) bool {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return !slices.ContainsFunc(in, func(n Network) bool { return z.networks[n.Key] == nil })
}

// Stale reports whether there are names of a node's endpoints that it does not have.
func (z *Zone) Stale(node string, has func(endpoint string) bool) bool {
	z.mu.RLock()
	defer z.mu.RUnlock()
	for _, n := range z.networks {
		for _, endpoints := range n.names {
			for id, v := range endpoints {
				if v.Node == node && !has(id) {
					return true
				}
			}
		}
	}
	return false
}

// forms lists what a name may mean in a network.
func forms(name string, nw Network) []string {
	out := []string{name}
	for _, suffix := range slices.Compact([]string{strings.ToLower(nw.Name), strings.ToLower(nw.Key)}) {
		if short, ok := strings.CutSuffix(name, "."+suffix); ok && short != "" {
			out = append(out, short)
		}
	}
	return out
}

// Reverse returns the names of an address in the networks of whoever asks, with the
// networks' names, in order.
func (z *Zone) Reverse(in []Network, addr netip.Addr) []string {
	z.mu.RLock()
	defer z.mu.RUnlock()
	var names []string
	for _, nw := range in {
		n := z.networks[nw.Key]
		if n == nil {
			continue
		}
		for _, name := range n.addrs[addr.Unmap()] {
			names = append(names, name+"."+cmp.Or(nw.Name, nw.Key))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
