package lab

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// command is a process that ends with ctx; its children that keep the pipes open do
// not hold it up.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// output runs a command quietly; its error holds what the command said.
func output(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()+out.String()))
	}
	return out.String(), nil
}

// On runs a shell line on a host quietly and returns what it printed.
func (h Host) On(ctx context.Context, line string) (string, error) {
	return output(ctx, "docker", "exec", h.Container, "sh", "-c", line)
}

func lines(text string) []string {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
