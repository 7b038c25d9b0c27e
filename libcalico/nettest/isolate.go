package nettest

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Isolate moves a test of one thing in one namespace to a new namespace, in which only
// the loopback interface is, and back at its end. Commands that the test starts run in it
// too; other goroutines do not. The test is skipped where that is not permitted.
func Isolate(t testing.TB) {
	t.Helper()
	s := newSpace(t, t.Name(), &flows{})
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("nettest: open the own network namespace: %v", err)
	}
	if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
		t.Fatalf("nettest: enter network namespace %s: %v", s.Name, err)
	}
	t.Cleanup(func() {
		err := unix.Setns(home, unix.CLONE_NEWNET)
		_ = unix.Close(home)
		if err != nil { // the thread stays locked and ends with the goroutine
			t.Errorf("nettest: leave network namespace %s: %v", s.Name, err)
			return
		}
		runtime.UnlockOSThread()
	})
	// Programs of this test do not wait for those of others.
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "xtables.lock"))
	if err := setUp("lo"); err != nil {
		t.Fatalf("nettest: %v", err)
	}
}

// Run runs a command in the namespace of an isolated test and returns what it prints. The
// test fails when the command does.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Feed is [Run] with an input.
func Feed(t *testing.T, input, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}
