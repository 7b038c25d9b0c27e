// Package status asks calico-node of this host how it is, and bgpd for its sessions, over their
// sockets, and prints the answer. Where calico-node does not answer, the programs are asked one by
// one.
package status

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"calico.internal/libcalico/grpcsock"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	nodev1 "calico.internal/proto/node/v1"
)

// Peer is a BGP session as it is shown.
type Peer struct {
	Address string    `json:"address"`
	Type    string    `json:"type"`
	State   string    `json:"state"`
	Since   time.Time `json:"since,omitzero"`
	Info    string    `json:"info"`
	AS      uint32    `json:"asNumber"`
}

// The states of a host and of a program.
const (
	Starting  = "starting"
	Healthy   = "healthy"
	Degraded  = "degraded"
	Down      = "down"
	NotReady  = "not ready"
	Ready     = "ready"
	CrashLoop = "crash loop"
)

// Program is a program that should run on this host.
type Program struct {
	Name string `json:"name"`
	// Wanted is false when it was stopped by hand.
	Wanted   bool      `json:"wanted"`
	State    string    `json:"state"`
	PID      int32     `json:"pid,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Restarts int32     `json:"restarts"`
	LastExit string    `json:"lastExit,omitempty"`
	Why      string    `json:"why,omitempty"`
	Cure     string    `json:"cure,omitempty"`
}

// Problem is what is not as it should be.
type Problem struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
	Cure   string `json:"cure,omitempty"`
}

// Identity tells hosts of one name apart.
type Identity struct {
	ID   string `json:"id"`
	Boot string `json:"boot"`
}

// Engine is Docker's, as the plugin knows it.
type Engine struct {
	Connected bool   `json:"connected"`
	ID        string `json:"id,omitempty"`
	Scope     string `json:"scope"`
}

// Datastore is etcd, as calico-node sees it.
type Datastore struct {
	Endpoints []string  `json:"endpoints"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`
	Why       string    `json:"why,omitempty"`
}

// Status is the state of this host.
type Status struct {
	Node    string    `json:"node,omitempty"`
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started,omitzero"`
	State   string    `json:"state"`
	// Running is whether felix runs.
	Running   bool       `json:"running"`
	Identity  *Identity  `json:"identity,omitempty"`
	Addresses []string   `json:"addresses,omitempty"`
	Datastore *Datastore `json:"datastore,omitempty"`
	// FromRecord says that the programs run by what the host remembers, since etcd did not
	// answer.
	FromRecord bool      `json:"fromRecord,omitempty"`
	Engine     *Engine   `json:"engine,omitempty"`
	Dataplane  string    `json:"dataplane,omitempty"`
	Backend    string    `json:"backend,omitempty"`
	Programs   []Program `json:"programs"`
	// BGP is whether bgpd answers.
	BGP   bool   `json:"bgp"`
	Peers []Peer `json:"peers"`
	// Problems say what is not as it should be.
	Problems []Problem `json:"problems,omitempty"`
	// Notes say what is configured and done otherwise.
	Notes []string `json:"notes,omitempty"`
}

// Healthy reports whether all is as it should be with the host's own programs. Sessions that other
// hosts do not answer do not count.
func (s Status) Healthy() bool { return s.State == Healthy }

func (s *Status) add(object, cure, format string, args ...any) {
	s.Problems = append(s.Problems, Problem{Object: object, Reason: fmt.Sprintf(format, args...), Cure: cure})
}

// limit bounds all questions together.
const limit = 5 * time.Second

// Where is where a host's programs are found.
type Where struct {
	// RunDir is the directory of their sockets.
	RunDir string
	// Programs are those that should run here, if that is known without asking.
	Programs []string
}

// Read asks the programs of this host.
func Read(ctx context.Context, w Where) (Status, error) {
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s := Status{Peers: []Peer{}, Programs: []Program{}}
	answer, err := askNode(ctx, filepath.Join(w.RunDir, "node.sock"))
	switch {
	case err == nil:
		s.take(answer)
	case notPermitted(err):
		return s, errors.New("Need super user privileges: Operation not permitted") //nolint:staticcheck // ST1005: the original's message
	default:
		// calico-node may have taken all of the time.
		each, cancel := context.WithTimeout(whole, limit)
		defer cancel()
		if err := s.askEach(each, w, err); err != nil {
			return s, err
		}
		ctx = each
	}
	s.readPeers(ctx, filepath.Join(w.RunDir, "bgpd.sock"))
	return s, nil
}

func notPermitted(err error) bool {
	return errors.Is(err, os.ErrPermission) || strings.Contains(grpcstatus.Convert(err).Message(), "permission denied")
}

// with asks a question on a socket.
func with(socket string, question func(*grpc.ClientConn) error) error {
	if _, err := os.Stat(socket); err != nil {
		return err
	}
	conn, err := grpcsock.Dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only asked
	return question(conn)
}

func askNode(ctx context.Context, socket string) (answer *nodev1.StatusResponse, err error) {
	err = with(socket, func(c *grpc.ClientConn) (err error) {
		answer, err = nodev1.NewNodeClient(c).Status(ctx, &nodev1.StatusRequest{})
		return err
	})
	return answer, err
}

var nodeStates = map[nodev1.NodeState]string{
	nodev1.NodeState_NODE_STATE_STARTING: Starting,
	nodev1.NodeState_NODE_STATE_HEALTHY:  Healthy,
	nodev1.NodeState_NODE_STATE_DEGRADED: Degraded,
}

var programStates = map[nodev1.ProgramState]string{
	nodev1.ProgramState_PROGRAM_STATE_DOWN:       Down,
	nodev1.ProgramState_PROGRAM_STATE_STARTING:   Starting,
	nodev1.ProgramState_PROGRAM_STATE_NOT_READY:  NotReady,
	nodev1.ProgramState_PROGRAM_STATE_READY:      Ready,
	nodev1.ProgramState_PROGRAM_STATE_CRASH_LOOP: CrashLoop,
}

// take takes over what calico-node says.
func (s *Status) take(a *nodev1.StatusResponse) {
	s.Node, s.Version, s.State = a.GetNode(), a.GetVersion(), nodeStates[a.GetState()]
	s.Started, s.Addresses, s.Backend, s.Dataplane = at(a.GetStarted()), a.GetAddresses(), a.GetBackend(), a.GetDataplane()
	s.FromRecord, s.Notes = a.GetStartup().GetFromRecord(), a.GetNotes()
	if i := a.GetIdentity(); i.GetId() != "" {
		s.Identity = &Identity{ID: i.GetId(), Boot: i.GetBoot()}
	}
	if e := a.GetEngine(); e != nil {
		s.Engine = &Engine{Connected: e.GetConnected(), ID: e.GetId(), Scope: e.GetScope()}
	}
	if d := a.GetDatastore(); d != nil {
		s.Datastore = &Datastore{Endpoints: d.GetEndpoints(), Connected: d.GetConnected(), Since: at(d.GetSince()), Why: d.GetWhy()}
	}
	for _, p := range a.GetPrograms() {
		s.Programs = append(s.Programs, Program{
			Name: p.GetName(), Wanted: p.GetWanted(), State: programStates[p.GetState()], PID: p.GetPid(), Since: at(p.GetSince()),
			Restarts: p.GetRestarts(), LastExit: p.GetLastExit(), Why: p.GetWhy(), Cure: p.GetCure(),
		})
		s.Running = s.Running || p.GetName() == felix && p.GetPid() != 0
	}
	for _, p := range a.GetProblems() {
		s.Problems = append(s.Problems, Problem{Object: p.GetObject(), Reason: p.GetReason(), Cure: p.GetCure()})
	}
}

func at(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime().Local()
}

// readPeers asks bgpd for its sessions. That it does not answer is told already.
func (s *Status) readPeers(ctx context.Context, socket string) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	err := with(socket, func(c *grpc.ClientConn) error {
		answer, err := bgpdv1.NewBgpdClient(c).ListPeers(ctx, &bgpdv1.ListPeersRequest{})
		if err != nil {
			return err
		}
		s.BGP = true
		for _, p := range answer.GetPeers() {
			s.Peers = append(s.Peers, shown(p))
		}
		return nil
	})
	if code := grpcstatus.Code(err); err != nil && !errors.Is(err, os.ErrNotExist) && code != codes.Unavailable {
		reason, hangs := silence(err)
		s.State = Degraded
		i := slices.IndexFunc(s.Programs, func(p Program) bool { return p.Name == bgpd })
		if hangs && i >= 0 && s.Programs[i].State == Ready {
			s.Programs[i].State, s.Programs[i].Why = NotReady, reason
		}
		s.add(bgpd, "", "does not tell its sessions: %s", reason)
	}
}

var typeNames = map[bgpdv1.PeerType]string{
	bgpdv1.PeerType_PEER_TYPE_MESH:   "node-to-node mesh",
	bgpdv1.PeerType_PEER_TYPE_GLOBAL: "global",
	bgpdv1.PeerType_PEER_TYPE_NODE:   "node specific",
}

// shown gives a session the words that users know from BIRD: up or start, and the BGP
// state as the information.
func shown(p *bgpdv1.Peer) Peer {
	out := Peer{Address: p.GetAddress(), Type: typeNames[p.GetType()], State: "start", AS: p.GetAsNumber(), Since: at(p.GetSince())}
	if p.GetState() == "established" {
		out.State = "up"
	}
	out.Info = capitalised(p.GetState())
	if p.GetInfo() != "" && out.State != "up" {
		out.Info += ": " + p.GetInfo()
	}
	return out
}

func capitalised(word string) string {
	for i, r := range word {
		return string(unicode.ToUpper(r)) + word[i+len(string(r)):]
	}
	return word
}
