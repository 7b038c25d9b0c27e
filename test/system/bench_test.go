package system

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
)

// idleFor is how long an idle node is looked at: a multiple of all that it does by the clock.
const idleFor = time.Minute

// BenchmarkNode is what a whole node of the lab costs, and how soon it is there, beside what it is
// to be: ready 3 s after `calicoctl node run`; 0.5 % of a core and 120 MB while idle, of all
// programs together; sessions 2 s after a start without etcd, and no probe lost by it. The lab must
// be up.
func BenchmarkNode(b *testing.B) {
	l := newLab(b)
	h := l.Hosts[0]
	if _, err := h.On(b.Context(), "docker inspect calico-node workload-A"); err != nil {
		b.Skipf("the lab is not up, run make lab: %v", err)
	}
	b.Run("run to ready", func(b *testing.B) {
		for b.Loop() {
			on(b, h, "calicoctl node run --ip=%s --name %s", h.IP, h.Node)
		}
	})
	nodeServes(b, l, h)
	<-time.After(5 * time.Second) // what a start sets off
	b.Run("idle", func(b *testing.B) { idle(b, h) })
	b.Run("start without etcd", func(b *testing.B) { startWithoutEtcd(b, l, h) })
}

// nodePrograms are the processes of a node, by their names.
var nodePrograms = []string{"calico-node", "calico-felix", "bgpd", "confd", "libnetwork-plugin", "runsvdir", "runsv", "svlogd"}

// idle tells what each program costs while nothing happens.
func idle(b *testing.B, h lab.Host) {
	for b.Loop() {
		before := costs(b, h)
		<-time.After(idleFor)
		after := costs(b, h)
		var all cost
		report := func(name string, c cost) {
			b.ReportMetric(100*float64(c.used)/float64(idleFor), name+"-%core")
			b.ReportMetric(c.memory, name+"-MB")
		}
		for _, name := range nodePrograms {
			c := cost{after[name].used - before[name].used, after[name].memory}
			report(name, c)
			all = cost{all.used + c.used, all.memory + c.memory}
		}
		report("all", all)
	}
}

// cost is the processor time that a program has used, and its resident memory in MB.
type cost struct {
	used   time.Duration
	memory float64
}

// costs are those of the processes of a host, added up by name.
func costs(b *testing.B, h lab.Host) map[string]cost {
	b.Helper()
	out := on(b, h, `cd /proc; for p in [0-9]*; do
		used=$(cat $p/task/*/schedstat 2>/dev/null | awk '{ s += $1 } END { printf "%%d", s }')
		kB=$(awk '/^VmRSS/ { print $2 }' $p/status 2>/dev/null)
		[ -z "$kB" ] || echo "$(basename "$(tr '\0' '\n' <$p/cmdline | head -n 1)") $used $kB"
	done`)
	all := map[string]cost{}
	for line := range strings.Lines(out) {
		var name string
		var used, kB int64
		if _, err := fmt.Sscan(line, &name, &used, &kB); err != nil {
			continue // a process that ended meanwhile
		}
		c := all[name]
		all[name] = cost{c.used + time.Duration(used), c.memory + float64(kB)/1000}
	}
	return all
}

func startWithoutEtcd(b *testing.B, l *lab.Lab, h lab.Host) {
	var sum time.Duration
	n := 0
	for b.Loop() {
		watched(b, h, "workload-A", address(b, l.Hosts[1], "workload-C"), func() {
			took, err := l.RestartWithoutEtcd(b.Context(), h)
			if err != nil {
				b.Fatal(err)
			}
			sum, n = sum+took, n+1
			nodeServes(b, l, h)
		})
	}
	b.ReportMetric(float64(sum.Milliseconds())/float64(n), "ms-to-sessions")
}
