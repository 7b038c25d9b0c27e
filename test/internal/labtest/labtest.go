// Package labtest is what tests on a [lab.Lab] have in common: they fail with what was
// typed on which host, and leave nothing on the machine.
package labtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// New is a lab of the images that make has built; it is not up.
func New(t testing.TB, c lab.Config) *lab.Lab {
	t.Helper()
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	version := os.Getenv("VERSION")
	if version == "" {
		t.Fatal("VERSION is not set: run this by make (make help has the targets), which builds the images first")
	}
	return lab.New(root, version, c, os.Stdout)
}

// Remove takes a lab away and checks that nothing of it stays.
func Remove(t testing.TB, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	if err := l.Down(ctx); err != nil {
		t.Error(err)
	}
	left, err := l.Leftovers(ctx)
	if err != nil || len(left) > 0 {
		t.Errorf("left on the machine after the lab was removed: %v %v", left, err)
	}
}

// SaveLogs saves the logs of all hosts and says where.
func SaveLogs(t testing.TB, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	where, err := l.SaveLogs(ctx)
	t.Logf("logs of all hosts: %s %v", where, err)
}

// On runs a shell line on a host; it must succeed.
func On(t testing.TB, h lab.Host, format string, args ...any) string {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	out, err := h.On(t.Context(), line)
	if err != nil {
		t.Fatalf("%s# %s: %v", h.Node, line, err)
	}
	return strings.TrimSpace(out)
}

// Refused runs a shell line that must fail with all the given words.
func Refused(t testing.TB, h lab.Host, line string, words ...string) {
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

// Eventually repeats a check until it holds.
func Eventually(t testing.TB, limit time.Duration, what string, holds func() error) {
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
