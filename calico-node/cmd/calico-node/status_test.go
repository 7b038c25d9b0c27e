package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
	nodev1 "calico.internal/proto/node/v1"
)

// Each program that is stopped, killed or ends again and again shows, and so does that it is well
// again.
func TestEachProgramIsTold(t *testing.T) {
	r := newRig(t)
	n := r.start()
	n.healthy()
	for _, name := range allPrograms {
		r.sv("down", name)
		p := n.programIs(name, nodev1.ProgramState_PROGRAM_STATE_DOWN)
		if p.GetWanted() || p.GetPid() != 0 || !strings.Contains(p.GetCure(), "sv up "+name) {
			t.Errorf("stopped: %v", p)
		}
		n.isNamed(name, "stopped by hand")
		r.sv("up", name)
		n.healthy()

		before := n.programIs(name, nodev1.ProgramState_PROGRAM_STATE_READY)
		if err := syscall.Kill(n.pidOutside(name), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.restarted(before)
	}
}

// isNamed checks that a program is the only problem, and that the command says so.
func (n *node) isNamed(name, why string) {
	n.t.Helper()
	s := n.becomes(10*time.Second, nodev1.NodeState_NODE_STATE_DEGRADED)
	if p := s.GetProblems(); len(p) != 1 || p[0].GetObject() != name || !strings.Contains(p[0].GetReason(), why) || p[0].GetCure() == "" {
		n.t.Errorf("problems %v", p)
	}
	if out, code := n.health(); code != 1 || !strings.HasPrefix(out, name+": ") {
		n.t.Errorf("health ends with %d: %s", code, out)
	}
}

// restarted waits until a program that was killed is well again.
func (n *node) restarted(before *nodev1.Program) {
	n.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		p := n.programIs(before.GetName(), nodev1.ProgramState_PROGRAM_STATE_READY)
		if p.GetPid() != before.GetPid() {
			if p.GetRestarts() != before.GetRestarts()+1 || p.GetLastExit() != "killed by signal 9" {
				n.t.Errorf("killed: %v", p)
			}
			break
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%v is not started again", p)
		}
	}
	n.healthy()
	if out, code := n.health(); code != 0 || out != "healthy\n" {
		n.t.Errorf("health ends with %d: %s", code, out)
	}
}

// pidOutside is a program's process as this machine numbers it.
func (n *node) pidOutside(name string) int {
	n.t.Helper()
	for _, p := range n.processes() {
		if strings.Contains(p.line, " "+name+" "+n.runDir()) && !p.zombie {
			return p.pid
		}
	}
	n.t.Fatalf("%s does not run: %v", name, n.processes())
	return 0
}

func TestACrashLoopIsTold(t *testing.T) {
	r := newRig(t)
	r.set("bgpd", "crash")
	n := r.start()
	p := n.programIs("bgpd", nodev1.ProgramState_PROGRAM_STATE_CRASH_LOOP)
	if p.GetLastExit() != "exit code 3" || !strings.Contains(p.GetWhy(), "again and again") || !strings.HasSuffix(p.GetWhy(), "exit code 3, and said: bgpd crashes") {
		t.Errorf("%v", p)
	}
	n.isNamed("bgpd", "crash loop")
	r.set("bgpd", "well")
	n.becomes(40*time.Second, nodev1.NodeState_NODE_STATE_HEALTHY)
}

func TestAProgramThatIsUnwellOrHangsIsTold(t *testing.T) {
	r := newRig(t)
	n := r.start()
	n.healthy()
	pid := n.pidOutside("confd")
	if err := nettest.Freeze(pid); err != nil {
		t.Fatal(err)
	}
	// Whoever asks hears it at once, before it is noticed by itself.
	if s, err := n.status(); err != nil || s.GetState() != nodev1.NodeState_NODE_STATE_DEGRADED {
		t.Errorf("confd hangs: %v, %v", s, err)
	}
	n.programIs("confd", nodev1.ProgramState_PROGRAM_STATE_NOT_READY)
	n.isNamed("confd", "does not answer")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	n.becomes(40*time.Second, nodev1.NodeState_NODE_STATE_HEALTHY)
}

// Without calico-node nothing answers.
func TestHealthWithoutCalicoNode(t *testing.T) {
	r := newRig(t)
	if out, code := r.health(); code != 1 || !strings.Contains(out, "calico-node does not answer") {
		t.Errorf("health ends with %d: %s", code, out)
	}
}
