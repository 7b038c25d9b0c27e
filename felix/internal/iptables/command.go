package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"calico.internal/felix/internal/rules"
)

// Limits on iptables' commands.
const (
	// lockWait is how long a command waits for the lock that all programs which write
	// legacy tables share, in seconds. What follows in a pass, and every later change, waits
	// so long too.
	lockWait = "1"
	// commandTimeout ends a command that hangs.
	commandTimeout = 60 * time.Second
	// exitResource is the exit code of iptables-restore when the lock is taken or memory
	// is short: nothing is wrong with the input.
	exitResource = 4
)

// errBusy is part of the error of a command that could not even try.
var errBusy = errors.New("iptables is busy")

// IsBusy reports whether a command could not even try, as when another program held the
// lock: it can be tried again soon.
func IsBusy(err error) bool { return errors.Is(err, errBusy) }

// commands runs iptables' programs; a fake stands in for it in tests.
type commands interface {
	// save prints a table, or all that there are.
	save(ctx context.Context, t rules.Table) ([]byte, error)
	restore(ctx context.Context, input []byte) error
}

// programs runs the real programs of one family.
type programs struct{ saveName, restoreName string }

func (p programs) save(ctx context.Context, t rules.Table) ([]byte, error) {
	if t == "" {
		return run(ctx, nil, p.saveName)
	}
	return run(ctx, nil, p.saveName, "-t", string(t))
}

func (p programs) restore(ctx context.Context, input []byte) error {
	_, err := run(ctx, input, p.restoreName, "--noflush", "--wait", lockWait)
	return err
}

func run(ctx context.Context, input []byte, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, errBusy, ctx.Err())
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil, fmt.Errorf("%w: %w", errBusy, err)
	}
	if exit.ExitCode() == exitResource {
		err = errBusy
	}
	if text := firstLines(stderr.String()); text != "" {
		return nil, fmt.Errorf("%s: %w: %s", name, err, text)
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}

// firstLines makes one short line of what a command printed on stderr, without its
// advice to read the manual.
func firstLines(stderr string) string {
	const limit = 300
	var parts []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "Try `") || strings.HasPrefix(line, "# Warning") {
			continue
		}
		parts = append(parts, line)
	}
	text := strings.Join(parts, "; ")
	if len(text) > limit {
		text = text[:limit] + " …"
	}
	return text
}
