package net

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// nodeOf makes two hosts, of which the first is kept by calico-node, with two containers that
// may speak and one that may not.
func nodeOf(t *testing.T) (r *cluster.Cluster, h *cluster.Host, a, c, d *cluster.Workload) {
	t.Helper()
	r = cluster.New(t, 2)
	h = r.Hosts[0]
	h.StartNode()
	r.Hosts[1].StartFelix()
	r.Hosts[1].StartBGP()
	a, c, d = h.Add("a", "net1"), r.Hosts[1].Add("c", "net1"), r.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, c, d} {
		w.InForce()
	}
	h.HasPeer(r.Hosts[1].Addr(false).String(), "established")
	h.HasPeer(r.Hosts[1].Addr(true).String(), "established")
	// Sessions come up one after the other, and each host has its own routes to set.
	nettest.Eventually(t, cluster.Patience, func() error {
		for _, to := range []netip.Addr{c.IP, c.IP6} {
			if _, err := a.Ping(to, cluster.Answer); err != nil {
				return err
			}
		}
		return nil
	})
	h.AwaitStatus(cluster.Patience, 0, "Calico process is running.")
	return r, h, a, c, d
}

// TestNodeStatus: each program that is stopped shows in the status of the host and of all nodes,
// and so does that it runs again.
func TestNodeStatus(t *testing.T) {
	_, h, _, _, _ := nodeOf(t)
	for _, program := range cluster.NodePrograms {
		h.Sv("down", program)
		h.AwaitStatus(cluster.Patience, 1, "PROBLEM: "+program+": down: it was stopped by hand\n   CURE: docker exec calico-node sv up "+program)
		awaitNode(t, h, "degraded")
		h.Sv("up", program)
		h.AwaitStatus(cluster.Patience, 0, "Established")
		awaitNode(t, h, "ready")
	}
	h.CalicoNode.Kill()
	h.AwaitStatus(cluster.Patience, 1, "PROBLEM: calico-node: does not answer")
}

func awaitNode(t *testing.T, h *cluster.Host, state string) {
	t.Helper()
	nettest.Eventually(t, cluster.Patience, func() error {
		out, _ := h.Ctl(nil, "node", "status", "--all")
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == h.Node && f[1] == state {
				return nil
			}
		}
		return fmt.Errorf("%s is not %s:\n%s", h.Node, state, out)
	})
}

// TestNodeWithoutEtcd: calico-node stops and starts while etcd is away. Its programs run by what
// the host remembers, nothing is lost meanwhile, and all is well within two seconds of etcd's
// return.
func TestNodeWithoutEtcd(t *testing.T) {
	r, h, a, c, d := nodeOf(t)
	hold := a.Hold(c, d)
	hold.Await(50)
	h.Relay.Cut()
	h.AwaitStatus(cluster.Patience, 1, "PROBLEM: etcd: does not answer")
	t.Logf("end: %s", h.StopNode())
	begun := time.Now()
	h.StartNode()
	h.HasPeer(r.Hosts[1].Addr(false).String(), "established")
	t.Logf("start without etcd to BGP up: %s", time.Since(begun))
	h.AwaitStatus(cluster.Patience, 1, "PROBLEM: start-up: etcd does not answer")
	hold.Await(50)
	h.Relay.Mend()
	took := h.AwaitStatus(5*time.Second, 0, "Established")
	t.Logf("etcd back to all well: %s", took)
	hold.Await(50)
	hold.End()
}
