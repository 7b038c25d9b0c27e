package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// started and refused are the lines by which the container says that its start-up is over.
const (
	started = "Calico node started successfully"
	refused = "Calico node failed to start"
)

// attached is a container whose output is followed. It is read from the container itself,
// since not every log driver lets its log be read.
type attached struct {
	lines <-chan string
	// ended is closed when the container has ended, and when nobody follows any more.
	ended <-chan struct{}
	// stop ends the following, not the container.
	stop func()
}

// attach starts a container and follows it.
func attach(ctx context.Context, name string) (*attached, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "docker", "start", "--attach", name)
	// The client hands signals on to the container, so a Ctrl-C must not reach it; to end it,
	// it is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			return nil, errNoDocker
		}
		return nil, err
	}
	lines, ended := make(chan string), make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() {
		defer close(ended)
		_ = cmd.Wait() // with the container's exit code, or killed by stop
		_ = in.Close()
	})
	tasks.Go(func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			select {
			case lines <- scan.Text():
			case <-ctx.Done():
				_ = out.Close()
				return
			}
		}
		_ = out.Close()
	})
	return &attached{lines: lines, ended: ended, stop: func() {
		cancel()
		tasks.Wait()
	}}, nil
}

// begin starts a container, shows its start-up, and returns when the programs in it are
// ready, or why they are not: the start-up is refused, something takes longer than limit, or
// the container ends.
func (l launcher) begin(ctx context.Context, name string) error {
	a, err := attach(ctx, name)
	if err != nil {
		return err
	}
	defer a.stop()
	if err := l.startUp(ctx, a); err != nil {
		return err
	}
	ready := make(chan error, 1)
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() { ready <- l.waitReady(waiting) }()
	for lines := a.lines; ; {
		select {
		case err := <-ready:
			return err
		case _, ok := <-lines: // what comes now is the log of process 1
			if !ok {
				lines = nil
			}
		case <-a.ended:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("calico/node has terminated after its start-up.%s", l.lastWords(l.programs))
		}
	}
}

// startUp shows a start-up until it is over or has failed.
func (l launcher) startUp(ctx context.Context, a *attached) error {
	limit := time.NewTimer(l.limit)
	defer limit.Stop()
	var last string
	for {
		select {
		case line, ok := <-a.lines:
			switch {
			case !ok && ctx.Err() != nil:
				return context.Cause(ctx)
			case !ok:
				return errors.New("calico/node has terminated in its start-up")
			}
			fmt.Fprintln(l.out, line)
			switch {
			case line == started:
				return nil
			case strings.HasPrefix(line, refused):
				return errors.New("calico/node could not start for the reason above")
			}
			last = line
		case <-limit.C:
			return fmt.Errorf("the start-up has not ended within %s; its last line is above: %s", l.limit, last)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
