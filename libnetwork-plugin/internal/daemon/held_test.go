package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/holder"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	felixv1 "calico.internal/proto/felix/v1"
)

// programs is the folder of programs that tests have built.
var programs string

// withPrograms runs the tests of the package with a folder for programs.
func withPrograms(m *testing.M) int {
	dir, err := os.MkdirTemp("", "libnetwork-plugin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is in the temporary directory
	programs = dir
	return etcdtest.Main(m)
}

// built builds the plugin's program, as `make build` does it.
var built = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(programs, "libnetwork-plugin")
	build := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-o", binary, "calico.internal/libnetwork-plugin/cmd/libnetwork-plugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the plugin: %w\n%s", err, out)
	}
	return binary, nil
})

// held is a host whose sockets are held for the plugin, which runs as a process of its own.
type held struct {
	*host

	// pids are the process ids of its starts, ends are how they ended.
	pids chan int
	ends chan error
	// inodes are the sockets as the holder made them.
	inodes map[string]uint64
}

// hold holds the host's sockets until the test ends. The plugin starts with the first call.
func hold(t *testing.T, variables ...string) *held {
	t.Helper()
	binary, err := built()
	must(t, err)
	h := &held{host: newHost(t, enginetest.Docker29), pids: make(chan int, 99), ends: make(chan error, 99), inodes: map[string]uint64{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- holder.Holder{
			Paths: h.paths(), Command: []string{binary}, Output: t.Output(),
			Env: append([]string{
				"NODENAME=" + h.cfg.Node, "CALICO_RUN_DIR=" + h.cfg.RunDir, "CALICO_LIBNETWORK_STATE_DIR=" + h.cfg.StateDir,
				hostrecord.DirVariable + "=" + h.cfg.StateDir, "DOCKER_HOST=" + h.cfg.DockerHost, "ETCD_ENDPOINTS=" + h.env["ETCD_ENDPOINTS"],
				// A folder that cannot be made: the plugin makes no sockets of its own.
				"CALICO_LIBNETWORK_PLUGIN_DIR=/dev/null/plugins",
			}, variables...),
			Started: func(pid int) { h.pids <- pid }, Ended: func(err error) { h.ends <- err },
		}.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	enginetest.Eventually(t, "both sockets are there", func() bool {
		for _, path := range h.paths() {
			info, err := os.Lstat(path)
			if err != nil || info.Mode() != os.ModeSocket|0o600 {
				return false
			}
			h.inodes[path] = info.Sys().(*syscall.Stat_t).Ino
		}
		return true
	})
	return h
}

func (h *held) paths() []string { return []string{h.socket("calico"), h.socket("calico-ipam")} }

// pid waits for the next start and returns its process.
func (h *held) pid() int {
	h.t.Helper()
	select {
	case pid := <-h.pids:
		return pid
	case <-time.After(20 * time.Second):
		h.t.Fatal("the plugin was not started")
		return 0
	}
}

// end waits for the next end, which must be within the limit, and returns how it was.
func (h *held) end(limit time.Duration) error {
	h.t.Helper()
	select {
	case err := <-h.ends:
		return err
	case <-time.After(limit):
		h.t.Fatalf("the plugin has not ended after %v", limit)
		return nil
	}
}

// sameSockets fails the test if a socket's file is another than at the beginning.
func (h *held) sameSockets() {
	h.t.Helper()
	for path, inode := range h.inodes {
		info, err := os.Lstat(path)
		must(h.t, err)
		if info.Sys().(*syscall.Stat_t).Ino != inode {
			h.t.Errorf("%s is another file than before", path)
		}
	}
}

// joining begins a container's start, up to where it waits for felix, and returns the call.
func (h *held) joining() <-chan error {
	h.t.Helper()
	h.followed()
	h.network(netID, "net1", "{}")
	h.create(web)
	begun := make(chan struct{})
	once := sync.OnceFunc(func() { close(begun) })
	h.felix.OnWait(func(*felixv1.WaitEndpointRequest) { once() })
	h.felix.SetSilent(true)
	joined := h.later("NetworkDriver.Join", joinBody(web))
	<-begun
	return joined
}

// later makes a call that must be answered, and returns what keeps it from that.
func (h *held) later(method, body string) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, refused, err := h.attempt(method, body)
		if refused != nil {
			err = refused
		}
		result <- err
	}()
	return result
}

func TestCallsWaitForThePluginsStart(t *testing.T) {
	h := hold(t)
	select {
	case pid := <-h.pids:
		t.Fatalf("process %d was started before anybody called", pid)
	case <-time.After(300 * time.Millisecond):
	}
	var calls []<-chan error
	for range 20 {
		calls = append(calls, h.later("NetworkDriver.GetCapabilities", ""), h.later("IpamDriver.RequestPool", `{}`))
	}
	for _, call := range calls {
		if err := <-call; err != nil {
			t.Error(err)
		}
	}
	h.pid()
	if len(h.pids) != 0 {
		t.Error("the plugin was started more than once")
	}
	h.sameSockets()
}

// TestARestartLosesNoCall restarts the plugin twice in the middle of many calls.
func TestARestartLosesNoCall(t *testing.T) {
	h := hold(t)
	h.ok("NetworkDriver.GetCapabilities", "")
	pids := make(chan int, 1)
	pids <- h.pid()
	var answers atomic.Int32
	answered := func() {
		if n := answers.Add(1); n == 50 || n == 170 {
			pid := <-pids
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			if n != 50 {
				return
			}
			go func() {
				next := <-h.pids
				// One that answers is there to be told to end; one that has only begun is ended by the kernel.
				if _, refused, err := h.attempt("NetworkDriver.GetCapabilities", ""); refused != nil || err != nil {
					t.Errorf("the next: refused %v, lost %v", refused, err)
				}
				pids <- next
			}()
		}
	}
	try := func(method, format string, args ...any) string {
		text, refused, err := h.attempt(method, fmt.Sprintf(format, args...))
		if refused != nil || err != nil {
			t.Errorf("%s: refused %v, lost %v", method, refused, err)
		}
		answered()
		return text
	}
	const callers = 100
	var kept [callers]string
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			var answer struct{ Address string }
			text := try("IpamDriver.RequestAddress", `{"PoolID":"CalicoPoolIPv4","Address":"","Options":{}}`)
			if err := json.Unmarshal([]byte(text), &answer); err != nil {
				t.Errorf("answer %q: %v", text, err)
				return
			}
			try("NetworkDriver.GetCapabilities", "")
			if i%2 == 0 {
				bare, _, _ := strings.Cut(answer.Address, "/")
				try("IpamDriver.ReleaseAddress", `{"PoolID":"CalicoPoolIPv4","Address":%q}`, bare)
				return
			}
			kept[i] = answer.Address
		})
	}
	wg.Wait()
	for range 2 {
		if err := h.end(10 * time.Second); err != nil {
			t.Errorf("a plugin that was told to end: %v", err)
		}
	}
	seen := map[string]bool{}
	for _, a := range kept {
		if a != "" && seen[a] {
			t.Errorf("%s was given to two", a)
		}
		seen[a] = true
	}
	if got := h.addressesInUse(); got != callers/2 {
		t.Errorf("%d addresses are in use, %d were kept: a call was not done once", got, callers/2)
	}
	h.sameSockets()
}

// addressesInUse counts the addresses that etcd says somebody has.
func (h *held) addressesInUse() (n int) {
	h.t.Helper()
	blocks, _, _, err := h.store.List(h.t.Context(), model.KindBlock, nil)
	must(h.t, err)
	for _, b := range blocks {
		for _, a := range b.Value.(*model.Block).Allocations {
			if a != nil {
				n++
			}
		}
	}
	return n
}

// TestAKilledPlugin kills it in the middle of a call and with calls that wait.
func TestAKilledPlugin(t *testing.T) {
	h := hold(t)
	h.ok("NetworkDriver.GetCapabilities", "")
	pid := h.pid()
	joined := h.joining()
	must(t, nettest.Freeze(pid))
	var waiting []<-chan error
	for range 20 {
		waiting = append(waiting, h.later("IpamDriver.RequestAddress", `{"PoolID":"CalicoPoolIPv4"}`))
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	if err := <-joined; err == nil {
		t.Error("a call that a dead plugin had begun was answered")
	}
	h.felix.SetSilent(false)
	for _, call := range waiting {
		if err := <-call; err != nil {
			t.Errorf("a call that waited: %v", err)
		}
	}
	// The engine repeats the call, at first without its contents.
	h.refused("NetworkDriver.Join", "", "without its contents", "try again")
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	h.sameSockets()
}

func TestTERMDrainsAndLeavesTheRestToTheNext(t *testing.T) {
	h := hold(t, "CALICO_LIBNETWORK_FELIX_TIMEOUT=20s")
	h.ok("NetworkDriver.GetCapabilities", "")
	joined := h.joining()
	must(t, syscall.Kill(h.pid(), syscall.SIGTERM))
	next := h.later("NetworkDriver.GetCapabilities", "")
	select {
	case err := <-h.ends:
		t.Fatalf("the plugin ended in the middle of a call: %v", err)
	case err := <-joined:
		t.Fatalf("Join was answered before felix: %v", err)
	case <-time.After(time.Second):
	}
	h.felix.SetSilent(false)
	if err := <-joined; err != nil {
		t.Errorf("the call that had begun: %v", err)
	}
	if err := h.end(10 * time.Second); err != nil {
		t.Errorf("end: %v", err)
	}
	if err := <-next; err != nil {
		t.Errorf("the call after: %v", err)
	}
	h.ok("IpamDriver.GetDefaultAddressSpaces", "")
	h.sameSockets()
}

func TestACallThatDoesNotEndIsCutOff(t *testing.T) {
	h := hold(t, "CALICO_LIBNETWORK_FELIX_TIMEOUT=20s")
	h.ok("NetworkDriver.GetCapabilities", "")
	joined := h.joining()
	begun := time.Now()
	must(t, syscall.Kill(h.pid(), syscall.SIGTERM))
	_ = h.end(15 * time.Second) // before felix's time is over; the exit code tells of the call
	if took := time.Since(begun); took < 5*time.Second {
		t.Errorf("ended after %v", took)
	}
	if err := <-joined; err == nil {
		t.Error("Join was answered although felix was silent")
	}
	h.felix.SetSilent(false)
	h.ok("NetworkDriver.GetCapabilities", "")
	h.sameSockets()
}
