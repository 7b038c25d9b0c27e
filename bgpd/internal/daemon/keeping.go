package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// facts are the kinds of resource that a restored store does not make undone: which nodes
// there are, which blocks they have, and which containers run.
var facts = []model.Kind{model.KindNode, model.KindBlockAffinity, model.KindWorkloadEndpoint}

// keptLook is how often the kernel is asked for its routes to containers while anything is
// kept for them: it takes those of an interface that goes without a word.
const keptLook = 5 * time.Second

// keeps reports whether anything is kept for this host's containers although a restored
// store lacks it.
func (c *core) keeps() bool {
	return slices.ContainsFunc(c.sources, func(s *source) bool { return slices.ContainsFunc(s.view.Kept(), isForContainers) })
}

// keepsNode reports whether a node is kept although a restored store lacks it.
func (c *core) keepsNode(name string) bool { return c.isKept(model.NodeKey{Name: name}) }

func (c *core) isKept(k model.Key) bool {
	return slices.ContainsFunc(c.sources, func(s *source) bool { return slices.Contains(s.view.Kept(), k) })
}

// isForContainers reports whether a fact matters as long as there are containers. A node is
// one until somebody deletes it.
func isForContainers(k model.Key) bool { return k.Kind() != model.KindNode }

func (c *core) lookDue() bool { return c.keeps() && time.Since(c.resolvedAt) >= keptLook }

// giveUp gives up what is kept of this host though a restored store lacks it, once no
// container of it is there: the kernel has no route to one, and had none keptLook ago, in
// which time felix repairs one that somebody took away.
func (c *core) giveUp() {
	maps.DeleteFunc(c.idle, func(k model.Key, _ time.Time) bool { return !c.isKept(k) })
	for _, s := range c.sources {
		if s.view.KeptCount() == 0 {
			continue
		}
		c.tell(s.view.Release(func(k model.Key) bool {
			gone := isForContainers(k) && c.isIdle(k, netsOf(s.view, k))
			if gone {
				c.cfg.Log.Info("given up, since the restored store lacks it and no container needs it", logattr.Key, k)
			}
			return gone
		}))
	}
}

// isIdle reports whether a fact has been without containers for a while.
func (c *core) isIdle(k model.Key, nets []netip.Prefix) bool {
	if slices.ContainsFunc(nets, c.engine.HasContainers) {
		delete(c.idle, k)
		return false
	}
	since, known := c.idle[k]
	if !known {
		c.idle[k] = time.Now()
		return false
	}
	gone := time.Since(since) >= keptLook
	if gone {
		delete(c.idle, k)
	}
	return gone
}

// netsOf are the addresses that a fact is about.
func netsOf(view *store.View, k model.Key) []netip.Prefix {
	if a, ok := k.(model.BlockAffinityKey); ok {
		return []netip.Prefix{a.CIDR}
	}
	value, _ := view.Get(k)
	if e, ok := value.(*model.WorkloadEndpoint); ok {
		return slices.Concat(e.IPv4Nets, e.IPv6Nets)
	}
	return nil
}

// lacking names the blocks and nodes that a restored store lacks.
func (c *core) lacking() (out []string) {
	for _, s := range c.sources {
		for _, k := range s.view.Kept() {
			switch k := k.(type) {
			case model.BlockAffinityKey:
				out = append(out, fmt.Sprintf("the store was restored to an older state and lacks this node's block %s; it stays routed and advertised while a container has an address in it", k.CIDR))
			case model.NodeKey:
				out = append(out, fmt.Sprintf("the store was restored to an older state and lacks node %s; it stays reached, also by confd; have it written back there (calicoctl node run), or, if there is no such node any more, start confd and bgpd anew", k.Name))
			}
		}
	}
	return out
}
