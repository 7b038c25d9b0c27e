// Package command runs the check and reload commands of template resources, with a time-out.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// maxOutput is how much of a command's output an error quotes.
const maxOutput = 2048

// Run runs a line by the shell, as confd does, and returns an error with its last output when it fails or does not
// end in time. The line's whole process group is killed then.
func Run(ctx context.Context, line string, timeout time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, "/bin/sh", "-c", line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A process that left the group may hold the output open; do not wait for it.
	cmd.WaitDelay = time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output

	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", line, ctx.Err())
	case errors.Is(limited.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s: did not end within %s%s", line, timeout, quote(output.String()))
	}
	return fmt.Errorf("%s: %w%s", line, err, quote(output.String()))
}

func quote(output string) string {
	output = strings.TrimSpace(output)
	if output == "" {
		return ""
	}
	if len(output) > maxOutput {
		output = "… " + output[len(output)-maxOutput:]
	}
	return ": " + output
}
