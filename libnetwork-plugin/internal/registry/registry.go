// Package registry knows the names of Docker's networks.
//
// The engine's calls carry the id of a network and never its name, which profiles and
// users go by. The registry learns names from the engine's events, writes them to etcd
// for all nodes, and turns an id into a name again: from its memory, from etcd (where
// another node's plugin may have written it, if the engines share the network), and at
// last by asking this node's engine, which may not be able to answer.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
)

// How long the engine is given to answer in the middle of one of its own calls: it
// answers at once, or, while it starts, not at all.
const (
	patience         = 2 * time.Second
	patienceStarting = 300 * time.Millisecond
)

// attempts is how often a record that others write at the same time is tried.
const attempts = 10

// ErrUnknown says that nobody knows the name of a network.
var ErrUnknown = errors.New("network is not known")

// Engine is what the registry asks of Docker's engine.
type Engine interface {
	Connected() bool
	Network(ctx context.Context, id string) (dockerapi.Network, error)
	Networks(ctx context.Context) ([]dockerapi.Network, error)
}

// Registry knows the networks of one driver on one node. It is safe for concurrent use.
type Registry struct {
	store  *etcdstore.Client
	engine Engine
	node   string
	driver string
	log    *slog.Logger

	mu    sync.Mutex
	known map[string]Network
}

// New returns a registry of the networks of a driver.
func New(store *etcdstore.Client, engine Engine, node, driver string, log *slog.Logger) *Registry {
	return &Registry{
		store: store, engine: engine, node: node, driver: driver, log: log, known: make(map[string]Network),
	}
}

// Find returns the network with an id. It never waits long: [ErrUnknown] may be the
// answer for a network that will be known in a moment.
func (r *Registry) Find(ctx context.Context, id string) (Network, error) {
	if n, ok := r.remembered(id); ok {
		return n, nil
	}
	n, err := r.stored(ctx, id)
	if errors.Is(err, ErrUnknown) {
		n, err = r.ask(ctx, id)
	}
	if err != nil {
		return Network{}, err
	}
	r.remember(n)
	return n, nil
}

// Learn writes down what the engine says about one of its networks.
func (r *Registry) Learn(ctx context.Context, n dockerapi.Network) error {
	if !r.ours(n.Driver) {
		return nil
	}
	r.remember(fromOptions(n.ID, n.Name, n.Options))
	return r.change(ctx, n.Name, func(stored *model.DockerNetwork) *model.DockerNetwork {
		seen := record(n, r.node)
		if stored == nil {
			return seen
		}
		return merge(stored, seen, r.node)
	})
}

// Forget removes a network that exists no more.
func (r *Registry) Forget(ctx context.Context, id string) error {
	r.mu.Lock()
	delete(r.known, id)
	r.mu.Unlock()
	records, err := r.list(ctx)
	if err != nil {
		return err
	}
	for _, rec := range records {
		if _, has := without(rec.Value.(*model.DockerNetwork), id); !has {
			continue
		}
		if err := r.drop(ctx, rec.Key.(model.DockerNetworkKey).Name, id); err != nil {
			return err
		}
	}
	return nil
}

// Sync makes the store agree with the engine about this node's networks.
func (r *Registry) Sync(ctx context.Context) error {
	networks, err := r.engine.Networks(ctx)
	if err != nil {
		return err
	}
	var errs []error
	exists := make(map[string]bool)
	for _, n := range networks {
		exists[n.ID] = true
		errs = append(errs, r.Learn(ctx, n))
	}
	records, err := r.list(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, rec := range records {
		id, has := rec.Value.(*model.DockerNetwork).IDs[r.node]
		if has && !exists[id] {
			errs = append(errs, r.drop(ctx, rec.Key.(model.DockerNetworkKey).Name, id))
		}
	}
	return errors.Join(errs...)
}

// Known lists the networks that this process has met.
func (r *Registry) Known() []Network {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Network
	for _, n := range r.known {
		list = append(list, n)
	}
	return list
}

// Ours reports whether a network of that driver is ours: the engine may know us with a
// tag, as a managed plugin.
func (r *Registry) ours(driver string) bool {
	name, _, _ := strings.Cut(driver, ":")
	return name == r.driver
}

func (r *Registry) remembered(id string) (Network, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.known[id]
	return n, ok
}

func (r *Registry) remember(n Network) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[n.ID] = n
}

// stored looks for an id in etcd.
func (r *Registry) stored(ctx context.Context, id string) (Network, error) {
	records, err := r.list(ctx)
	if err != nil {
		return Network{}, err
	}
	for _, rec := range records {
		n := rec.Value.(*model.DockerNetwork)
		for _, known := range n.IDs {
			if known == id {
				return fromOptions(id, rec.Key.(model.DockerNetworkKey).Name, n.Options), nil
			}
		}
	}
	return Network{}, fmt.Errorf("%w: %s", ErrUnknown, id)
}

// ask asks the engine for an id, with a patience that depends on whether it serves its
// API at the moment.
func (r *Registry) ask(ctx context.Context, id string) (Network, error) {
	limit := patienceStarting
	if r.engine.Connected() {
		limit = patience
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	n, err := r.engine.Network(ctx, id)
	if err != nil {
		return Network{}, fmt.Errorf("%w: %s: not in etcd, and the engine could not be asked: %w", ErrUnknown, id, err)
	}
	return fromOptions(n.ID, n.Name, n.Options), nil
}

// list reads all records.
func (r *Registry) list(ctx context.Context) ([]etcdstore.Entry, error) {
	records, _, bad, err := r.store.List(ctx, model.KindDockerNetwork, nil)
	for _, q := range bad {
		r.log.Warn("network record cannot be read", "key", q.Path, "err", q.Err)
	}
	return records, err
}

// drop takes an id out of a record, and removes the record with the last one.
func (r *Registry) drop(ctx context.Context, name, id string) error {
	return r.change(ctx, name, func(stored *model.DockerNetwork) *model.DockerNetwork {
		if stored == nil {
			return nil
		}
		left, changed := without(stored, id)
		switch {
		case !changed:
			return stored
		case len(left.IDs) == 0:
			return nil
		}
		return left
	})
}

// change replaces a record by what edit makes of it, nil standing for an absent one,
// and tries again when another node was faster.
func (r *Registry) change(ctx context.Context, name string, edit func(*model.DockerNetwork) *model.DockerNetwork) error {
	key := model.DockerNetworkKey{Name: name}
	var err error
	for range attempts {
		err = r.changeOnce(ctx, key, edit)
		if !errors.Is(err, etcdstore.ErrConflict) && !errors.Is(err, etcdstore.ErrExists) && !errors.Is(err, etcdstore.ErrNotFound) {
			return err
		}
	}
	return err
}

func (r *Registry) changeOnce(ctx context.Context, key model.DockerNetworkKey, edit func(*model.DockerNetwork) *model.DockerNetwork) error {
	entry, err := r.store.Get(ctx, key)
	absent := errors.Is(err, etcdstore.ErrNotFound)
	if err != nil && !absent {
		return err
	}
	if absent {
		now := edit(nil)
		if now == nil {
			return nil
		}
		_, err = r.store.Create(ctx, key, now)
		return err
	}
	now := edit(entry.Value.(*model.DockerNetwork))
	if now == nil {
		_, err = r.store.Delete(ctx, key, entry.Revision)
		return err
	}
	if same(entry.Value.(*model.DockerNetwork), now) {
		return nil
	}
	_, err = r.store.Update(ctx, key, now, entry.Revision)
	return err
}

// Has reports whether a network of that name is ours.
func (r *Registry) Has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.known {
		if n.Name == name {
			return true
		}
	}
	return false
}

// Changed takes in an event of the engine.
func (r *Registry) Changed(ctx context.Context, e dockerapi.Event) error {
	name, driver := e.Network()
	if !r.ours(driver) {
		return nil
	}
	if e.Action == "destroy" {
		return r.Forget(ctx, e.Actor.ID)
	}
	// The id and the name are in the event; they are good to have even if the engine
	// does not tell the rest.
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	n, err := r.engine.Network(limited, e.Actor.ID)
	if err != nil {
		n = dockerapi.Network{ID: e.Actor.ID, Name: name, Driver: driver}
	}
	return r.Learn(ctx, n)
}
