package statusapi

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"calico.internal/bgpd/internal/config"
	"calico.internal/libcalico/grpcsock"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// waitForReady makes the first call wait for the server.
var waitForReady = grpc.WaitForReady(true)

var since = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fake answers with fixed values, or an error.
type fake struct{ err error }

func (f *fake) Status(context.Context) (Status, error) {
	return Status{
		Node: "n1", Version: "v1", Started: since, ASNumber: 64512, RouterID: netip.MustParseAddr("10.0.0.1"),
		ConfigHash: "abc", ConfigError: "bad", InSync: true, Revision: 7, Connected: true,
	}, f.err
}

func (f *fake) Peers(context.Context) ([]Peer, error) {
	return []Peer{
		{Address: netip.MustParseAddr("10.0.0.2"), Type: config.PeerMesh, ASNumber: 64512, State: "established", Since: since, Received: 3, Advertised: 4},
		{Address: netip.MustParseAddr("fd00::2"), Type: config.PeerGlobal, ASNumber: 65001, State: "active", Info: "cannot connect"},
		{Address: netip.MustParseAddr("10.0.0.3"), Type: config.PeerNode, State: "idle"},
	}, f.err
}

func (f *fake) Routes(context.Context) ([]Route, error) {
	return []Route{
		{Prefix: netip.MustParsePrefix("192.168.1.0/26"), Advertised: true, InKernel: true},
		{Prefix: netip.MustParsePrefix("192.168.2.0/26"), NextHops: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Device: "eth0", Why: "not written yet"},
	}, f.err
}

func (f *fake) Reload(context.Context) (string, error) { return "abc", f.err }

func serve(t *testing.T, f *fake) (*Server, bgpdv1.BgpdClient, healthgrpc.HealthClient) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	socket := filepath.Join(t.TempDir(), Socket)
	s := New(f)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, socket) }()
	conn, err := grpcsock.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, bgpdv1.NewBgpdClient(conn), healthgrpc.NewHealthClient(conn)
}

func TestServer_translates(t *testing.T) {
	_, c, _ := serve(t, &fake{})
	ctx := t.Context()
	st, err := c.Status(ctx, &bgpdv1.StatusRequest{}, waitForReady)
	check(t, err, st, &bgpdv1.StatusResponse{
		Node: "n1", Version: "v1", Started: timestamppb.New(since), AsNumber: 64512, RouterId: "10.0.0.1",
		ConfigHash: "abc", ConfigError: "bad", InSync: true, Revision: 7, DatastoreConnected: true,
	})
	peers, err := c.ListPeers(ctx, &bgpdv1.ListPeersRequest{})
	check(t, err, peers, &bgpdv1.ListPeersResponse{Peers: []*bgpdv1.Peer{
		{Address: "10.0.0.2", Type: bgpdv1.PeerType_PEER_TYPE_MESH, AsNumber: 64512, State: "established", Since: timestamppb.New(since), Received: 3, Advertised: 4},
		{Address: "fd00::2", Type: bgpdv1.PeerType_PEER_TYPE_GLOBAL, AsNumber: 65001, State: "active", Info: "cannot connect"},
		{Address: "10.0.0.3", Type: bgpdv1.PeerType_PEER_TYPE_NODE, State: "idle"},
	}})
	routes, err := c.ListRoutes(ctx, &bgpdv1.ListRoutesRequest{})
	check(t, err, routes, &bgpdv1.ListRoutesResponse{Routes: []*bgpdv1.Route{
		{Prefix: "192.168.1.0/26", Advertised: true, InKernel: true},
		{Prefix: "192.168.2.0/26", NextHops: []string{"10.0.0.2"}, Device: "eth0", Why: "not written yet"},
	}})
	reload, err := c.Reload(ctx, &bgpdv1.ReloadRequest{})
	check(t, err, reload, &bgpdv1.ReloadResponse{ConfigHash: "abc"})
}

func check(t *testing.T, err error, got, want any) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestServer_errors(t *testing.T) {
	f := &fake{}
	_, c, _ := serve(t, f)
	if _, err := c.Reload(t.Context(), &bgpdv1.ReloadRequest{}, waitForReady); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{&InvalidError{Err: errors.New("line 3: nonsense")}, codes.InvalidArgument},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{errors.New("other"), codes.Unavailable},
	} {
		f.err = tc.err
		_, err := c.Reload(t.Context(), &bgpdv1.ReloadRequest{})
		if status.Code(err) != tc.want || status.Convert(err).Message() != tc.err.Error() {
			t.Errorf("%v became %v", tc.err, err)
		}
		for what, call := range map[string]func() error{
			"Status":     func() error { _, err := c.Status(t.Context(), &bgpdv1.StatusRequest{}); return err },
			"ListPeers":  func() error { _, err := c.ListPeers(t.Context(), &bgpdv1.ListPeersRequest{}); return err },
			"ListRoutes": func() error { _, err := c.ListRoutes(t.Context(), &bgpdv1.ListRoutesRequest{}); return err },
		} {
			if err := call(); status.Code(err) != tc.want {
				t.Errorf("%s: %v became %v", what, tc.err, err)
			}
		}
	}
}

func TestServer_health_is_readiness(t *testing.T) {
	s, _, h := serve(t, &fake{})
	for _, ready := range []bool{false, true, false} {
		s.SetReady(ready)
		for _, name := range []string{"", "calico.bgpd.v1.Bgpd"} {
			resp, err := h.Check(t.Context(), &healthgrpc.HealthCheckRequest{Service: name}, waitForReady)
			if err != nil || (resp.GetStatus() == healthgrpc.HealthCheckResponse_SERVING) != ready {
				t.Errorf("health of %q is %v (%v), want ready=%t", name, resp, err, ready)
			}
		}
	}
}
