package launch

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/libcalico/grpcsock"
)

// runDir is where the programs' sockets are.
const runDir = "/var/run/calico"

// services lists the programs of the container by the names of their sockets.
func services(o Options) []string {
	all := []string{"felix"}
	if o.Backend != "none" {
		all = append(all, "bgpd", "confd")
	}
	if !o.DisableDockerNetworking {
		all = append(all, "libnetwork")
	}
	return all
}

// waitReady waits until every service says that it is ready, and shows which are.
func waitReady(ctx context.Context, w io.Writer, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	began, shown := time.Now(), time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	waiting := names
	for {
		waiting = notReady(ctx, waiting)
		if len(waiting) == 0 {
			fmt.Fprintf(w, "Services ready: %s\n", strings.Join(names, ", "))
			return nil
		}
		if time.Since(shown) > 3*time.Second {
			shown = time.Now()
			fmt.Fprintf(w, "Waiting for %s (%.0f s)\n", strings.Join(waiting, ", "), time.Since(began).Seconds())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready after %.0f s: %s; the container goes on trying.%s", time.Since(began).Seconds(), strings.Join(waiting, ", "), lastWords(waiting))
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

// lastWords quotes the end of the logs of services, which say why they are not ready.
func lastWords(names []string) string {
	var text strings.Builder
	for _, name := range names {
		path := filepath.Join("/var/log/calico", name, "current")
		data, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintf(&text, "\n%s has no log yet (%s)", name, path)
			continue
		}
		all := strings.Split(strings.TrimSpace(string(data)), "\n")
		fmt.Fprintf(&text, "\n%s last logged (%s):\n%s", name, path, quote(strings.Join(all[max(0, len(all)-3):], "\n")))
	}
	return text.String()
}
