package sweep

import (
	"fmt"
	"net/netip"

	"calico.internal/libnetwork-plugin/internal/veth"
)

// World is what one look at everything saw.
type World struct {
	// Endpoints are this node's in etcd, by id, with the state of their pairs.
	Endpoints map[string]veth.State
	// Addresses are those that this node holds in etcd, with their owners' handles and
	// endpoints.
	Addresses map[netip.Addr]Holder
	// Pairs are the host's pairs of interfaces, by the host's interface name.
	Pairs map[string]veth.State
	// Engine is what Docker's engine has.
	Engine View
	// Busy reports whether Docker may be in the middle of something with an endpoint,
	// Asked whether it is about to use an address.
	Busy  func(endpoint string) bool
	Asked func(addr netip.Addr) bool
}

// Holder is who has an address: an endpoint, or nobody yet.
type Holder struct {
	Handle, Endpoint string
}

// View is what the engine's containers use.
type View struct {
	Endpoints map[string]bool
	Addresses map[netip.Addr]bool
}

// Finding is one thing that nobody seems to need: exactly one field is set, besides an
// address's handle.
type Finding struct {
	Endpoint string
	Pair     string
	Address  netip.Addr
	Handle   string
}

// String names the finding for a log.
func (f Finding) String() string {
	switch {
	case f.Endpoint != "":
		return "endpoint " + f.Endpoint
	case f.Pair != "":
		return "interface " + f.Pair
	}
	return fmt.Sprintf("address %s", f.Address)
}

// Stale lists what the world holds that nobody seems to need. In doubt a thing is
// needed: what a container uses is never listed, whatever the engine says.
func Stale(w World) map[Finding]bool {
	found := make(map[Finding]bool)
	pairs := make(map[string]bool)
	for id, state := range w.Endpoints {
		if w.Engine.Endpoints[id] || state == veth.InUse || w.Busy(id) {
			pairs[veth.HostName(id)] = true
			continue
		}
		found[Finding{Endpoint: id}] = true
		pairs[veth.HostName(id)] = true // It goes with its endpoint.
	}
	for name, state := range w.Pairs {
		if state == veth.Idle && !pairs[name] {
			found[Finding{Pair: name}] = true
		}
	}
	for addr, h := range w.Addresses {
		if _, alive := w.Endpoints[h.Endpoint]; alive || w.Engine.Addresses[addr] || w.Asked(addr) {
			continue
		}
		found[Finding{Address: addr, Handle: h.Handle}] = true
	}
	return found
}

// Both returns what both looks found.
func Both(a, b map[Finding]bool) []Finding {
	var both []Finding
	for f := range a {
		if b[f] {
			both = append(both, f)
		}
	}
	return both
}
