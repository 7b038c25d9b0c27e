// Package felix asks this host's felix whether a container's endpoint is in force
// (edge: gRPC).
package felix

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"calico.internal/libcalico/model"
	felixv1 "calico.internal/proto/felix/v1"
)

// explainLimit bounds the question what is missing, which comes after the wait has
// failed.
const explainLimit = 300 * time.Millisecond

// ErrNotInForce says that felix has not put an endpoint in force.
var ErrNotInForce = errors.New("felix has not put the endpoint in force")

// Waiter waits for felix. It is safe for concurrent use.
type Waiter struct {
	client  felixv1.FelixClient
	socket  string
	timeout time.Duration
}

// New returns a waiter over a connection to felix's socket.
func New(conn grpc.ClientConnInterface, socket string, timeout time.Duration) *Waiter {
	return &Waiter{client: felixv1.NewFelixClient(conn), socket: socket, timeout: timeout}
}

// Wait returns when the endpoint, as the store has it at the revision, is in force. A
// felix that is being restarted is waited for, too. The error says what the user can
// do.
func (w *Waiter) Wait(ctx context.Context, key model.WorkloadEndpointKey, revision int64) error {
	limited, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	request := &felixv1.WaitEndpointRequest{Id: id(key), Revision: revision}
	_, err := w.client.WaitEndpoint(limited, request, grpc.WaitForReady(true))
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: Docker gave the call up: %w", ErrNotInForce, ctx.Err())
	}
	return w.explain(ctx, key, err)
}

// explain words why the wait failed: felix is silent, or it says what is missing.
func (w *Waiter) explain(ctx context.Context, key model.WorkloadEndpointKey, err error) error {
	if s := status.Convert(err); s.Code() != codes.DeadlineExceeded && s.Code() != codes.Unavailable {
		return fmt.Errorf("%w: %s", ErrNotInForce, s.Message())
	}
	limited, cancel := context.WithTimeout(ctx, explainLimit)
	defer cancel()
	list, listErr := w.client.ListEndpoints(limited, &felixv1.ListEndpointsRequest{})
	if listErr != nil {
		return fmt.Errorf("%w: felix does not answer on %s after %s, so the container was not started unprotected; "+
			"see `calicoctl node status`, start felix and try again", ErrNotInForce, w.socket, w.timeout)
	}
	return fmt.Errorf("%w within %s: %s; see `calicoctl node status` and felix's log, then try again",
		ErrNotInForce, w.timeout, missing(list, key))
}

// missing is what felix says about one endpoint.
func missing(list *felixv1.ListEndpointsResponse, key model.WorkloadEndpointKey) string {
	for _, e := range list.GetEndpoints() {
		if e.GetId().GetEndpoint() != key.Name || e.GetId().GetNode() != key.Node {
			continue
		}
		if e.GetWhy() != "" {
			return e.GetWhy()
		}
		return "it is still at work on it"
	}
	return "it has not seen the endpoint in etcd yet"
}

// id is the key as felix's service wants it.
func id(key model.WorkloadEndpointKey) *felixv1.EndpointID {
	return &felixv1.EndpointID{
		Node: key.Node, Orchestrator: key.Orchestrator, Workload: key.Workload, Endpoint: key.Name,
	}
}

// The times of [Waiter.Ready]: for all of it, and between two questions.
const (
	readyLimit = 2 * time.Minute
	readyPause = 500 * time.Millisecond
)

// Ready returns when felix has the whole store in force, so that containers can be
// started.
func (w *Waiter) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	pause := time.NewTicker(readyPause)
	defer pause.Stop()
	for {
		s, err := w.client.Status(ctx, &felixv1.StatusRequest{}, grpc.WaitForReady(true))
		if err == nil && s.GetInSync() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("felix is not ready: %w", ctx.Err())
		case <-pause.C:
		}
	}
}
