package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"a command that succeeds", "echo fine", ""},
		{"a failure quotes the output", "echo first; echo second >&2; exit 3", "exit status 3: first\nsecond"},
		{"a failure without output", "exit 1", "exit 1: exit status 1"},
		{"a missing program", "/nonexistent", "exit status 127"},
		{"a command that hangs", "echo before; sleep 600", "did not end within 300ms: before"},
		{"long output is cut", "yes | head -c 100000; exit 1", "…"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := Run(t.Context(), c.line, limitOf(c.line))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("Run = %v, want nil", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("Run = %v, want %q in it", err, c.want)
			case err != nil && len(err.Error()) > 2*maxOutput:
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func limitOf(line string) time.Duration {
	if strings.Contains(line, "sleep") {
		return 300 * time.Millisecond
	}
	return time.Minute
}

func TestHungCommandTakesItsChildrenAlong(t *testing.T) {
	note := filepath.Join(t.TempDir(), "pid")
	err := Run(t.Context(), "sleep 600 & echo $! >"+note+"; wait", 300*time.Millisecond)
	if err == nil {
		t.Fatal("Run = nil, want a time-out")
	}
	text, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	// Killed, but perhaps not yet reaped by process 1.
	deadline := time.Now().Add(5 * time.Second)
	for syscall.Kill(pid, 0) == nil && !isZombie(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d outlived its command", pid)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // polls another process
	}
}

func isZombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestCancelledRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := Run(ctx, "sleep 600", time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want %v", err, context.Canceled)
	}
}
