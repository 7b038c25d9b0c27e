package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	grpcstatus "google.golang.org/grpc/status"

	"calico.internal/calico-node/internal/daemon"
	"calico.internal/calico-node/internal/procsys"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/nodestart"
	"calico.internal/libcalico/version"
	nodev1 "calico.internal/proto/node/v1"
)

const usage = `Usage:
  calico-node init                 be process 1: make this host a node, run its programs, end them in order
  calico-node startup [options]    only make this host a node (see startup --help)
  calico-node health [options]     say whether this host is as it should be: 0 it is, 1 it is not
  calico-node version              print the version
`

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// healthLimit is how long an answer about this host's health may take.
const healthLimit = 4 * time.Second

func run(w world) int {
	command := "help"
	if len(w.args) > 0 {
		command, w.args = w.args[0], w.args[1:]
	}
	switch command {
	case "init":
		return initialise(w)
	case "startup":
		return startUp(w)
	case "health":
		return health(w)
	case "version", "--version":
		fmt.Fprintln(w.stdout, version.String())
		return exitDone
	case "help", "--help", "-h":
		fmt.Fprint(w.stdout, usage)
		return exitDone
	}
	fmt.Fprintf(w.stderr, "unknown command %q\n%s", command, usage)
	return exitUsage
}

// flags are a command's options.
func flags(w world, command string) *flag.FlagSet {
	f := flag.NewFlagSet("calico-node "+command, flag.ContinueOnError)
	f.SetOutput(w.stderr)
	return f
}

// parse reads a command's options; when there is no more to do, code says how it ends.
func parse(w world, f *flag.FlagSet) (code int, done bool) {
	err := f.Parse(w.args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitDone, true
	case err != nil:
		return exitUsage, true
	case f.NArg() > 0:
		fmt.Fprintf(w.stderr, "%s: unexpected %q\n", f.Name(), f.Arg(0))
		return exitUsage, true
	}
	return 0, false
}

const runDirectory = "/var/run/calico"

func initialise(w world) int {
	f := flags(w, "init")
	runDir := f.String("run-dir", runDirectory, "`directory` of the programs' sockets")
	stateDir := f.String("state-dir", hostrecord.Dir(w.getenv), "`directory` of what this host remembers of itself")
	logDir := f.String("log-dir", "/var/log/calico", "`directory` of the programs' logs")
	available := f.String("services", "/etc/service/available", "`directory` of the services that there are")
	enabled := f.String("enabled", "/etc/service/enabled", "`directory` that gets the services that run")
	if code, done := parse(w, f); done {
		return code
	}
	level, err := logattr.ParseLevel(w.getenv("CALICO_STARTUP_LOGLEVEL"))
	if err != nil {
		level = slog.LevelInfo
	}
	if err = procsys.MakeWritable(); err == nil {
		err = daemon.Run(daemon.Config{
			Getenv: w.getenv, Environ: w.environ, Out: w.stdout, Log: logattr.New(w.stdout, level, logattr.FormatText),
			RunDir: *runDir, StateDir: *stateDir, LogDir: *logDir, Available: *available, Enabled: *enabled,
		}, w.signals)
	}
	if err != nil {
		fmt.Fprintf(w.stdout, "%s\nCalico node failed to start\n", oneEntry(err))
		return exitFailed
	}
	return exitDone
}

// oneEntry is an error as one entry of a log.
func oneEntry(err error) string { return strings.ReplaceAll(err.Error(), "\n", "\n  ") }

func startUp(w world) int {
	f := flags(w, "startup")
	runDir := f.String("run-dir", runDirectory, "`directory` for the file nodename")
	logDir := f.String("log-dir", "/var/log/calico", "`directory` of the programs' logs")
	check := f.Bool("check", false, "decide and say everything, and write nothing")
	force := f.Bool("force", false, "take the node's name from another host that has it (CALICO_FORCE_NAME)")
	stateDir := f.String("state-dir", hostrecord.Dir(w.getenv), "`directory` of what this host remembers of itself")
	if code, done := parse(w, f); done {
		return code
	}
	err := func() error {
		etcd, err := etcdstore.ConfigFromEnv(w.getenv)
		if err != nil {
			return err
		}
		ctx, cancel := w.context()
		defer cancel()
		_, err = nodestart.Run(ctx, nodestart.Config{
			Getenv: w.getenv, Out: w.stdout, Version: version.Version, RunDir: *runDir, LogDir: *logDir, StateDir: *stateDir,
			EnvFile: "startup.env", Running: localnet.Running, Store: etcd, Check: *check, Force: *force,
		})
		return err
	}()
	if err != nil {
		fmt.Fprintf(w.stdout, "%s\nTerminating\n", oneEntry(err))
		return exitFailed
	}
	return exitDone
}

// health asks the running calico-node, and says what is wrong.
func health(w world) int {
	f := flags(w, "health")
	runDir := f.String("run-dir", runDirectory, "`directory` of the programs' sockets")
	if code, done := parse(w, f); done {
		return code
	}
	ctx, cancel := w.context()
	defer cancel()
	answer, err := ask(ctx, filepath.Join(*runDir, "node.sock"))
	if err != nil {
		fmt.Fprintf(w.stdout, "calico-node does not answer: %s\n", err)
		return exitFailed
	}
	return say(w, answer)
}

func ask(ctx context.Context, socket string) (*nodev1.StatusResponse, error) {
	if _, err := os.Stat(socket); err != nil {
		return nil, err
	}
	conn, err := grpcsock.Dial(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // only asked
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	answer, err := nodev1.NewNodeClient(conn).Status(ctx, &nodev1.StatusRequest{})
	if err != nil {
		return nil, errors.New(grpcstatus.Convert(err).Message())
	}
	return answer, nil
}

// say prints how the host is, in words.
func say(w world, answer *nodev1.StatusResponse) int {
	for _, p := range answer.GetProblems() {
		fmt.Fprintf(w.stdout, "%s: %s", p.GetObject(), p.GetReason())
		if p.GetCure() != "" {
			fmt.Fprintf(w.stdout, " (%s)", p.GetCure())
		}
		fmt.Fprintln(w.stdout)
	}
	switch answer.GetState() {
	case nodev1.NodeState_NODE_STATE_HEALTHY:
		fmt.Fprintln(w.stdout, "healthy")
		return exitDone
	case nodev1.NodeState_NODE_STATE_STARTING:
		for _, p := range answer.GetPrograms() {
			if p.GetState() != nodev1.ProgramState_PROGRAM_STATE_READY {
				fmt.Fprintf(w.stdout, "%s starts\n", p.GetName())
			}
		}
	default:
	}
	return exitFailed
}
