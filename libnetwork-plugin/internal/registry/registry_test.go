package registry

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/enginetest"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// node returns the registry of a node with an engine of its own.
func node(t *testing.T, store *etcdstore.Client, name string) (*Registry, *enginetest.Engine) {
	t.Helper()
	e := enginetest.Start(t, enginetest.Docker20)
	c, err := dockerapi.New(e.Host())
	must(t, err)
	t.Cleanup(c.Close)
	return New(store, c, name, "calico", slog.New(slog.DiscardHandler)), e
}

func store(t *testing.T) *etcdstore.Client {
	t.Helper()
	c, err := etcdstore.New(etcdstore.Config{Endpoints: etcdtest.Shared(t).Endpoints()})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// stored reads a record; nil if there is none.
func stored(t *testing.T, c *etcdstore.Client, name string) *model.DockerNetwork {
	t.Helper()
	e, err := c.Get(t.Context(), model.DockerNetworkKey{Name: name})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return nil
	}
	must(t, err)
	return e.Value.(*model.DockerNetwork)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var net1 = enginetest.Network{
	ID: "id1", Name: "net1", Driver: "calico", Scope: "local", Subnets: []string{"192.168.0.0/16"},
	Options: map[string]string{OptionMTU: "1400", "org.projectcalico.label.zone": "a"},
	Labels:  map[string]string{"owner": "x"},
}

func TestANetworkIsLearnedFoundAndForgotten(t *testing.T) {
	c := store(t)
	r, e := node(t, c, "node00")
	e.AddNetworkQuietly(net1)
	event := dockerapi.Event{Action: "create"}
	event.Actor.ID = "id1"
	event.Actor.Attributes = map[string]string{"name": "net1", "type": "calico"}
	for range 2 {
		must(t, r.Changed(t.Context(), event))
	}
	want := &model.DockerNetwork{
		IDs: map[string]string{"node00": "id1"}, IPv4Pool: "192.168.0.0/16", Scope: "local",
		Options: net1.Options, Labels: net1.Labels,
	}
	if diff := cmp.Diff(want, stored(t, c, "net1"), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	got, err := r.Find(t.Context(), "id1")
	must(t, err)
	if diff := cmp.Diff(Network{ID: "id1", Name: "net1", MTU: 1400, Labels: map[string]string{"zone": "a"}}, got); diff != "" {
		t.Error(diff)
	}
	if !r.Has("net1") || r.Has("net2") || len(r.Known()) != 1 {
		t.Errorf("known %v", r.Known())
	}
	event.Action = "destroy"
	e.RemoveNetwork("id1")
	for range 2 {
		must(t, r.Changed(t.Context(), event))
	}
	if stored(t, c, "net1") != nil {
		t.Error("the record is left")
	}
	if _, err := r.Find(t.Context(), "id1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("error %v", err)
	}
}

func TestTheNameOfAnEventIsEnough(t *testing.T) {
	c := store(t)
	r, e := node(t, c, "node00")
	e.SetSilent(true)
	event := dockerapi.Event{Action: "create"}
	event.Actor.ID = "id1"
	event.Actor.Attributes = map[string]string{"name": "net1", "type": "calico"}
	must(t, r.Changed(t.Context(), event))
	if got := stored(t, c, "net1"); got == nil || got.IDs["node00"] != "id1" {
		t.Errorf("record %+v", got)
	}
}

func TestOtherDriversNetworksAreNotOurs(t *testing.T) {
	c := store(t)
	r, e := node(t, c, "node00")
	for id, driver := range map[string]string{"b": "bridge", "o": "overlay", "c": "calico-other", "m": "calico:latest"} {
		e.AddNetworkQuietly(enginetest.Network{ID: id, Name: "net-" + id, Driver: driver})
	}
	must(t, r.Sync(t.Context()))
	entries, _, _, err := c.List(t.Context(), model.KindDockerNetwork, nil)
	must(t, err)
	if len(entries) != 1 || stored(t, c, "net-m") == nil {
		t.Errorf("records %v", entries)
	}
}

func TestNodesWithTheirOwnEnginesShareARecord(t *testing.T) {
	c := store(t)
	one, engineOne := node(t, c, "node00")
	two, engineTwo := node(t, c, "node01")
	engineOne.AddNetworkQuietly(net1)
	other := net1
	other.ID, other.Options = "id2", map[string]string{OptionMTU: "9000"}
	engineTwo.AddNetworkQuietly(other)

	var both sync.WaitGroup
	for _, r := range []*Registry{one, two} {
		both.Go(func() {
			if err := r.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	got := stored(t, c, "net1")
	if diff := cmp.Diff(map[string]string{"node00": "id1", "node01": "id2"}, got.IDs); diff != "" {
		t.Error(diff)
	}
	// A network of one engine goes with it, the record stays for the others, with what a
	// newer program wrote.
	got.Unknown = `"newer":1`
	_, err := c.Update(t.Context(), model.DockerNetworkKey{Name: "net1"}, got, 0)
	must(t, err)
	must(t, two.Sync(t.Context()))
	must(t, two.Forget(t.Context(), "id2"))
	if left := stored(t, c, "net1").Unknown; left != got.Unknown {
		t.Errorf("of what a newer program wrote is left %q", left)
	}
	if diff := cmp.Diff(map[string]string{"node00": "id1"}, stored(t, c, "net1").IDs); diff != "" {
		t.Error(diff)
	}
}

func TestNodesThatShareTheNetworkForgetItTogether(t *testing.T) {
	c := store(t)
	one, engineOne := node(t, c, "node00")
	two, engineTwo := node(t, c, "node01")
	engineOne.AddNetworkQuietly(net1)
	engineTwo.AddNetworkQuietly(net1)
	must(t, one.Sync(t.Context()))
	if got, err := two.Find(t.Context(), "id1"); err != nil || got.Name != "net1" {
		t.Errorf("found %v, %v", got, err)
	}
	must(t, two.Sync(t.Context()))
	must(t, two.Forget(t.Context(), "id1"))
	if got := stored(t, c, "net1"); got != nil {
		t.Errorf("record %+v", got)
	}
}

func TestSyncForgetsWhatTheEngineHasNoMore(t *testing.T) {
	c := store(t)
	r, e := node(t, c, "node00")
	e.AddNetworkQuietly(net1)
	must(t, r.Sync(t.Context()))
	_, before, _, err := c.List(t.Context(), model.KindDockerNetwork, nil)
	must(t, err)
	must(t, r.Sync(t.Context()))
	_, after, _, err := c.List(t.Context(), model.KindDockerNetwork, nil)
	must(t, err)
	if after != before {
		t.Errorf("a second sync wrote: revision %d became %d", before, after)
	}
	e.RemoveNetwork("id1")
	must(t, r.Sync(t.Context()))
	if stored(t, c, "net1") != nil {
		t.Error("the record is left")
	}
}

func TestAnEngineThatDoesNotAnswerIsNotWaitedFor(t *testing.T) {
	c := store(t)
	r, e := node(t, c, "node00")
	e.SetSilent(true)
	_, err := r.Find(t.Context(), "id1")
	if !errors.Is(err, ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestCheckOptions(t *testing.T) {
	for _, ok := range []map[string]string{
		nil, {OptionMTU: "1400"}, {"org.projectcalico.label.a": "b"},
	} {
		if err := CheckOptions(ok); err != nil {
			t.Errorf("%v: %v", ok, err)
		}
	}
	for want, bad := range map[string]map[string]string{
		"want a number from 68": {OptionMTU: "12"},
		"parent, vlan":          {"vlan": "1", "parent": "eth0", OptionMTU: "1400"},
	} {
		if err := CheckOptions(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
