package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/nettest"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	felixv1 "calico.internal/proto/felix/v1"
)

// Host is a namespace with a node of Calico.
type Host struct {
	*nettest.Host

	Node string
	// Dir holds the sockets and files of the host.
	Dir string
	// Relay is the host's way to etcd.
	Relay *nettest.Relay
	// Caps, when not nil, names programs that run with these capabilities alone, separated
	// by commas.
	Caps map[string]string
	// Programs, when not empty, is where programs are that take the place of the built ones.
	Programs string
	// Felix, BGPD and Confd are the programs that were started last.
	Felix, BGPD, Confd *nettest.Process
	// CalicoNode is what [Host.StartNode] started last.
	CalicoNode *nettest.Process

	cluster *Cluster
}

// Command is a program of the suite, or of the machine, as it runs on the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := h.Host.Command(ctx, h.program(name), args...)
	cmd.Dir = h.Dir
	cmd.Env = append(os.Environ(), "NODENAME="+h.Node, "ETCD_ENDPOINTS=http://"+storeInside,
		hostrecord.DirVariable+"="+h.State(),
		"PATH="+filepath.Join(h.cluster.root, "bin")+":"+os.Getenv("PATH"))
	return cmd
}

// program finds a program by its name.
func (h *Host) program(name string) string {
	for _, dir := range []string{h.Programs, filepath.Join(h.cluster.root, "bin")} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); dir != "" && err == nil {
			return path
		}
	}
	return name
}

func (h *Host) start(name string, env []string, args ...string) *nettest.Process {
	cmd := h.Command(context.Background(), name, args...)
	if caps, limited := h.Caps[name]; limited {
		keep := "-all"
		if caps != "" {
			keep += ",+" + strings.ReplaceAll(caps, ",", ",+")
		}
		cmd = h.Command(context.Background(), "setpriv", append([]string{"--bounding-set", keep, "--inh-caps", "-all", h.program(name)}, args...)...)
	}
	cmd.Env = append(cmd.Env, env...)
	return h.StartCommand(cmd)
}

// Ctl runs calicoctl, and gives what it prints on both streams and its exit code.
func (h *Host) Ctl(env []string, args ...string) (out string, code int) {
	h.cluster.T.Helper()
	cmd := h.Command(h.cluster.T.Context(), "calicoctl", args...)
	cmd.Env = append(cmd.Env, env...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.cluster.T.Fatalf("calicoctl %s: %v", strings.Join(args, " "), err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// StartUp does what the container calico-node does first, and writes confd's folder.
func (h *Host) StartUp() {
	h.cluster.T.Helper()
	out, code := h.Ctl([]string{"IP=" + h.Addr(false).String(), "IP6=" + h.Addr(true).String()}, "node", "startup", "--run-dir", h.Dir)
	if code != 0 {
		h.cluster.T.Fatalf("start-up of %s:\n%s", h.Node, out)
	}
	h.writeConfd()
}

// writeConfd copies confd's folder with the paths of this host.
func (h *Host) writeConfd() {
	t := h.cluster.T
	t.Helper()
	for _, d := range []string{"conf.d", "templates", "config"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := h.cluster.root
	h.copyFile(filepath.Join(root, "confd-templates/templates/bgpd.toml.template"), "templates/bgpd.toml.template", strings.NewReplacer())
	h.copyFile(filepath.Join(root, "confd-templates/conf.d/bgpd.toml"), "conf.d/bgpd.toml", strings.NewReplacer(
		`"/etc/calico/confd/config/bgpd.toml"`, fmt.Sprintf("%q", h.BGPConfig()),
		`"bgpd reload"`, fmt.Sprintf("%q", "bgpd reload --run-dir "+h.Dir)))
}

// ShortTimes has bgpd use a hold time and a restart time of some seconds, so that a test can
// outlast both. It is for a host whose confd does not run yet.
func (h *Host) ShortTimes(hold, restart time.Duration) {
	h.cluster.T.Helper()
	h.copyFile(filepath.Join(h.cluster.root, "confd-templates/templates/bgpd.toml.template"), "templates/bgpd.toml.template", strings.NewReplacer(
		"[mesh]", fmt.Sprintf("[timers]\nhold = %d\nrestart = %d\n\n[mesh]", int(hold.Seconds()), int(restart.Seconds()))))
}

// State is the directory of what the host remembers.
func (h *Host) State() string { return filepath.Join(h.Dir, "state") }

func (h *Host) copyFile(from, to string, change *strings.Replacer) {
	t := h.cluster.T
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.Dir, to), []byte(change.Replace(string(data))), 0o644); err != nil {
		t.Fatal(err)
	}
}

// BGPConfig is the path of bgpd's document.
func (h *Host) BGPConfig() string { return filepath.Join(h.Dir, "config/bgpd.toml") }

// StartFelix starts felix with parameters "NAME=value".
func (h *Host) StartFelix(params ...string) {
	env := []string{"XTABLES_LOCKFILE=" + h.LockFile()}
	for _, p := range params {
		env = append(env, "FELIX_"+p)
	}
	h.Felix = h.start("calico-felix", env, "run", "--run-dir", h.Dir)
}

// LockFile is the lock that all programs share which write the host's legacy tables.
func (h *Host) LockFile() string { return filepath.Join(h.Dir, "xtables.lock") }

// StartBGP starts bgpd and confd.
func (h *Host) StartBGP() {
	h.StartBGPD()
	h.StartConfd()
}

// StartBGPD starts bgpd alone.
func (h *Host) StartBGPD() {
	h.BGPD = h.start("bgpd", nil, "run", "--config", h.BGPConfig(), "--run-dir", h.Dir)
}

// StartConfd starts confd.
func (h *Host) StartConfd() {
	h.Confd = h.start("confd", nil, "-confdir", h.Dir, "-run-dir", h.Dir, "-watch")
}

// FelixStatus asks felix for its state.
func (h *Host) FelixStatus() (st *felixv1.StatusResponse, err error) {
	err = h.ask("felix", func(ctx context.Context, conn *grpc.ClientConn) error {
		st, err = felixv1.NewFelixClient(conn).Status(ctx, &felixv1.StatusRequest{})
		return err
	})
	return st, err
}

// AwaitSync waits until felix has programmed everything.
func (h *Host) AwaitSync() {
	h.cluster.T.Helper()
	nettest.Eventually(h.cluster.T, Patience, func() error {
		st, err := h.FelixStatus()
		if err == nil && !st.GetInSync() {
			err = fmt.Errorf("%s is not in sync: %v", h.Node, st)
		}
		return err
	})
}

// AwaitProblem waits until felix reports a problem with a text in it.
func (h *Host) AwaitProblem(text string) {
	h.cluster.T.Helper()
	nettest.Eventually(h.cluster.T, Patience, func() error {
		st, err := h.FelixStatus()
		if err != nil {
			return err
		}
		for _, p := range st.GetProblems() {
			if strings.Contains(p.GetObject()+": "+p.GetReason(), text) {
				return nil
			}
		}
		return fmt.Errorf("%s: no problem says %q: %v", h.Node, text, st.GetProblems())
	})
}

// Peers lists bgpd's sessions: address and state.
func (h *Host) Peers() (states map[string]string, err error) {
	states = map[string]string{}
	err = h.ask("bgpd", func(ctx context.Context, conn *grpc.ClientConn) error {
		answer, err := bgpdv1.NewBgpdClient(conn).ListPeers(ctx, &bgpdv1.ListPeersRequest{})
		for _, p := range answer.GetPeers() {
			states[p.GetAddress()] = p.GetState()
		}
		return err
	})
	return states, err
}

// ask calls one of the host's programs.
func (h *Host) ask(program string, do func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeout(h.cluster.T.Context(), 5*time.Second)
	defer cancel()
	conn, err := grpcsock.Dial(filepath.Join(h.Dir, program+".sock"))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only asked
	return do(ctx, conn)
}

// Ready asks whether a program of the host is ready.
func (h *Host) Ready(program string) (ready bool, err error) {
	err = h.ask(program, func(ctx context.Context, conn *grpc.ClientConn) error {
		answer, err := healthgrpc.NewHealthClient(conn).Check(ctx, &healthgrpc.HealthCheckRequest{})
		ready = answer.GetStatus() == healthgrpc.HealthCheckResponse_SERVING
		return err
	})
	return ready, err
}

// HasPeer waits until bgpd's list holds a peer (with a state, unless that is empty).
func (h *Host) HasPeer(address, state string) {
	h.cluster.T.Helper()
	nettest.Eventually(h.cluster.T, Patience, func() error {
		states, err := h.Peers()
		if err != nil {
			return err
		}
		if got, ok := states[address]; !ok || (state != "" && got != state) {
			return fmt.Errorf("%s: peers %v, want %s %s", h.Node, states, address, state)
		}
		return nil
	})
}

// Routes is what `ip route` prints.
func (h *Host) Routes() string { return h.Run("ip", "route") }

// HasRoute waits for a line of the host's routing table.
func (h *Host) HasRoute(line string) {
	h.cluster.T.Helper()
	nettest.Eventually(h.cluster.T, Patience, func() error {
		if all := h.Routes(); !strings.Contains(all, line) {
			return fmt.Errorf("%s has no route %q:\n%s", h.Node, line, all)
		}
		return nil
	})
}
