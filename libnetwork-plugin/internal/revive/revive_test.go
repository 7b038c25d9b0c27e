package revive

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/enginetest"
)

// pluginAway is what the engine says of a container whose network driver was away.
const pluginAway = "failed to create endpoint a on network net1: Post \"http://%2Frun%2Fdocker%2Fplugins%2Fcalico.sock/" +
	"NetworkDriver.CreateEndpoint\": dial unix /run/docker/plugins/calico.sock: connect: connection refused"

func TestFailed(t *testing.T) {
	tests := []struct {
		name, policy, text string
		want               bool
	}{
		{"the plugin was away", "always", pluginAway, true},
		{"felix was", "unless-stopped", "remote: join endpoint 4e5e: felix has not put the endpoint in force", true},
		{"the network is named", "on-failure", "network net1 not found", true},
		{"no restart policy", "no", pluginAway, false},
		{"it ended by itself", "always", "", false},
		{"its program does not exist", "always", "OCI runtime create failed: exec: \"x\": executable file not found", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d dockerapi.Details
			d.HostConfig.RestartPolicy.Name, d.State.Error = tt.policy, tt.text
			if got := Failed(d, "net1"); got != tt.want {
				t.Errorf("%v", got)
			}
		})
	}
}

// victim is a container that the engine could not start.
func victim(id, finished string) enginetest.Container {
	return enginetest.Container{
		ID: id, Name: id, State: "exited", Error: pluginAway, Finished: finished, RestartPolicy: "always",
		Endpoints: map[string]enginetest.Endpoint{"net1": {}},
	}
}

func TestVictimsAreStartedOnce(t *testing.T) {
	for name, release := range map[string]enginetest.Release{"20.10": enginetest.Docker20, "29": enginetest.Docker29} {
		t.Run(name, func(t *testing.T) {
			e := enginetest.Start(t, release)
			e.SetContainer(victim("a", "t1"))
			other := victim("b", "t1")
			other.Endpoints = map[string]enginetest.Endpoint{"bridge": {}}
			e.SetContainer(other)
			running := victim("c", "t1")
			running.State = "running"
			e.SetContainer(running)
			r := reviver(t, e, func(context.Context) error { return nil })

			expect := func(want ...string) {
				t.Helper()
				if err := r.Round(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, e.Started()); diff != "" {
					t.Error(diff)
				}
			}
			expect("a")
			e.SetContainer(victim("a", "t1")) // The start failed and changed nothing.
			expect("a")
			e.SetContainer(victim("a", "t2")) // It failed again, at another start of the engine.
			expect("a", "a")
		})
	}
}

func TestNothingIsStartedBeforeFelixIsReady(t *testing.T) {
	e := enginetest.Start(t, enginetest.Docker20)
	e.SetContainer(victim("a", "t1"))
	notReady := errors.New("felix is not ready")
	r := reviver(t, e, func(context.Context) error { return notReady })
	if err := r.Round(t.Context()); !errors.Is(err, notReady) {
		t.Errorf("error %v", err)
	}
	if got := e.Started(); len(got) != 0 {
		t.Errorf("started %v", got)
	}
}

// reviver returns one for an engine on which net1 is ours.
func reviver(t *testing.T, e *enginetest.Engine, ready func(context.Context) error) *Reviver {
	t.Helper()
	c, err := dockerapi.New(e.Host())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return New(c, ready, func(n string) bool { return n == "net1" }, slog.New(slog.DiscardHandler))
}
