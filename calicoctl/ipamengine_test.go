package calicoctl_test

import (
	"context"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
)

// web is the engine's word of the one container that the host has.
const web = `[{"Id":"c1","Names":["/web"],"State":"running","NetworkSettings":{"Networks":{"net1":{"EndpointID":"live","IPAddress":"192.168.1.1"}}}}]`

// inUse says which addresses are in use.
func (h *host) inUse(addrs ...string) string {
	h.Helper()
	var out []string
	for _, a := range addrs {
		if _, err := ipam.New(h.store, "").Lookup(h.Context(), netip.MustParseAddr(a)); err == nil {
			out = append(out, a)
		}
	}
	return strings.Join(out, " ")
}

// TestASecondEngineProvesNothing: DOCKER_HOST names an engine of this host that is not the
// one whose containers are Calico's.
func TestASecondEngineProvesNothing(t *testing.T) {
	h := newHost(t)
	h.answer = web
	h.endpoint("live", "192.168.1.1")
	h.endpoint("dead", "192.168.1.2")
	own := h.env["DOCKER_HOST"]
	h.env["DOCKER_HOST"] = serveEngine(t, "rootless", func() string { return "[]" })
	for _, args := range [][]string{{"--fix"}, {"--fix", "--force"}, {"--fix", "--node=node01", "--docker-host=" + h.env["DOCKER_HOST"]}} {
		status, out := h.calicoctl(append([]string{"ipam", "check", "--grace=1ms"}, args...)...)
		if status != 0 || !strings.Contains(out, "is not believed: nothing proves that it is the engine of node node01") {
			t.Errorf("%v: status %d, %s", args, status, out)
		}
	}
	if got := h.inUse("192.168.1.1", "192.168.1.2"); got != "192.168.1.1 192.168.1.2" {
		t.Errorf("in use are %s", got)
	}
	h.env["DOCKER_HOST"] = own
	if status, out := h.calicoctl("ipam", "check", "--fix", "--grace=1ms"); status != 0 || !strings.Contains(out, "1 are mended") {
		t.Errorf("status %d, %s", status, out)
	}
	if got := h.inUse("192.168.1.1", "192.168.1.2"); got != "192.168.1.1" {
		t.Errorf("in use are %s", got)
	}
}

// plugin serves what the plugin of a node says of its engine.
type plugin struct {
	libnetworkv1.UnimplementedLibnetworkServer

	node, engine string
}

func (p *plugin) Status(context.Context, *libnetworkv1.StatusRequest) (*libnetworkv1.StatusResponse, error) {
	return &libnetworkv1.StatusResponse{Node: p.node, EngineId: p.engine}, nil
}

// TestThePluginKnowsTheEngine: its word counts for more than networks, and only for its node.
func TestThePluginKnowsTheEngine(t *testing.T) {
	dir := t.TempDir()
	p := &plugin{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- grpcsock.Serve(ctx, filepath.Join(dir, "libnetwork.sock"), health.NewServer(), func(s *grpc.Server) { libnetworkv1.RegisterLibnetworkServer(s, p) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpcsock.Dial(filepath.Join(dir, "libnetwork.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // only asked
	soon, enough := context.WithTimeout(ctx, 10*time.Second)
	defer enough()
	if _, err := libnetworkv1.NewLibnetworkClient(conn).Status(soon, &libnetworkv1.StatusRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	h.answer = web
	h.endpoint("live", "192.168.1.1")
	h.endpoint("dead", "192.168.1.2")
	for _, tt := range []struct {
		node, engine string
		network      string
		says         string
	}{
		{"node01", "another", networkID, "that engine is not the one of node node01: its id is engine with " + networkID},
		{"node01", "engine with new", "new", "endpoint-without-container: endpoint dead"},
		{"node02", "engine with new", "new", "nothing proves that it is the engine of node node01"},
		{"node02", "another", networkID, "endpoint-without-container: endpoint dead"},
		{"node01", "", networkID, "endpoint-without-container: endpoint dead"},
	} {
		p.node, p.engine = tt.node, tt.engine
		containers := web
		if tt.network == "new" { // nor does it have an endpoint of the node: both would go
			containers = "[]"
		}
		h.env["DOCKER_HOST"] = serveEngine(t, tt.network, func() string { return containers })
		if _, out := h.calicoctl("ipam", "check", "--run-dir="+dir); !strings.Contains(out, tt.says) {
			t.Errorf("%+v: %s", tt, out)
		}
	}
}

// kernel is a network namespace of a test, which one thread is in.
type kernel struct {
	*testing.T

	work chan func()
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	k := &kernel{t, make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		if entered <- err; err != nil {
			return
		}
		for f := range k.work {
			f()
		}
	}()
	if err := <-entered; err != nil {
		t.Skipf("NOT TESTED: no network namespace can be made here: %v", err)
	}
	t.Cleanup(func() { close(k.work) })
	return k
}

// do runs a function in the namespace.
func (k *kernel) do(f func()) {
	done := make(chan struct{})
	k.work <- func() { defer close(done); f() }
	<-done
}

// ip runs the command ip in the namespace.
func (k *kernel) ip(args string) {
	k.Helper()
	k.do(func() {
		if out, err := exec.CommandContext(k.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			k.Errorf("ip %s: %v: %s", args, err, out)
		}
	})
}

// container runs a process in a namespace of its own, with a pair that leads there.
func (k *kernel) container(link string) {
	k.Helper()
	cmd := exec.CommandContext(k.Context(), "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	k.ip("link add " + link + " type veth peer name eth0 netns " + strconv.Itoa(cmd.Process.Pid))
}

// TestContainersOfTheKernelAreAlive: the node's engine has lost its containers, and two of
// them run on, by pairs that lead into their namespaces.
func TestContainersOfTheKernelAreAlive(t *testing.T) {
	k := newKernel(t)
	h := newHost(t)
	h.sandboxes = func() (list []localnet.Sandbox, err error) {
		k.do(func() { list, err = localnet.Sandboxes() })
		return list, err
	}
	byPair, byRoute, idle, gone := "1111111111111111", "2222222222222222", "3333333333333333", "4444444444444444"
	for i, id := range []string{byPair, byRoute, idle, gone} {
		h.endpoint(id, netip.AddrFrom4([4]byte{192, 168, 1, byte(i + 1)}).String())
	}
	k.container("cali11111111111")
	k.container("cali22222222222")
	k.ip("link add cali33333333333 type veth peer name temp33333333333")
	status, out := h.calicoctl("ipam", "check")
	if status != 1 || strings.Contains(out, byPair) || strings.Contains(out, byRoute) || !strings.Contains(out, idle) || !strings.Contains(out, gone) {
		t.Errorf("status %d, %s", status, out)
	}
	if status, out = h.calicoctl("ipam", "check", "--fix", "--grace=1ms"); status != 0 || !strings.Contains(out, "2 are mended") {
		t.Errorf("status %d, %s", status, out)
	}
	if got := h.inUse("192.168.1.1", "192.168.1.2", "192.168.1.3", "192.168.1.4"); got != "192.168.1.1 192.168.1.2" {
		t.Errorf("in use are %s", got)
	}
	// An address that is routed into a sandbox is not released by hand either.
	c := ipam.New(h.store, "node01")
	if err := c.Assign(t.Context(), netip.MustParseAddr("192.168.1.9"), ipam.Owner{}); err != nil {
		t.Fatal(err)
	}
	k.ip("link set cali22222222222 up")
	k.ip("route add 192.168.1.9/32 dev cali22222222222")
	if status, _ = h.calicoctl("ipam", "release", "--ip=192.168.1.9"); status != 1 || h.inUse("192.168.1.9") == "" {
		t.Errorf("released: status %d", status)
	}
	if status, out = h.calicoctl("ipam", "release", "--ip=192.168.1.9", "--force"); status != 0 || h.inUse("192.168.1.9") != "" {
		t.Errorf("forced: status %d, %s", status, out)
	}
}

// TestMoreThanHalfOfTheEndpoints needs --force, also when the engine is the node's.
func TestMoreThanHalfOfTheEndpoints(t *testing.T) {
	h := newHost(t)
	h.answer = web
	for i, id := range []string{"live", "dead1", "dead2"} {
		h.endpoint(id, netip.AddrFrom4([4]byte{192, 168, 1, byte(i + 1)}).String())
	}
	status, out := h.calicoctl("ipam", "check", "--fix", "--grace=1ms")
	if status != 1 || strings.Contains(out, "mended") || !strings.Contains(out, "2 of the node's 3 endpoints, which is more than half; if they are gone: calicoctl ipam check --fix --force") {
		t.Errorf("status %d, %s", status, out)
	}
	if status, out = h.calicoctl("ipam", "check", "--fix", "--force", "--grace=1ms"); status != 0 || !strings.Contains(out, "2 are mended") {
		t.Errorf("status %d, %s", status, out)
	}
	if got := h.inUse("192.168.1.1", "192.168.1.2", "192.168.1.3"); got != "192.168.1.1" {
		t.Errorf("in use are %s", got)
	}
}

// TestALockBetweenTheLooksStopsTheCheck: what was decided before is not written.
func TestALockBetweenTheLooksStopsTheCheck(t *testing.T) {
	h := newHost(t)
	h.endpoint("live", "192.168.1.1")
	h.endpoint("dead", "192.168.1.2")
	asked := 0
	h.env["DOCKER_HOST"] = serveEngine(t, networkID, func() string {
		if asked++; asked == 2 {
			h.apply(model.ReadyKey{}, new(model.Ready))
		}
		return web
	})
	status, out := h.calicoctl("ipam", "check", "--fix", "--grace=1ms")
	if status != 2 || asked != 2 || h.inUse("192.168.1.2") == "" {
		t.Errorf("status %d after %d looks, %s", status, asked, out)
	}
	_, err := h.store.Get(t.Context(), model.WorkloadEndpointKey{Node: "node01", Orchestrator: "libnetwork", Workload: "libnetwork", Name: "dead"})
	if err != nil {
		t.Errorf("the endpoint: %v", err)
	}
}

// TestAnAddressOfAnEndpointIsNotReleased names who has it.
func TestAnAddressOfAnEndpointIsNotReleased(t *testing.T) {
	h := newHost(t)
	h.endpoint("live", "192.168.1.1")
	if status, _ := h.calicoctl("ipam", "release", "--ip=192.168.1.1"); status != 1 || h.inUse("192.168.1.1") == "" {
		t.Errorf("released: status %d", status)
	}
	if status, out := h.calicoctl("ipam", "release", "--ip=192.168.1.1", "--force"); status != 0 || h.inUse("192.168.1.1") != "" {
		t.Errorf("forced: status %d, %s", status, out)
	}
}
