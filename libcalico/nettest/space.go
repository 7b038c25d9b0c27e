package nettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"calico.internal/libcalico/internal/child"
)

// Space is a network namespace.
type Space struct {
	// Name is what messages call it.
	Name  string
	t     testing.TB
	fd    int
	flows *flows
}

// errMissing says that the kernel or the permissions of the process do not suffice.
var errMissing = errors.New("not available here")

// missing marks an error that means that the kernel lacks something; nil stays nil.
func missing(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s: %w (%w)", what, errMissing, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// newSpace makes a namespace that lives until the test ends. Its probes are of the flows given.
func newSpace(t testing.TB, name string, f *flows) *Space {
	t.Helper()
	fd, err := makeNamespace()
	switch {
	case errors.Is(err, unix.EPERM):
		t.Skip("nettest: making network namespaces is not permitted; run as root (CAP_SYS_ADMIN) or under unshare -rnm")
	case err != nil:
		t.Fatalf("nettest: make network namespace %s: %v", name, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &Space{Name: name, t: t, fd: fd, flows: f}
}

// makeNamespace runs on a thread of its own, which ends with it, so that no
// goroutine ever finds itself in the wrong namespace.
func makeNamespace() (fd int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}()
	<-done
	return fd, err
}

// Path is a file that stands for the namespace, as ip-netns(8) and container engines
// take it. It is valid for all processes while the test lives.
func (s *Space) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.fd)
}

// FD is the file descriptor that stands for the namespace.
func (s *Space) FD() int { return s.fd }

// Do calls f in the namespace, on the calling goroutine. f may end the test.
func (s *Space) Do(f func()) {
	s.t.Helper()
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		s.t.Fatalf("nettest: open the own network namespace: %v", err)
	}
	if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
		_ = unix.Close(home)
		runtime.UnlockOSThread()
		s.t.Fatalf("nettest: enter network namespace %s: %v", s.Name, err)
	}
	defer func() {
		err := unix.Setns(home, unix.CLONE_NEWNET)
		_ = unix.Close(home)
		if err != nil { // the thread stays locked and ends with the goroutine
			s.t.Errorf("nettest: leave network namespace %s: %v", s.Name, err)
			return
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// do is Do for steps of the package's own; it ends or skips the test on an error.
func (s *Space) do(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	s.Do(func() { err = f() })
	switch {
	case errors.Is(err, errMissing):
		t.Skipf("nettest: %s: %v", what, err)
	case err != nil:
		t.Fatalf("nettest: %s: %v", what, err)
	}
}

// SetSysctl sets a kernel parameter of the namespace, named as in
// "net/ipv4/ip_forward".
func (s *Space) SetSysctl(name, value string) {
	s.t.Helper()
	s.do(s.t, "set "+name, func() error { return setSysctl(name, value) })
}

// Sysctl returns a kernel parameter of the namespace.
func (s *Space) Sysctl(name string) string {
	s.t.Helper()
	var value []byte
	s.do(s.t, "read "+name, func() (err error) {
		value, err = os.ReadFile(sysctlPath(name))
		return err
	})
	return string(bytes.TrimSpace(value))
}

func setSysctl(name, value string) error {
	err := os.WriteFile(sysctlPath(name), []byte(value), 0o644)
	if errors.Is(err, unix.EROFS) {
		return missing("a writable /proc/sys", unix.EPERM)
	}
	return err
}

// sysctlPath goes by the thread's own view, which is that of its namespace.
func sysctlPath(name string) string { return filepath.Join("/proc/sys", name) }

// Command prepares a program to run in the namespace.
func (s *Space) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + s.Path(), "--", name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// commandTimeout bounds a program that a test waits for.
const commandTimeout = 30 * time.Second

// savesAgain is how often iptables-nft-save is run again: it reads tables, chains and rules one
// after the other, and fails when a chain goes in between.
const savesAgain = 10

// Run runs a program in the namespace and returns what it printed; the test fails
// when the program does.
func (s *Space) Run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.TryRun(name, args...)
	for again := 0; err != nil && again < savesAgain && strings.HasSuffix(name, "-nft-save"); again++ {
		out, err = s.TryRun(name, args...)
	}
	if err != nil {
		s.t.Fatalf("nettest: %s: %s %v: %v\n%s", s.Name, name, args, err, out)
	}
	return out
}

// TryRun is Run for a program that may fail.
func (s *Space) TryRun(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	out, err := s.Command(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// Process is a program that runs in a namespace.
type Process struct {
	*exec.Cmd
	done chan struct{}
	err  error
}

// Start starts a program in the namespace with its output in the test's log. It is
// killed, with all that it started, when the test ends, and dies with the test's process.
func (s *Space) Start(name string, args ...string) *Process {
	s.t.Helper()
	return s.StartCommand(s.Command(context.Background(), name, args...))
}

// StartCommand is Start for a command made by [Space.Command] and then adapted, by
// an environment for example.
func (s *Space) StartCommand(cmd *exec.Cmd) *Process {
	s.t.Helper()
	log := &lineLog{t: s.t, prefix: s.Name + "| "}
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = log
	}
	cmd.WaitDelay = time.Second
	ended, err := child.Start(cmd)
	if err != nil {
		s.t.Fatalf("nettest: %s: start %v: %v", s.Name, cmd.Args, err)
	}
	p := &Process{Cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = <-ended
		log.flush()
	}()
	s.t.Cleanup(p.Kill)
	return p
}

// Kill ends the program, and all that it started, at once.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// Freeze stops the program until it gets SIGCONT.
func (p *Process) Freeze() error { return child.Freeze(p.Process.Pid) }

// Freeze stops a process until it gets SIGCONT.
func Freeze(pid int) error { return child.Freeze(pid) }

// Signal sends a signal to the program.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.Process.Signal(sig)
}

// Stop asks the program to end (SIGTERM) and returns how it did; it is killed when it
// takes longer than the timeout.
func (p *Process) Stop(timeout time.Duration) error {
	_ = p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("%s did not stop within %v", p.Args, timeout)
	}
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// lineLog writes whole lines to a test's log.
type lineLog struct {
	mu     sync.Mutex
	t      testing.TB
	prefix string
	rest   []byte
}

func (l *lineLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		l.t.Logf("%s%s", l.prefix, l.rest[:i])
		l.rest = l.rest[i+1:]
	}
}

func (l *lineLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.t.Logf("%s%s", l.prefix, l.rest)
		l.rest = nil
	}
}

// Eventually calls f until it returns nil; the test fails with f's last error when
// that takes longer than the timeout.
func Eventually(t testing.TB, timeout time.Duration, f func() error) {
	t.Helper()
	const interval = 10 * time.Millisecond
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("still wrong after %v: %v", timeout, err)
		case <-time.After(interval):
		}
	}
}
