package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
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
	// is short: nothing is wrong with the input. In the nft variant every refusal of the
	// kernel has it too.
	exitResource = 4
)

// shortages are what iptables-restore says when it could not even try.
var shortages = [...]string{"xtables lock", "lock file", "allocate memory", "Memory allocation", "No buffer space", "generation id"}

// couldNotTry reports whether a command that ended with exitResource could not even try, by
// what it printed. A refusal names what the kernel refused.
func couldNotTry(stderr string) bool {
	return stderr == "" || slices.ContainsFunc(shortages[:], func(s string) bool { return strings.Contains(stderr, s) })
}

// errBusy is part of the error of a command that could not even try.
var errBusy = errors.New("iptables is busy")

// IsBusy reports whether a command could not even try, as when another program held the
// lock: it can be tried again soon.
func IsBusy(err error) bool {
	var missing missingProgram
	return errors.Is(err, errBusy) && !errors.As(err, &missing)
}

// missingProgram is the error of a command that is not installed.
type missingProgram struct {
	name string
	err  error
}

func (m missingProgram) Error() string { return m.name + " is not installed" }

// Unwrap gives the error itself, and what it means.
func (m missingProgram) Unwrap() []error { return []error{errBusy, m.err} }

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
	cmd.Env = append(os.Environ(), "LC_ALL=C") // what it says is read
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
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return nil, missingProgram{name, err}
	}
	if !errors.As(err, &exit) {
		return nil, fmt.Errorf("%w: %w", errBusy, err)
	}
	text := firstLines(stderr.String())
	if exit.ExitCode() == exitResource && couldNotTry(text) {
		err = errBusy
	}
	if text != "" {
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
