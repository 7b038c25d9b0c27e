package registry

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	"calico.internal/libnetwork-plugin/internal/networks"
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

func TestANetworkIsFound(t *testing.T) {
	net := Network{ID: "id1", Name: "net1", Profile: "net1", MTU: 1400, Labels: map[string]string{"zone": "a"}}
	for name, known := range map[string]func(*Registry, *enginetest.Engine){
		"in memory": func(r *Registry, e *enginetest.Engine) {
			r.Saw([]dockerapi.Network{{ID: "id1", Name: "net1", Driver: "calico", Options: net1.Options}})
			e.SetSilent(true)
		},
		"in etcd": func(r *Registry, e *enginetest.Engine) {
			_, err := r.store.Create(t.Context(), model.DockerNetworkKey{Name: "net1"},
				&model.DockerNetwork{IDs: map[string]string{"node01": "id1"}, Options: net1.Options})
			must(t, err)
			e.SetSilent(true)
		},
		"by the engine": func(_ *Registry, e *enginetest.Engine) { e.AddNetworkQuietly(net1) },
	} {
		t.Run(name, func(t *testing.T) {
			r, e := node(t, store(t), "node00")
			known(r, e)
			for range 2 {
				got, err := r.Find(t.Context(), "id1")
				must(t, err)
				if diff := cmp.Diff(net, got); diff != "" {
					t.Error(diff)
				}
			}
			if !r.Has("net1") || r.Has("net2") || len(r.Known()) != 1 {
				t.Errorf("known %v", r.Known())
			}
			r.Forget("id1")
			if r.Has("net1") {
				t.Error("a network that is being removed is still known")
			}
		})
	}
}

func TestANetworkOfAnOddNameHasAProfileThatCanBeNamed(t *testing.T) {
	r, _ := node(t, store(t), "node00")
	key := networks.Key("my net")
	_, err := r.store.Create(t.Context(), model.DockerNetworkKey{Name: key},
		&model.DockerNetwork{Name: "my net", IDs: map[string]string{"node00": "id1"}})
	must(t, err)
	got, err := r.Find(t.Context(), "id1")
	must(t, err)
	if got.Name != "my net" || got.Profile != key {
		t.Errorf("found %+v", got)
	}
}

func TestWhatTheEngineHasNoMoreIsNotKnown(t *testing.T) {
	r, _ := node(t, store(t), "node00")
	r.Saw([]dockerapi.Network{{ID: "id1", Name: "net1"}, {ID: "id2", Name: "net2"}})
	r.Saw([]dockerapi.Network{{ID: "id2", Name: "net2"}})
	if r.Has("net1") || !r.Has("net2") {
		t.Errorf("known %v", r.Known())
	}
}

func TestOtherDriversNetworksAreNotOurs(t *testing.T) {
	r, _ := node(t, store(t), "node00")
	for driver, ours := range map[string]bool{"bridge": false, "overlay": false, "calico-other": false, "calico": true, "calico:latest": true} {
		if r.Ours(driver) != ours {
			t.Errorf("%s is ours: %v", driver, !ours)
		}
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
