// Package engines tests the Docker plugin with real engines: hosts in containers, each with an
// engine of the version that a test's name says. `go test -run 'TestEngines/^28$/many'` is one
// test on one engine.
package engines

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"calico.internal/test/internal/lab"
	"calico.internal/test/internal/labtest"
)

// on and eventually are called often.
var (
	on         = labtest.On
	eventually = labtest.Eventually
)

// engines are the hosts that there are; those of a suite that moves may be missing.
var engines = []struct {
	name, engine string
	store, moves bool
}{
	{name: "28", engine: "28", moves: true},
	{name: "26", engine: "26"},
	{name: "20.10", engine: "20.10"},
	{name: "20.10-store", engine: "20.10", store: true},
}

// tests hold on each engine, and none leaves anything.
var tests = []struct {
	name string
	run  func(*testing.T, *rig)
}{
	{"network", networks},
	{"container", life},
	{"restart", restarted},
	{"addresses", chosen},
	{"refusals", refused},
	{"many", many},
	{"engine-restart", engineRestarted},
	{"engine-kill", engineKilled},
	{"live-restore", engineRestartedLive},
	{"live-restore-kill", engineKilledLive},
	{"plugin-absent", pluginAbsent},
}

func TestEngines(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			l := labtest.New(t, lab.Config{Name: "calico-engines", Net: "172.28.10", Engine: e.engine, ClusterStore: e.store, Hosts: 2})
			if err := l.HasImage(t.Context()); err != nil && e.moves {
				t.Skipf("the packages of engine %s could not be had when the images were built: %v", e.engine, err)
			}
			t.Cleanup(func() { labtest.Remove(t, l) })
			if err := l.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := l.Nodes(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := &rig{Lab: l, store: e.store}
			for _, tc := range tests {
				if !t.Run(tc.name, func(t *testing.T) { r.test(t, tc.run) }) {
					labtest.SaveLogs(t, l)
				}
			}
		})
	}
}

// rig is hosts of one engine: on the first, things happen; the second is the other end.
type rig struct {
	*lab.Lab
	// store says that the engines have a cluster store.
	store bool
}

func (r *rig) host() lab.Host { return r.Hosts[0] }
func (r *rig) peer() lab.Host { return r.Hosts[1] }

// test runs one test, removes its containers and networks, and looks whether anything is left.
func (r *rig) test(t *testing.T, run func(*testing.T, *rig)) {
	before, err := r.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		r.clear(t)
		r.nothingLeft(t, before)
	}()
	run(t, r)
}

// clear removes what a test made, as a user does.
func (r *rig) clear(t *testing.T) {
	t.Helper()
	for _, h := range r.Hosts {
		on(t, h, `ids=$(docker ps -aq --filter name='^t-'); [ -z "$ids" ] || docker rm -f $ids`)
	}
	// The plugin makes a network again that is removed while it still has endpoints, and those of a crash are looked
	// at twice before they go.
	eventually(t, time.Minute, "no endpoint is left", func() error {
		out, err := r.host().On(t.Context(), "calicoctl get workloadEndpoints | tail -n +2")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("there are\n%s", out)
		}
		return err
	})
	for _, h := range r.Hosts {
		// A network that was removed on the host before may be on its way out here.
		on(t, h, `for n in $(docker network ls -q --filter driver=calico); do docker network rm $n || ! docker network inspect $n; done`)
	}
	if r.store {
		// Where the engines share their networks the plugin leaves them to the engines, and the profiles to the user.
		on(t, r.host(), `calicoctl get profiles | tail -n +2 | while read -r name _; do [ -z "$name" ] || calicoctl delete profile "$name"; done`)
	}
}

// nothingLeft waits until nothing is left of a test: what a failure left is looked at twice, half a
// minute apart, before it goes.
func (r *rig) nothingLeft(t *testing.T, before lab.State) {
	t.Helper()
	const limit = time.Minute
	began := time.Now()
	eventually(t, limit, "nothing is left", func() error {
		now, err := r.State(t.Context())
		if err != nil {
			return err
		}
		if left := now.Minus(before); len(left) > 0 {
			return fmt.Errorf("left are %d:\n  %s", len(left), strings.Join(left, "\n  "))
		}
		return nil
	})
	t.Logf("nothing was left after %.1f s", time.Since(began).Seconds())
}

// network makes a network and waits until the other host has it, too. Where engines neither share networks
// nor get them from the plugin, which is with a cluster store, it is the engine that spreads it.
func (r *rig) network(t *testing.T, name, flags string) {
	t.Helper()
	on(t, r.host(), "docker network create --driver calico --ipam-driver calico-ipam %s %s", flags, name)
	eventually(t, 10*time.Second, name+" is on the other host", func() error {
		_, err := r.peer().On(t.Context(), "docker network inspect "+name)
		return err
	})
}

// start runs a container; its name begins with t-, and [rig.clear] removes it.
func (r *rig) start(t *testing.T, h lab.Host, name, flags string) string {
	t.Helper()
	on(t, h, "docker run -d --name t-%s %s calico/workload:%s", name, flags, r.Version)
	return address(t, h, name)
}

func address(t *testing.T, h lab.Host, name string) string {
	t.Helper()
	return on(t, h, "docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' t-%s", name)
}

// reaches waits until a container of the other host has an answer from an address.
func (r *rig) reaches(t *testing.T, from, to string) {
	t.Helper()
	r.reachesFrom(t, r.peer(), from, to)
}

// reachesFrom is reaches from a container of any host.
func (r *rig) reachesFrom(t *testing.T, h lab.Host, from, to string) {
	t.Helper()
	eventually(t, 10*time.Second, from+" reaches "+to, func() error {
		_, err := h.On(t.Context(), fmt.Sprintf("docker exec t-%s probe once %s:7777", from, to))
		return err
	})
}

func long() bool { return os.Getenv("CALICO_TEST_LONG") != "" }
