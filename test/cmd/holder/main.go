// Command holder holds Docker's sockets of the plugin on hosts without systemd, as the lab's
// are, and hands them to the plugin as systemd would.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"calico.internal/libcalico/holder"
)

const usage = `usage: holder [-now] [-dir DIRECTORY] PROGRAM [ARGUMENT…]

Makes calico.sock and calico-ipam.sock in the directory, starts the program when the first
call waits there, hands it the sockets, and starts it again when it ends. At SIGTERM the
program is ended and the sockets are removed.
`

func main() {
	flags := flag.NewFlagSet("holder", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	now := flags.Bool("now", false, "start the program at once")
	dir := flags.String("dir", "/run/docker/plugins", "where Docker looks for plugins")
	if err := flags.Parse(os.Args[1:]); err != nil || flags.NArg() == 0 {
		flags.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := holder.Holder{
		Paths:   []string{filepath.Join(*dir, "calico.sock"), filepath.Join(*dir, "calico-ipam.sock")},
		Command: flags.Args(), Env: os.Environ(), AtOnce: *now, Output: os.Stderr,
		Ended: func(err error) { fmt.Fprintf(os.Stderr, "holder: %s has ended: %v\n", flags.Arg(0), err) },
	}.Run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "holder:", err)
		os.Exit(1)
	}
}
