// Command libnetwork-plugin gives Docker's engine the network driver "calico" and the
// IPAM driver "calico-ipam".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/version"
	"calico.internal/libnetwork-plugin/internal/config"
	"calico.internal/libnetwork-plugin/internal/daemon"
	"calico.internal/libnetwork-plugin/internal/unit"
)

const usage = `Usage:
  libnetwork-plugin run [options]                     serve Docker's engine (see run --help)
  libnetwork-plugin unit socket                       print the systemd unit that holds Docker's sockets
  libnetwork-plugin unit service PROGRAM ENVIRONMENT  print the systemd unit of the program with that file of variables
  libnetwork-plugin version                           print the version
`

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, logattr.Lossy(os.Stderr)))
}

// run is the program. Without a command it serves, as the original did.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	command := "run"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	switch command {
	case "run":
		return serve(ctx, args, getenv, stderr)
	case "unit":
		return printUnit(args, stdout, stderr)
	case "version":
		fmt.Fprintln(stdout, version.String())
		return exitDone
	case "help":
		fmt.Fprint(stdout, usage)
		return exitDone
	}
	fmt.Fprintf(stderr, "unknown command %q\n%s", command, usage)
	return exitUsage
}

// printUnit prints one of the systemd units.
func printUnit(args []string, stdout, stderr io.Writer) int {
	switch {
	case len(args) == 1 && args[0] == "socket":
		fmt.Fprint(stdout, unit.Socket())
		return exitDone
	case len(args) == 3 && args[0] == "service":
		text, err := unit.Service(unit.Paths{Binary: args[1], Environment: args[2]})
		if err != nil {
			fmt.Fprintln(stderr, "libnetwork-plugin:", err)
			return exitUsage
		}
		fmt.Fprint(stdout, text)
		return exitDone
	}
	fmt.Fprintf(stderr, "unit is given what to print\n%s", usage)
	return exitUsage
}

// serve runs the plugin until ctx ends.
func serve(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	cfg, err := config.Parse(args, getenv, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	if err != nil {
		fmt.Fprintln(stderr, "libnetwork-plugin:", err)
		return exitUsage
	}
	log := logattr.New(stderr, cfg.LogLevel, cfg.LogFormat)
	if err := daemon.Run(ctx, cfg, getenv, log); err != nil {
		fmt.Fprintln(stderr, "libnetwork-plugin:", err)
		return exitFailed
	}
	return exitDone
}
