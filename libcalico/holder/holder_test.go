package holder_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"calico.internal/libcalico/holder"
)

func TestAProgramIsHandedItsSockets(t *testing.T) {
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "plugins", "a.sock"), filepath.Join(dir, "plugins", "b-c.sock")}
	said := filepath.Join(dir, "said")
	pids := make(chan int, 9)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- holder.Holder{
			Paths:   paths,
			Command: []string{"/bin/sh", "-c", `echo $$ $LISTEN_PID $LISTEN_FDS $LISTEN_FDNAMES $MINE >"$1.new"; mv "$1.new" "$1"; exec sleep 60`, "sh", said},
			Env:     append(os.Environ(), "MINE=yes"), Output: t.Output(), Started: func(pid int) { pids <- pid },
		}.Run(ctx)
	}()
	eventually(t, "both sockets are there", func() bool {
		a, errA := os.Lstat(paths[0])
		b, errB := os.Lstat(paths[1])
		return errA == nil && errB == nil && a.Mode() == os.ModeSocket|0o600 && b.Mode() == os.ModeSocket|0o600
	})
	select {
	case <-pids:
		t.Fatal("the program was started before the first call")
	case <-time.After(300 * time.Millisecond):
	}
	caller, err := net.Dial("unix", paths[1])
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close() //nolint:errcheck // the test is over
	for range 2 {
		pid := <-pids
		var text []byte
		eventually(t, "the program has said what it was handed", func() bool {
			text, err = os.ReadFile(said)
			return err == nil
		})
		number := strconv.Itoa(pid)
		if got, want := strings.TrimSpace(string(text)), number+" "+number+" 2 a:b-c yes"; got != want {
			t.Errorf("the program found %q, want %q", got, want)
		}
		if err := errors.Join(os.Remove(said), syscall.Kill(pid, syscall.SIGKILL)); err != nil {
			t.Fatal(err)
		}
	}
	<-pids
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, path := range paths {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s at the end: %v", path, err)
		}
	}
}

func TestASocketThatCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.sock")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := holder.Holder{Paths: []string{filepath.Join(dir, "b.sock"), file}, Command: []string{"true"}}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}
