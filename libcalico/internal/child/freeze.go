package child

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// freezeLimit is how long a process may take to stop: a thread of it may be waiting for a
// disk, and on a busy machine for a processor.
const freezeLimit = 20 * time.Second

// Freeze stops a process (SIGSTOP) and waits until it has stopped: the signal goes to one
// of its threads, and the others run on until that one gets a processor.
func Freeze(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.After(freezeLimit); ; {
		running, err := runs(pid)
		if err == nil && running == "" {
			return nil
		}
		select {
		case <-poll.C:
		case <-deadline:
			return fmt.Errorf("process %d has not stopped within %v: thread %q runs (%w)", pid, freezeLimit, running, err)
		}
	}
}

// runs names a thread of a process that has not stopped; empty when there is none.
func runs(pid int) (string, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return "", fmt.Errorf("process %d has no threads (%w)", pid, err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return path, err
		}
		// The state is behind the name, which is in brackets (proc_pid_stat(5)).
		if _, state, _ := bytes.Cut(text[bytes.LastIndexByte(text, ')')+1:], []byte(" ")); len(state) == 0 || state[0] != 'T' {
			return path, nil
		}
	}
	return "", nil
}
