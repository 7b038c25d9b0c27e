package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	docker "github.com/docker/go-plugins-helpers/network"
	"golang.org/x/sync/errgroup"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/registry"
	"calico.internal/libnetwork-plugin/internal/veth"
)

// How long the engine is given to tell which container is being joined, where labels do
// not depend on it, and where it does not serve its API.
const (
	factsPatience    = 500 * time.Millisecond
	startingPatience = 300 * time.Millisecond
)

// attempts is how often a write is tried that others interfere with.
const attempts = 5

// connectedRoute is Docker's number for a route without a next hop.
const connectedRoute = 1

// Join makes the pair of interfaces and answers when the container can be let into the
// network. When it fails it leaves no pair.
func (d *Driver) Join(ctx context.Context, r docker.JoinRequest) (docker.JoinResponse, error) {
	if err := checkID(r.EndpointID); err != nil {
		return docker.JoinResponse{}, err
	}
	d.Book.Touch(r.EndpointID)
	defer d.Book.Touch(r.EndpointID) // The wait may have been long.
	if err := d.restore(ctx); err != nil {
		return docker.JoinResponse{}, fmt.Errorf("join endpoint %s: %w", r.EndpointID, err)
	}
	n := d.Sandboxes.Join(r.SandboxKey, r.EndpointID)
	ep, created, err := d.connect(ctx, r, n)
	if err == nil {
		return d.answer(r.EndpointID, ep, n), nil
	}
	d.Sandboxes.Leave(r.EndpointID)
	if created {
		_, undoErr := d.Links.Remove(r.EndpointID)
		err = errors.Join(err, undoErr)
	}
	return docker.JoinResponse{}, fmt.Errorf("join endpoint %s: %w", r.EndpointID, err)
}

// connect does the work of Join. created tells whether there is a pair to be removed
// again.
func (d *Driver) connect(ctx context.Context, r docker.JoinRequest, n int) (ep *model.WorkloadEndpoint, created bool, err error) {
	if n > endpoint.MaxGateways {
		return nil, false, fmt.Errorf("a container can be in %d calico networks at most", endpoint.MaxGateways)
	}
	entry, err := d.get(ctx, r.EndpointID)
	if err != nil {
		return nil, false, err
	}
	ep = entry.Value.(*model.WorkloadEndpoint)
	nw, err := d.network(ctx, r.NetworkID)
	if err != nil {
		return nil, false, err
	}
	var container dockerapi.Container
	var both errgroup.Group
	both.Go(func() (err error) {
		created, err = d.Links.Ensure(d.pair(r.EndpointID, ep, nw, n))
		return err
	})
	both.Go(func() (err error) {
		container, err = d.container(ctx, r)
		return err
	})
	if err := both.Wait(); err != nil {
		return nil, created, err
	}
	ep, rev, err := d.complete(ctx, r, entry, nw, container, n)
	if err != nil {
		return nil, created, err
	}
	return ep, created, d.Felix.Wait(ctx, endpoint.Key(d.Node, r.EndpointID), rev)
}

// restore learns, once, which endpoints share a sandbox already.
func (d *Driver) restore(ctx context.Context) error {
	d.restoring.Lock()
	defer d.restoring.Unlock()
	if d.restored {
		return nil
	}
	endpoints, err := d.Book.Endpoints(ctx)
	if err != nil {
		return err
	}
	for id, ep := range endpoints {
		if key := ep.Annotations[endpoint.Sandbox]; key != "" {
			d.Sandboxes.Restore(key, id, endpoint.GatewayOf(ep))
		}
	}
	d.restored = true
	return nil
}

// complete writes what is known of an endpoint only now, if it is not written yet, and
// returns it with the revision that felix must have seen.
func (d *Driver) complete(ctx context.Context, r docker.JoinRequest, entry etcdstore.Entry, nw registry.Network,
	container dockerapi.Container, n int,
) (*model.WorkloadEndpoint, int64, error) {
	var err error
	for range attempts {
		ep := entry.Value.(*model.WorkloadEndpoint)
		before := endpoint.Clone(ep)
		d.adopt(ep, nw)
		if container.ID != "" {
			endpoint.AnnotateContainer(ep, container.ID, name(container), container.Labels)
		}
		if d.LabelEndpoints {
			endpoint.AddLabels(ep, endpoint.Labels(container.Labels))
		}
		endpoint.SetGateway(ep, n)
		endpoint.Annotate(ep, endpoint.Sandbox, r.SandboxKey)
		if endpoint.Equal(before, ep) {
			return ep, entry.Revision, nil
		}
		var rev int64
		rev, err = d.write(ctx, r.EndpointID, before, ep, entry.Revision)
		if err == nil {
			return ep, rev, nil
		}
		if !errors.Is(err, etcdstore.ErrConflict) {
			break
		}
		if entry, err = d.get(ctx, r.EndpointID); err != nil {
			break
		}
	}
	return nil, 0, err
}

// network finds the network of an endpoint that is joined. Without its name there is no
// policy for the endpoint, so there is no guessing.
func (d *Driver) network(ctx context.Context, id string) (registry.Network, error) {
	nw, err := d.Registry.Find(ctx, id)
	if errors.Is(err, registry.ErrUnknown) {
		return nw, fmt.Errorf("%w; the container is not started without its policy, start it again when the engine is up", err)
	}
	return nw, err
}

// container finds out whose endpoint it is. Where labels make the policy the answer is
// needed; elsewhere it only tells operators what they look at.
func (d *Driver) container(ctx context.Context, r docker.JoinRequest) (dockerapi.Container, error) {
	patience := factsPatience
	switch {
	case !d.Engine.Connected():
		patience = startingPatience
	case d.LabelEndpoints:
		patience = d.LabelTimeout
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := d.Engine.EndpointContainer(limited, r.NetworkID, r.EndpointID)
	if err == nil {
		return c, nil
	}
	if !d.LabelEndpoints {
		d.Log.Debug("container of endpoint is not known", "endpoint", r.EndpointID, "err", err)
		return dockerapi.Container{}, nil
	}
	return dockerapi.Container{}, fmt.Errorf("the container's labels, which its policy depends on, could not be read; "+
		"start it again when the engine is up: %w", err)
}

// pair is what the endpoint's interfaces shall be like.
func (d *Driver) pair(id string, ep *model.WorkloadEndpoint, nw registry.Network, gateway int) veth.Pair {
	hw, err := net.ParseMAC(ep.MAC)
	if err != nil {
		hw = nil // The engine sets the address that it was told at any rate.
	}
	p := veth.Pair{Endpoint: id, MTU: cmp.Or(nw.MTU, d.MTU), MAC: hw}
	if p.MTU == 0 {
		p.MTU = d.uplinkMTU()
	}
	if len(ep.IPv6Nets) > 0 {
		p.HostIPv6 = endpoint.GatewayIPv6(gateway)
	}
	return p
}

// uplinkMTU is the MTU of the interface with this node's address: what is larger does not
// reach other hosts, and what is smaller wastes room. 0 leaves the kernel's.
func (d *Driver) uplinkMTU() int {
	mtu, err := d.Links.MTUOf(d.Addresses()...)
	if err != nil {
		d.Log.Warn("MTU of this node's interface is not known: containers get the kernel's", logattr.Err, err)
	}
	return mtu
}

// answer tells the engine what to set up in the container. IPv6 data without an IPv6
// address would make it fail.
func (d *Driver) answer(id string, ep *model.WorkloadEndpoint, n int) docker.JoinResponse {
	resp := docker.JoinResponse{
		InterfaceName: docker.InterfaceName{SrcName: veth.PeerName(id), DstPrefix: d.InterfacePrefix},
	}
	if len(ep.IPv4Nets) > 0 {
		resp.Gateway = endpoint.Gateway(n).String()
		resp.StaticRoutes = append(resp.StaticRoutes, route(endpoint.Gateway(n)))
	}
	if len(ep.IPv6Nets) > 0 {
		resp.GatewayIPv6 = endpoint.GatewayIPv6(n).String()
		resp.StaticRoutes = append(resp.StaticRoutes, route(endpoint.GatewayIPv6(n)))
	}
	return resp
}

// route makes an address a neighbour on the container's link.
func route(a netip.Addr) *docker.StaticRoute {
	return &docker.StaticRoute{Destination: netip.PrefixFrom(a, a.BitLen()).String(), RouteType: connectedRoute}
}

// name is a container's name without the engine's slash.
func name(c dockerapi.Container) string {
	if len(c.Names) == 0 {
		return ""
	}
	return strings.TrimPrefix(c.Names[0], "/")
}
