package statusapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"calico.internal/libcalico/model"
	felixv1 "calico.internal/proto/felix/v1"
)

// Server answers calico.felix.v1.Felix from a board.
type Server struct {
	felixv1.UnimplementedFelixServer

	board *Board
}

// NewServer makes the server of a board.
func NewServer(b *Board) *Server { return &Server{board: b} }

// Status tells what felix knows and has programmed.
func (s *Server) Status(context.Context, *felixv1.StatusRequest) (*felixv1.StatusResponse, error) {
	st, _ := s.board.State()
	out := &felixv1.StatusResponse{
		Node:               st.Node,
		Version:            st.Version,
		Started:            timestamppb.New(st.Started),
		InSync:             st.InSync,
		Revision:           st.Revision,
		Dataplane:          st.Dataplane,
		DatastoreConnected: st.Connected,
		DatastoreHeld:      st.Hold,
	}
	for _, t := range st.Tables {
		out.Tables = append(out.Tables, &felixv1.Table{
			Name: t.Name, Desired: int32(t.Desired), Actual: int32(t.Actual), Pending: int32(t.Pending),
		})
	}
	if st.Hold != "" {
		out.Problems = append(out.Problems, &felixv1.Problem{Object: "datastore", Reason: st.Hold})
	}
	if st.Fault != "" {
		out.Problems = append(out.Problems, &felixv1.Problem{Object: "dataplane", Reason: st.Fault})
	}
	for _, p := range st.Problems {
		out.Problems = append(out.Problems, &felixv1.Problem{Object: p.Object, Reason: p.Reason})
	}
	return out, nil
}

// WaitEndpoint answers once an endpoint of this host is in force at or past a revision. It
// does not wait for a store that is not followed until somebody says so.
func (s *Server) WaitEndpoint(ctx context.Context, r *felixv1.WaitEndpointRequest) (*felixv1.WaitEndpointResponse, error) {
	id := r.GetId()
	key := model.WorkloadEndpointKey{
		Node: id.GetNode(), Orchestrator: id.GetOrchestrator(), Workload: id.GetWorkload(), Name: id.GetEndpoint(),
	}
	if st, _ := s.board.State(); key.Node != st.Node {
		return nil, status.Errorf(codes.InvalidArgument, "endpoint %s is not of this host, which is node %q", key, st.Node)
	}
	ctx, cancel := answerInTime(ctx)
	defer cancel()
	for {
		st, changed := s.board.State()
		missing := st.missing(key, r.GetRevision())
		if missing == "" {
			return &felixv1.WaitEndpointResponse{Revision: st.Revision}, nil
		}
		if st.Held && missing == st.Hold {
			return nil, status.Errorf(codes.FailedPrecondition, "endpoint %s is not in force: %s", key, missing)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			code := status.FromContextError(ctx.Err()).Code()
			if missing == st.Hold {
				code = codes.FailedPrecondition
			}
			return nil, status.Errorf(code, "endpoint %s is not in force: %s", key, missing)
		}
	}
}

// The part of the caller's time that is left for the answer to reach it, and its bounds.
const (
	answerPart = 10
	minAnswer  = 5 * time.Millisecond
	maxAnswer  = 100 * time.Millisecond
)

// answerInTime ends a little before the caller's deadline, so that the caller gets the
// sentence that says what is missing, and not only its own time-out.
func answerInTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	early := min(max(time.Until(deadline)/answerPart, minAnswer), maxAnswer)
	return context.WithDeadline(ctx, deadline.Add(-early))
}

// missing says why an endpoint is not in force at a revision; empty when it is.
func (s *State) missing(key model.WorkloadEndpointKey, revision int64) string {
	e, known := s.Endpoints[key]
	switch {
	case s.Hold != "" && (!s.InSync || s.Seen < revision || s.Revision < revision || !known):
		return s.Hold
	case !s.InSync && s.Fault != "":
		return "felix cannot program the kernel: " + s.Fault
	case !s.InSync && !s.Connected:
		return "felix has not read etcd yet, which does not answer"
	case !s.InSync:
		return "felix has not read and applied all of etcd yet"
	case s.Seen < revision && !s.Connected:
		return fmt.Sprintf("felix has read etcd up to revision %d of %d, and etcd does not answer", s.Seen, revision)
	case s.Seen < revision:
		return fmt.Sprintf("felix has read etcd up to revision %d of %d", s.Seen, revision)
	case s.Revision < revision && s.Fault != "":
		return "felix cannot program the kernel: " + s.Fault
	case s.Revision < revision:
		return fmt.Sprintf("felix has applied etcd's revision %d, not yet %d", s.Revision, revision)
	case s.Refused[key] != "":
		return s.Refused[key]
	case !known:
		return "etcd has no such endpoint"
	}
	return e.Why
}

// ListEndpoints lists the endpoints of this host, sorted.
func (s *Server) ListEndpoints(context.Context, *felixv1.ListEndpointsRequest) (*felixv1.ListEndpointsResponse, error) {
	st, _ := s.board.State()
	out := &felixv1.ListEndpointsResponse{}
	list := map[model.WorkloadEndpointKey]Endpoint{}
	maps.Copy(list, st.Endpoints)
	for key, why := range st.Refused {
		e := list[key]
		e.Why = why
		list[key] = e
	}
	for _, key := range slices.SortedFunc(maps.Keys(list), func(a, b model.WorkloadEndpointKey) int { return model.Compare(a, b) }) {
		e := list[key]
		item := &felixv1.Endpoint{
			Id:        &felixv1.EndpointID{Node: key.Node, Orchestrator: key.Orchestrator, Workload: key.Workload, Endpoint: key.Name},
			Interface: e.Interface,
			Profiles:  e.Profiles,
			Policies:  e.Policies,
			InForce:   e.InForce(),
			Why:       e.Why,
		}
		for _, p := range e.Addresses {
			item.Addresses = append(item.Addresses, p.String())
		}
		out.Endpoints = append(out.Endpoints, item)
	}
	return out, nil
}
