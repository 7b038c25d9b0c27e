// Command calicoctl is the user's tool of Calico for Docker.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"calico.internal/calicoctl/internal/command"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	return command.Run(ctx, command.OSEnv(), args, command.NewNode)
}
