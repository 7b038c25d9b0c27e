package system

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// The host of a systemd, and the etcd of that host alone.
const (
	systemdNet    = "calico-systemd"
	systemdSubnet = "172.28.19.0/24"
	systemdEtcd   = "172.28.19.10"
)

// systemdHost starts a host whose process 1 is systemd, which runs its engine, and gives it the
// images.
func systemdHost(t *testing.T, l *lab.Lab) lab.Host {
	t.Helper()
	h := lab.Host{Container: systemdNet + "-host", Node: "node09", IP: "172.28.19.100"}
	remove := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = exec.CommandContext(ctx, "docker", "rm", "-f", "-v", h.Container, systemdNet+"-etcd").Run()
		_ = exec.CommandContext(ctx, "docker", "network", "rm", systemdNet).Run()
	}
	remove() // what an earlier test left that was killed
	t.Cleanup(remove)
	shell(t, "docker network create --subnet %s %s", systemdSubnet, systemdNet)
	shell(t, "docker run -d --name %[1]s-etcd --network %[1]s --ip %[2]s calico/etcd:%[3]s --name=etcd --advertise-client-urls=http://%[2]s:2379", systemdNet, systemdEtcd, l.Version)
	capabilities := strings.Fields("AUDIT_WRITE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK KILL MKNOD NET_ADMIN NET_BIND_SERVICE " +
		"NET_BROADCAST NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_CHROOT SYS_NICE SYS_PTRACE SYSLOG")
	shell(t, "docker run -d --name %s --hostname host9 --network %s --ip %s --stop-signal SIGRTMIN+3 --tmpfs /run --tmpfs /tmp "+
		"-v /sys/fs/cgroup:/sys/fs/cgroup:rw --cap-drop ALL --cap-add %s --security-opt seccomp=unconfined --security-opt apparmor=unconfined "+
		"--device-cgroup-rule 'a *:* rwm' -e ETCD_ENDPOINTS=http://%s:2379 -e CALICO_BOOT_ID_FILE=/etc/calico/boot_id calico/lab-host:%s-engine%s systemd",
		h.Container, systemdNet, h.IP, strings.Join(capabilities, " --cap-add "), systemdEtcd, l.Version, l.Engine)
	eventually(t, 60*time.Second, "the engine under systemd answers", func() error {
		_, err := h.On(t.Context(), "docker version")
		return err
	})
	shell(t, "docker save calico/node:%[1]s calico/workload:%[1]s | docker exec -i %[2]s docker load -q", l.Version, h.Container)
	return h
}

// shell runs a line on the machine itself; it must succeed.
func shell(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	if out, err := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// TestPluginOfTheHost is the life of a host whose plugin is a service of systemd's: it is made,
// the engine is restarted, the service is restarted while containers come and go, the node is
// upgraded, stopped, and purged.
func TestPluginOfTheHost(t *testing.T) {
	whole := newLab(t)
	h := systemdHost(t, whole)
	l := &lab.Lab{Config: whole.Config, Root: whole.Root, Version: whole.Version, Out: whole.Out, Hosts: []lab.Host{h}}
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			t.Log(h.On(ctx, "journalctl -n 80 --no-pager -o cat -u docker -u calico-libnetwork; systemctl --failed; docker ps -a"))
		}
	})
	for _, step := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{
		{"node run makes the service", runOnHost},
		{"a restart of the engine", engineRestarted},
		{"restarts of the service while containers come and go", serviceRestarted},
		{"an upgrade", upgradedOnHost},
		{"a stop", stoppedOnHost},
		{"to the container and back", movedThereAndBack},
		{"a purge leaves nothing", purgedOnHost},
	} {
		begun := time.Now()
		if !t.Run(step.name, func(t *testing.T) { step.run(t, l) }) {
			return
		}
		t.Logf("%s: %.1f s", step.name, time.Since(begun).Seconds())
	}
}

func runOnHost(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	out := on(t, h, "calicoctl node run --ip=%s --name %s --plugin=host --node-image=calico/node:%s", h.IP, h.Node, l.Version)
	if !strings.Contains(out, "as the service calico-libnetwork.service") || strings.Contains(out, "Recommended: --plugin") {
		t.Errorf("it says\n%s", out)
	}
	serviceServes(t, l)
	if out := on(t, h, "stat -c '%%a' /etc/calico/libnetwork.env; stat -c '%%a' /run/docker/plugins/calico.sock"); out != "600\n600" {
		t.Errorf("modes of the variables and of the socket: %s", out)
	}
	if out := on(t, h, "docker exec calico-node ps ax"); strings.Contains(out, "libnetwork-plugin") {
		t.Errorf("a plugin runs in the container:\n%s", out)
	}
	on(t, h, "docker network create --driver calico --ipam-driver calico-ipam net1")
	for _, name := range []string{"one", "two"} {
		on(t, h, "docker run -d --name %s --restart=always --net net1 calico/workload:%s", name, l.Version)
	}
	bothReach(t, h)
}

// serviceServes checks that the plugin is the service, and all is well.
func serviceServes(t *testing.T, l *lab.Lab) {
	t.Helper()
	nodeServes(t, l, l.Hosts[0])
	if out := on(t, l.Hosts[0], "systemctl is-active calico-libnetwork.socket calico-libnetwork.service; systemctl is-enabled calico-libnetwork.socket calico-libnetwork.service"); out != "active\nactive\nenabled\nenabled" {
		t.Errorf("the units are %s", out)
	}
}

func bothReach(t *testing.T, h lab.Host) {
	t.Helper()
	eventually(t, 60*time.Second, "the two containers reach each other", func() error {
		for _, pair := range [][2]string{{"one", "two"}, {"two", "one"}} {
			ip, err := h.On(t.Context(), "docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "+pair[1])
			if err != nil {
				return err
			}
			if _, err := h.On(t.Context(), fmt.Sprintf("docker exec %s probe once %s:7777", pair[0], strings.TrimSpace(ip))); err != nil {
				return err
			}
		}
		return nil
	})
}

func engineRestarted(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	begun := time.Now()
	on(t, h, "systemctl restart docker && docker info")
	answers := time.Since(begun)
	bothReach(t, h)
	t.Logf("the engine answered in %.1f s, all of it, and the containers each other in %.1f s", answers.Seconds(), time.Since(begun).Seconds())
	if answers > 25*time.Second { // what it gives containers to end, and an engine that waits for nobody
		t.Errorf("the engine answered only after %s", answers)
	}
	serviceServes(t, l)
}

// serviceRestarted spreads the restarts over the time that the containers take: no call is lost.
func serviceRestarted(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	before := on(t, h, "systemctl show -p MainPID --value calico-libnetwork.service")
	on(t, h, `(for i in 1 2 3 4 5; do systemctl restart calico-libnetwork.service || exit 1; sleep 0.3; done) >/tmp/restarts 2>&1 &
		for i in 1 2 3 4 5 6; do docker run --rm --net net1 calico/workload:%s true || exit 1; done; wait; cat /tmp/restarts; [ ! -s /tmp/restarts ]`, l.Version)
	if now := on(t, h, "systemctl show -p MainPID --value calico-libnetwork.service"); now == before {
		t.Error("the service is the same process")
	}
	bothReach(t, h)
	serviceServes(t, l)
}

func upgradedOnHost(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	on(t, h, `printf 'FROM calico/node:%s\nLABEL org.opencontainers.image.version=later\n' | docker build -q -t calico/node:later -`, l.Version)
	variables := on(t, h, "cat /etc/calico/libnetwork.env")
	watched(t, h, "one", address(t, h, "two"), func() {
		if out := on(t, h, "calicoctl node upgrade --node-image=calico/node:later"); !strings.Contains(out, "and is of version later") {
			t.Errorf("it says\n%s", out)
		}
		serviceServes(t, l)
	})
	if now := on(t, h, "cat /etc/calico/libnetwork.env"); now != variables {
		t.Errorf("the service's variables were\n%s\nand are\n%s", variables, now)
	}
}

func stoppedOnHost(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	on(t, h, "docker run -d --name short --net net1 calico/workload:%s", l.Version)
	watched(t, h, "one", address(t, h, "two"), func() {
		if out := on(t, h, "calicoctl node stop"); !strings.Contains(out, "serves on") {
			t.Errorf("it says\n%s", out)
		}
		begun := time.Now()
		on(t, h, "docker rm -f short")
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("a container was removed only after %s while the node was stopped", took)
		}
		on(t, h, "docker start calico-node")
		serviceServes(t, l)
	})
}

func movedThereAndBack(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	run := fmt.Sprintf("calicoctl node run --ip=%s --name %s --node-image=calico/node:%s", h.IP, h.Node, l.Version)
	watched(t, h, "one", address(t, h, "two"), func() {
		if out := on(t, h, "%s", run); !strings.Contains(out, "Stopping the plugin's service") || !strings.Contains(out, "Recommended: --plugin=host") {
			t.Errorf("it says\n%s", out)
		}
		nodeServes(t, l, h)
		if out := on(t, h, "%s", serviceLeft); out != "" {
			t.Errorf("of the service is left: %s", out)
		}
		on(t, h, "docker run --rm --net net1 calico/workload:%s true", l.Version)
		on(t, h, "%s --plugin=host", run)
		serviceServes(t, l)
		on(t, h, "docker run --rm --net net1 calico/workload:%s true", l.Version)
	})
}

// serviceLeft lists what a service was made of.
const serviceLeft = "find /etc/systemd /usr/local/libexec /usr/local/lib /etc/calico/libnetwork.env -name '*libnetwork*' 2>/dev/null; " +
	"systemctl list-units --all --plain --no-legend 'calico*'; systemctl list-unit-files --plain --no-legend 'calico*' || true"

func purgedOnHost(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	refused(t, h, "calicoctl node stop --purge", "containers run on Calico's networks")
	on(t, h, "docker rm -f one two && docker network rm net1")
	on(t, h, "calicoctl node stop --purge")
	for _, look := range []string{
		serviceLeft, "ls /usr/local/libexec", "iptables-save | grep -i cali", "ip6tables-save | grep -i cali", "ipset list -n | grep cali", "ip route | grep bird",
		"docker ps -a | grep calico-node", "ls -A /run/docker/plugins | grep calico", "ls -d /var/lib/calico /var/run/calico", "ip -o link | grep ': cali'", "pgrep calico", "pgrep libnetwork",
	} {
		if out := on(t, h, "(%s) 2>/dev/null || true", look); out != "" {
			t.Errorf("%s: %s", look, out)
		}
	}
}
