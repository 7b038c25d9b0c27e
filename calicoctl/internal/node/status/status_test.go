package status

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/protobuf/types/known/timestamppb"

	"calico.internal/libcalico/grpcsock"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	felixv1 "calico.internal/proto/felix/v1"
)

type felix struct {
	felixv1.UnimplementedFelixServer
	answer *felixv1.StatusResponse
}

func (f felix) Status(context.Context, *felixv1.StatusRequest) (*felixv1.StatusResponse, error) {
	return f.answer, nil
}

type bgpd struct {
	bgpdv1.UnimplementedBgpdServer
	status *bgpdv1.StatusResponse
	peers  []*bgpdv1.Peer
}

func (b bgpd) Status(context.Context, *bgpdv1.StatusRequest) (*bgpdv1.StatusResponse, error) {
	return b.status, nil
}

func (b bgpd) ListPeers(context.Context, *bgpdv1.ListPeersRequest) (*bgpdv1.ListPeersResponse, error) {
	return &bgpdv1.ListPeersResponse{Peers: b.peers}, nil
}

// serve answers on a socket until the test ends.
func serve(t *testing.T, path string, register func(*grpc.Server)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- grpcsock.Serve(ctx, path, health.NewServer(), register) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPrint(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	dir := t.TempDir()
	serve(t, filepath.Join(dir, "felix.sock"), func(s *grpc.Server) {
		felixv1.RegisterFelixServer(s, felix{answer: &felixv1.StatusResponse{Node: "node00", InSync: true, DatastoreConnected: true}})
	})
	serve(t, filepath.Join(dir, "bgpd.sock"), func(s *grpc.Server) {
		bgpdv1.RegisterBgpdServer(s, bgpd{status: &bgpdv1.StatusResponse{Notes: []string{"pool 10.0.0.0/8 asks for IP-in-IP"}}, peers: []*bgpdv1.Peer{
			{Address: "172.17.8.101", Type: bgpdv1.PeerType_PEER_TYPE_MESH, State: "established", Since: timestamppb.New(now.Add(-time.Hour)), Info: "x"},
			{Address: "10.1.2.3", Type: bgpdv1.PeerType_PEER_TYPE_GLOBAL, State: "active", Info: "connection refused"},
			{Address: "10.1.2.4", Type: bgpdv1.PeerType_PEER_TYPE_NODE, State: "idle", Since: timestamppb.New(now.Add(-48 * time.Hour))},
		}})
	})
	var got strings.Builder
	s := read(t, dir, func(s Status) bool { return s.Running && s.BGP })
	if err := s.Print(&got, now); err != nil {
		t.Fatal(err)
	}
	want := `Calico process is running.

IPv4 BGP status
+--------------+-------------------+-------+------------+----------------------------+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE      | INFO                       |
+--------------+-------------------+-------+------------+----------------------------+
| 172.17.8.101 | node-to-node mesh | up    | 11:00:00   | Established                |
| 10.1.2.3     | global            | start | never      | Active: connection refused |
| 10.1.2.4     | node specific     | start | 2026-03-02 | Idle                       |
+--------------+-------------------+-------+------------+----------------------------+

IPv6 BGP status
No IPv6 peers found.
NOTE: pool 10.0.0.0/8 asks for IP-in-IP
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if !s.Healthy() {
		t.Errorf("not healthy: %v", s.Problems)
	}
}

// read asks until the sockets, which other goroutines open, answer.
func read(t *testing.T, dir string, enough func(Status) bool) Status {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		s, err := Read(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if enough(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("the programs do not answer: %+v", s)
		}
	}
}

func TestNothingRuns(t *testing.T) {
	s, err := Read(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := s.Print(&got, time.Now()); err != nil {
		t.Fatal(err)
	}
	if want := "Calico process is not running.\n"; got.String() != want || s.Healthy() {
		t.Errorf("got %q, healthy %t; want %q", got.String(), s.Healthy(), want)
	}
}

func TestProblemsAreNamed(t *testing.T) {
	dir := t.TempDir()
	serve(t, filepath.Join(dir, "felix.sock"), func(s *grpc.Server) {
		felixv1.RegisterFelixServer(s, felix{answer: &felixv1.StatusResponse{Problems: []*felixv1.Problem{{Object: "policy p", Reason: "bad selector"}}}})
	})
	serve(t, filepath.Join(dir, "bgpd.sock"), func(s *grpc.Server) {
		bgpdv1.RegisterBgpdServer(s, bgpd{status: &bgpdv1.StatusResponse{Problems: []string{"this host does not have 10.0.0.1"}}})
	})
	s := read(t, dir, func(s Status) bool { return s.Running && s.BGP })
	want := []string{
		"felix has not yet programmed the kernel",
		"felix does not reach etcd; what is in force stays so",
		"felix: policy p: bad selector",
		"bgpd: this host does not have 10.0.0.1",
	}
	if diff := cmp.Diff(want, s.Problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}
