// Package network is Docker's network driver "calico".
//
// Its calls are transactions of the engine, answered one by one and not reconciled;
// every one may come twice, and nothing that a call has begun stays when it fails:
//
//	CreateEndpoint  writes the endpoint, its profile and the owner of its addresses, in
//	                one transaction. felix sees it and denies everything until then.
//	Join            makes the pair of interfaces, notes the container (and, where asked
//	                for, its labels), and answers when felix has put it all in force.
//	                The engine moves the far end into the container after that.
//	Leave           removes the pair.
//	DeleteEndpoint  removes the pair, the endpoint and its addresses.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	docker "github.com/docker/go-plugins-helpers/network"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/address"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/httpapi"
	"calico.internal/libnetwork-plugin/internal/registry"
	"calico.internal/libnetwork-plugin/internal/sandbox"
	"calico.internal/libnetwork-plugin/internal/veth"
)

// Name is how Docker's users call the driver.
const Name = "calico"

// Config is how endpoints are made.
type Config struct {
	Node string
	// InterfacePrefix begins the interface's name in the container.
	InterfacePrefix string
	// CreateProfiles gives each network a profile, LabelEndpoints each endpoint its
	// container's labels.
	CreateProfiles, LabelEndpoints bool
	// LabelTimeout bounds the wait for a container's labels.
	LabelTimeout time.Duration
	// MTU is that of networks that choose none; 0 means that of the node's interface.
	MTU int
	// Removed notes that a user has the engine remove a network.
	Removed func(id string) error
	// Addresses are the node's own, as far as they are known.
	Addresses func() []netip.Addr
}

// Engine is what the driver asks of Docker's engine.
type Engine interface {
	Connected() bool
	EndpointContainer(ctx context.Context, networkID, endpointID string) (dockerapi.Container, error)
	Containers(ctx context.Context) ([]dockerapi.Container, error)
	Inspect(ctx context.Context, id string) (dockerapi.Details, error)
}

// Links makes and removes pairs of interfaces.
type Links interface {
	Ensure(p veth.Pair) (created bool, err error)
	Remove(endpoint string) (removed bool, err error)
	MTUOf(addrs ...netip.Addr) (int, error)
}

// Felix waits until an endpoint is in force.
type Felix interface {
	Wait(ctx context.Context, key model.WorkloadEndpointKey, revision int64) error
}

// Scope says what Docker is told about the reach of networks.
type Scope interface {
	Refresh(ctx context.Context) string
}

// Parts are what the driver is made of.
type Parts struct {
	Store     *etcdstore.Client
	Book      *address.Book
	Registry  *registry.Registry
	Links     Links
	Felix     Felix
	Engine    Engine
	Scope     Scope
	Sandboxes *sandbox.Table
	Log       *slog.Logger
}

// Driver answers Docker's calls.
type Driver struct {
	Config
	Parts

	// restored tells whether the sandboxes of endpoints that were joined before this
	// process started are known; it is guarded by restoring.
	restoring sync.Mutex
	restored  bool
}

// New returns a driver.
func New(cfg Config, parts Parts) *Driver { return &Driver{Config: cfg, Parts: parts} }

// Register makes the server answer the driver's calls.
func (d *Driver) Register(s *httpapi.Server) {
	httpapi.Handle(s, "NetworkDriver.GetCapabilities", d.GetCapabilities)
	httpapi.Handle(s, "NetworkDriver.AllocateNetwork", d.AllocateNetwork)
	httpapi.Handle(s, "NetworkDriver.FreeNetwork", accept)
	httpapi.Handle(s, "NetworkDriver.CreateNetwork", d.CreateNetwork)
	httpapi.Handle(s, "NetworkDriver.DeleteNetwork", d.DeleteNetwork)
	httpapi.Handle(s, "NetworkDriver.CreateEndpoint", d.CreateEndpoint)
	httpapi.Handle(s, "NetworkDriver.DeleteEndpoint", d.DeleteEndpoint)
	httpapi.Handle(s, "NetworkDriver.EndpointOperInfo", d.EndpointOperInfo)
	httpapi.Handle(s, "NetworkDriver.Join", d.Join)
	httpapi.Handle(s, "NetworkDriver.Leave", d.Leave)
	httpapi.Handle(s, "NetworkDriver.DiscoverNew", accept)
	httpapi.Handle(s, "NetworkDriver.DiscoverDelete", accept)
	httpapi.Handle(s, "NetworkDriver.ProgramExternalConnectivity", d.ProgramExternalConnectivity)
	httpapi.Handle(s, "NetworkDriver.RevokeExternalConnectivity", accept)
}

// accept answers a call that needs nothing done: BGP finds the other hosts, and there
// are no ports to close.
func accept(context.Context, httpapi.Empty) (httpapi.Empty, error) { return httpapi.Empty{}, nil }

// GetCapabilities says how far our networks reach.
func (d *Driver) GetCapabilities(ctx context.Context, _ httpapi.Empty) (docker.CapabilitiesResponse, error) {
	return docker.CapabilitiesResponse{Scope: d.Scope.Refresh(ctx)}, nil
}

// AllocateNetwork is called for networks of a swarm, which engines allow to managed
// plugins alone.
func (d *Driver) AllocateNetwork(context.Context, docker.AllocateNetworkRequest) (docker.AllocateNetworkResponse, error) {
	return docker.AllocateNetworkResponse{}, errors.New("networks of a swarm are not supported by the calico driver: " +
		"create the network on each node")
}

// CreateNetwork checks what is asked for. There is nothing to make yet: the network's
// name, by which all else goes, comes only later, with the engine's event.
func (d *Driver) CreateNetwork(_ context.Context, r docker.CreateNetworkRequest) (httpapi.Empty, error) {
	return httpapi.Empty{}, checkNetwork(r)
}

// DeleteNetwork forgets the network's name. What it means for other hosts, and for the
// network's profile, is found out when the engine has removed it (package netsync).
func (d *Driver) DeleteNetwork(_ context.Context, r docker.DeleteNetworkRequest) (httpapi.Empty, error) {
	d.Registry.Forget(r.NetworkID)
	return httpapi.Empty{}, d.Removed(r.NetworkID)
}

// CreateEndpoint writes the endpoint. If nobody knows the network's name yet, as when
// the engine starts, the endpoint has no profile, which means that everything is
// denied, and Join tries again.
func (d *Driver) CreateEndpoint(ctx context.Context, r docker.CreateEndpointRequest) (docker.CreateEndpointResponse, error) {
	w, err := parseEndpoint(r)
	if err != nil {
		return docker.CreateEndpointResponse{}, err
	}
	nw, err := d.Registry.Find(ctx, w.NetworkID)
	if err != nil && !errors.Is(err, registry.ErrUnknown) {
		return docker.CreateEndpointResponse{}, err
	}
	answer := &docker.EndpointInterface{}
	if w.MAC == "" {
		w.MAC = endpoint.DefaultMAC
		answer.MacAddress = w.MAC // The engine refuses an answer that repeats the user's choice.
	}
	ep := endpoint.New(w.ID, w.MAC, w.IPv4, w.IPv6)
	endpoint.Annotate(ep, endpoint.NetworkID, w.NetworkID)
	endpoint.AddLabels(ep, w.Labels)
	d.adopt(ep, nw)
	if _, err := d.write(ctx, w.ID, nil, ep, 0); err != nil {
		d.Book.Abandon(w.ID) // The engine takes the endpoint for one that never was.
		return docker.CreateEndpointResponse{}, fmt.Errorf("create endpoint %s: %w", w.ID, err)
	}
	return docker.CreateEndpointResponse{Interface: answer}, nil
}

// DeleteEndpoint removes all that there is of an endpoint. The pair of interfaces too:
// after a crash the engine does not send Leave.
func (d *Driver) DeleteEndpoint(ctx context.Context, r docker.DeleteEndpointRequest) (httpapi.Empty, error) {
	if err := checkID(r.EndpointID); err != nil {
		return httpapi.Empty{}, err
	}
	d.Sandboxes.Leave(r.EndpointID)
	_, err := d.Links.Remove(r.EndpointID)
	unbind := d.Book.Unbind(ctx, r.EndpointID)
	if unbind != nil {
		d.Book.Abandon(r.EndpointID) // The engine forgets it, whatever the answer.
	}
	if err := errors.Join(err, unbind); err != nil {
		return httpapi.Empty{}, fmt.Errorf("delete endpoint %s: %w", r.EndpointID, err)
	}
	return httpapi.Empty{}, nil
}

// EndpointOperInfo has nothing to tell: engines show none of it.
func (d *Driver) EndpointOperInfo(context.Context, docker.InfoRequest) (docker.InfoResponse, error) {
	return docker.InfoResponse{Value: map[string]string{}}, nil
}

// Leave removes the pair of interfaces.
func (d *Driver) Leave(_ context.Context, r docker.LeaveRequest) (httpapi.Empty, error) {
	if err := checkID(r.EndpointID); err != nil {
		return httpapi.Empty{}, err
	}
	d.Sandboxes.Leave(r.EndpointID)
	_, err := d.Links.Remove(r.EndpointID)
	return httpapi.Empty{}, err
}

// ProgramExternalConnectivity refuses published ports, which nobody would serve: a
// container's address can be reached as it is.
func (d *Driver) ProgramExternalConnectivity(_ context.Context, r docker.ProgramExternalConnectivityRequest) (httpapi.Empty, error) {
	if n := countPorts(r.Options); n > 0 {
		return httpapi.Empty{}, fmt.Errorf("publishing ports (-p) is not supported by the calico driver (%d asked for): "+
			"the container's own address can be reached from everywhere that routes and policy allow", n)
	}
	return httpapi.Empty{}, nil
}
