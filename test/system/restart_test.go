package system

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// restarted is how many containers an engine that restarts has to start again.
const restarted = 14

// BenchmarkEngineRestart is how long a restart of an engine takes with 14 containers that are to
// run always, in order: until the former engine has ended (s-to-end), from then until the next one
// answers (s-to-API: 6 s with the plugin as a service of the host, 40 s with it in calico-node, 2 s
// with live-restore), and from the signal until all containers run and answer one another
// (s-to-all). The floor is the same containers on Docker's own bridge. Figures are medians; the lab
// must be up.
func BenchmarkEngineRestart(b *testing.B) {
	l := newLab(b)
	h := l.Hosts[2]
	if _, err := h.On(b.Context(), "docker inspect calico-node"); err != nil {
		b.Skipf("the lab is not up, run make lab: %v", err)
	}
	on(b, h, "docker network create --driver calico --ipam-driver calico-ipam restarts")
	defer func() { on(b, h, "docker network rm restarts") }()
	for _, place := range []struct {
		name     string
		networks []string
		commands []string
	}{
		{"service", []string{"bridge", "restarts"}, l.PluginOnHost(h)},
		{"container", []string{"restarts"}, l.PluginInContainer(h)}, // as it was
	} {
		for _, line := range place.commands {
			on(b, h, "%s", line)
		}
		nodeServes(b, l, h)
		for _, network := range place.networks {
			for _, live := range []bool{false, true} {
				name := "plugin in a " + place.name
				if network == "bridge" {
					name = "bridge"
				}
				if live {
					name += ", live-restore"
				}
				b.Run(name, func(b *testing.B) { restartEngine(b, h, network, l.Version, live) })
				nodeServes(b, l, h)
			}
		}
	}
}

// restartEngine restarts an engine that has the containers on one network.
func restartEngine(b *testing.B, h lab.Host, network, version string, live bool) {
	if live {
		liveRestore(b, h, true)
		defer liveRestore(b, h, false)
	}
	names := make([]string, restarted)
	for i := range names {
		names[i] = fmt.Sprintf("restarts-%d", i)
		on(b, h, "docker run -d --name %s --restart=always --network %s calico/workload:%s", names[i], network, version)
	}
	defer on(b, h, "docker rm -f %s", strings.Join(names, " "))
	var stop, start, all []float64
	for b.Loop() {
		begun := time.Now()
		took, err := h.RestartEngine(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		eventually(b, 5*time.Minute, "all containers answer", func() error { return allAnswer(b, h, names) })
		stop, start, all = append(stop, took.Stop.Seconds()), append(start, took.Start.Seconds()), append(all, time.Since(begun).Seconds())
	}
	b.ReportMetric(median(stop), "s-to-end")
	b.ReportMetric(median(start), "s-to-API")
	b.ReportMetric(median(all), "s-to-all")
}

// liveRestore restarts the engine with it switched on or off.
func liveRestore(b *testing.B, h lab.Host, live bool) {
	b.Helper()
	on(b, h, `f=/etc/docker/daemon.json; mkdir -p /etc/docker; [ -e $f ] || echo '{}' >$f
		sed -i -E 's/"live-restore": (true|false)(, )?//; s/^\{/{"live-restore": %t, /; s/, \}/}/' $f`, live)
	if _, err := h.RestartEngine(b.Context()); err != nil {
		b.Fatal(err)
	}
	if out := on(b, h, "docker info --format '{{.LiveRestoreEnabled}}'"); out != fmt.Sprint(live) {
		b.Fatalf("live-restore is %s, want %t", out, live)
	}
}

// allAnswer has the first container probe all others.
func allAnswer(b *testing.B, h lab.Host, names []string) error {
	out, err := h.On(b.Context(), "docker inspect --format '{{.State.Running}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "+strings.Join(names, " "))
	if err != nil {
		return err
	}
	var addresses []string
	for line := range strings.Lines(out) {
		address, runs := strings.CutPrefix(strings.TrimSpace(line), "true ")
		if !runs || address == "" {
			return fmt.Errorf("not all run: %q", line)
		}
		addresses = append(addresses, address+":7777")
	}
	_, err = h.On(b.Context(), fmt.Sprintf("docker exec %s sh -c 'for a in %s; do probe once $a || exit 1; done'", names[0], strings.Join(addresses[1:], " ")))
	return err
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
