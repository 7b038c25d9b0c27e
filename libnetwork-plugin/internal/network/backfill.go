package network

import (
	"context"
	"time"

	"calico.internal/libnetwork-plugin/internal/endpoint"
)

// backfillLimit bounds [Driver.Backfill].
const backfillLimit = 30 * time.Second

// Backfill finds the containers of endpoints that were joined when the engine could not
// tell whose they are, as all are that it starts by itself, and of those that started while
// nobody listened. It returns their ids, to be described.
func (d *Driver) Backfill(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, backfillLimit)
	defer cancel()
	undescribed, err := d.undescribed(ctx)
	if err != nil || len(undescribed) == 0 {
		return nil, err
	}
	containers, err := d.Engine.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range containers {
		for _, n := range c.NetworkSettings.Networks {
			if undescribed[n.EndpointID] {
				ids = append(ids, c.ID)
				break
			}
		}
	}
	return ids, nil
}

// undescribed lists this node's endpoints whose container, or whose names, are not known.
func (d *Driver) undescribed(ctx context.Context) (map[string]bool, error) {
	endpoints, err := d.Book.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	list := make(map[string]bool)
	for id, ep := range endpoints {
		if ep.Annotations[endpoint.ContainerID] == "" || ep.Annotations[endpoint.Aliases] == "" {
			list[id] = true
		}
	}
	return list, nil
}
