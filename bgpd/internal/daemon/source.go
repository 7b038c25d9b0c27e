package daemon

import (
	"context"
	"errors"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// source is one watch of etcd and what it shows.
type source struct {
	prefix string
	view   *store.View
	// lost is why etcd cannot be read; nil when it can.
	lost error
	// recalled says that the view showed what is remembered before etcd was heard, and
	// wasHeld that etcd was not followed since the start.
	recalled, wasHeld bool
}

func newSource(prefix string) *source {
	return &source{prefix: prefix, view: store.New(store.Options{Filter: relevant, Facts: facts})}
}

// relevant leaves out what stands under the prefixes but does not matter here.
func relevant(k model.Key) bool {
	switch k.(type) {
	case model.BlockAffinityKey, model.NodeKey, model.WorkloadEndpointKey:
		return true
	}
	return false
}

// follow hands on batches one by one; meanwhile the watch merges what comes.
func (s *source) follow(ctx context.Context, c *core, take func(*source, store.Batch)) error {
	for b := range c.guard.Watch(ctx, []string{s.prefix}, etcdstore.WatchOptions{WentBack: c.history.Watch()}) {
		if err := c.call(ctx, func(context.Context) { take(s, b) }); err != nil {
			return nil // only at the end
		}
	}
	return nil
}

func (c *core) onBatch(s *source, b store.Batch) {
	if b.Err != nil && s.lost == nil {
		c.cfg.Log.Warn("etcd cannot be read; what is known stays in force", logattr.Err, b.Err)
	}
	s.lost = b.Err
	c.apply(s, s.judge(b))
	if c.etcdInSync() && !c.inSync {
		c.inSync = true
		c.engine.SetInSync()
		c.keeper.Changed()
		c.cfg.Log.Info("in sync with etcd", logattr.Rev, s.view.Revision())
	}
}

// apply takes in what etcd says.
func (c *core) apply(s *source, b store.Batch) {
	events := s.view.Apply(b)
	if b.Restored {
		c.cfg.Log.Warn("etcd was restored to an older state; what it lacks of blocks and containers is kept", "prefix", s.prefix, logattr.Rev, b.Revision, logattr.Count, s.view.KeptCount())
	}
	c.tell(events)
}

// tell tells the engine what changed.
func (c *core) tell(events []store.Event) {
	if len(events) > 0 {
		c.keeper.Changed()
	}
	for _, ev := range events {
		if ev.Err != nil && ev.Value == nil {
			c.cfg.Log.Warn("value in etcd not usable; what was known stays in force", logattr.Key, ev.Key, logattr.Err, ev.Err)
			continue
		}
		c.engine.OnResource(ev.Key, ev.Value)
	}
}

func (c *core) etcdInSync() bool {
	for _, s := range c.sources {
		if !s.view.InSync() {
			return false
		}
	}
	return true
}

func (c *core) etcdConnected() bool {
	for _, s := range c.sources {
		if !s.view.Connected() {
			return false
		}
	}
	return true
}

// held says why what etcd holds is not followed; empty when it is.
func (c *core) held() string {
	for _, s := range c.sources {
		if err := s.view.Held(); err != nil {
			return err.Error()
		}
	}
	return ""
}

// refused says why etcd does not let bgpd read what it needs; empty when it does.
func (c *core) refused() string {
	for _, s := range c.sources {
		if errors.Is(s.lost, etcdstore.ErrUnauthorized) {
			return s.lost.Error()
		}
	}
	return ""
}

// revision is the one up to which all watches have come.
func (c *core) revision() int64 {
	lowest := c.sources[0].view.Revision()
	for _, s := range c.sources[1:] {
		lowest = min(lowest, s.view.Revision())
	}
	return lowest
}
