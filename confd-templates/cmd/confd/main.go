// Command confd makes configuration files of what stands in etcd, and has their readers take them over. It is confd's
// template engine with a loop and a store of our own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"calico.internal/confd-templates/internal/daemon"
	"calico.internal/confd-templates/internal/options"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/version"
)

// Exit codes: 0 done, 1 failed, 2 called in a wrong way.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, logattr.Lossy(os.Stderr)))
}

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := options.Parse(args, getenv, net.LookupSRV, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "confd:", err)
		return exitUsage
	}
	if o.PrintVersion {
		fmt.Fprintln(stdout, "confd", version.String(), "(template engine: confd v0.16.0)")
		return 0
	}
	level, err := logattr.ParseLevel(o.LogLevel)
	if err != nil {
		fmt.Fprintln(stderr, "confd:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := daemon.Run(ctx, o, logattr.New(stderr, level, o.LogFormat)); err != nil {
		fmt.Fprintln(stderr, "confd:", err)
		return exitFailed
	}
	return 0
}
