// Package registry knows the names of Docker's networks.
//
// The engine's calls carry the id of a network and never its name, which profiles and
// users go by. The registry turns an id into a name again: from its memory, from etcd
// (package netsync writes the records; another node's may have, if the engines share the
// network), and at last by asking this node's engine, which may not be able to answer.
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
	"calico.internal/libnetwork-plugin/internal/networks"
)

// How long the engine is given to answer in the middle of one of its own calls: it
// answers at once, or, while it starts, not at all.
const (
	patience         = 2 * time.Second
	patienceStarting = 300 * time.Millisecond
)

// ErrUnknown says that nobody knows the name of a network.
var ErrUnknown = errors.New("network is not known")

// Engine is what the registry asks of Docker's engine.
type Engine interface {
	Connected() bool
	Network(ctx context.Context, id string) (dockerapi.Network, error)
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

// Saw takes in the networks of ours that the engine has.
func (r *Registry) Saw(ours []dockerapi.Network) {
	known := make(map[string]Network, len(ours))
	for _, n := range ours {
		known[n.ID] = fromOptions(n.ID, n.Name, n.Options)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = known
}

// Forget forgets a network that is being removed.
func (r *Registry) Forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, id)
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
func (r *Registry) Ours(driver string) bool {
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
				return fromOptions(id, networks.Name(rec.Key.(model.DockerNetworkKey).Name, n), n.Options), nil
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
