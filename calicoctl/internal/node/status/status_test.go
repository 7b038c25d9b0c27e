package status

import (
	"context"
	"net"
	"os"
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
	nodev1 "calico.internal/proto/node/v1"
)

type felixServer struct {
	felixv1.UnimplementedFelixServer
	answer *felixv1.StatusResponse
}

func (f felixServer) Status(context.Context, *felixv1.StatusRequest) (*felixv1.StatusResponse, error) {
	return f.answer, nil
}

type bgpdServer struct {
	bgpdv1.UnimplementedBgpdServer
	status *bgpdv1.StatusResponse
	peers  []*bgpdv1.Peer
}

func (b bgpdServer) Status(context.Context, *bgpdv1.StatusRequest) (*bgpdv1.StatusResponse, error) {
	return b.status, nil
}

func (b bgpdServer) ListPeers(context.Context, *bgpdv1.ListPeersRequest) (*bgpdv1.ListPeersResponse, error) {
	return &bgpdv1.ListPeersResponse{Peers: b.peers}, nil
}

type node struct {
	nodev1.UnimplementedNodeServer
	answer *nodev1.StatusResponse
}

func (n node) Status(context.Context, *nodev1.StatusRequest) (*nodev1.StatusResponse, error) {
	return n.answer, nil
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

// serveBGP answers as a bgpd with three sessions.
func serveBGP(t *testing.T, dir string, now time.Time, status *bgpdv1.StatusResponse) {
	t.Helper()
	serve(t, filepath.Join(dir, "bgpd.sock"), func(s *grpc.Server) {
		bgpdv1.RegisterBgpdServer(s, bgpdServer{status: status, peers: []*bgpdv1.Peer{
			{Address: "172.17.8.101", Type: bgpdv1.PeerType_PEER_TYPE_MESH, State: "established", Since: timestamppb.New(now.Add(-time.Hour)), Info: "x"},
			{Address: "10.1.2.3", Type: bgpdv1.PeerType_PEER_TYPE_GLOBAL, State: "active", Info: "connection refused"},
			{Address: "10.1.2.4", Type: bgpdv1.PeerType_PEER_TYPE_NODE, State: "idle", Since: timestamppb.New(now.Add(-48 * time.Hour))},
		}})
	})
}

const bgpTables = `
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
`

func TestPrint(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	earlier := timestamppb.New(now.Add(-2 * time.Hour))
	dir := t.TempDir()
	serve(t, filepath.Join(dir, "node.sock"), func(s *grpc.Server) {
		nodev1.RegisterNodeServer(s, node{answer: &nodev1.StatusResponse{
			Node: "node00", Version: "v9", Started: earlier, State: nodev1.NodeState_NODE_STATE_DEGRADED,
			Identity: &nodev1.Identity{Id: "aa", Boot: "bb"}, Addresses: []string{"172.17.8.100/24"}, Backend: "gobgp", Dataplane: "iptables-nft",
			Engine:    &nodev1.Engine{Connected: true, Scope: "local"},
			Datastore: &nodev1.Datastore{Endpoints: []string{"http://10.0.0.1:2379"}, Connected: true, Since: earlier},
			Programs: []*nodev1.Program{
				{Name: "felix", Wanted: true, State: nodev1.ProgramState_PROGRAM_STATE_READY, Pid: 7, Since: earlier},
				{Name: "libnetwork", Wanted: true, State: nodev1.ProgramState_PROGRAM_STATE_CRASH_LOOP, Since: timestamppb.New(now), Restarts: 9, LastExit: "exit code 1", Why: "again"},
			},
			Problems: []*nodev1.Problem{{Object: "libnetwork", Reason: "crash loop: again", Cure: "look into its log"}, {Object: "felix", Reason: "x"}},
			Notes:    []string{"pool 10.0.0.0/8 asks for IP-in-IP"},
		}})
	})
	serveBGP(t, dir, now, nil)
	var got strings.Builder
	s := read(t, dir, func(s Status) bool { return s.Version != "" && s.BGP })
	if err := s.Print(&got, now); err != nil {
		t.Fatal(err)
	}
	want := `Calico process is running.

Node:        node00, degraded; calico-node v9 since 10:00:00
Identity:    aa, boot bb
Addresses:   172.17.8.100/24
Datastore:   http://10.0.0.1:2379, connected since 10:00:00
Docker:      engine connected, networks of scope local
Dataplane:   iptables-nft
BGP backend: gobgp

+------------+------------+----------+----------+-------------+
| PROGRAM    | STATE      | SINCE    | RESTARTS | LAST EXIT   |
+------------+------------+----------+----------+-------------+
| felix      | ready      | 10:00:00 | 0        |             |
| libnetwork | crash loop | 12:00:00 | 9        | exit code 1 |
+------------+------------+----------+----------+-------------+
` + bgpTables + `PROBLEM: libnetwork: crash loop: again
   CURE: look into its log
PROBLEM: felix: x
NOTE: pool 10.0.0.0/8 asks for IP-in-IP
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if s.Healthy() {
		t.Error("it is healthy")
	}
}

// read asks until the sockets, which other goroutines open, answer.
func read(t *testing.T, dir string, enough func(Status) bool) Status {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		s, err := Read(context.Background(), Where{RunDir: dir})
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
	s, err := Read(context.Background(), Where{RunDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := s.Print(&got, time.Now()); err != nil {
		t.Fatal(err)
	}
	want := `Calico process is not running.
PROBLEM: calico-node: does not answer: it does not run on this host; its programs were asked one by one
   CURE: docker logs calico-node says why it ended; docker start calico-node, or calicoctl node run, starts it
PROBLEM: felix: down: it does not answer
`
	if diff := cmp.Diff(want, got.String()); diff != "" || s.Healthy() {
		t.Errorf("healthy %t, status (-want +got):\n%s", s.Healthy(), diff)
	}
}

// Where calico-node is gone, its programs are asked themselves.
func TestWithoutCalicoNode(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	dir := t.TempDir()
	serve(t, filepath.Join(dir, "felix.sock"), func(s *grpc.Server) {
		felixv1.RegisterFelixServer(s, felixServer{answer: &felixv1.StatusResponse{Node: "node00", Problems: []*felixv1.Problem{{Object: "policy p", Reason: "bad selector"}}}})
	})
	serveBGP(t, dir, now, &bgpdv1.StatusResponse{Problems: []string{"this host does not have 10.0.0.1"}})
	// One that has died and left its socket.
	if err := os.WriteFile(filepath.Join(dir, "confd.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := read(t, dir, func(s Status) bool { return s.Running && s.BGP && len(s.Programs) == 4 })
	want := []Problem{
		{Object: "confd", Reason: "down: it does not answer"},
		{Object: "felix", Reason: "has not yet programmed the kernel"},
		{Object: "felix", Reason: "does not reach etcd; what is in force stays so"},
		{Object: "felix", Reason: "policy p: bad selector"},
		{Object: "bgpd", Reason: "this host does not have 10.0.0.1"},
	}
	if len(s.Problems) == 0 || s.Problems[0].Object != "calico-node" {
		t.Fatalf("problems %v", s.Problems)
	}
	if diff := cmp.Diff(want, s.Problems[1:]); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	var states []string
	for _, p := range s.Programs {
		states = append(states, p.Name+" "+p.State)
	}
	if diff := cmp.Diff([]string{"felix ready", "bgpd ready", "confd down", "calico-node down"}, states); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
	var got strings.Builder
	if err := s.Print(&got, now); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got.String(), "Calico process is running.\n\nNode:        node00, degraded\n") || !strings.Contains(got.String(), bgpTables) {
		t.Errorf("status:\n%s", got.String())
	}

	known, err := Read(context.Background(), Where{RunDir: dir, Programs: []string{"felix", "libnetwork"}})
	if err != nil {
		t.Fatal(err)
	}
	if p := known.Programs; len(p) != 3 || p[1].Name != "libnetwork" || p[1].State != Down {
		t.Errorf("programs that are known to belong here: %v", p)
	}
}

// hang opens a socket and answers nothing on it, as a program does that was stopped.
func hang(t *testing.T, path string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// TestProgramsThatHang has them named as such, with how to start them again.
func TestProgramsThatHang(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"node", "felix", "bgpd"} {
		hang(t, filepath.Join(dir, name+".sock"))
	}
	s, err := Read(t.Context(), Where{RunDir: dir, Programs: []string{"bgpd", "confd", "felix"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Problem{
		{"calico-node", "does not answer: it runs and hangs; its programs were asked one by one", "docker restart calico-node starts it again; docker logs calico-node says what it did last"},
		{"felix", "not ready: it runs and hangs", "docker exec calico-node sv restart felix"},
		{"bgpd", "not ready: it runs and hangs", "docker exec calico-node sv restart bgpd"},
		{"confd", "down: it does not answer", ""},
	}
	if diff := cmp.Diff(want, s.Problems[:min(len(s.Problems), len(want))]); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	for _, p := range s.Programs {
		if p.State == Ready {
			t.Errorf("%s is ready", p.Name)
		}
	}
	for _, p := range s.Problems {
		if strings.Contains(p.Reason, "preface") {
			t.Errorf("not in words: %+v", p)
		}
	}
}
