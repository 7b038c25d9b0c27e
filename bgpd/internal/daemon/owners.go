package daemon

import (
	"context"
	"slices"

	"calico.internal/libcalico/store"
)

// maxOwners bounds how many other nodes' blocks are watched at once. Where more than
// that fell together, the network is what fell, and their routes are better held.
const maxOwners = 16

// owner is the watch of another node's blocks.
type owner struct {
	*source

	cancel context.CancelFunc
}

// followOwners watches the blocks of those nodes in which the engine is interested. Of a
// node that a restored store lacks, that says nothing about its blocks.
func (c *core) followOwners(ctx context.Context) {
	want := slices.DeleteFunc(c.engine.WantedOwners(), c.keepsNode)
	want = want[:min(len(want), maxOwners)]
	for name, o := range c.owners {
		if !slices.Contains(want, name) {
			o.cancel()
			delete(c.owners, name)
			c.engine.SetOwnerKnown(name, false)
		}
	}
	for _, name := range want {
		if c.owners[name] == nil {
			c.followOwner(ctx, name)
		}
	}
}

func (c *core) followOwner(ctx context.Context, name string) {
	ctx, cancel := context.WithCancel(ctx)
	s := newSource(blocksOf(name))
	c.owners[name] = &owner{source: s, cancel: cancel}
	c.tasks.Go(func() error {
		return s.follow(ctx, c, func(s *source, b store.Batch) { c.onOwner(name, s, b) })
	})
}

func (c *core) onOwner(name string, s *source, b store.Batch) {
	if o := c.owners[name]; o == nil || o.source != s {
		return // of a watch that has ended
	}
	c.apply(s, b)
	if s.view.InSync() {
		c.engine.SetOwnerKnown(name, true)
	}
}
