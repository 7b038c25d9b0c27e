package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// The wall's clock of programs that buildJumping makes, by the time since their start: it
// is right at first, then an hour ahead, then ten years behind, then ten years ahead.
const jumps = `
	switch elapsed := mono - startNano; {
	case elapsed > 15e9:
		sec += 315360000
	case elapsed > 12e9:
		sec -= 315360000
	case elapsed > 9e9:
		sec += 3600
	}
`

// clockOver is when all jumps are over.
const clockOver = 18 * time.Second

// buildJumping builds the programs with a wall's clock that jumps, by an overlay over the
// one place where Go's programs ask for the time. There is no other way to set the clock
// of a few processes: CLOCK_REALTIME has no namespace.
func buildJumping(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src/time/time.go")
	const asked = "sec, nsec, mono := runtimeNow()\n"
	text := read(t, source)
	if strings.Count(text, asked) != 1 {
		t.Fatalf("%s asks for the time in another way than this test knows", source)
	}
	patched := filepath.Join(dir, "time.go")
	if err := os.WriteFile(patched, []byte(strings.Replace(text, asked, asked+jumps, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: patched}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-tags=grpcnotrace", "-overlay", file, "-o", dir+"/",
		"calico.internal/felix/cmd/calico-felix", "calico.internal/bgpd/cmd/bgpd", "calico.internal/confd-templates/cmd/confd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestClockJumps: the wall's clock of felix, bgpd and confd jumps by an hour and by ten
// years, there and back. Sessions, routes and rules stay, nobody works without end, and what
// is written afterwards is in force.
func TestClockJumps(t *testing.T) {
	dir := buildJumping(t)
	c := cluster.New(t, 2)
	for _, h := range c.Hosts {
		h.Programs = dir
	}
	c.StartAll()
	began := time.Now()
	a, b, d := c.Hosts[0].Add("a", "net1"), c.Hosts[1].Add("b", "net1"), c.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, d} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	h := c.Hosts[0]
	events, stop := routeEvents(t, h, "proto", "bird")
	hold := a.Hold(b, d)
	nettest.Eventually(t, 2*clockOver, func() error {
		if rest := clockOver - time.Since(began); rest > 0 {
			return fmt.Errorf("%v to wait", rest)
		}
		return nil
	})
	hold.End()
	stop()
	if changed := events(); len(changed) > 0 {
		t.Errorf("routes of other hosts changed:\n%s", strings.Join(changed, "\n"))
	}
	for name, p := range map[string]*nettest.Process{"felix": h.Felix, "bgpd": h.BGPD, "confd": h.Confd} {
		if used := processorTime(t, p); used > 3*time.Second {
			t.Errorf("%s has worked for %v of %v", name, used, time.Since(began))
		}
	}
	running(t, h)
	c.Profile("net2", "net1")
	a.Reaches(d.IP, 62)
	a.Reaches(d.IP6, 62)
}

// processorTime is what a process has used.
func processorTime(t *testing.T, p *nettest.Process) time.Duration {
	t.Helper()
	_, rest, _ := strings.Cut(read(t, fmt.Sprintf("/proc/%d/stat", p.Process.Pid)), ") ")
	var user, system int
	fields := strings.Fields(rest)
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	const tick = 10 * time.Millisecond
	return time.Duration(user+system) * tick
}
