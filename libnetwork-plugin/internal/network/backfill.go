package network

import (
	"context"
	"errors"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
)

// backfillLimit bounds [Driver.Backfill].
const backfillLimit = 30 * time.Second

// Backfill notes the containers of endpoints that were joined when the engine could not
// tell whose they are, as all are that it starts by itself.
func (d *Driver) Backfill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, backfillLimit)
	defer cancel()
	unnamed, err := d.unnamed(ctx)
	if err != nil || len(unnamed) == 0 {
		return err
	}
	containers, err := d.Engine.Containers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range containers {
		for _, n := range c.NetworkSettings.Networks {
			if unnamed[n.EndpointID] {
				errs = append(errs, d.note(ctx, n.EndpointID, c))
			}
		}
	}
	return errors.Join(errs...)
}

// unnamed lists this node's endpoints whose container is not known.
func (d *Driver) unnamed(ctx context.Context) (map[string]bool, error) {
	endpoints, err := d.Book.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	unnamed := make(map[string]bool)
	for id, ep := range endpoints {
		if ep.Annotations[endpoint.ContainerID] == "" {
			unnamed[id] = true
		}
	}
	return unnamed, nil
}

// note writes down whose an endpoint is. If somebody changes it meanwhile it is left for
// the next time.
func (d *Driver) note(ctx context.Context, id string, c dockerapi.Container) error {
	entry, err := d.get(ctx, id)
	if err != nil {
		return err
	}
	ep := entry.Value.(*model.WorkloadEndpoint)
	endpoint.AnnotateContainer(ep, c.ID, name(c), c.Labels)
	_, err = d.write(ctx, id, ep, entry.Revision)
	return err
}
