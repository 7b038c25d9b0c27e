package system

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// nodeID is the id of the container calico-node of a host.
func nodeID(t *testing.T, h lab.Host) string {
	t.Helper()
	return on(t, h, "docker inspect --format '{{.Id}}' calico-node")
}

// nodeServes waits until all programs of a host answer, and its sessions are up.
func nodeServes(t testing.TB, l *lab.Lab, h lab.Host) {
	t.Helper()
	eventually(t, 30*time.Second, h.Node+" serves", func() error {
		out, err := h.On(t.Context(), "calicoctl node status")
		if err == nil && strings.Count(out, "Established") != len(l.Hosts)-1 {
			err = errors.New(out)
		}
		return err
	})
}

// watched does something while probes run each 2 ms from one container to another; none may
// be lost.
func watched(t testing.TB, h lab.Host, from, address string, do func()) {
	t.Helper()
	traffic, err := h.Send(t.Context(), from, address)
	if err != nil {
		t.Fatal(err)
	}
	do()
	if got, err := traffic.End(); err != nil || got.Lost > 0 {
		t.Errorf("from %s to %s: %s, want 0 lost; %v", from, address, got, err)
	}
}

// wrongRuns: each `node run` that cannot be leaves the node that is there serving, with the
// same container, and traffic as it was.
func wrongRuns(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	on(t, h, "docker tag calico/workload:%s calico/node:foreign", l.Version)
	before := nodeID(t, h)
	watched(t, h, "workload-A", address(t, l.Hosts[1], "workload-C"), func() {
		for _, tc := range []struct {
			name, flags string
			words       []string
			// looked says that it is refused before the node is touched.
			looked bool
		}{
			{"an image that does not exist", "--node-image=calico/node:no-such-tag", []string{"is not on this host, and cannot be pulled", "make images"}, true},
			{"an image of others", "--node-image=calico/node:foreign", []string{"calico/node:foreign is not ours"}, true},
			{"another node's address", "--ip=" + l.Hosts[1].IP, []string{"--ip=" + l.Hosts[1].IP + ": no interface of this host has this address. There are: eth0 " + h.IP + "/"}, true},
			{"nobody's address", "--ip=" + l.Net + ".1", []string{"no interface of this host has this address"}, true},
			{"a parameter that felix has not", "--felix LogSeverityScren=debug", []string{"did you mean \"LogSeverityScreen\"?"}, true},
			{"a start-up that is refused", "-e AS=nonsense", []string{"would not start here", "is not an AS number", "Nothing was changed"}, true},
			{"another node's name", "--name node01", []string{"would not start here", "Nothing was changed"}, true},
			{"a backend that there is not", "-e CALICO_NETWORKING_BACKEND=nonsense", []string{"would not start here", "Nothing was changed"}, true},
			{"a program that never becomes ready", "--timeout=5s --felix Dataplane=nonsense", []string{"not ready after 5 s: felix", "felix last logged", "the old one runs again and is ready"}, false},
		} {
			t.Run(tc.name, func(t *testing.T) {
				started := on(t, h, "docker inspect --format '{{.State.StartedAt}}' calico-node")
				refused(t, h, fmt.Sprintf("calicoctl node run --ip=%s --name %s %s ", h.IP, h.Node, tc.flags), tc.words...)
				if now := nodeID(t, h); now != before {
					t.Errorf("the container was %s, and is %s", before, now)
				}
				if now := on(t, h, "docker inspect --format '{{.State.StartedAt}}' calico-node"); tc.looked && now != started {
					t.Error("the container was started anew")
				}
				if out := on(t, h, "docker ps -a --format '{{.Names}}' --filter name=calico-node"); out != "calico-node" {
					t.Errorf("containers: %s", out)
				}
				nodeServes(t, l, h)
			})
		}
	})
}

// upgraded: an upgrade keeps the container's arguments, and traffic does not notice.
func upgraded(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	on(t, h, `printf 'FROM calico/node:%s\nLABEL org.opencontainers.image.version=later\n' | docker build -q -t calico/node:later -`, l.Version)
	arguments := "docker inspect --format '{{json .Config.Env}} {{json .HostConfig.Binds}} {{json .HostConfig.CapAdd}} {{json .HostConfig.RestartPolicy}}' calico-node"
	before, was := nodeID(t, h), on(t, h, "%s", arguments)
	watched(t, h, "workload-A", address(t, l.Hosts[1], "workload-C"), func() {
		if out := on(t, h, "calicoctl node upgrade --node-image=calico/node:later"); !strings.Contains(out, "and is of version later") {
			t.Errorf("it says\n%s", out)
		}
		nodeServes(t, l, h)
	})
	if nodeID(t, h) == before {
		t.Error("the container is the same")
	}
	if is := on(t, h, "%s", arguments); is != was {
		t.Errorf("arguments were\n%s\nand are\n%s", was, is)
	}
	if out := on(t, h, "calicoctl node logs -n 200"); !strings.Contains(out, "felix") || !strings.Contains(out, "bgpd") {
		t.Errorf("logs:\n%s", out)
	}
	on(t, h, "calicoctl node upgrade --node-image=calico/node:%s", l.Version)
	nodeServes(t, l, h)
}

// stoppedInOrder: a stopped node lets traffic flow, and what was forbidden stays so; what a run
// that was killed in the middle has left is mended by the next.
func stoppedInOrder(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	c, d := address(t, l.Hosts[1], "workload-C"), address(t, l.Hosts[1], "workload-D")
	before := nodeID(t, h)
	watched(t, h, "workload-A", c, func() {
		if out := on(t, h, "calicoctl node stop"); !strings.Contains(out, "traffic flows on") {
			t.Errorf("it says\n%s", out)
		}
		if out := on(t, h, "docker inspect --format '{{.State.ExitCode}}' calico-node"); out != "0" {
			t.Errorf("calico-node did not end in order: exit code %s", out)
		}
		if reach(t, h, "workload-A", d) == nil {
			t.Error("A reaches D while the node is stopped")
		}
		// As a run leaves it that is killed when it has set the old container aside.
		on(t, h, "docker rename calico-node calico-node-previous")
		out := on(t, h, "MY_TOKEN=hush calicoctl node run --ip=%s --name %s -e MY_TOKEN", h.IP, h.Node)
		if !strings.Contains(out, "was interrupted") || strings.Contains(out, "hush") {
			t.Errorf("it says\n%s", out)
		}
		if out := on(t, h, "stat -c %%a /var/lib/calico/calico-node.env; docker exec calico-node sh -c 'echo $MY_TOKEN'"); out != "600\nhush" {
			t.Errorf("mode and value of the secret: %s", out)
		}
		nodeServes(t, l, h)
	})
	if nodeID(t, h) == before {
		t.Error("the container is the same")
	}
}

// purged: a purge leaves nothing of Calico in the kernel, and the host becomes a node again.
func purged(t *testing.T, l *lab.Lab) {
	h := l.Hosts[2]
	on(t, h, "docker run -d --name last --net net1 calico/workload:%s", l.Version)
	refused(t, h, "calicoctl node stop --purge", "containers run on Calico's networks")
	on(t, h, "docker rm -f last")
	on(t, h, "calicoctl node stop --purge")
	for _, look := range []string{
		"iptables-save | grep -i cali", "ip6tables-save | grep -i cali", "ipset list -n | grep cali", "ip route | grep bird",
		"ip -6 route | grep bird", "docker ps -a | grep calico-node", "ls /run/docker/plugins | grep calico", "ls -d /var/lib/calico /var/run/calico 2>/dev/null",
	} {
		if out := on(t, h, "%s || true", look); out != "" {
			t.Errorf("%s: %s", look, out)
		}
	}
	on(t, h, "calicoctl node run --ip=%s --name %s", h.IP, h.Node)
	nodeServes(t, l, h)
}
