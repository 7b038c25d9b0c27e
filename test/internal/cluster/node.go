package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"calico.internal/libcalico/nettest"
)

// NodePrograms are those that a calico-node of [Host.StartNode] runs.
var NodePrograms = []string{"felix", "bgpd", "confd"}

// StartNode starts calico-node as process 1 of its container would be, with the real runit and
// the built programs, but for Docker's plugin, in place of [Host.StartFelix] and
// [Host.StartBGP]. It is in a PID namespace of its own, and ends with it.
func (h *Host) StartNode() {
	h.cluster.T.Helper()
	h.writeConfd()
	for name, command := range map[string]string{
		"felix": "calico-felix run --run-dir " + h.Dir,
		"bgpd":  "bgpd run --config " + h.BGPConfig() + " --run-dir " + h.Dir,
		"confd": "confd -confdir " + h.Dir + " -run-dir " + h.Dir + " -watch",
	} {
		h.writeScript(filepath.Join(h.Dir, "available", name, "run"), "exec 2>&1\nexec "+command)
		logs := filepath.Join(h.Dir, "log", name)
		h.writeScript(filepath.Join(h.Dir, "available", name, "log", "run"), "mkdir -p "+logs+"\nexec svlogd "+logs)
	}
	h.CalicoNode = h.start("unshare", []string{"IP=" + h.Addr(false).String(), "IP6=" + h.Addr(true).String(), "XTABLES_LOCKFILE=" + h.LockFile()},
		"--pid", "--fork", "--kill-child", "--mount-proc", h.program("calico-node"), "init", "--run-dir", h.Dir, "--state-dir", filepath.Join(h.Dir, "state"),
		"--log-dir", filepath.Join(h.Dir, "log"), "--services", filepath.Join(h.Dir, "available"), "--enabled", filepath.Join(h.Dir, "enabled"))
}

func (h *Host) writeScript(path, text string) {
	h.cluster.T.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.cluster.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		h.cluster.T.Fatal(err)
	}
}

// StopNode does what `docker stop` does to calico-node, and returns how long its end took.
func (h *Host) StopNode() time.Duration {
	t := h.cluster.T
	t.Helper()
	begun := time.Now()
	// Its parent is the tool that made its namespace.
	text, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", h.CalicoNode.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("children of unshare: %q", text)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.CalicoNode.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("calico-node of %s has not ended after 10 s", h.Node)
	}
	return time.Since(begun)
}

// Sv gives runit a command for a service.
func (h *Host) Sv(command, service string) {
	h.cluster.T.Helper()
	out, err := exec.Command("sv", "-w", "5", command, filepath.Join(h.Dir, "enabled", service)).CombinedOutput()
	if err != nil {
		h.cluster.T.Fatalf("sv %s %s: %v: %s", command, service, err, out)
	}
}

// AwaitStatus waits until `calicoctl node status` ends with a code and prints a text, and returns how
// long that took.
func (h *Host) AwaitStatus(limit time.Duration, code int, text string) time.Duration {
	h.cluster.T.Helper()
	begun := time.Now()
	nettest.Eventually(h.cluster.T, limit, func() error {
		out, got := h.Ctl(nil, "node", "status", "--run-dir", h.Dir)
		if got != code || !strings.Contains(out, text) {
			return fmt.Errorf("the status of %s ends with %d, not %d, or does not say %q:\n%s", h.Node, got, code, text, out)
		}
		return nil
	})
	return time.Since(begun)
}
