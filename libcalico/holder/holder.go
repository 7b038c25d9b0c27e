// Package holder stands in for systemd's socket units where there is no systemd, as in tests
// and in the lab: it holds listening unix sockets, hands them to a program, and starts that
// again when it ends (edge). Calls that come in between wait in the sockets' queues.
package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"calico.internal/libcalico/internal/child"
)

const (
	// poll is how often a wait for the first call looks whether it should end.
	poll = 100 * time.Millisecond
	// pause is how long it takes between two starts at least, as RestartSec does.
	pause = time.Second
	// stopLimit is how long a program may take to end, as TimeoutStopSec does.
	stopLimit = 10 * time.Second
)

// Holder is what is held, and for whom.
type Holder struct {
	// Paths are the sockets' files. Each socket's name is its file's, without ".sock".
	Paths []string
	// Command is the program and its arguments.
	Command []string
	// Env is the program's environment, without the variables that hand the sockets over.
	Env []string
	// AtOnce starts the program before the first call.
	AtOnce bool
	// Output gets what the program says on both of its streams.
	Output io.Writer
	// Started is told the process id of each start; nil tells nobody.
	Started func(pid int)
	// Ended is told how each start ended, by itself or not; nil tells nobody.
	Ended func(err error)
}

// Run makes the sockets and runs the program until ctx ends, then ends it and removes the
// sockets. Existing sockets of these paths are replaced.
func (h Holder) Run(ctx context.Context) (err error) {
	var files []*os.File
	defer func() {
		for i, f := range files {
			err = errors.Join(err, f.Close(), ignoreAbsent(os.Remove(h.Paths[i])))
		}
	}()
	for _, path := range h.Paths {
		f, err := listen(path)
		if err != nil {
			return fmt.Errorf("hold socket %s: %w", path, err)
		}
		files = append(files, f)
	}
	if !h.AtOnce {
		if err := waitForCall(ctx, files); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		if err := h.once(ctx, files); err != nil {
			return err
		}
	}
	return nil
}

// once runs the program until it ends or ctx does, and no shorter than the pause.
func (h Holder) once(ctx context.Context, files []*os.File) error {
	early := time.NewTimer(pause)
	defer early.Stop()
	// The variable must name the program's own process id, which is the shell's.
	args := append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, h.Command...)
	cmd := exec.CommandContext(ctx, "/bin/sh", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopLimit
	cmd.Env = append(h.Env[:len(h.Env):len(h.Env)], "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+h.names())
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = h.Output, h.Output
	done, err := child.Start(cmd)
	if err != nil {
		return fmt.Errorf("start %s: %w", h.Command[0], err)
	}
	if h.Started != nil {
		h.Started(cmd.Process.Pid)
	}
	err = <-done
	if h.Ended != nil {
		h.Ended(err)
	}
	select {
	case <-early.C:
	case <-ctx.Done():
	}
	return nil
}

// names are the sockets' names as LISTEN_FDNAMES has them.
func (h Holder) names() string {
	var names []string
	for _, path := range h.Paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".sock"))
	}
	return strings.Join(names, ":")
}

// listen makes a socket that only its owner can use, and returns it as a file.
func listen(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	f, err := l.File()
	return f, errors.Join(err, l.Close())
}

// waitForCall waits until somebody has connected to one of the sockets, or ctx ends.
func waitForCall(ctx context.Context, files []*os.File) error {
	for ctx.Err() == nil {
		var fds []unix.PollFd
		for _, f := range files {
			fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
		}
		n, err := unix.Poll(fds, int(poll.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a call: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
	return nil
}

// ignoreAbsent is no error if a file was gone already.
func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
