package checksystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// commandTimeout is for one run of a program.
const commandTimeout = 2 * time.Second

// errStuck is for a program that was ended.
var errStuck = fmt.Errorf("it did not end within %s", commandTimeout)

// tools are the programs to try with: those of the container in which felix runs, or the
// host's own.
type tools struct {
	// root is the root of the container; empty means the host.
	root  string
	where string
}

// folders are where programs stand in the container.
var folders = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"}

// findTools prefers the programs that felix uses.
func findTools(pid int) tools {
	if pid > 0 {
		t := tools{root: fmt.Sprintf("/proc/%d/root", pid), where: "the programs of calico-node's container"}
		if _, ok := t.find("iptables-restore"); ok {
			return t
		}
	}
	return tools{where: "the host's programs"}
}

// find is where a program stands, below the root.
func (t tools) find(name string) (string, bool) {
	if t.root == "" {
		path, err := exec.LookPath(name)
		return path, err == nil
	}
	for _, dir := range folders {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(filepath.Join(t.root, path)); err == nil { // a link means another thing there than here
			return path, true
		}
	}
	return "", false
}

// run runs a program in this thread's network namespace. The error is the first line of what
// it said.
func (t tools) run(ctx context.Context, input, name string, args ...string) (string, error) {
	path, ok := t.find(name)
	if !ok {
		return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Dir, cmd.WaitDelay = strings.NewReader(input), "/", time.Second
	// The namespace is nobody else's, and felix need not wait for this.
	cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(os.TempDir(), "calico-checksystem.lock"))
	if t.root != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: t.root}
	}
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s: %w", name, errStuck)
	}
	if err != nil {
		if line := firstFault(said.String()); line != "" {
			err = errors.New(line)
		}
	}
	return string(out), err
}

// firstFault is the first line that is no warning.
func firstFault(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(strings.ToLower(line), "warning") {
			return line
		}
	}
	return ""
}
