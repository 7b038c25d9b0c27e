package network

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
)

// The limits of describing containers: for one, whose inspection waits until the engine is
// done with it, and of how many at a time.
const (
	describeLimit = 30 * time.Second
	describers    = 4
)

// Describer notes what only a container that runs shows: its hostname, its aliases, and the
// name that it was given since. It is safe for concurrent use.
type Describer struct {
	driver *Driver

	mu      sync.Mutex
	pending map[string]bool
	queue   []string
	more    chan struct{}
}

// NewDescriber returns a describer of a driver's endpoints.
func NewDescriber(d *Driver) *Describer {
	return &Describer{driver: d, pending: make(map[string]bool), more: make(chan struct{}, 1)}
}

// Changed has a container described soon. What is asked for several times meanwhile is done
// once.
func (d *Describer) Changed(container string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.pending[container] {
		d.pending[container] = true
		d.queue = append(d.queue, container)
	}
	select {
	case d.more <- struct{}{}:
	default:
	}
}

// Run describes containers until ctx ends.
func (d *Describer) Run(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(describers)
	defer group.Wait() //nolint:errcheck // they return none
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.more:
		}
		for id, ok := d.next(); ok; id, ok = d.next() {
			group.Go(func() error {
				d.describe(ctx, id)
				return nil
			})
		}
	}
}

func (d *Describer) next() (id string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		return "", false
	}
	id = d.queue[0]
	d.queue = d.queue[1:]
	delete(d.pending, id) // what happens from now on must be seen again
	return id, true
}

func (d *Describer) describe(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, describeLimit)
	defer cancel()
	err := d.driver.Describe(ctx, id)
	if err != nil && ctx.Err() == nil && !errors.Is(err, dockerapi.ErrNotFound) {
		d.driver.Log.Warn("names of container are not up to date", "container", id, logattr.Err, err)
	}
}

// Describe notes on a container's endpoints what the engine says about it now.
func (d *Driver) Describe(ctx context.Context, container string) error {
	c, err := d.Engine.Inspect(ctx, container)
	if err != nil {
		return err
	}
	var errs []error
	for name, n := range c.NetworkSettings.Networks {
		if n.EndpointID != "" && d.Registry.Has(name) {
			errs = append(errs, d.describeEndpoint(ctx, n, c))
		}
	}
	return errors.Join(errs...)
}

// describeEndpoint notes a container on one of its endpoints. One that is gone meanwhile
// needs nothing.
func (d *Driver) describeEndpoint(ctx context.Context, n dockerapi.Attachment, c dockerapi.Details) error {
	var err error
	for range attempts {
		var entry etcdstore.Entry
		entry, err = d.Store.Get(ctx, endpoint.Key(d.Node, n.EndpointID))
		if errors.Is(err, etcdstore.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		ep := entry.Value.(*model.WorkloadEndpoint)
		was := endpoint.Clone(ep)
		endpoint.AnnotateContainer(ep, c.ID, strings.TrimPrefix(c.Name, "/"), c.Config.Labels)
		endpoint.AnnotateAliases(ep, append([]string{c.Config.Hostname}, n.Aliases...))
		if endpoint.Equal(was, ep) {
			return nil
		}
		err = d.note(ctx, n.EndpointID, was, ep, entry.Revision)
		if !errors.Is(err, etcdstore.ErrConflict) && !errors.Is(err, ipam.ErrNotAssigned) {
			return err
		}
		// It was changed, or removed, which may be half seen: it is read again.
	}
	return err
}
