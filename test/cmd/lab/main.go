// Command lab starts the cluster of compose.yaml, runs the reference experiment on it
// and shows every line; or removes it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"calico.internal/test/internal/lab"
)

const usage = `usage: lab up     start the cluster and run the reference experiment; it stays up
       lab down   remove the cluster without trace
VERSION is the tag of the images, ENGINE the hosts' engine (20.10, 26, 28); CALICO_LAB and CALICO_LAB_NET
(as in compose.yaml) are for a second lab beside the first.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) != 1 || (args[0] != "up" && args[0] != "down") {
		fmt.Fprint(stderr, usage)
		return 2
	}
	root, err := lab.FindRoot()
	if err == nil {
		l := lab.New(root, getenv("VERSION"), lab.Chosen(getenv), stdout)
		if args[0] == "up" {
			err = up(ctx, l, stdout)
		} else {
			err = down(ctx, l, stdout)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "\nFAILED: %v\n", err)
		return 1
	}
	return 0
}

func up(ctx context.Context, l *lab.Lab, stdout io.Writer) error {
	if err := l.Up(ctx); err != nil {
		return err
	}
	if err := l.Run(ctx); err != nil {
		return err
	}
	fmt.Fprintf(stdout, `
The lab stays up. For example:
  docker exec -it %[1]s bash       a shell on node00
  docker exec %[1]s calicoctl get workloadEndpoints
  make lab-down                               remove it
`, l.Hosts[0].Container)
	return nil
}

func down(ctx context.Context, l *lab.Lab, stdout io.Writer) error {
	if err := l.Down(ctx); err != nil {
		return err
	}
	left, err := l.Leftovers(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("still there after removal: %v", left)
	}
	fmt.Fprintln(stdout, "the lab is gone: no container, network or volume of it is left")
	return nil
}
