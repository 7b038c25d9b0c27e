// Command bgpd is the BGP daemon of a host: it tells other hosts which address blocks
// this one has, and puts theirs into the kernel.
//
// Go's listeners are Multipath TCP sockets by default, and those have no MD5 signatures:
//
//go:debug multipathtcp=0
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"calico.internal/bgpd/internal/config"
	"calico.internal/bgpd/internal/daemon"
	"calico.internal/bgpd/internal/statusapi"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/nodename"
	"calico.internal/libcalico/version"
	bgpdv1 "calico.internal/proto/bgpd/v1"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, logattr.Lossy(os.Stderr)))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	opts, err := parseArgs(args, getenv)
	if errors.Is(err, errHelp) {
		fmt.Fprint(stdout, usage)
		return exitDone
	}
	if err != nil {
		fmt.Fprintf(stderr, "bgpd: %v\nTry 'bgpd --help'.\n", err)
		return exitUsage
	}
	switch opts.command {
	case "run":
		err = runDaemon(ctx, opts, getenv, stderr)
	case "check":
		err = check(opts.file, stderr)
	case "reload":
		err = reload(ctx, opts.runDir, stdout)
	case "version":
		fmt.Fprintln(stdout, version.String())
	}
	if err != nil {
		fmt.Fprintf(stderr, "bgpd: %v\n", err)
		return exitFailed
	}
	return exitDone
}

// runDaemon runs until it is told to end. It leaves routes and, as far as peers keep
// them for the restart time, adverts in place.
func runDaemon(ctx context.Context, opts options, getenv func(string) string, stderr io.Writer) error {
	unix.Umask(0o077) // sockets are the owner's alone
	node, err := nodename.Resolve(opts.node, getenv)
	if err != nil {
		return err
	}
	etcd, err := etcdstore.ConfigFromEnv(getenv)
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	level := new(slog.LevelVar)
	log := logattr.New(stderr, level, opts.logFormat)
	record, _, err := hostrecord.Read(opts.stateDir)
	if err != nil {
		log.Warn("this host does not know which cluster it belongs to", logattr.Err, err)
	}
	host, err := hostrecord.Identity(opts.stateDir, getenv)
	if err != nil {
		log.Warn("this host has no identity: another one of the same name is not noticed", logattr.Err, err)
	}
	return daemon.Run(ctx, daemon.Config{
		File:        opts.config,
		RunDir:      opts.runDir,
		StateDir:    opts.stateDir,
		Node:        node,
		Etcd:        etcd,
		ClusterGUID: record.ClusterGUID,
		Host:        host,
		Log:         log,
		Level:       level,
		Hangup:      hangup,
	})
}

// check names all faults of a document, each with its line.
func check(file string, stderr io.Writer) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	_, warnings, err := config.Parse(text)
	for _, w := range warnings {
		fmt.Fprintf(stderr, "%s: warning: %v\n", file, w)
	}
	var invalid *config.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	for _, f := range invalid.Faults {
		fmt.Fprintf(stderr, "%s: %v\n", file, f)
	}
	return fmt.Errorf("%s: %d faults", file, len(invalid.Faults))
}

// reloadTimeout is longer than bgpd itself takes at most.
const reloadTimeout = 15 * time.Second

// reload has a running bgpd read its configuration, and returns when that is in force.
func reload(ctx context.Context, runDir string, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	socket := filepath.Join(runDir, statusapi.Socket)
	conn, err := grpcsock.Dial(socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	resp, err := bgpdv1.NewBgpdClient(conn).Reload(ctx, &bgpdv1.ReloadRequest{})
	switch status.Code(err) {
	case codes.OK:
		fmt.Fprintln(stdout, resp.GetConfigHash())
		return nil
	case codes.InvalidArgument:
		return errors.New(status.Convert(err).Message())
	case codes.Unavailable:
		return fmt.Errorf("nobody answers on %s: bgpd is not running; it reads its configuration when it starts", socket)
	default:
		return fmt.Errorf("reload: %w", err)
	}
}
