package network

import (
	"context"
	"time"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
)

// backfillLimit bounds [Driver.Backfill].
const backfillLimit = 30 * time.Second

// Backfill finds the containers of endpoints that were joined when the engine could not
// tell whose they are, as all are that it starts by itself, and of those that started or got
// another name while nobody listened. It returns their ids, to be described.
func (d *Driver) Backfill(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, backfillLimit)
	defer cancel()
	endpoints, err := d.Book.Endpoints(ctx)
	if err != nil || len(endpoints) == 0 {
		return nil, err
	}
	containers, err := d.Engine.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range containers {
		for _, n := range c.NetworkSettings.Networks {
			if ep := endpoints[n.EndpointID]; ep != nil && !described(ep, c) {
				ids = append(ids, c.ID)
				break
			}
		}
	}
	return ids, nil
}

// described reports whether an endpoint tells of its container all that the engine's list does.
func described(ep *model.WorkloadEndpoint, c dockerapi.Container) bool {
	a := ep.Annotations
	return a[endpoint.ContainerID] == c.ID && a[endpoint.ContainerName] == name(c) && a[endpoint.Aliases] != ""
}
