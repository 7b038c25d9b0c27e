package system

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// reach sends one datagram, a flow of its own, from a container to an address.
func reach(t *testing.T, h lab.Host, from, address string) error {
	t.Helper()
	_, err := h.On(t.Context(), fmt.Sprintf("docker exec %s probe once %s:7777", from, address))
	return err
}

func address(t testing.TB, h lab.Host, container string) string {
	t.Helper()
	return on(t, h, "docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' %s", container)
}

// felixStopped: a container never runs unprotected. While felix does not answer, its
// start fails within the engine's patience and says why.
func felixStopped(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	on(t, h, "docker create --name late --net net1 calico/workload:%s", l.Version)
	defer on(t, h, "pkill -CONT calico-felix; docker rm -f late")
	on(t, h, "pkill -STOP calico-felix")
	began := time.Now()
	refused(t, h, "docker start late", "felix")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("docker start failed only after %s", took)
	}
	if out := on(t, h, "docker inspect --format '{{.State.Running}}' late"); out != "false" {
		t.Errorf("the container runs although felix did not confirm its endpoint: %s", out)
	}
	on(t, h, "pkill -CONT calico-felix")
	eventually(t, 10*time.Second, "docker start after felix continues", func() error {
		_, err := h.On(t.Context(), "docker start late")
		return err
	})
	if err := reach(t, h, "late", address(t, l.Hosts[1], "workload-C")); err != nil {
		t.Errorf("late does not reach C after felix continued: %v", err)
	}
}

// nodeKilled: all programs of a host die at once. The kernel goes on as it was.
func nodeKilled(t *testing.T, l *lab.Lab) {
	h := l.Hosts[0]
	c, d := address(t, l.Hosts[1], "workload-C"), address(t, l.Hosts[1], "workload-D")
	on(t, h, "docker kill -s KILL calico-node")
	for range 5 {
		if err := reach(t, h, "workload-A", c); err != nil {
			t.Errorf("A does not reach C while calico-node is dead: %v", err)
		}
	}
	if reach(t, h, "workload-A", d) == nil {
		t.Error("A reaches D while calico-node is dead")
	}
	if out := on(t, l.Hosts[1], "ip route"); !strings.Contains(out, "via "+h.IP) {
		t.Errorf("node01 has dropped the dead node's route at once:\n%s", out)
	}
	on(t, h, "docker start calico-node")
	eventually(t, 30*time.Second, "the node is back", func() error {
		out, err := h.On(t.Context(), "calicoctl node status")
		if err == nil && strings.Count(out, "Established") != len(l.Hosts)-1 {
			err = errors.New(out)
		}
		return err
	})
	if err := reach(t, h, "workload-A", c); err != nil {
		t.Errorf("A does not reach C after calico-node came back: %v", err)
	}
	if reach(t, h, "workload-A", d) == nil {
		t.Error("A reaches D after calico-node came back")
	}
}

// badInput: each is one sentence with what to do, and nothing is stored.
func badInput(t *testing.T, l *lab.Lab) {
	h := l.Hosts[2]
	refused(t, h, "ETCD_ENDPOINTS=http://127.0.0.1:1 calicoctl -c /dev/null node run --ip="+h.IP+" --name node02", "127.0.0.1:1", "is it running")
	refused(t, h, "calicoctl node run --ip="+l.Hosts[0].IP+" --name node02", "--ip="+l.Hosts[0].IP+": no interface of this host has this address. There are: eth0 "+h.IP+"/")
	refused(t, h, "calicoctl node run --ip=300.1.1.1 --name node02", "invalid IP address")
	before := on(t, h, "calicoctl get policies")
	refused(t, h, `calicoctl create -f - <<'EOF'
- apiVersion: v1
  kind: policy
  metadata: {name: good}
  spec: {selector: "all()"}
- apiVersion: v1
  kind: policy
  metadata: {name: bad}
  spec:
    selector: "role = 'x'"
    ingress: [{action: reject, protocol: tcp, source: {ports: [70000]}}]
EOF`, "role = 'x'", "reject", "70000")
	if after := on(t, h, "calicoctl get policies"); after != before {
		t.Errorf("a refused file was stored in part:\n%s", after)
	}
	nodeServes(t, l, h)
}
