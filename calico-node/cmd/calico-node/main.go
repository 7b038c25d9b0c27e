// Command calico-node is process 1 of the container calico-node: it makes the host a node of the
// cluster, has runit run the programs, watches over them, and ends them in order.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"calico.internal/libcalico/logattr"
)

func main() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	os.Exit(run(world{
		args: os.Args[1:], getenv: os.Getenv, environ: os.Environ(), signals: signals, stdout: logattr.Lossy(os.Stdout), stderr: os.Stderr,
	}))
}

// world is what a command gets.
type world struct {
	args           []string
	getenv         func(string) string
	environ        []string
	signals        <-chan os.Signal
	stdout, stderr io.Writer
}

// context ends at the first signal.
func (w world) context() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-w.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
