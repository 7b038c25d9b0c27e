// Package nstest gives a test of one package a network namespace of its own. Tests with
// several hosts use libcalico's nettest.
package nstest

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Isolate moves the test to a new network namespace, in which only the loopback
// interface is, and back at its end. Commands that the test starts run in it too; other
// goroutines do not. The test is skipped where that is not permitted.
func Isolate(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatalf("read network namespace: %v", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("needs the right to make a network namespace (run as root): %v", err)
	}
	t.Cleanup(func() {
		defer func() { _ = home.Close() }()
		// A thread that cannot go back stays locked and ends with its goroutine.
		if err := netns.Set(home); err != nil {
			t.Errorf("return to network namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	})
	// Programs of this test do not wait for those of others.
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "xtables.lock"))
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatalf("set loopback up: %v", err)
	}
}

// Run runs a command in the test's namespace and returns what it prints. The test ends
// when the command fails.
func Run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Feed is Run with an input.
func Feed(t *testing.T, input, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}
