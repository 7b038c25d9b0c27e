package status

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"

	bgpdv1 "calico.internal/proto/bgpd/v1"
	felixv1 "calico.internal/proto/felix/v1"
)

// The names of the programs, which are those of their sockets.
const (
	felix      = "felix"
	bgpd       = "bgpd"
	calicoNode = "calico-node"
)

// programs are those that may run on a host besides calico-node.
var programs = []string{felix, bgpd, "confd", "libnetwork"}

// expected are the programs that should run here: those that are known, or else felix and those that
// have left a socket.
func (w Where) expected() []string {
	var out []string
	for _, name := range programs {
		_, err := os.Stat(filepath.Join(w.RunDir, name+".sock"))
		if slices.Contains(w.Programs, name) || len(w.Programs) == 0 && (name == felix || err == nil) {
			out = append(out, name)
		}
	}
	return out
}

// askEach asks the programs one by one, since calico-node did not answer, which why says.
func (s *Status) askEach(ctx context.Context, w Where, why error) error {
	s.State = Degraded
	reason, hangs := silence(why)
	cure := "docker logs calico-node says why it ended; docker start calico-node, or calicoctl node run, starts it"
	if hangs {
		cure = "docker restart calico-node starts it again; docker logs calico-node says what it did last"
	}
	s.add(calicoNode, cure, "does not answer: %s; its programs were asked one by one", reason)
	for _, name := range w.expected() {
		p, cure := Program{Name: name, Wanted: true, State: Ready}, ""
		serving, err := askHealth(ctx, filepath.Join(w.RunDir, name+".sock"))
		switch {
		case err != nil && notPermitted(err):
			return errors.New("Need super user privileges: Operation not permitted") //nolint:staticcheck // ST1005: the original's message
		case err != nil:
			p.State, p.Why = Down, "it does not answer"
			if reason, hangs := silence(err); hangs {
				p.State, p.Why, cure = NotReady, reason, "docker exec calico-node sv restart "+name
			}
		case !serving:
			p.State, p.Why = NotReady, "it says that it is not ready"
		}
		s.Running = s.Running || name == felix && p.State != Down
		p.Cure = cure
		s.Programs = append(s.Programs, p)
		if p.State != Ready {
			s.add(name, cure, "%s: %s", p.State, p.Why)
		}
	}
	own := Program{Name: calicoNode, Wanted: true, State: Down, Why: reason, Cure: cure}
	if hangs {
		own.State = NotReady
	}
	s.Programs = append(s.Programs, own)
	s.askFelix(ctx, filepath.Join(w.RunDir, felix+".sock"))
	s.askBGP(ctx, filepath.Join(w.RunDir, bgpd+".sock"))
	return nil
}

// silence says in words why a program did not answer, and whether it hangs: it has its socket open
// and takes no question from it. gRPC says that in several ways, of which none is for people.
func silence(err error) (reason string, hangs bool) {
	switch code := grpcstatus.Code(err); {
	case errors.Is(err, os.ErrNotExist):
		return "it does not run on this host", false
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded,
		code == codes.Unavailable && strings.Contains(err.Error(), "server preface"):
		return "it runs and hangs", true
	case code == codes.Unavailable:
		return "it has ended and left its socket", false
	}
	return grpcstatus.Convert(err).Message(), false
}

// askLimit bounds one question to one program: one that hangs must not take the time of the others.
const askLimit = time.Second

func askHealth(ctx context.Context, socket string) (serving bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	err = with(socket, func(c *grpc.ClientConn) error {
		answer, err := healthgrpc.NewHealthClient(c).Check(ctx, &healthgrpc.HealthCheckRequest{})
		serving = answer.GetStatus() == healthgrpc.HealthCheckResponse_SERVING
		return err
	})
	return serving, err
}

func (s *Status) askFelix(ctx context.Context, socket string) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	_ = with(socket, func(c *grpc.ClientConn) error { // one that does not answer is told already
		answer, err := felixv1.NewFelixClient(c).Status(ctx, &felixv1.StatusRequest{})
		if err != nil {
			return err
		}
		s.Node, s.Dataplane = answer.GetNode(), answer.GetDataplane()
		if !answer.GetInSync() {
			s.add(felix, "", "has not yet programmed the kernel")
		}
		if !answer.GetDatastoreConnected() {
			s.add(felix, "", "does not reach etcd; what is in force stays so")
		}
		for _, p := range answer.GetProblems() {
			s.add(felix, "", "%s: %s", p.GetObject(), p.GetReason())
		}
		return nil
	})
}

func (s *Status) askBGP(ctx context.Context, socket string) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	_ = with(socket, func(c *grpc.ClientConn) error { // one that does not answer is told already
		answer, err := bgpdv1.NewBgpdClient(c).Status(ctx, &bgpdv1.StatusRequest{})
		if err != nil {
			return err
		}
		if e := answer.GetConfigError(); e != "" {
			s.add(bgpd, "", "runs the last good configuration, the newest is refused: %s", e)
		}
		for _, p := range answer.GetProblems() {
			s.add(bgpd, "", "%s", p)
		}
		s.Notes = answer.GetNotes()
		return nil
	})
}
