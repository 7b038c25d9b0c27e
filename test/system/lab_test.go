package system

import (
	"os"
	"testing"

	"calico.internal/test/internal/lab"
	"calico.internal/test/internal/labtest"
)

// TestLab runs the reference experiment and then, on the same hosts, what must hold
// when parts of a host are stopped or killed.
func TestLab(t *testing.T) {
	ctx := t.Context()
	l := newLab(t)
	if err := l.Up(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { labtest.Remove(t, l) })
	e := l.NewExperiment()
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Day(ctx); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		name string
		run  func(*testing.T, *lab.Lab)
	}{
		{"felix stopped: docker start fails and names felix, continued it works", felixStopped},
		{"everything of calico killed: traffic flows on, denials hold", nodeKilled},
		{"bad input is refused with a sentence and exit code 1", badInput},
		{"a wrong node run leaves the node that is there", wrongRuns},
		{"an upgrade loses no packet", upgraded},
		{"a stopped node loses no packet", stoppedInOrder},
		{"an upgrade from a former build, host by host, loses no packet", upgradedFromFormer},
		{"a reboot and a power cut lose nothing of the others, and leave nothing", rebooted},
		{"a purge leaves nothing", purged},
	} {
		if !t.Run(tc.name, func(t *testing.T) { tc.run(t, l) }) {
			labtest.SaveLogs(t, l)
		}
	}
	if err := l.RunLabels(ctx); err != nil {
		t.Error(err)
	}
}

// TestClusterStore runs the reference experiment where Docker itself, by a cluster store, has networks and
// names on all hosts: engine 20.10 is the last that can.
func TestClusterStore(t *testing.T) {
	c := lab.Chosen(os.Getenv)
	c.Engine, c.ClusterStore = "20.10", true
	l := labtest.New(t, c)
	t.Cleanup(func() { labtest.Remove(t, l) })
	if err := l.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.NewExperiment().Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What this package's tests call often.
var (
	on         = labtest.On
	refused    = labtest.Refused
	eventually = labtest.Eventually
)

// newLab is the lab of `make lab`, with the engine that ENGINE names.
func newLab(t testing.TB) *lab.Lab {
	t.Helper()
	return labtest.New(t, lab.Chosen(os.Getenv))
}
