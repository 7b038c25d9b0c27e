package calicoctl_test

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// running is a command that goes on.
type running struct {
	cmd   *exec.Cmd
	lines chan string
	seen  bytes.Buffer
}

func start(t *testing.T, s *etcdtest.Server, args ...string) *running {
	t.Helper()
	r := &running{cmd: exec.Command("calicoctl", args...), lines: make(chan string, 10_000)}
	r.cmd.Env = append(os.Environ(), "ETCD_ENDPOINTS="+s.Endpoint())
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Stderr = os.Stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go r.read(out)
	t.Cleanup(r.stop)
	return r
}

func (r *running) read(out io.Reader) {
	defer close(r.lines)
	for s := bufio.NewScanner(out); s.Scan(); {
		r.lines <- s.Text()
	}
}

func (r *running) stop() {
	_ = r.cmd.Process.Kill()
	for range r.lines { // until it has ended
	}
	_ = r.cmd.Wait()
}

// until waits for a line that has all of some words.
func (r *running) until(t *testing.T, words ...string) {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				t.Fatalf("it has ended, without %q, after\n%s", words, r.seen.String())
			}
			r.seen.WriteString(line + "\n")
			all := true
			for _, word := range words {
				all = all && strings.Contains(line, word)
			}
			if all {
				return
			}
		case <-late:
			t.Fatalf("no %q in time, after\n%s", words, r.seen.String())
		}
	}
}

// change writes a resource, or deletes it when it is nil.
func change(t *testing.T, client *clientv3.Client, k model.Key, r model.Resource) {
	t.Helper()
	var ops []clientv3.Op
	if r == nil {
		for _, path := range model.Paths(k) {
			ops = append(ops, clientv3.OpDelete(path))
		}
	} else {
		parts, err := model.Encode(k, r)
		if err != nil {
			t.Fatal(err)
		}
		for path, value := range parts {
			ops = append(ops, clientv3.OpPut(path, string(value)))
		}
	}
	if _, err := client.Txn(t.Context()).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
}

// watchCases are commands that go on, by what they are asked for, with the resource that is
// changed meanwhile and the words that they print then.
var watchCases = map[string]struct {
	line         string
	first, after []string
	key          model.Key
	next         model.Resource
}{
	"nodes":                    {"get nodes -w", []string{"added", nodeName(9)}, []string{"deleted", nodeName(7)}, model.NodeKey{Name: nodeName(7)}, nil},
	"a node":                   {"get node " + nodeName(7) + " -w", []string{"added", nodeName(7)}, []string{"deleted", nodeName(7)}, model.NodeKey{Name: nodeName(7)}, nil},
	"a node in v3":             {"get node " + nodeName(7) + " -w --api-version=v3", []string{"added", nodeName(7)}, []string{"deleted", nodeName(7)}, model.NodeKey{Name: nodeName(7)}, nil},
	"host endpoints":           {"get hostEndpoint -w", []string{"added", nodeName(9)}, []string{"deleted", nodeName(7)}, hostEndpoint7, nil},
	"host endpoints of a node": {"get hostEndpoint -w --node=" + nodeName(7), []string{"added", nodeName(7)}, []string{"deleted", nodeName(7)}, hostEndpoint7, nil},
	"felix' settings":          {"get felixconfig -w", []string{"added", "node." + nodeName(9)}, []string{"deleted", "node." + nodeName(7)}, model.FelixConfigKey{Node: nodeName(7), Name: "LogPrefix"}, nil},
	"networks of Docker":       {"get networks -w", nil, []string{"added", "net7", "differs on b"}, model.DockerNetworkKey{Name: "net7"}, &model.DockerNetwork{IDs: map[string]string{"a": "1"}, Problems: map[string]string{"b": "differs"}}},
	"an endpoint by its node":  {"get wep -w --node=" + nodeName(7), []string{"added", endpoint7.Name[:20]}, []string{"deleted", endpoint7.Name[:20]}, endpoint7, nil},
	"an endpoint by its name": {
		"get wep -w --node=" + nodeName(7) + " --orchestrator=libnetwork --workload=libnetwork " + endpoint7.Name,
		[]string{"added", endpoint7.Name[:20]},
		[]string{"deleted", endpoint7.Name[:20]},
		endpoint7, nil,
	},
	"an endpoint in v3": {
		"get wep -w --api-version=v3 " + nodeName(7) + "-libnetwork-libnetwork-" + endpoint7.Name,
		[]string{"added", "cali" + endpoint7.Name[:11]},
		[]string{"deleted", "cali" + endpoint7.Name[:11]},
		endpoint7, nil,
	},
	"wait for a node's end": {"wait node " + nodeName(7) + " --for=delete", nil, []string{"does not exist"}, model.NodeKey{Name: nodeName(7)}, nil},
	"wait for a node": {
		"wait node " + nodeName(7) + " --for=condition=ready", nil,
		[]string{"it is ready"},
		model.LivenessKey{Node: nodeName(7), Program: "felix"},
		&model.Liveness{Version: "v0.1.0", Ready: true},
	},
	"wait for an endpoint": {
		"wait wep " + endpoint7.Name + " --node=" + nodeName(7) + " --orchestrator=libnetwork --workload=libnetwork --for=condition=up", nil,
		[]string{"it is up"},
		model.EndpointStatusKey(endpoint7), &model.EndpointStatus{Status: model.EndpointUp},
	},
	"wait for several kinds": {"wait -f FILE --for=delete", nil, []string{nodeName(7), "does not exist"}, model.NodeKey{Name: nodeName(7)}, nil},
}

var (
	endpoint7     = endpointKey(7, 3)
	hostEndpoint7 = model.HostEndpointKey{Node: nodeName(7), Name: "eth0"}
)

// severalKinds is what one waits for at once.
var severalKinds = `
- {apiVersion: v1, kind: node, metadata: {name: ` + nodeName(7) + `}, spec: {}}
- {apiVersion: v1, kind: hostEndpoint, metadata: {node: ` + nodeName(7) + `, name: gone}, spec: {interfaceName: eth1}}
- {apiVersion: v1, kind: workloadEndpoint, metadata: {node: ` + nodeName(7) + `, orchestrator: libnetwork, workload: libnetwork, name: gone}, spec: {interfaceName: cali1, ipNetworks: [10.9.9.9/32]}}
`

// TestAWatchHearsWhatItAskedFor changes, while a command goes on, a thousand endpoints of
// other nodes and what felix says of them, and then what the command is about: it hears of
// that, and etcd sends it nothing else.
func TestAWatchHearsWhatItAskedFor(t *testing.T) {
	s := etcdtest.Start(t)
	client := s.Client(t)
	w := world{nodes: 10, endpoints: 50, policies: 1, blocks: 1}
	several := filepath.Join(t.TempDir(), "several.yaml")
	if err := os.WriteFile(several, []byte(severalKinds), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range watchCases {
		t.Run(name, func(t *testing.T) {
			s.Wipe(t)
			w.fill(t, client)
			change(t, client, model.LivenessKey{Node: nodeName(7), Program: "felix"}, &model.Liveness{Version: "v0.1.0"})
			change(t, client, model.EndpointStatusKey(endpoint7), &model.EndpointStatus{Status: model.EndpointDown})
			r := start(t, s, strings.Split(strings.ReplaceAll(tt.line, "FILE", several), " ")...)
			if tt.first != nil {
				r.until(t, tt.first...)
			}
			awaitWatchers(t, s)
			before := metric(t, s, "etcd_debugging_mvcc_events_total")
			disturb(t, client, w)
			change(t, client, tt.key, tt.next)
			r.until(t, tt.after...)
			if n := metric(t, s, "etcd_debugging_mvcc_events_total") - before; n > 10 {
				t.Errorf("etcd sent %d changes", n)
			}
		})
	}
}

// awaitWatchers waits until the server has any watcher.
func awaitWatchers(t *testing.T, s *etcdtest.Server) {
	t.Helper()
	late := time.After(20 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); metric(t, s, "etcd_debugging_mvcc_watcher_total") == 0; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("nobody watches")
		}
	}
}

// disturb changes all endpoints of all nodes but one, and what felix says of them.
func disturb(t *testing.T, client *clientv3.Client, w world) {
	t.Helper()
	var ops []clientv3.Op
	for n := range w.nodes {
		for i := range w.endpoints {
			if n == 7 {
				continue
			}
			k := endpointKey(n, i)
			ops = append(ops, clientv3.OpPut(model.Paths(k)[0], "{}"), clientv3.OpPut(model.Paths(model.EndpointStatusKey(k))[0], "{}"))
		}
		if _, err := client.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
		ops = nil
	}
}

// TestAWatchSurvivesACut takes etcd away from a watch, deletes what it is about, compacts,
// and gives it back: the deletion is told.
func TestAWatchSurvivesACut(t *testing.T) {
	s := etcdtest.Start(t)
	world{nodes: 10, endpoints: 5, policies: 1, blocks: 1}.fill(t, s.Client(t))
	nodes := start(t, s, "get", "nodes", "-w")
	endpoint := start(t, s, "get", "wep", "-w", "--node="+endpoint7.Node, "--orchestrator=libnetwork", "--workload=libnetwork", endpoint7.Name)
	nodes.until(t, "added", nodeName(9))
	endpoint.until(t, "added", endpoint7.Name[:20])
	s.Stop()
	elsewhere, err := s.RestartElsewhere()
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{elsewhere}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() //nolint:errcheck // the test is over
	change(t, client, model.NodeKey{Name: nodeName(7)}, nil)
	change(t, client, endpoint7, nil)
	now, err := client.Get(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(t.Context(), now.Header.Revision); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	nodes.until(t, "deleted", nodeName(7))
	endpoint.until(t, "deleted", endpoint7.Name[:20])
}
