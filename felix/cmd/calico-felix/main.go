// Command calico-felix is the agent that keeps a host's container routes and firewall
// rules as etcd says.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"calico.internal/libcalico/logattr"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], environment{
		lookup: os.Getenv, all: os.Environ(), readFile: os.ReadFile,
		stdout: os.Stdout, stderr: logattr.Lossy(os.Stderr),
	})
	stop()
	os.Exit(code)
}
