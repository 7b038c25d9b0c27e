// Package child starts programs that die with the process that started them. It is for
// tests only: a test binary may be killed at any moment, and nothing it started may stay.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Start starts the command, which the kernel kills when this process ends. The channel
// gets what [exec.Cmd.Wait] returns and is closed.
//
// To the kernel the parent is the thread that forked, not the process (prctl(2),
// PR_SET_PDEATHSIG), and the Go runtime ends threads as it likes. So the thread is kept
// as long as the child.
func Start(cmd *exec.Cmd) (<-chan error, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, done := make(chan error), make(chan error, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	return done, <-started
}
