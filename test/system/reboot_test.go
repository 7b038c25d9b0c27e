package system

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// rebooted: a host is shut down and starts again, and then its power is cut. The others' traffic
// does not notice; the host is the same node on another start of it, though the leases of its
// former programs live on; its containers that are to run are reachable again, and of those that
// are not, nothing stays.
func rebooted(t *testing.T, l *lab.Lab) {
	h := l.Hosts[2]
	on(t, h, "docker run -d --name stays --restart=always --net net1 calico/workload:%s", l.Version)
	on(t, h, "docker run -d --name goes --net net1 calico/workload:%s", l.Version)
	watched(t, l.Hosts[0], "workload-A", address(t, l.Hosts[1], "workload-C"), func() {
		for _, tc := range []struct {
			what    string
			happens func(context.Context) error
		}{{"reboot", h.Reboot}, {"power cut", h.CutPower}} {
			on(t, h, "docker start goes")
			before := identity(t, h)
			if err := tc.happens(t.Context()); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			// An engine that starts calls for what its containers have left, before it serves; calico-node
			// is one of those containers, and each call that finds nobody takes 15 s.
			eventually(t, 4*time.Minute, "the engine serves", func() error { return h.EngineServes(t.Context()) })
			engine := time.Since(begun)
			nodeServes(t, l, h)
			node := time.Since(begun)
			eventually(t, 30*time.Second, "A reaches the container that stays", func() error {
				out, err := h.On(t.Context(), "docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' stays")
				if err != nil {
					return err
				}
				_, err = l.Hosts[0].On(t.Context(), fmt.Sprintf("docker exec workload-A probe once %s:7777", strings.TrimSpace(out)))
				return err
			})
			t.Logf("%s: after the start the engine served in %.1f s, the node in %.1f s, its container was reachable in %.1f s",
				tc.what, engine.Seconds(), node.Seconds(), time.Since(begun).Seconds())
			if after := identity(t, h); after[0] != before[0] || after[1] == before[1] {
				t.Errorf("%s: the identity was %v and is %v, want the same host and another start", tc.what, before, after)
			}
		}
	})
	nothingLeft(t, h)
	on(t, h, "docker rm -f stays goes")
	nodeServes(t, l, h)
}

// identity is who the host is: its id and its boot.
func identity(t *testing.T, h lab.Host) [2]string {
	t.Helper()
	out := on(t, h, "calicoctl node status | sed -n 's/^Identity: *//p'")
	id, boot, ok := strings.Cut(out, ", boot ")
	if !ok {
		t.Fatalf("identity of %s: %q", h.Node, out)
	}
	return [2]string{id, boot}
}

// nothingLeft waits until a host on which one container runs has what belongs to that, and no more:
// what is left over is looked at twice, half a minute apart, before it goes.
func nothingLeft(t *testing.T, h lab.Host) {
	t.Helper()
	for what, look := range map[string]string{
		"links":     "ip -o link | grep -c ': cali'",
		"routes":    "ip route | grep -c ' dev cali'",
		"endpoints": "calicoctl get workloadEndpoints --node=" + h.Node + " | grep -c ^" + h.Node,
	} {
		eventually(t, 90*time.Second, "one of "+what, func() error {
			out, err := h.On(t.Context(), look+" || true")
			if n := strings.TrimSpace(out); err == nil && n != "1" {
				err = fmt.Errorf("there are %s", n)
			}
			return err
		})
	}
	if out, err := h.On(t.Context(), "calicoctl ipam check"); err != nil {
		t.Errorf("addresses: %v\n%s", err, out)
	}
}
