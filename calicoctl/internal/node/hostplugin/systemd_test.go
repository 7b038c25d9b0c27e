package hostplugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// insideVariable says that the test runs in the host of a systemd.
const insideVariable = "CALICO_TEST_IN_SYSTEMD"

// password has all that a file of variables may read as something else.
const password = `a"b\c$d'e f#g` + "`h"

// TestUnderSystemd runs [TestInside] on a host whose process 1 is systemd.
func TestUnderSystemd(t *testing.T) {
	share := t.TempDir()
	pid := startHost(t, share)
	buildPlugin(t, share)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(share, "test"), self)
	cmd := inHost(t, pid, "/mnt/test", "-test.run=^TestInside$", "-test.v", "-test.timeout=120s")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", insideVariable + "=1"}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// callers call a plugin as an engine does: what cannot connect is tried again, and what breaks
// later is lost.
type callers struct {
	stop     func()
	done     sync.WaitGroup
	answered atomic.Int64
	again    atomic.Int64
	mu       sync.Mutex
	lost     []error
}

func call(ctx context.Context) (connected bool, err error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(PluginDir, "calico.sock"))
		connected = err == nil
		return conn, err
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/NetworkDriver.GetCapabilities", http.NoBody)
	if err != nil {
		return false, err
	}
	answer, err := client.Do(req)
	if err != nil {
		return connected, err
	}
	return true, answer.Body.Close()
}

func startCallers(t *testing.T, n int) *callers {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &callers{stop: stop}
	for range n {
		c.done.Go(func() {
			for ctx.Err() == nil {
				// A call that has begun is waited for.
				connected, err := call(context.WithoutCancel(ctx))
				switch {
				case err == nil:
					c.answered.Add(1)
				case !connected:
					c.again.Add(1)
				default:
					c.mu.Lock()
					c.lost = append(c.lost, err)
					c.mu.Unlock()
				}
				timer := time.NewTimer(10 * time.Millisecond)
				select {
				case <-timer.C:
				case <-ctx.Done():
				}
				timer.Stop()
			}
		})
	}
	return c
}

// end returns how many calls were answered, and how often one was tried again.
func (c *callers) end(t *testing.T) (answered, again int64) {
	t.Helper()
	before := c.answered.Load()
	eventually(t, "calls are answered", func() bool { return c.answered.Load() > before+200 })
	c.stop()
	c.done.Wait()
	if len(c.lost) > 0 {
		t.Errorf("%d calls are lost, the first by %v", len(c.lost), c.lost[0])
	}
	return c.answered.Load(), c.again.Load()
}

// container stands in for the plugin in the container: the same program, with sockets of its own.
func container(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/mnt/libnetwork-plugin", "run")
	cmd.Env = []string{"NODENAME=node00", "ETCD_ENDPOINTS=http://127.0.0.1:1"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func answers(t *testing.T) {
	t.Helper()
	eventually(t, "the plugin answers", func() bool {
		_, err := call(t.Context())
		return err == nil
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func install(t *testing.T, s Service, variables ...string) (changed bool, undo func(context.Context) error) {
	t.Helper()
	program, err := os.ReadFile("/mnt/libnetwork-plugin")
	must(t, err)
	changed, undo, err = s.Install(t.Context(), Content{Program: bytes.NewReader(program), Variables: variables})
	must(t, err)
	return changed, undo
}

func TestInside(t *testing.T) {
	if os.Getenv(insideVariable) == "" {
		t.Skip("TestUnderSystemd runs it on a host with systemd")
	}
	s, ctx := Service{}, t.Context()
	must(t, s.Check())
	variables := []string{"NODENAME=node00", "ETCD_ENDPOINTS=http://127.0.0.1:1", "ETCD_USERNAME=u", "ETCD_PASSWORD=" + password}

	t.Log("from the container to the host")
	old := container(t)
	answers(t)
	c := startCallers(t, 100)
	if changed, _ := install(t, s, variables...); !changed {
		t.Error("a first installation changes nothing")
	}
	must(t, s.Check())
	must(t, s.Listen(ctx))
	must(t, old.Process.Signal(syscall.SIGTERM))
	if err := old.Wait(); err != nil {
		t.Errorf("the old plugin: %v", err)
	}
	must(t, s.Start(ctx))
	answered, again := c.end(t)
	t.Logf("%d calls answered, %d connected anew", answered, again)
	checkFiles(t, s, variables)

	t.Log("a restart")
	c = startCallers(t, 100)
	for range 3 {
		must(t, s.Restart(ctx))
	}
	if answered, again = c.end(t); again > 0 {
		t.Errorf("%d calls could not connect while the service was replaced", again)
	}
	t.Logf("%d calls answered", answered)

	t.Log("the same again, others, and back")
	if changed, _ := install(t, s, variables...); changed {
		t.Error("the same again is a change")
	}
	changed, undo := install(t, s, "NODENAME=node01")
	text, err := os.ReadFile(Environment)
	must(t, err)
	if !changed || !strings.Contains(string(text), "node01") {
		t.Errorf("changed is %v, and it holds %s", changed, text)
	}
	must(t, undo(ctx))
	checkFiles(t, s, variables)

	t.Log("from the host to the container")
	c = startCallers(t, 100)
	must(t, s.Withdraw(ctx))
	old = container(t)
	answered, again = c.end(t)
	t.Logf("%d calls answered, %d connected anew", answered, again)
	if err := call1(ctx, "enabled", ServiceUnit); err == nil {
		t.Error("the service that was withdrawn starts at the next boot")
	}
	must(t, s.Remove(ctx))
	answers(t) // the container's sockets stay
	must(t, old.Process.Kill())
	_ = old.Wait()
	for _, name := range []string{Program, filepath.Dir(Program), Environment, s.unit(SocketUnit), s.unit(ServiceUnit)} {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left (%v)", name, err)
		}
	}
	if s.Installed() || s.Listens(ctx) {
		t.Error("it is still there")
	}
}

func call1(ctx context.Context, state, unit string) error { return systemctl(ctx, "is-"+state, unit) }

// checkFiles checks an installation whose service runs.
func checkFiles(t *testing.T, s Service, variables []string) {
	t.Helper()
	if !s.Installed() || !s.Listens(t.Context()) {
		t.Error("it is not there, or does not listen")
	}
	for name, mode := range map[string]os.FileMode{Program: 0o755, Environment: 0o600, s.unit(SocketUnit): 0o644, s.unit(ServiceUnit): 0o644} {
		if info, err := os.Stat(name); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "systemctl", "show", "-p", "MainPID", "--value", ServiceUnit).Output()
	must(t, err)
	pid := strings.TrimSpace(string(out))
	environ, err := os.ReadFile("/proc/" + pid + "/environ")
	must(t, err)
	for _, v := range variables {
		if !strings.Contains("\x00"+string(environ), "\x00"+v+"\x00") {
			t.Errorf("the service has no %s in %q", v, environ)
		}
	}
	line, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil || string(line) != fmt.Sprintf("%s\x00run\x00", Program) {
		t.Errorf("its command line is %q (%v)", line, err)
	}
}
