// Package felixtest is a stand-in for felix in tests, for the ways in which it can fail
// to answer (test only).
package felixtest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	felixv1 "calico.internal/proto/felix/v1"
)

// Felix is a running stand-in.
type Felix struct {
	felixv1.UnimplementedFelixServer

	// Socket is where it listens.
	Socket string

	mu     sync.Mutex
	silent bool
	why    string
	onWait func(*felixv1.WaitEndpointRequest)
	waits  []*felixv1.WaitEndpointRequest
	change chan struct{}
	server *grpc.Server
	served chan error
}

// New returns a felix that does not listen yet.
func New(t testing.TB) *Felix {
	t.Helper()
	return &Felix{Socket: filepath.Join(t.TempDir(), "felix.sock"), change: make(chan struct{})}
}

// Start returns a felix that puts everything in force at once.
func Start(t testing.TB) *Felix {
	t.Helper()
	f := New(t)
	f.Listen(t)
	return f
}

// Listen makes felix answer until the test ends or [Felix.Stop].
func (f *Felix) Listen(t testing.TB) {
	t.Helper()
	l, err := net.Listen("unix", f.Socket)
	if err != nil {
		t.Fatal(err)
	}
	f.server, f.served = grpc.NewServer(), make(chan error, 1)
	felixv1.RegisterFelixServer(f.server, f)
	go func(s *grpc.Server, served chan error) { served <- s.Serve(l) }(f.server, f.served)
	t.Cleanup(func() { f.Stop(t) })
}

// Stop ends felix as a kill would.
func (f *Felix) Stop(t testing.TB) {
	t.Helper()
	if f.server == nil {
		return
	}
	f.server.Stop()
	if err := errors.Join(<-f.served, ignoreAbsent(os.Remove(f.Socket))); err != nil {
		t.Error(err)
	}
	f.server = nil
}

// SetSilent makes felix accept calls and answer none, as a stopped process does.
func (f *Felix) SetSilent(on bool) { f.update(func() { f.silent = on }) }

// SetWhy makes felix put nothing in force and say why; empty ends that.
func (f *Felix) SetWhy(why string) { f.update(func() { f.why = why }) }

// OnWait calls do each time a caller begins to wait.
func (f *Felix) OnWait(do func(*felixv1.WaitEndpointRequest)) { f.update(func() { f.onWait = do }) }

// Waits lists what felix was asked to wait for.
func (f *Felix) Waits() []*felixv1.WaitEndpointRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*felixv1.WaitEndpointRequest(nil), f.waits...)
}

// WaitEndpoint answers when nothing keeps felix from it.
func (f *Felix) WaitEndpoint(ctx context.Context, r *felixv1.WaitEndpointRequest) (*felixv1.WaitEndpointResponse, error) {
	f.mu.Lock()
	f.waits = append(f.waits, r)
	onWait := f.onWait
	f.mu.Unlock()
	if onWait != nil {
		onWait(r)
	}
	if !f.waitUntil(ctx, func() bool { return !f.silent && f.why == "" }) {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &felixv1.WaitEndpointResponse{Revision: r.GetRevision()}, nil
}

// Status says that felix is in sync.
func (f *Felix) Status(ctx context.Context, _ *felixv1.StatusRequest) (*felixv1.StatusResponse, error) {
	if !f.waitUntil(ctx, func() bool { return !f.silent }) {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &felixv1.StatusResponse{InSync: true}, nil
}

// ListEndpoints tells why the endpoints that were waited for are not in force.
func (f *Felix) ListEndpoints(ctx context.Context, _ *felixv1.ListEndpointsRequest) (*felixv1.ListEndpointsResponse, error) {
	if !f.waitUntil(ctx, func() bool { return !f.silent }) {
		return nil, status.Error(codes.DeadlineExceeded, "silent")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	list := &felixv1.ListEndpointsResponse{}
	for _, w := range f.waits {
		list.Endpoints = append(list.Endpoints, &felixv1.Endpoint{Id: w.GetId(), Why: f.why})
	}
	return list, nil
}

// update changes felix and wakes the calls that wait.
func (f *Felix) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.change)
	f.change = make(chan struct{})
}

// waitUntil blocks until ok, which is called with the lock held, or ctx ends.
func (f *Felix) waitUntil(ctx context.Context, ok func() bool) bool {
	for {
		f.mu.Lock()
		done, change := ok(), f.change
		f.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-change:
		}
	}
}

// ignoreAbsent forgives the removal of what is gone.
func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
