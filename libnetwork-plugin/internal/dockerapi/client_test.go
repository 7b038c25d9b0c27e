package dockerapi

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libnetwork-plugin/internal/enginetest"
)

// releases are the engines that every answer is read from.
var releases = map[string]enginetest.Release{"20.10": enginetest.Docker20, "29": enginetest.Docker29}

// client returns a client of an engine.
func client(t *testing.T, host string) *Client {
	t.Helper()
	c, err := New(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// joining is an engine with a container a whose endpoint e1 on net1 is being joined.
func joining(t *testing.T, r enginetest.Release) *enginetest.Engine {
	t.Helper()
	e := enginetest.Start(t, r)
	e.AddNetwork(enginetest.Network{
		ID: "n1", Name: "net1", Driver: "calico", Scope: "local", Subnets: []string{"0.0.0.0/0"}, IPv6Gateway: "::/0",
		Options: map[string]string{"com.docker.network.driver.mtu": "1400"},
	})
	e.AddNetwork(enginetest.Network{ID: "n2", Name: "bridge", Driver: "bridge", Scope: "local"})
	e.SetContainer(enginetest.Container{
		ID: "c1", Name: "web.a", State: "created", Joining: true,
		Labels:    map[string]string{"org.projectcalico.label.role": "frontend"},
		Endpoints: map[string]enginetest.Endpoint{"net1": {ID: "e1", IPv4: "192.168.0.1/32"}},
	})
	e.SetContainer(enginetest.Container{ID: "c2", Name: "webXa", State: "running"})
	return e
}

func TestEndpointsContainerIsFoundWhileJoinIsUnderWay(t *testing.T) {
	for name, r := range releases {
		t.Run(name, func(t *testing.T) {
			e := joining(t, r)
			c := client(t, e.Host())
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			got, err := c.EndpointContainer(ctx, "n1", "e1")
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != "c1" || got.Labels["org.projectcalico.label.role"] != "frontend" {
				t.Errorf("container %+v", got)
			}
			if slices.Contains(e.Calls(), "/containers/c1/json") {
				t.Error("asked for what the engine answers only after Join")
			}
		})
	}
}

func TestEndpointsContainerIsFoundAfterJoin(t *testing.T) {
	e := joining(t, enginetest.Docker29)
	e.SetContainer(enginetest.Container{
		ID: "c1", Name: "web.a", State: "running", Endpoints: map[string]enginetest.Endpoint{"net1": {ID: "e1"}},
	})
	got, err := client(t, e.Host()).EndpointContainer(t.Context(), "n1", "e1")
	if err != nil || got.ID != "c1" {
		t.Errorf("container %+v, %v", got, err)
	}
}

func TestWhatTheEngineDoesNotKnowIsNotFound(t *testing.T) {
	c := client(t, joining(t, enginetest.Docker20).Host())
	for name, ask := range map[string]func() error{
		"network":   func() error { _, err := c.Network(t.Context(), "n9"); return err },
		"endpoint":  func() error { _, err := c.EndpointContainer(t.Context(), "n1", "e9"); return err },
		"container": func() error { _, err := c.ContainerNamed(t.Context(), "web"); return err },
	} {
		if err := ask(); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestListsAndInfoOfEveryRelease(t *testing.T) {
	for name, r := range releases {
		t.Run(name, func(t *testing.T) {
			e := joining(t, r)
			e.SetClusterStore("etcd://10.0.0.1:2379")
			c := client(t, e.Host())
			info, err := c.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := Info{ID: enginetest.ID, ServerVersion: r.Server, ClusterStore: "etcd://10.0.0.1:2379"}
			if diff := cmp.Diff(want, info); diff != "" {
				t.Error(diff)
			}
			nets, err := c.Networks(t.Context())
			if err != nil || len(nets) != 2 || nets[0].Options["com.docker.network.driver.mtu"] != "1400" {
				t.Errorf("networks %+v, %v", nets, err)
			}
			all, err := c.Containers(t.Context())
			if err != nil || len(all) != 2 {
				t.Errorf("containers %+v, %v", all, err)
			}
		})
	}
}

func TestAnEngineThatSaysNothingCostsNoMoreThanTheDeadline(t *testing.T) {
	e := enginetest.Start(t, enginetest.Docker20)
	e.SetSilent(true)
	c := client(t, e.Host())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := c.Network(ctx, "n1")
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	e.SetSilent(false)
	if _, err := c.Info(t.Context()); err != nil {
		t.Errorf("after the engine has started: %v", err)
	}
}

func TestAMissingSocketIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.sock")
	_, err := client(t, "unix://"+path).Info(t.Context())
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if strings.Contains(err.Error(), "docker.engine") {
		t.Errorf("the error shows the invented host: %v", err)
	}
}

func TestAnotherEngineOnTheSocketIsAskedInItsOwnVersion(t *testing.T) {
	old := enginetest.Start(t, enginetest.Docker20)
	c := client(t, old.Host())
	if _, err := c.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := enginetest.Start(t, enginetest.Docker29)
	next := client(t, now.Host())
	stale := "1.41"
	next.version.Store(&stale)
	if _, err := next.Info(t.Context()); err == nil {
		t.Error("an engine answered in a version that it does not speak")
	}
	if _, err := next.Info(t.Context()); err != nil {
		t.Errorf("second call: %v", err)
	}
}

func TestOlder(t *testing.T) {
	for _, tt := range []struct{ engine, want string }{
		{"1.41", "1.41"}, {"1.56", "1.56"}, {"1.57", "1.56"}, {"2.0", "1.56"}, {"1.9", "1.9"}, {"", "1.56"},
	} {
		if got := older(tt.engine, "1.56"); got != tt.want {
			t.Errorf("older(%q) = %q, want %q", tt.engine, got, tt.want)
		}
	}
}

func TestAddressesThatCannotBeAnEngine(t *testing.T) {
	for _, host := range []string{"", "/var/run/docker.sock", "ssh://host", "unix://"} {
		if _, err := New(host); err == nil || !strings.Contains(err.Error(), "DOCKER_HOST") {
			t.Errorf("New(%q): %v", host, err)
		}
	}
}

// record is a Watcher that writes down what it is told.
type record struct{ told chan string }

func (r record) EngineUp(context.Context) { r.told <- "up" }
func (r record) NetworkChanged(_ context.Context, e Event) {
	name, driver := e.Network()
	r.told <- e.Action + " " + e.Actor.ID + " " + name + " " + driver
}

func (r record) ContainerChanged(_ context.Context, e Event) {
	r.told <- e.Action + " container " + e.Container()
}
func (r record) EngineDown(error) { r.told <- "down" }

func TestWatchSeesNetworksAndComesBack(t *testing.T) {
	e := enginetest.Start(t, enginetest.Docker20)
	c := client(t, e.Host())
	ctx, cancel := context.WithCancel(t.Context())
	r := record{make(chan string, 100)}
	done := make(chan struct{})
	go func() { defer close(done); c.Watch(ctx, r) }()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-r.told:
			if got != want {
				t.Fatalf("told %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("never told %q", want)
		}
	}
	expect("up")
	if !c.Connected() {
		t.Error("not connected while the stream stands")
	}
	e.AddNetwork(enginetest.Network{ID: "n1", Name: "net1", Driver: "calico"})
	expect("create n1 net1 calico")
	e.RemoveNetwork("n1")
	expect("destroy n1 net1 calico")
	e.SetContainer(enginetest.Container{ID: "c1", Name: "web", State: "running"})
	e.EmitContainer("start", "c1")
	expect("start container c1")
	e.EmitConnect("n1", "c1")
	expect("connect container c1")
	e.Down(t)
	expect("down")
	if c.Connected() {
		t.Error("connected while the engine is down")
	}
	e.Up(t)
	for got := range r.told {
		if got == "up" {
			break
		}
	}
	cancel()
	<-done
}
