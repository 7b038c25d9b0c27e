package ipam

import (
	"fmt"
	"net/netip"

	"calico.internal/libcalico/localnet"
)

// Seen is what was found out about containers elsewhere than in the store.
type Seen struct {
	// Engine is what an engine says; nil when none was asked. It proves something only
	// if it is the node's ([Inventory.Recognize]).
	Engine *Engine
	// Served is the id of the engine that the node's plugin serves; it is empty when the
	// plugin did not say.
	Served string
	// Sandboxes are the containers of the host by its kernel. What they have is alive,
	// whatever any engine says.
	Sandboxes []localnet.Sandbox
	// Sure says that the engine is to be believed even if it knows less than half of the
	// node's endpoints.
	Sure bool
}

// Engine is what the containers of one host use, as its engine says.
type Engine struct {
	// Node is the one whose engine it is said to be.
	Node string
	// ID is the engine's own, and Networks are those of its networks.
	ID       string
	Networks []string
	// Endpoints and Addresses hold the containers that have them.
	Endpoints map[string]Container
	Addresses map[netip.Addr]Container
}

// Container is one of an engine.
type Container struct {
	Name    string
	Running bool
}

// Recognize makes sure that the engine that was asked is that of the node whose it is said
// to be. Any engine would say of the containers of another that there are none.
func (i *Inventory) Recognize(s Seen) error {
	e := s.Engine
	if s.Served != "" && e.ID != "" {
		if e.ID == s.Served {
			return nil
		}
		return fmt.Errorf("that engine is not the one of node %s: its id is %s, and the plugin there serves engine %s", e.Node, e.ID, s.Served)
	}
	for _, id := range e.Networks {
		if i.networks[id] == e.Node {
			return nil
		}
	}
	for _, ep := range i.endpoints {
		if _, known := e.Endpoints[ep.key.Name]; known && ep.key.Node == e.Node {
			return nil
		}
	}
	return fmt.Errorf("nothing proves that it is the engine of node %s: it has no network and no endpoint that the datastore "+
		"has of that node, and the plugin there does not say which engine it serves", e.Node)
}

// evidence is what was seen, as far as it proves something.
type evidence struct {
	engine *Engine // nil unless it is the node's
	// links are the host's ends of the pairs of containers, and routed the addresses that
	// are routed there.
	links  map[string]bool
	routed map[netip.Addr]bool
	// dead are the endpoints of the engine's node that nothing has any more, of all. If
	// these are too many, the engine is doubted.
	dead    []*keptEndpoint
	all     int
	doubted bool
}

func (i *Inventory) judge(seen Seen) evidence {
	v := evidence{links: map[string]bool{}, routed: map[netip.Addr]bool{}}
	for _, s := range seen.Sandboxes {
		v.links[s.Link] = true
		for _, a := range s.Addrs {
			v.routed[a] = true
		}
	}
	if seen.Engine == nil || i.Recognize(seen) != nil {
		return v
	}
	v.engine = seen.Engine
	for n := range i.endpoints {
		e := &i.endpoints[n]
		if e.key.Node != v.engine.Node || e.key.Orchestrator != orchestrator {
			continue
		}
		if v.all++; !e.unreadable && !v.alive(e) {
			v.dead = append(v.dead, e)
		}
	}
	v.doubted = !seen.Sure && 2*len(v.dead) > v.all
	return v
}

// alive says that a container has an endpoint, or one of its addresses, which another of
// its endpoints may have taken over.
func (v evidence) alive(e *keptEndpoint) bool {
	if _, known := v.engine.Endpoints[e.key.Name]; known || v.sandboxed(e.key.Name) {
		return true
	}
	for _, a := range e.addrs {
		if _, known := v.engine.Addresses[a]; known || v.routed[a] {
			return true
		}
	}
	return false
}

// sandboxed says that the pair of an endpoint of Docker's leads into a container.
func (v evidence) sandboxed(endpoint string) bool { return v.links[linkOf(endpoint)] }

// linkOf is the host's end of the pair of an endpoint of Docker's: the name has as much of
// the id as an interface's name can hold.
func linkOf(endpoint string) string { return "cali" + endpoint[:min(len(endpoint), 11)] }
