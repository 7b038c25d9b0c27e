// Package statusapi tells other programs of this host how it and its programs are (edge:
// gRPC). What only a program knows, it is asked.
package statusapi

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"calico.internal/calico-node/internal/judge"
	"calico.internal/libcalico/grpcsock"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	felixv1 "calico.internal/proto/felix/v1"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
	nodev1 "calico.internal/proto/node/v1"
)

// askLimit bounds the questions to the programs.
const askLimit = time.Second

// Snapshot is what calico-node itself knows at a moment.
type Snapshot struct {
	Node, Version string
	Started       time.Time
	ID, Boot      string
	Addresses     []string
	Backend       string
	Endpoints     []string
	Host          judge.Node
	Programs      []judge.Program
}

// Server answers calico.node.v1.
type Server struct {
	nodev1.UnimplementedNodeServer

	snapshot func() Snapshot
	runDir   string
}

// New returns a server for the programs whose sockets are in a directory.
func New(runDir string, snapshot func() Snapshot) *Server {
	return &Server{snapshot: snapshot, runDir: runDir}
}

// Status tells who this host is, which programs run on it, and what is not as it should be.
func (s *Server) Status(ctx context.Context, _ *nodev1.StatusRequest) (*nodev1.StatusResponse, error) {
	at := s.snapshot()
	told := s.ask(ctx, at.Programs)
	told.explain(at.Programs)
	problems := append(judge.Problems(at.Host, at.Programs), told.problems(at.Host.Connected)...)
	state := judge.Sum(at.Host, at.Programs, len(problems))
	out := &nodev1.StatusResponse{
		Node: at.Node, Version: at.Version, Started: timestamppb.New(at.Started), State: states[state],
		Identity: &nodev1.Identity{Id: at.ID, Boot: at.Boot}, Addresses: at.Addresses, Backend: at.Backend,
		Datastore: &nodev1.Datastore{Endpoints: at.Endpoints, Connected: at.Host.Connected, Why: at.Host.Why},
		Startup:   &nodev1.Startup{Done: at.Host.StartedUp, FromRecord: at.Host.FromRecord, Why: at.Host.StartupWhy},
		Dataplane: told.felix.GetDataplane(), Notes: told.bgpd.GetNotes(), Engine: told.engine(),
	}
	if !at.Host.Since.IsZero() {
		out.Datastore.Since = timestamppb.New(at.Host.Since)
	}
	for _, p := range at.Programs {
		out.Programs = append(out.Programs, program(p))
	}
	for _, p := range problems {
		out.Problems = append(out.Problems, &nodev1.Problem{Object: p.Object, Reason: p.Reason, Cure: p.Cure})
	}
	return out, nil
}

var states = map[judge.NodeState]nodev1.NodeState{
	judge.NodeStarting: nodev1.NodeState_NODE_STATE_STARTING,
	judge.NodeHealthy:  nodev1.NodeState_NODE_STATE_HEALTHY,
	judge.NodeDegraded: nodev1.NodeState_NODE_STATE_DEGRADED,
}

var programStates = map[judge.State]nodev1.ProgramState{
	judge.Down:      nodev1.ProgramState_PROGRAM_STATE_DOWN,
	judge.Starting:  nodev1.ProgramState_PROGRAM_STATE_STARTING,
	judge.NotReady:  nodev1.ProgramState_PROGRAM_STATE_NOT_READY,
	judge.Ready:     nodev1.ProgramState_PROGRAM_STATE_READY,
	judge.CrashLoop: nodev1.ProgramState_PROGRAM_STATE_CRASH_LOOP,
}

func program(p judge.Program) *nodev1.Program {
	out := &nodev1.Program{
		Name: p.Name, Wanted: p.Wanted, State: programStates[p.State], Pid: int32(p.PID), Restarts: int32(p.Restarts), //nolint:gosec // a process id, a count
		LastExit: p.LastExit, Why: p.Why, Cure: p.Cure,
	}
	if !p.Since.IsZero() {
		out.Since = timestamppb.New(p.Since)
	}
	return out
}

// answers are what programs say of themselves; nil where one does not answer.
type answers struct {
	felix      *felixv1.StatusResponse
	bgpd       *bgpdv1.StatusResponse
	libnetwork *libnetworkv1.StatusResponse
	failed     []judge.Problem
}

// ask asks the programs that answer, all at once.
func (s *Server) ask(ctx context.Context, programs []judge.Program) answers {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var a answers
	var mu sync.Mutex
	var asking sync.WaitGroup
	questions := map[string]func(*grpc.ClientConn) error{
		"confd": func(c *grpc.ClientConn) error { // which has no more to tell
			_, err := healthgrpc.NewHealthClient(c).Check(ctx, &healthgrpc.HealthCheckRequest{})
			return err
		},
		"felix": func(c *grpc.ClientConn) (err error) {
			a.felix, err = felixv1.NewFelixClient(c).Status(ctx, &felixv1.StatusRequest{})
			return err
		},
		"bgpd": func(c *grpc.ClientConn) (err error) {
			a.bgpd, err = bgpdv1.NewBgpdClient(c).Status(ctx, &bgpdv1.StatusRequest{})
			return err
		},
		"libnetwork": func(c *grpc.ClientConn) (err error) {
			a.libnetwork, err = libnetworkv1.NewLibnetworkClient(c).Status(ctx, &libnetworkv1.StatusRequest{})
			return err
		},
	}
	for _, p := range programs {
		question := questions[p.Name]
		if question == nil || !p.Answers {
			continue
		}
		asking.Go(func() {
			// An older program may not know the question.
			if err := s.with(p.Name, question); err != nil && p.State == judge.Ready && grpcstatus.Code(err) != codes.Unimplemented {
				mu.Lock()
				defer mu.Unlock()
				a.failed = append(a.failed, judge.Problem{Object: p.Name, Reason: "does not tell how it is: " + grpcstatus.Convert(err).Message()})
			}
		})
	}
	asking.Wait()
	return a
}

func (s *Server) with(program string, question func(*grpc.ClientConn) error) error {
	conn, err := grpcsock.Dial(filepath.Join(s.runDir, program+".sock"))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only asked
	return question(conn)
}

// explain says more precisely why a program is not ready.
func (a answers) explain(programs []judge.Program) {
	for i, p := range programs {
		if p.Name == "felix" && p.State == judge.NotReady && a.felix != nil && !a.felix.GetInSync() {
			programs[i].Why = "it has not yet programmed the kernel"
		}
	}
}

func (a answers) engine() *nodev1.Engine {
	if a.libnetwork == nil {
		return nil
	}
	return &nodev1.Engine{Connected: a.libnetwork.GetEngineConnected(), Id: a.libnetwork.GetEngineId(), Scope: a.libnetwork.GetScope()}
}

// problems are what the programs name.
func (a answers) problems(connected bool) []judge.Problem {
	out := a.failed
	add := func(object, format string, args ...any) {
		out = append(out, judge.Problem{Object: object, Reason: fmt.Sprintf(format, args...)})
	}
	if a.felix != nil {
		if !a.felix.GetDatastoreConnected() && connected {
			add("felix", "does not reach etcd; what is in force stays so")
		}
		for _, p := range a.felix.GetProblems() {
			add("felix", "%s: %s", p.GetObject(), p.GetReason())
		}
	}
	if e := a.bgpd.GetConfigError(); e != "" {
		add("bgpd", "runs the last good configuration, the newest is refused: %s", e)
	}
	for _, p := range a.bgpd.GetProblems() {
		add("bgpd", "%s", p)
	}
	if a.libnetwork != nil && !a.libnetwork.GetEngineConnected() {
		out = append(out, judge.Problem{Object: "libnetwork", Reason: "Docker's engine does not answer", Cure: "docker version says whether it runs"})
	}
	for _, n := range a.libnetwork.GetNetworks() {
		if p := n.GetProblem(); p != "" {
			out = append(out, judge.Problem{
				Object: "network " + n.GetName(), Reason: p,
				Cure: "calicoctl get network " + n.GetName() + " -o wide shows all hosts; rename this host's network, or remove it and take the others'",
			})
		}
	}
	return out
}
