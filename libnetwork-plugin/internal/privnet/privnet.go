// Package privnet runs a package's tests in a network namespace of their own, so that
// no test can touch, or be disturbed by, the interfaces of the machine (test only).
package privnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// The variable that tells the inner process what it is, and its values.
const (
	variable = "CALICO_TEST_PRIVATE_NETWORK"
	inside   = "inside"
	refused  = "refused"
)

// Main is what TestMain calls. It starts the test binary again in a new network
// namespace, and, for users other than root, in a new user namespace too, has run do
// the tests there, and returns the exit code. Where the machine forbids that, the tests
// run where they are and those that call [Need] are skipped.
func Main(run func() int) int {
	switch os.Getenv(variable) {
	case inside:
		if err := raiseLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return run()
	case refused:
		return run()
	}
	err := again(inside, namespaces())
	if started := (*exec.ExitError)(nil); err == nil || errors.As(err, &started) {
		return exitCode(err)
	}
	fmt.Fprintln(os.Stderr, "no private network namespace:", err)
	return exitCode(again(refused, nil))
}

// Need skips the test if the machine did not allow a private namespace.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(variable) != inside {
		t.Skip("needs a network namespace of its own, which this machine refuses")
	}
}

// again runs this test binary once more.
func again(role string, attr *syscall.SysProcAttr) error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), variable+"="+role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	return cmd.Run()
}

// namespaces says what the inner process is separated from.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return attr
}

// raiseLoopback makes 127.0.0.1 usable in a new namespace.
func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("private network namespace: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// exitCode is what the inner process ended with.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
}
