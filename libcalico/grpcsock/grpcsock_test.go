package grpcsock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/libcalico/grpcsock"
)

func TestServeAnswersAndLeavesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "felix.sock")
	s := start(t, path)
	check(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the socket is %o", got)
	}
	if err := s.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRegisterAddsServices(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.sock")
	names := make(chan []string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- grpcsock.Serve(ctx, path, health.NewServer(), func(s *grpc.Server) {
			var have []string
			for name := range s.GetServiceInfo() {
				have = append(have, name)
			}
			names <- have
		})
	}()
	if have := <-names; len(have) != 1 || have[0] != "grpc.health.v1.Health" {
		t.Errorf("services before register: %v", have)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, path)
	check(t, path)
}

// listenAndDie names a socket for a process that listens there, leaves it to a child, and
// ends.
const listenAndDie = "GRPCSOCK_TEST_LISTEN_AND_DIE"

func TestMain(m *testing.M) {
	if path := os.Getenv(listenAndDie); path != "" {
		if err := leaveToChild(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func leaveToChild(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	file, err := l.File()
	if err != nil {
		return err
	}
	child := exec.Command("sleep", "60")
	child.ExtraFiles = []*os.File{file}
	if err := child.Start(); err != nil {
		return err
	}
	_, err = fmt.Println(child.Process.Pid)
	return err
}

func TestSocketThatAChildHoldsIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.sock")
	parent := exec.Command("/proc/self/exe")
	parent.Env = append(os.Environ(), listenAndDie+"="+path)
	out, err := parent.Output()
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	if conn, err := net.Dial("unix", path); err != nil {
		t.Fatalf("the child does not hold the socket: %v", err)
	} else {
		_ = conn.Close()
	}
	start(t, path)
	check(t, path)
}

func TestLiveSocketIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.sock")
	start(t, path)
	check(t, path)
	err := grpcsock.Serve(t.Context(), path, health.NewServer(), nil)
	if !errors.Is(err, grpcsock.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	check(t, path)
}

func TestOtherFileIsLeftAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := grpcsock.Serve(t.Context(), path, health.NewServer(), nil)
	if err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func TestLongPathIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 100), "a.sock")
	err := grpcsock.Serve(t.Context(), path, health.NewServer(), nil)
	if err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

func TestStopEndsStreamsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.sock")
	s := start(t, path)
	conn := dial(t, path)
	stream, err := healthgrpc.NewHealthClient(conn).Watch(t.Context(), &healthgrpc.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("who watches its health keeps the server for %s", took)
	}
}

func TestClientConnectsAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.sock")
	s := start(t, path)
	conn := dial(t, path)
	checkBy(t, conn)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, path)
	checkBy(t, conn)
}

type server struct {
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, path string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &server{cancel: cancel, done: make(chan error, 1)}
	go func() { s.done <- grpcsock.Serve(ctx, path, health.NewServer(), nil) }()
	t.Cleanup(func() { _ = s.stop() })
	return s
}

func (s *server) stop() error {
	s.cancel()
	err := <-s.done
	s.done <- nil
	return err
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpcsock.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func check(t *testing.T, path string) {
	t.Helper()
	checkBy(t, dial(t, path))
}

func checkBy(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := healthgrpc.NewHealthClient(conn).Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetStatus() != healthgrpc.HealthCheckResponse_SERVING {
		t.Errorf("status is %v", resp.GetStatus())
	}
}
