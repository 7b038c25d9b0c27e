// Package reaper is the edge to child processes of a process 1: it starts those that are wanted
// and takes leave of all, also of those that it inherits when their parent dies (wait(2)). Beside it
// nothing in the process may wait for children, as os/exec does.
package reaper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reaper waits for children.
type Reaper struct {
	mu      sync.Mutex
	waiting map[int]chan<- syscall.WaitStatus
	// Reaped is told, at most once at a time, that some child has ended.
	Reaped chan struct{}
}

// New makes this process the one that inherits orphans of its own, if it is not process 1
// anyway.
func New() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("inherit orphans: %w", err)
	}
	return &Reaper{waiting: map[int]chan<- syscall.WaitStatus{}, Reaped: make(chan struct{}, 1)}, nil
}

// Run waits for children until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		r.reap()
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

// reap takes leave of all children that have ended.
func (r *Reaper) reap() {
	r.mu.Lock() // so that a child that ends at once is known
	defer r.mu.Unlock()
	some := false
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			break
		}
		some = true
		if to, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			to <- status
		}
	}
	if some {
		select {
		case r.Reaped <- struct{}{}:
		default:
		}
	}
}

// Child is a process that was started.
type Child struct {
	PID int
	// Ended gets how it ended, once.
	Ended <-chan syscall.WaitStatus
}

// Start starts a program in a process group of its own, so that a terminal's signals do not
// reach it. It writes to where this process writes.
func (r *Reaper) Start(env []string, name string, args ...string) (Child, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return Child{}, fmt.Errorf("start %s: %w", name, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return Child{}, fmt.Errorf("start %s: %w", name, err)
	}
	defer null.Close() //nolint:errcheck // only read
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, append([]string{name}, args...), &syscall.ProcAttr{
		Env: env, Files: []uintptr{null.Fd(), os.Stdout.Fd(), os.Stderr.Fd()}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return Child{}, fmt.Errorf("start %s: %w", name, err)
	}
	ended := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = ended
	return Child{PID: pid, Ended: ended}, nil
}

// Inherited is whether a process is a child of this one, such as one whose parent has died.
func Inherited(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// State and parent follow the name, which is in parentheses and may hold any character
	// (proc_pid_stat(5)).
	after := text[bytes.LastIndexByte(text, ')')+1:]
	fields := bytes.Fields(after)
	return len(fields) > 1 && string(fields[1]) == strconv.Itoa(os.Getpid())
}
