package system

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// TestLab runs the reference experiment and then, on the same hosts, what must hold
// when parts of a host are stopped or killed.
func TestLab(t *testing.T) {
	ctx := t.Context()
	l := newLab(t)
	if err := l.Up(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, l) })
	e := l.NewExperiment()
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Day(ctx); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{
		{"felix stopped: docker start fails and names felix, continued it works", felixStopped},
		{"everything of calico killed: traffic flows on, denials hold", nodeKilled},
		{"bad input is refused with a sentence and exit code 1", badInput},
		{"a wrong node run leaves the node that is there", wrongRuns},
		{"an upgrade loses no packet", upgraded},
		{"a stopped node loses no packet", stoppedInOrder},
		{"an upgrade from a former build, host by host, loses no packet", upgradedFromFormer},
		{"a reboot and a power cut lose nothing of the others, and leave nothing", rebooted},
		{"a purge leaves nothing", purged},
	} {
		if !t.Run(tc.name, func(t *testing.T) { tc.run(t, l) }) {
			saveLogs(t, l)
		}
	}
	if err := l.RunLabels(ctx); err != nil {
		t.Error(err)
	}
}

func newLab(t testing.TB) *lab.Lab {
	t.Helper()
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	version := os.Getenv("VERSION")
	if version == "" {
		t.Fatal("VERSION is not set: run this by `make test-system`, which builds the images first")
	}
	return lab.New(root, version, os.Stdout)
}

// remove takes the lab away and checks that nothing of it stays.
func remove(t *testing.T, l *lab.Lab) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := l.Down(ctx); err != nil {
		t.Error(err)
	}
	left, err := l.Leftovers(ctx)
	if err != nil || len(left) > 0 {
		t.Errorf("left on the machine after make lab-down: %v %v", left, err)
	}
}

func saveLogs(t *testing.T, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	where, err := l.SaveLogs(ctx)
	t.Logf("logs of all hosts: %s %v", where, err)
}

// on runs a shell line on a host; it must succeed.
func on(t testing.TB, h lab.Host, format string, args ...any) string {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	out, err := h.On(t.Context(), line)
	if err != nil {
		t.Fatalf("%s# %s: %v", h.Node, line, err)
	}
	return strings.TrimSpace(out)
}

// refused runs a shell line that must fail with all the given words.
func refused(t *testing.T, h lab.Host, line string, words ...string) {
	t.Helper()
	out, err := h.On(t.Context(), line)
	if err == nil {
		t.Errorf("%s# %s succeeded: %s", h.Node, line, out)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s# %s: %q is not in: %v", h.Node, line, w, err)
		}
	}
}

// eventually repeats a check until it holds.
func eventually(t testing.TB, limit time.Duration, what string, holds func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", limit, what, err)
		}
		<-tick.C
	}
}
