// Package statusapi serves calico.bgpd.v1 and grpc.health.v1 on bgpd's unix socket. It
// only translates: what it answers comes from a [Source].
package statusapi

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/model"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Socket is the socket's name in the run directory.
const Socket = "bgpd.sock"

// Status is who the speaker is and what it runs.
type Status struct {
	Node     string
	Version  string
	Started  time.Time
	ASNumber model.ASNumber
	RouterID netip.Addr
	// ConfigHash is that of the document in force, ConfigError why the one on disk is not.
	ConfigHash, ConfigError string
	InSync                  bool
	Revision                int64
	Connected               bool
	// Problems say what this host should do and does not, and what to do about it; Notes
	// what the configuration asks for and bgpd does otherwise.
	Problems, Notes []string
}

// Peer is a session that the configuration asks for.
type Peer struct {
	Address              netip.Addr
	Type                 config.PeerType
	ASNumber             model.ASNumber
	State                string
	Since                time.Time
	Info                 string
	Received, Advertised int
}

// Route is a prefix that was learned or is advertised.
type Route struct {
	Prefix     netip.Prefix
	NextHops   []netip.Addr
	Device     string
	Advertised bool
	InKernel   bool
	Why        string
}

// Source knows the answers.
type Source interface {
	Status(ctx context.Context) (Status, error)
	Peers(ctx context.Context) ([]Peer, error)
	Routes(ctx context.Context) ([]Route, error)
	// Reload reads the configuration again and returns the hash of the one in force. An
	// [*InvalidError] says that the file does not hold a valid one.
	Reload(ctx context.Context) (hash string, err error)
}

// InvalidError is a configuration that is not put in force.
type InvalidError struct{ Err error }

// Error is the cause's text.
func (e *InvalidError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *InvalidError) Unwrap() error { return e.Err }

// Server is the socket's server.
type Server struct {
	health *health.Server
	source Source
}

// New makes a server that is not ready.
func New(source Source) *Server {
	s := &Server{health: health.NewServer(), source: source}
	s.SetReady(false)
	return s
}

// SetReady is what grpc.health.v1 tells from now on.
func (s *Server) SetReady(ready bool) {
	st := healthgrpc.HealthCheckResponse_NOT_SERVING
	if ready {
		st = healthgrpc.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", st)
	s.health.SetServingStatus(bgpdv1.Bgpd_ServiceDesc.ServiceName, st)
}

// Serve serves the socket until ctx ends.
func (s *Server) Serve(ctx context.Context, path string) error {
	return grpcsock.Serve(ctx, path, s.health, func(g *grpc.Server) {
		bgpdv1.RegisterBgpdServer(g, &service{source: s.source})
	})
}

type service struct {
	bgpdv1.UnimplementedBgpdServer

	source Source
}

// Status implements calico.bgpd.v1.
func (s *service) Status(ctx context.Context, _ *bgpdv1.StatusRequest) (*bgpdv1.StatusResponse, error) {
	st, err := s.source.Status(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	return &bgpdv1.StatusResponse{
		Node:               st.Node,
		Version:            st.Version,
		Started:            timestamppb.New(st.Started),
		AsNumber:           uint32(st.ASNumber),
		RouterId:           text(st.RouterID),
		ConfigHash:         st.ConfigHash,
		ConfigError:        st.ConfigError,
		InSync:             st.InSync,
		Revision:           st.Revision,
		DatastoreConnected: st.Connected,
		Problems:           st.Problems,
		Notes:              st.Notes,
	}, nil
}

// ListPeers implements calico.bgpd.v1.
func (s *service) ListPeers(ctx context.Context, _ *bgpdv1.ListPeersRequest) (*bgpdv1.ListPeersResponse, error) {
	peers, err := s.source.Peers(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	out := &bgpdv1.ListPeersResponse{}
	for _, p := range peers {
		out.Peers = append(out.Peers, &bgpdv1.Peer{
			Address:    p.Address.String(),
			Type:       typeOf(p.Type),
			AsNumber:   uint32(p.ASNumber),
			State:      p.State,
			Since:      timeOf(p.Since),
			Info:       p.Info,
			Received:   int32(p.Received),
			Advertised: int32(p.Advertised),
		})
	}
	return out, nil
}

// ListRoutes implements calico.bgpd.v1.
func (s *service) ListRoutes(ctx context.Context, _ *bgpdv1.ListRoutesRequest) (*bgpdv1.ListRoutesResponse, error) {
	routes, err := s.source.Routes(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	out := &bgpdv1.ListRoutesResponse{}
	for _, r := range routes {
		route := &bgpdv1.Route{
			Prefix:     r.Prefix.String(),
			Device:     r.Device,
			Advertised: r.Advertised,
			InKernel:   r.InKernel,
			Why:        r.Why,
		}
		for _, next := range r.NextHops {
			route.NextHops = append(route.NextHops, next.String())
		}
		out.Routes = append(out.Routes, route)
	}
	return out, nil
}

// Reload implements calico.bgpd.v1.
func (s *service) Reload(ctx context.Context, _ *bgpdv1.ReloadRequest) (*bgpdv1.ReloadResponse, error) {
	hash, err := s.source.Reload(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	return &bgpdv1.ReloadResponse{ConfigHash: hash}, nil
}

func statusOf(err error) error {
	var invalid *InvalidError
	switch {
	case errors.As(err, &invalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}

func typeOf(t config.PeerType) bgpdv1.PeerType {
	switch t {
	case config.PeerMesh:
		return bgpdv1.PeerType_PEER_TYPE_MESH
	case config.PeerGlobal:
		return bgpdv1.PeerType_PEER_TYPE_GLOBAL
	case config.PeerNode:
		return bgpdv1.PeerType_PEER_TYPE_NODE
	}
	return bgpdv1.PeerType_PEER_TYPE_UNSPECIFIED
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func timeOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
