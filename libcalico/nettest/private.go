package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"calico.internal/libcalico/internal/child"
)

// The variable that tells the inner process what it is, and its values.
const (
	variable = "CALICO_TEST_PRIVATE_NETWORK"
	inside   = "inside"
	refused  = "refused"
)

// Main is for the TestMain of a package all of whose tests share one namespace, because
// what they test runs goroutines of its own. It starts the test binary again in a new
// network namespace, and, for users other than root, in a new user namespace too, has run
// do the tests there, and returns the exit code. Where the machine forbids that, the tests
// run where they are and those that call [NeedPrivate] are skipped.
func Main(run func() int) int {
	switch os.Getenv(variable) {
	case inside:
		if err := setUp("lo"); err != nil {
			fmt.Fprintln(os.Stderr, "private network namespace:", err)
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

// NeedPrivate skips the test if the machine did not allow a namespace to [Main].
func NeedPrivate(t testing.TB) {
	t.Helper()
	if os.Getenv(variable) != inside {
		t.Skip("nettest: making network namespaces is not permitted; run as root (CAP_SYS_ADMIN)")
	}
}

// again runs this test binary once more.
func again(role string, attr *syscall.SysProcAttr) error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), variable+"="+role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	done, err := child.Start(cmd)
	if err != nil {
		return err
	}
	return <-done
}

// namespaces says what the inner process is separated from.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return attr
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
