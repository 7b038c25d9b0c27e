package sweep

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
)

// Names removes the names of endpoints that are gone: those which calicoctl deleted, and
// those of nodes that are no more. An endpoint that the plugin removes takes its names along.
type Names struct {
	Store *etcdstore.Client
	Node  string
	// Networks lists the keys of the networks whose names are looked through: this host's.
	Networks func() []string
	// Stale tells, without asking etcd, whether there are names to be removed, as far as is
	// known.
	Stale func() bool
	// Endpoints lists this node's.
	Endpoints func(context.Context) (map[string]*model.WorkloadEndpoint, error)
	Log       *slog.Logger
}

// Run looks when it starts, when there is something to remove, and every now and then, until
// ctx ends.
func (n *Names) Run(ctx context.Context) error {
	soon := time.NewTimer(Grace)
	defer soon.Stop()
	tick := time.NewTicker(Every)
	defer tick.Stop()
	look := time.NewTicker(Grace)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-soon.C:
		case <-tick.C:
		case <-look.C:
			if !n.Stale() {
				continue
			}
		}
		if err := n.Sweep(ctx); err != nil && ctx.Err() == nil {
			n.Log.Warn("names of endpoints that are gone may still be answered", logattr.Err, err)
		}
	}
}

// Sweep removes what is left over now.
func (n *Names) Sweep(ctx context.Context) error {
	nodes, err := n.nodes(ctx)
	if err != nil {
		return err
	}
	mine, err := n.Endpoints(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, network := range n.Networks() {
		prefix := model.ListPrefixes(model.KindDockerName)[0] + network + "/"
		entries, _, _, err := n.Store.ListUnder(ctx, []string{prefix}, func(model.Key) bool { return true })
		if err != nil {
			return err
		}
		for _, e := range entries {
			key, ok := e.Key.(model.DockerNameKey)
			if !ok {
				continue
			}
			at := e.Value.(*model.DockerName).Node
			if at == n.Node && mine[key.Endpoint] == nil || at != n.Node && !nodes[at] {
				errs = append(errs, n.remove(ctx, e, endpoint.Key(at, key.Endpoint)))
			}
		}
	}
	return errors.Join(errs...)
}

// remove removes a name if its endpoint is not there.
func (n *Names) remove(ctx context.Context, e etcdstore.Entry, of model.WorkloadEndpointKey) error {
	gone, err := etcdstore.CheckWrite(of, 0)
	if err != nil {
		return err
	}
	remove, err := etcdstore.DeleteWrite(e.Key, e.Revision)
	if err != nil {
		return err
	}
	_, err = n.Store.Commit(ctx, gone, remove)
	if errors.Is(err, etcdstore.ErrConflict) || errors.Is(err, etcdstore.ErrNotFound) {
		return nil // it is there after all, or gone
	}
	if err == nil {
		n.Log.Info("removed the name of an endpoint that is gone", "name", e.Key, logattr.Endpoint, of.Name)
	}
	return err
}

func (n *Names) nodes(ctx context.Context) (map[string]bool, error) {
	list, _, _, err := n.Store.List(ctx, model.KindNode, nil)
	if err != nil {
		return nil, err
	}
	nodes := make(map[string]bool)
	for _, e := range list {
		nodes[e.Key.(model.NodeKey).Name] = true
	}
	return nodes, nil
}
