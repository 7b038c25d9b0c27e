// Command calico-felix is the agent that keeps a host's container routes and firewall
// rules as etcd says.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// gcPercent makes the heap grow by less between collections than Go's default: felix
// shares the host with containers, and works in short bursts.
const gcPercent = 40

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], environment{
		lookup: os.Getenv, all: os.Environ(), readFile: os.ReadFile,
		stdout: os.Stdout, stderr: os.Stderr,
	})
	stop()
	os.Exit(code)
}
