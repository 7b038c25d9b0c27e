package launch

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/calicoctl/internal/node/logs"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/nodestart"
)

// runDir is where the programs' sockets are.
const runDir = "/var/run/calico"

// lastLines is how many lines of a program's log a message quotes.
const lastLines = 3

// programsOf lists the programs of a container, by the names of their sockets, as its
// environment has them.
func programsOf(env []string) []string {
	value := func(name string) string { return valueOf(env, name) }
	var all []string
	if value("CALICO_DISABLE_FELIX") != "true" {
		all = append(all, "felix")
	}
	if value("CALICO_NETWORKING_BACKEND") != "none" {
		all = append(all, "bgpd", "confd")
	}
	if nodestart.ServesDocker(value(nodestart.PluginVariable)) {
		all = append(all, "libnetwork")
	}
	return all
}

// valueOf is the value of a variable in an environment, of which the last counts.
func valueOf(env []string, name string) (value string) {
	for _, v := range env {
		if n, text, _ := strings.Cut(v, "="); n == name {
			value = text
		}
	}
	return value
}

// waitReady waits until every program says that it is ready, and shows which are.
func (l launcher) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.limit)
	defer cancel()
	began, shown := time.Now(), time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	waiting := l.programs
	for {
		waiting = notReady(ctx, waiting)
		if len(waiting) == 0 {
			fmt.Fprintf(l.out, "Services ready: %s\n", strings.Join(l.programs, ", "))
			return nil
		}
		if time.Since(shown) > 3*time.Second {
			shown = time.Now()
			fmt.Fprintf(l.out, "Waiting for %s (%.0f s)\n", strings.Join(waiting, ", "), time.Since(began).Seconds())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %.0f s: %s.%s", time.Since(began).Seconds(), strings.Join(waiting, ", "), l.lastWords(waiting))
		case <-tick.C:
		}
	}
}

func notReady(ctx context.Context, names []string) []string {
	var waiting []string
	for _, name := range names {
		if !Ready(ctx, name) {
			waiting = append(waiting, name)
		}
	}
	return waiting
}

// Ready reports whether a service of this host answers and says that it is ready.
func Ready(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := grpcsock.Dial(filepath.Join(runDir, name+".sock"))
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // only asked
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err == nil && answer.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING
}

// lastWords quotes the end of the logs of programs, which say why they are not ready.
func (l launcher) lastWords(programs []string) string {
	var text strings.Builder
	for _, name := range programs {
		last, err := logs.Last(l.logDir, name, lastLines)
		switch {
		case err != nil:
			fmt.Fprintf(&text, "\n%s has no log: %v", name, err)
		case len(last) == 0:
			fmt.Fprintf(&text, "\n%s has logged nothing yet (%s)", name, filepath.Join(l.logDir, name, "current"))
		default:
			fmt.Fprintf(&text, "\n%s last logged (calicoctl node logs %s):\n%s", name, name, quote(strings.Join(last, "\n")))
		}
	}
	return text.String()
}
