package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"calico.internal/test/internal/probe"
)

// Traffic is a stream of probes from a container to an address, one each 2 ms and each a flow
// of its own.
type Traffic struct {
	end   io.Closer
	cmd   *exec.Cmd
	lines chan string
	errs  bytes.Buffer
}

// Send begins to probe from a container of a host, and returns when the first probe has come
// back. The probes end with ctx.
func (h Host) Send(ctx context.Context, from, address string) (*Traffic, error) {
	t := &Traffic{lines: make(chan string, 2)}
	t.cmd = command(ctx, "docker", "exec", "-i", h.Container, "docker", "exec", "-i", from, "probe", "count", fmt.Sprintf("%s:%d", address, probe.Port))
	t.cmd.Stderr = &t.errs
	in, err := t.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	t.end = in
	go func() {
		defer close(t.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			t.lines <- scan.Text()
		}
	}()
	if line, err := t.next(10 * time.Second); err != nil || line != probe.Begun {
		return nil, errors.Join(fmt.Errorf("no probe from %s to %s comes back: %q: %w", from, address, line, err), t.close())
	}
	return t, nil
}

func (t *Traffic) next(limit time.Duration) (string, error) {
	select {
	case line, ok := <-t.lines:
		if !ok {
			return "", fmt.Errorf("the probe has ended: %s", strings.TrimSpace(t.errs.String()))
		}
		return line, nil
	case <-time.After(limit):
		return "", fmt.Errorf("nothing within %s", limit)
	}
}

// End ends the probes and says what became of them.
func (t *Traffic) End() (probe.Tally, error) {
	err := t.end.Close()
	line, err2 := t.next(10 * time.Second)
	if err := errors.Join(err, err2, t.close()); err != nil {
		return probe.Tally{}, err
	}
	return probe.ParseTally(line)
}

// close waits for the end of the probe, whose input is closed.
func (t *Traffic) close() error {
	_ = t.end.Close()
	for range t.lines { // what it still says is not wanted
	}
	return t.cmd.Wait()
}
