package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// idleFor is how long an idle calico-node is looked at: a multiple of all that it does by the clock.
const idleFor = time.Minute

// BenchmarkIdle is what calico-node and runit cost while nothing happens, and what calico-node
// keeps in memory. The floor is 0.
func BenchmarkIdle(b *testing.B) {
	r := newRig(b)
	n := r.start()
	n.healthy()
	<-time.After(2 * time.Second)
	for b.Loop() {
		before := n.cost()
		<-time.After(idleFor)
		b.ReportMetric(100*(n.cost()-before).Seconds()/idleFor.Seconds(), "%core")
		b.ReportMetric(n.memory(), "MB")
	}
}

// cost is the processor time that calico-node, runsvdir and the runsvs have used.
func (n *node) cost() time.Duration {
	var sum time.Duration
	for _, p := range n.processes() {
		if p.pid != n.cmd.Process.Pid && !strings.HasPrefix(p.name, "runsv") {
			continue
		}
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			first, _, _ := strings.Cut(string(text), " ")
			used, _ := strconv.ParseInt(first, 10, 64)
			sum += time.Duration(used)
		}
	}
	return sum
}

// memory is calico-node's resident memory, in MB.
func (n *node) memory() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kB, _ := strconv.ParseFloat(f[1], 64)
			return kB / 1000
		}
	}
	return 0
}

// BenchmarkStart is from the start of process 1 until all programs are ready, with the stand-ins of
// the tests as programs.
func BenchmarkStart(b *testing.B) {
	r := newRig(b)
	for b.Loop() {
		n := r.start()
		n.healthy()
		b.StopTimer()
		n.kill()
		b.StartTimer()
	}
}
