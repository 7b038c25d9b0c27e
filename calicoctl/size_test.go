package calicoctl_test

import (
	"bufio"
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"calico.internal/libcalico/etcdtest"
)

// sentBytes is how much a server has sent to clients.
func sentBytes(t *testing.T, s *etcdtest.Server) int {
	t.Helper()
	return metric(t, s, "etcd_network_client_grpc_sent_bytes_total")
}

// metric is the value of one of a server's metrics.
func metric(t *testing.T, s *etcdtest.Server, name string) int {
	t.Helper()
	resp, err := http.Get(s.Endpoint() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatal("the server does not tell " + name)
	return 0
}

// TestWhatIsReadDependsOnWhatIsAsked has a cluster with many endpoints, policies and blocks,
// 5 MB of them, and commands that concern few: each may make etcd send only so much.
func TestWhatIsReadDependsOnWhatIsAsked(t *testing.T) {
	const kB = 1 << 10
	etcd := etcdtest.Start(t)
	world{nodes: 30, endpoints: 100, policies: 2000, blocks: 200}.fill(t, etcd.Client(t))
	one := endpointKey(7, 3)
	host := t.TempDir()
	for _, tt := range []struct {
		name  string
		line  string
		stdin string
		most  int
		want  string
	}{
		{"nodes", "get nodes -o wide", "", 60 * kB, nodeName(29)},
		{"a node", "get node " + nodeName(7), "", 4 * kB, nodeName(7)},
		{"a node in v3", "get node " + nodeName(7) + " --api-version=v3", "", 4 * kB, nodeName(7)},
		{"status of all nodes", "node status --all", "", 100 * kB, nodeName(29)},
		{"wait for felix' settings", "wait felixconfig default --for=delete --timeout=20s", "", 6 * kB, "does not exist"}, // as long as no node has started
		{"start of a node", "node startup --run-dir=" + host + " --state-dir=" + host, "", 60 * kB, "Using node name: " + nodeName(7)},
		{"host endpoints", "get hostEndpoint", "", 60 * kB, nodeName(29)},
		{"host endpoints of a node", "get hostEndpoint --node=" + nodeName(7), "", 4 * kB, nodeName(7)},
		{"felix' settings", "get felixconfig", "", 60 * kB, "node." + nodeName(29)},
		{"felix' settings of a node", "get felixconfig node." + nodeName(7), "", 60 * kB, "node." + nodeName(7)},
		{"wait for felix' settings of a node", "wait felixconfig node." + nodeName(7) + " --for=create --timeout=20s", "", 6 * kB, "as waited for"},
		{"wait for the cluster", "wait clusterinfo default --for=create --timeout=20s", "", 6 * kB, "as waited for"},
		{"a policy", "get policy " + policyName(77), "", 4 * kB, policyName(77)},
		{"a policy in v3", "get gnp " + policyName(77), "", 4 * kB, policyName(77)},
		{"an endpoint", "get wep --node=" + one.Node + " --orchestrator=libnetwork --workload=libnetwork " + one.Name, "", 4 * kB, one.Name},
		{"an endpoint by its node", "get wep --node=" + one.Node + " " + one.Name, "", 60 * kB, one.Name},
		{"an endpoint in v3", "get wep --api-version=v3 " + one.Node + "-libnetwork-libnetwork-" + one.Name, "", 4 * kB, one.Node},
		{"the endpoints of a node", "get wep --node=" + one.Node, "", 60 * kB, one.Name},
		{"completion of nodes", "__complete get node node00", "", 60 * kB, nodeName(29)},
		{"completion of policies", "__complete get policy policy019", "", 220 * kB, policyName(1999)},
		{"completion of a node's endpoints", "__complete get wep --node=" + one.Node + " ", "", 40 * kB, one.Name},
		{
			"apply of a node", "apply -f -",
			"{apiVersion: v1, kind: node, metadata: {name: new}, spec: {bgp: {ipv4Address: 172.20.99.1}}}", 100 * kB, "1 'node' resource",
		},
		{
			"apply of a policy in v3", "apply -f -",
			"{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: new}, spec: {selector: a == 'b'}}", 6 * kB, "created",
		},
		{"apply of many host endpoints", "apply -f -", hostEndpoints(20), 60 * kB, "Successfully applied 20"},
		{
			"apply of a pool", "apply -f -",
			"{apiVersion: v1, kind: ipPool, metadata: {cidr: 192.168.0.0/16}, spec: {}}", 60 * kB, "created",
		},
		{
			"delete of a policy in v3", "delete -f -",
			"{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: new}}", 6 * kB, "deleted 1",
		},
		// All blocks are looked at for its addresses, and none of the others' endpoints.
		{"delete of a node", "delete node new", "", 1900 * kB, "deleted 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := sentBytes(t, etcd)
			cmd := exec.Command("calicoctl", strings.Split(tt.line, " ")...)
			cmd.Env = append(os.Environ(), "ETCD_ENDPOINTS="+etcd.Endpoint(), "NODENAME="+nodeName(7), "IP="+nodeAddr(7).String())
			cmd.Dir = host
			var out bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(tt.stdin), &out, &out
			if err := cmd.Run(); err != nil || !strings.Contains(out.String(), tt.want) {
				t.Fatalf("error %v, and no %q in\n%s", err, tt.want, out.String())
			}
			if sent := sentBytes(t, etcd) - before; sent > tt.most {
				t.Errorf("etcd sent %d bytes, want at most %d", sent, tt.most)
			} else {
				t.Logf("etcd sent %d bytes", sent)
			}
		})
	}
}

// hostEndpoints is manifests of so many, on one node.
func hostEndpoints(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("- {apiVersion: v1, kind: hostEndpoint, metadata: {node: " + nodeName(5) + ", name: e" + strconv.Itoa(i) + "}, spec: {interfaceName: eth1}}\n")
	}
	return b.String()
}
