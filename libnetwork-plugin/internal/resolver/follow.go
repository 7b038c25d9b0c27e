package resolver

import (
	"context"
	"slices"
	"sync"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/zone"
)

// Follower keeps askers and names up to date with etcd: this host's endpoints, and of each
// network that one of them is in all names. While etcd is away, or is not to be trusted,
// what was known last is answered.
type Follower struct {
	Guard  *etcdstore.Guard
	Node   string
	Askers *zone.Askers
	Zone   *zone.Zone
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := make(map[string]func())
	prefixes := model.ScopedPrefixes(model.KindWorkloadEndpoint, model.Scope{Node: f.Node, Orchestrator: endpoint.Orchestrator})
	for b := range f.Guard.Watch(ctx, prefixes, etcdstore.WatchOptions{}) {
		if b.Err != nil || b.Held != nil {
			continue
		}
		f.Askers.Apply(b)
		used := f.Askers.InUse()
		for key, end := range ends {
			if !slices.Contains(used, key) {
				end()
				delete(ends, key)
			}
		}
		for _, key := range used {
			if ends[key] != nil {
				continue
			}
			ends[key] = f.start(ctx, &all, key)
		}
	}
	return nil
}

// start follows the names of a network until end is called, which waits for it.
func (f *Follower) start(ctx context.Context, all *sync.WaitGroup, key string) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	all.Go(func() {
		defer close(done)
		defer cancel()
		f.names(ctx, key)
	})
	return func() {
		cancel()
		<-done
	}
}

// names follows the names of one network until ctx ends, and forgets them then.
func (f *Follower) names(ctx context.Context, key string) {
	defer f.Zone.Drop(key)
	prefixes := []string{model.ListPrefixes(model.KindDockerName)[0] + key + "/"}
	for b := range f.Guard.Watch(ctx, prefixes, etcdstore.WatchOptions{}) {
		if b.Err == nil && b.Held == nil && ctx.Err() == nil {
			f.Zone.Apply(key, b)
		}
	}
}
