// Package statusapi tells the other programs of this host what the plugin does (edge:
// gRPC).
package statusapi

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/version"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/registry"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
)

// Sources are where the answers come from.
type Sources struct {
	Node    string
	Started time.Time
	// Scope is what Docker was told.
	Scope func() string
	// DatastoreConnected and EngineConnected tell whether etcd and the engine answer.
	DatastoreConnected, EngineConnected func() bool
	// EngineID asks the engine for its id; it is empty when the engine does not answer soon.
	EngineID func(context.Context) string
	// Networks lists those that the plugin has met.
	Networks func() []registry.Network
	// Problems tells by name why networks are not here what they are on the other hosts.
	Problems func() map[string]string
	// Endpoints lists this node's.
	Endpoints func(context.Context) (map[string]*model.WorkloadEndpoint, error)
}

// Server answers calico.libnetwork.v1.
type Server struct {
	libnetworkv1.UnimplementedLibnetworkServer

	from Sources
}

// New returns a server.
func New(from Sources) *Server { return &Server{from: from} }

// countLimit bounds the counting of endpoints: who asks waits for a second, and etcd may be away
// before that is noticed.
const countLimit = 500 * time.Millisecond

// Status tells what the plugin told Docker and what it serves. Without etcd the
// endpoints are not counted.
func (s *Server) Status(ctx context.Context, _ *libnetworkv1.StatusRequest) (*libnetworkv1.StatusResponse, error) {
	resp := &libnetworkv1.StatusResponse{
		Node:               s.from.Node,
		Version:            version.Version,
		Started:            timestamppb.New(s.from.Started),
		Scope:              s.from.Scope(),
		DatastoreConnected: s.from.DatastoreConnected(),
		EngineConnected:    s.from.EngineConnected(),
	}
	if resp.EngineConnected {
		resp.EngineId = s.from.EngineID(ctx)
	}
	counts := make(map[string]int32)
	if resp.DatastoreConnected {
		ctx, cancel := context.WithTimeout(ctx, countLimit)
		defer cancel()
		endpoints, err := s.from.Endpoints(ctx)
		resp.DatastoreConnected = err == nil
		for _, ep := range endpoints {
			counts[ep.Annotations[endpoint.NetworkID]]++
		}
	}
	problems := s.from.Problems()
	met := make(map[string]bool)
	for _, n := range s.from.Networks() {
		met[n.Name] = true
		resp.Networks = append(resp.Networks, &libnetworkv1.Network{Name: n.Name, Id: n.ID, Endpoints: counts[n.ID], Problem: problems[n.Name]})
	}
	for name, problem := range problems {
		if !met[name] {
			resp.Networks = append(resp.Networks, &libnetworkv1.Network{Name: name, Problem: problem})
		}
	}
	slices.SortFunc(resp.Networks, func(a, b *libnetworkv1.Network) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return resp, nil
}
