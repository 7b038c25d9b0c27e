package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type echo struct {
	Text string
}

// serve starts a server with three methods on a published socket.
func serve(t *testing.T, path string) (*Server, *Socket) {
	t.Helper()
	s := New("calico", "NetworkDriver", slog.New(slog.DiscardHandler))
	Handle(s, "NetworkDriver.Echo", func(_ context.Context, r echo) (echo, error) { return r, nil })
	Handle(s, "NetworkDriver.Empty", func(context.Context, Empty) (Empty, error) { return Empty{}, nil })
	Handle(s, "NetworkDriver.Fail", func(context.Context, Empty) (Empty, error) {
		return Empty{}, errors.New("the pool is full")
	})
	sock, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(sock) }()
	t.Cleanup(func() {
		if err := errors.Join(sock.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	if err := sock.Publish(); err != nil {
		t.Fatal(err)
	}
	return s, sock
}

// What an engine makes of a failed call is not known, so that somebody looks what it left.
func TestFailedCallsAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	s, _ := serve(t, path)
	failed := make(chan struct{}, 2)
	s.Failed = func() { failed <- struct{}{} }
	post(t, path, "NetworkDriver.Empty", "{}")
	post(t, path, "NetworkDriver.Fail", "{}")
	if n := len(failed); n != 1 {
		t.Errorf("told of %d failed calls, want 1", n)
	}
}

// post calls a method as Docker's engine does.
func post(t *testing.T, path, method, body string) (int, string, http.Header) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	resp, err := client.Post("http://plugin/"+method, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is buffered
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(text)), resp.Header
}

func TestCallsAreAnsweredInDockersShape(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	serve(t, path)
	tests := []struct {
		name, method, body string
		status             int
		want               string
	}{
		{"activation names the driver", "Plugin.Activate", "", 200, `{"Implements": ["NetworkDriver"]}`},
		{"a request is decoded and answered", "NetworkDriver.Echo", `{"Text":"x"}`, 200, `{"Text":"x"}`},
		{"a call without a body is one with an empty request", "NetworkDriver.Empty", "", 200, `{}`},
		{"a call that the engine repeats without its contents", "NetworkDriver.Echo", "", 500, `{"Err":"` + errNoContents.Error() + `"}`},
		{"null is an empty request", "NetworkDriver.Empty", "null", 200, `{}`},
		{"an error is a sentence in Err", "NetworkDriver.Fail", "{}", 500, `{"Err":"the pool is full"}`},
		{"a method that the engine may know and we do not", "NetworkDriver.Nope", "{}", 404, "404 page not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, got, header := post(t, path, tt.method, tt.body)
			if status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if ct := header.Get("Content-Type"); status != 404 && ct != "application/vnd.docker.plugins.v1.1+json" {
				t.Errorf("content type %q", ct)
			}
		})
	}
}

func TestARequestThatIsNotJSONIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	serve(t, path)
	status, got, _ := post(t, path, "NetworkDriver.Echo", `{"Text":`)
	var answer failure
	if err := json.Unmarshal([]byte(got), &answer); err != nil || status != 500 {
		t.Fatalf("status %d, body %s, %v", status, got, err)
	}
	if !strings.Contains(answer.Err, "request is not what Docker sends") {
		t.Errorf("error %q", answer.Err)
	}
}

func TestSocketAppearsOnlyWhenPublished(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "calico.sock")
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is there before it is published: %v", err)
	}
	if err := s.Publish(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != os.ModeSocket|0o600 {
		t.Errorf("mode %v", got)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
	wantEmpty(t, dir)
}

func TestAnUnpublishedSocketLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := Listen(filepath.Join(dir, "calico.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, dir)
}

func TestAStaleSocketIsReplacedAndALiveOneRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, path)
	if status, _, _ := post(t, path, "Plugin.Activate", ""); status != 200 {
		t.Errorf("status %d after the stale socket was replaced", status)
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("second server on a live socket: %v", err)
	}
}

func TestAFileThatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("error %v", err)
	}
}

func TestCloseLeavesTheSocketOfASuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Publish(), second.Publish(), first.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket is gone: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestDrainWaitsForCallsInProgress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	s, sock := serve(t, path)
	started, release := make(chan struct{}), make(chan struct{})
	Handle(s, "NetworkDriver.Slow", func(context.Context, Empty) (echo, error) {
		close(started)
		<-release
		return echo{"done"}, nil
	})
	answered := make(chan string, 1)
	go func() {
		_, got, _ := post(t, path, "NetworkDriver.Slow", "{}")
		answered <- got
	}()
	<-started
	if err := sock.Close(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained while a call was in progress: %v", err)
	}
	close(release)
	if got := <-answered; got != `{"Text":"done"}` {
		t.Errorf("answer %s", got)
	}
}

func TestASocketThatSomebodyElseHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	holder, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close() //nolint:errcheck // the test is over
	// handOver gives the socket to a server, which begins to accept when start is called.
	handOver := func(text string) (start func() error, end func() error) {
		file, err := holder.File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close() //nolint:errcheck // it is one of two
		l, err := net.FileListener(file)
		if err != nil {
			t.Fatal(err)
		}
		s := New("calico", "NetworkDriver", slog.New(slog.DiscardHandler))
		Handle(s, "NetworkDriver.Who", func(context.Context, Empty) (echo, error) { return echo{text}, nil })
		sock, served := Held(l), make(chan error, 1)
		go func() { served <- s.Serve(sock) }()
		return sock.Publish, func() error { return errors.Join(sock.Close(), <-served, s.Drain(t.Context())) }
	}
	call := func() <-chan string {
		answered := make(chan string, 1)
		go func() {
			_, got, _ := post(t, path, "NetworkDriver.Who", "")
			answered <- got
		}()
		return answered
	}
	for _, text := range []string{"first", "second"} {
		start, end := handOver(text)
		answered := call()
		select {
		case got := <-answered:
			t.Errorf("answer %s before the socket was published", got)
		case <-time.After(50 * time.Millisecond):
		}
		if err := start(); err != nil {
			t.Fatal(err)
		}
		if got := <-answered; got != `{"Text":"`+text+`"}` {
			t.Errorf("answer %s", got)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("the holder's socket: %v", err)
		}
	}
	// A server that ends before it was published has accepted nobody.
	_, end := handOver("none")
	answered := call()
	if err := end(); err != nil {
		t.Error(err)
	}
	start, end := handOver("last")
	if err := start(); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; got != `{"Text":"last"}` {
		t.Errorf("answer %s", got)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// TestServersThatFollowOneAnotherLoseNoCall ends one server after the other on a held socket,
// each in the middle of many calls.
func TestServersThatFollowOneAnotherLoseNoCall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	holder, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close() //nolint:errcheck // the test is over
	const calls = 400
	var done atomic.Int32
	var callers sync.WaitGroup
	for range calls {
		callers.Go(func() {
			if status, got, _ := post(t, path, "NetworkDriver.Count", ""); status != http.StatusOK || got != "{}" {
				t.Errorf("status %d, answer %s", status, got)
			}
		})
	}
	for goal := int32(calls / 8); goal <= calls; goal += calls / 8 {
		file, err := holder.File()
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		s, reached := New("calico", "NetworkDriver", slog.New(slog.DiscardHandler)), make(chan struct{})
		once := sync.OnceFunc(func() { close(reached) })
		Handle(s, "NetworkDriver.Count", func(context.Context, Empty) (Empty, error) {
			if done.Add(1) >= goal {
				once()
			}
			return Empty{}, nil
		})
		if done.Load() >= goal {
			once()
		}
		sock, served := Held(l), make(chan error, 1)
		go func() { served <- s.Serve(sock) }()
		if err := sock.Publish(); err != nil {
			t.Fatal(err)
		}
		<-reached
		if err := errors.Join(sock.Close(), <-served, s.Drain(t.Context())); err != nil {
			t.Error(err)
		}
	}
	callers.Wait()
	if got := done.Load(); got != calls {
		t.Errorf("%d calls were made for %d", got, calls)
	}
}

// wantEmpty fails the test if dir holds anything.
func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left in %s: %v", dir, left)
	}
}

func TestACallThatTakesTooLongIsGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calico.sock")
	s, _ := serve(t, path)
	s.limit = 50 * time.Millisecond
	Handle(s, "NetworkDriver.Wait", func(ctx context.Context, _ Empty) (Empty, error) {
		<-ctx.Done()
		return Empty{}, ctx.Err()
	})
	status, body, _ := post(t, path, "NetworkDriver.Wait", "{}")
	if status == http.StatusOK || !strings.Contains(body, "took longer than") || !strings.Contains(body, "try again") {
		t.Errorf("%d %s", status, body)
	}
}
