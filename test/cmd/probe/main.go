// Command probe runs in the lab's containers: it answers datagrams, watches whether a
// path is open and since when, or counts what is lost on it.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"calico.internal/test/internal/probe"
)

const usage = `usage:
  probe serve [ADDRESS]            answer datagrams (default :7777)
  probe watch HOST:PORT [SECONDS]  print "open|closed NANOSECONDS" at each change
  probe count HOST:PORT            probe every 2 ms until standard input ends; print "begun" when the
                                   first comes back, and at the end how many were sent and lost
  probe once HOST:PORT             exit 0 when a datagram comes back within 1 s
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var err error
	switch {
	case len(args) == 1 && args[0] == "serve":
		err = probe.Serve(ctx, fmt.Sprintf(":%d", probe.Port))
	case len(args) == 2 && args[0] == "serve":
		err = probe.Serve(ctx, args[1])
	case len(args) == 2 && args[0] == "once":
		if !probe.Once(ctx, args[1], time.Second) {
			return 1
		}
	case len(args) == 2 && args[0] == "count":
		err = count(ctx, args[1], stdin, stdout)
	case len(args) >= 2 && args[0] == "watch":
		err = watch(ctx, args[1:], stdout)
	default:
		fmt.Fprint(stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, "probe:", err)
		return 1
	}
	return 0
}

func watch(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 2 {
		limit, err := time.ParseDuration(args[1] + "s")
		if err != nil {
			return fmt.Errorf("seconds %q: %w", args[1], err)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return probe.Watch(ctx, stdout, args[0], interval, 200*time.Millisecond)
}

// interval is the time between two probes.
const interval = 2 * time.Millisecond

// count has its end from its input, so that it ends with whoever started it, however deep in
// containers it is.
func count(ctx context.Context, target string, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	t, err := probe.Count(ctx, target, interval, time.Second, func() { fmt.Fprintln(stdout, probe.Begun) })
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, t)
	return err
}
