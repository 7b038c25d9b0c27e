package netsync

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/config"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	"calico.internal/libnetwork-plugin/internal/networks"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// host is a node with an engine of its own.
type host struct {
	t      *testing.T
	name   string
	engine *enginetest.Engine
	syncer *Syncer
	store  *etcdstore.Client
	scope  string
	saw    []dockerapi.Network
	cancel context.CancelFunc
	done   chan struct{}
}

func newHost(t *testing.T, store *etcdstore.Client, name string) *host {
	t.Helper()
	h := &host{t: t, name: name, engine: enginetest.Start(t, enginetest.Docker29), store: store, scope: config.ScopeLocal}
	h.make(t.TempDir(), true)
	return h
}

// make makes the syncer, as after a restart of the plugin.
func (h *host) make(state string, spread bool) {
	h.t.Helper()
	c, err := dockerapi.New(h.engine.Host())
	must(h.t, err)
	h.t.Cleanup(c.Close)
	log := slog.New(slog.NewTextHandler(h.t.Output(), nil)).With("host", h.name)
	h.syncer = New(Config{Node: h.name, Driver: "calico", Spread: spread, CreateProfiles: true, StateDir: state}, Parts{
		Store: h.store, Guard: h.store.Guard("", log), Engine: connected{c},
		Ours: func(driver string) bool { return driver == "calico" }, Saw: func(l []dockerapi.Network) { h.saw = l },
		Sole: func(context.Context) error { return nil }, Scope: func() string { return h.scope }, Log: log,
	})
}

// connected is an engine whose events are not followed.
type connected struct{ *dockerapi.Client }

func (connected) Connected() bool { return true }

// sync does rounds until there is nothing to do.
func (h *host) sync() {
	h.t.Helper()
	must(h.t, h.syncer.rounds(h.t.Context()))
}

// remove removes a network as a user does: the engine tells its driver.
func (h *host) remove(id string) {
	h.t.Helper()
	h.engine.RemoveNetwork(id)
	must(h.t, h.syncer.Removed(id))
}

// has returns the engine's networks of our driver, their names without order.
func (h *host) has() []string {
	h.t.Helper()
	must(h.t, h.syncer.Look(h.t.Context()))
	var names []string
	for _, n := range h.saw {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names
}

func (h *host) id(name string) string {
	h.t.Helper()
	must(h.t, h.syncer.Look(h.t.Context()))
	for _, n := range h.saw {
		if n.Name == name {
			return n.ID
		}
	}
	h.t.Fatalf("%s has no network %s", h.name, name)
	return ""
}

// forget makes the mark of a removal old.
func (h *host) forget(name string) {
	h.t.Helper()
	r := record(h.t, h.store, name)
	r.RemovedAt = time.Now().Add(-time.Hour)
	_, err := h.store.Update(h.t.Context(), model.DockerNetworkKey{Name: name}, r, 0)
	must(h.t, err)
}

// endpoint writes an endpoint of a network on a node, and returns what removes it.
func (h *host) endpoint(network string) (remove func()) {
	h.t.Helper()
	ep := &model.WorkloadEndpoint{State: "active", Interface: "cali0123456789a", MAC: endpoint.DefaultMAC, Profiles: []string{network}}
	endpoint.Annotate(ep, endpoint.Network, network)
	key := endpoint.Key(h.name, "0123456789abcdef")
	_, err := h.store.Create(h.t.Context(), key, ep)
	must(h.t, err)
	h.engine.SetContainer(enginetest.Container{ID: "c1", Name: "web", State: "running", Endpoints: map[string]enginetest.Endpoint{network: {ID: "e1"}}})
	return func() {
		_, err := h.store.Delete(h.t.Context(), key, 0)
		must(h.t, err)
		h.engine.RemoveContainer("c1")
	}
}

func store(t *testing.T) *etcdstore.Client {
	t.Helper()
	c, err := etcdstore.New(etcdstore.Config{Endpoints: etcdtest.Shared(t).Endpoints()})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	_, err = c.Create(t.Context(), model.ReadyKey{}, new(model.Ready(true)))
	must(t, err)
	return c
}

// record reads a record; nil if there is none.
func record(t *testing.T, c *etcdstore.Client, name string) *model.DockerNetwork {
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
	Options: map[string]string{"com.docker.network.driver.mtu": "1400"}, Labels: map[string]string{"owner": "x"},
}

// three returns three hosts that all have net1, which was made on the first.
func three(t *testing.T) (a, b, c *host) {
	t.Helper()
	s := store(t)
	a, b, c = newHost(t, s, "a"), newHost(t, s, "b"), newHost(t, s, "c")
	a.engine.AddNetworkQuietly(net1)
	for _, h := range []*host{a, b, c} {
		h.sync()
		if got := h.has(); !slices.Equal(got, []string{"net1"}) {
			t.Fatalf("%s has %v", h.name, got)
		}
	}
	return a, b, c
}

func TestANetworkIsMadeOnAllHostsAndGoesFromAll(t *testing.T) {
	a, b, c := three(t)
	for _, n := range b.saw {
		if n.Labels["owner"] != "x" || n.Options["com.docker.network.driver.mtu"] != "1400" || len(n.IPAM.Config) != 1 {
			t.Errorf("the copy is another one: %+v", n)
		}
	}
	r := record(t, a.store, "net1")
	if got := slices.Sorted(maps.Keys(r.IDs)); !slices.Equal(got, []string{"a", "b", "c"}) || r.IDs["a"] != "id1" {
		t.Errorf("ids %v", r.IDs)
	}
	_, before, _, err := a.store.List(t.Context(), model.KindDockerNetwork, nil)
	must(t, err)
	for _, h := range []*host{a, b, c, a} {
		h.sync()
	}
	_, after, _, err := a.store.List(t.Context(), model.KindDockerNetwork, nil)
	must(t, err)
	if after != before {
		t.Errorf("another round wrote: revision %d became %d", before, after)
	}

	// Removed where it is a copy, it goes from all; a host that is away follows later.
	b.remove(b.id("net1"))
	b.sync()
	a.sync()
	if r := record(t, a.store, "net1"); r == nil || !r.Removed {
		t.Errorf("the record does not outlive its network: %+v", r)
	}
	b.sync()
	for _, h := range []*host{a, b} {
		if got := h.has(); len(got) > 0 {
			t.Errorf("%s still has %v", h.name, got)
		}
	}
	c.sync()
	if r := record(t, a.store, "net1"); len(c.has()) > 0 || r == nil || !r.Removed || len(r.IDs) > 0 {
		t.Errorf("c still has %v, the record is %+v", c.has(), r)
	}
	a.forget("net1")
	b.sync()
	if r := record(t, a.store, "net1"); r != nil {
		t.Errorf("the record stays: %+v", r)
	}
}

func TestANetworkInUseIsMadeAgainWhereItWasRemoved(t *testing.T) {
	a, b, c := three(t)
	stop := b.endpoint("net1")
	a.remove("id1")
	a.sync()
	c.sync()
	if got := a.has(); !slices.Equal(got, []string{"net1"}) || record(t, a.store, "net1").Removed {
		t.Fatalf("a has %v", got)
	}
	stop()
	a.remove(a.id("net1"))
	for _, h := range []*host{a, b, c} {
		h.sync()
		if got := h.has(); len(got) > 0 {
			t.Errorf("%s still has %v", h.name, got)
		}
	}
}

func TestAContainerThatStartsDuringTheRemovalKeepsTheNetwork(t *testing.T) {
	a, b, c := three(t)
	a.remove("id1")
	a.sync()
	b.endpoint("net1") // etcd was asked before
	c.sync()
	b.sync()
	if r := record(t, a.store, "net1"); r == nil || r.Removed {
		t.Fatalf("record %+v", r)
	}
	for _, h := range []*host{a, b, c} {
		h.sync()
		if got := h.has(); !slices.Equal(got, []string{"net1"}) {
			t.Errorf("%s has %v", h.name, got)
		}
	}
}

func TestARemovedNetworkThatIsMadeAnewReplacesItsCopies(t *testing.T) {
	a, b, c := three(t)
	a.remove("id1")
	next := net1
	next.ID, next.Options = "id9", map[string]string{"com.docker.network.driver.mtu": "9000"}
	a.engine.AddNetworkQuietly(next)
	for _, h := range []*host{a, b, c} {
		h.sync()
		must(t, h.syncer.Look(t.Context()))
		if len(h.saw) != 1 || h.saw[0].Options["com.docker.network.driver.mtu"] != "9000" {
			t.Errorf("%s has %+v", h.name, h.saw)
		}
	}
	if r := record(t, a.store, "net1"); r.Removed || len(r.IDs) != 3 || len(r.Problems) != 0 {
		t.Errorf("record %+v", r)
	}
}

func TestAClashIsNamedAndNothingIsTouched(t *testing.T) {
	s := store(t)
	a, b, c := newHost(t, s, "a"), newHost(t, s, "b"), newHost(t, s, "c")
	a.engine.AddNetworkQuietly(net1)
	mine := net1
	mine.ID, mine.Subnets = "id2", []string{"10.9.0.0/16"}
	b.engine.AddNetworkQuietly(mine)
	c.engine.AddNetworkQuietly(enginetest.Network{ID: "id3", Name: "net1", Driver: "bridge"})
	for range 2 {
		for _, h := range []*host{a, b, c} {
			h.sync()
		}
	}
	r := record(t, s, "net1")
	if !strings.Contains(r.Problems["b"], "subnets") || !strings.Contains(r.Problems["c"], "bridge") || r.Problems["a"] != "" {
		t.Errorf("problems %v", r.Problems)
	}
	if b.id("net1") != "id2" || len(c.has()) != 0 {
		t.Error("a network was touched")
	}
	if a.syncer.Problems()["net1"] != "" || b.syncer.Problems()["net1"] != r.Problems["b"] || c.syncer.Problems()["net1"] != r.Problems["c"] {
		t.Errorf("the hosts say %v, %v, %v", a.syncer.Problems(), b.syncer.Problems(), c.syncer.Problems())
	}
	if r.IDs["b"] != "" {
		t.Errorf("the record has the id of another network: %v", r.IDs)
	}
	c.engine.RemoveNetwork("id3")
	c.sync()
	b.remove("id2") // what the message asks for; the others keep theirs
	b.sync()
	a.sync()
	if r := record(t, s, "net1"); r.Removed || r.IDs["b"] == "" || a.id("net1") != "id1" {
		t.Errorf("after the one that differed was removed: %+v", r)
	}
	if r := record(t, s, "net1"); len(c.syncer.Problems()) > 0 || r.Problems["c"] != "" || r.IDs["c"] == "" {
		t.Errorf("after the clash: %+v", r)
	}
}

func TestARefusalOfTheEngineIsNamed(t *testing.T) {
	s := store(t)
	a, b := newHost(t, s, "a"), newHost(t, s, "b")
	a.engine.AddNetworkQuietly(net1)
	a.sync()
	b.engine.RefuseNetworks("the calico driver does not do that")
	b.sync()
	if r := record(t, s, "net1"); !strings.Contains(r.Problems["b"], "does not do that") {
		t.Errorf("problems %v", r.Problems)
	}
	b.engine.RefuseNetworks("")
	b.sync()
	if r := record(t, s, "net1"); len(r.Problems) > 0 || r.IDs["b"] == "" {
		t.Errorf("record %+v", r)
	}
}

func TestAnEngineThatLostItsDataGetsItsNetworksBack(t *testing.T) {
	a, b, _ := three(t)
	a.engine.LoseData(enginetest.ID) // also one that keeps its id, as when only its networks' folder went
	a.sync()
	if got := a.has(); !slices.Equal(got, []string{"net1"}) || record(t, a.store, "net1").Removed {
		t.Errorf("a has %v", got)
	}
	// A removal is remembered over the end of the program.
	dir := b.syncer.StateDir
	id := b.id("net1")
	b.remove(id)
	b.make(dir, true)
	b.sync()
	if r := record(t, a.store, "net1"); !r.Removed {
		t.Errorf("record %+v", r)
	}
	if b.syncer.removals.has(id) {
		t.Error("what etcd knows is still remembered")
	}
}

func TestALostRecordIsWrittenBack(t *testing.T) {
	a, b, c := three(t)
	uid := record(t, a.store, "net1").UID
	_, err := a.store.Delete(t.Context(), model.DockerNetworkKey{Name: "net1"}, 0)
	must(t, err)
	for _, h := range []*host{b, a, c} {
		h.sync()
		if got := h.has(); !slices.Equal(got, []string{"net1"}) {
			t.Errorf("%s has %v", h.name, got)
		}
	}
	if r := record(t, a.store, "net1"); r.UID != uid || len(r.IDs) != 3 || len(r.Problems) > 0 {
		t.Errorf("record %+v, was of %s", r, uid)
	}
}

func TestProfilesGoWithTheirNetworksUnlessEditedOrUsed(t *testing.T) {
	for name, tt := range map[string]struct {
		edit  func(*model.Profile)
		used  bool
		stays bool
	}{
		"untouched": {func(*model.Profile) {}, false, false},
		"edited":    {func(p *model.Profile) { p.Tags = append(p.Tags, "more") }, false, true},
		"used":      {func(*model.Profile) {}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, c := three(t)
			p := endpoint.DefaultProfile("net1")
			tt.edit(p)
			_, err := a.store.Create(t.Context(), model.ProfileKey{Name: "net1"}, p)
			must(t, err)
			if tt.used { // by something else than the network's containers
				ep := &model.HostEndpoint{Interface: "eth1", Profiles: []string{"net1"}}
				_, err := a.store.Create(t.Context(), model.HostEndpointKey{Node: "a", Name: "eth1"}, ep)
				must(t, err)
			}
			a.remove("id1")
			for _, h := range []*host{a, b, c} {
				h.sync()
			}
			if _, err := a.store.Get(t.Context(), model.ProfileKey{Name: "net1"}); err != nil {
				t.Errorf("the profile went before its record: %v", err)
			}
			a.forget("net1")
			a.sync()
			_, err = a.store.Get(t.Context(), model.ProfileKey{Name: "net1"})
			if stays := err == nil; stays != tt.stays {
				t.Errorf("the profile stays: %v (%v)", stays, err)
			}
		})
	}
}

func TestNothingIsSpreadWhereTheEnginesDoItOrTheOperatorDoesNotWant(t *testing.T) {
	s := store(t)
	a, b, c := newHost(t, s, "a"), newHost(t, s, "b"), newHost(t, s, "c")
	a.engine.AddNetworkQuietly(net1)
	a.sync()
	b.scope = config.ScopeGlobal
	c.make(t.TempDir(), false)
	b.sync()
	c.sync()
	if len(b.has()) > 0 || len(c.has()) > 0 {
		t.Errorf("b has %v, c has %v", b.has(), c.has())
	}
	own := net1
	own.ID, own.Name = "own", "own"
	c.engine.AddNetworkQuietly(own)
	c.sync()
	a.sync()
	if len(a.has()) != 1 || record(t, s, "own").IDs["c"] != "own" {
		t.Errorf("a has %v", a.has())
	}
	c.engine.RemoveNetwork("own")
	c.sync()
	if record(t, s, "own") != nil {
		t.Error("the record is left")
	}
}

func TestOddNamesAreMapped(t *testing.T) {
	s := store(t)
	a, b := newHost(t, s, "a"), newHost(t, s, "b")
	odd := net1
	odd.Name = "my net/1"
	a.engine.AddNetworkQuietly(odd)
	a.sync()
	b.sync()
	if got := b.has(); !slices.Equal(got, []string{"my net/1"}) || record(t, s, networks.Key("my net/1")) == nil {
		t.Errorf("b has %v", got)
	}
}

// run lets the syncer run until the test ends.
func (h *host) run() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.done = cancel, make(chan struct{})
	go func() {
		defer close(h.done)
		if err := h.syncer.Run(ctx); err != nil {
			h.t.Error(err)
		}
	}()
	h.t.Cleanup(func() {
		cancel()
		<-h.done
	})
}

func TestRunFollowsRecordsAndHoldsWithoutACluster(t *testing.T) {
	s := store(t)
	a, b := newHost(t, s, "a"), newHost(t, s, "b")
	b.run()
	a.engine.AddNetworkQuietly(net1)
	a.sync()
	enginetest.Eventually(t, "b has the network", func() bool { r := record(t, s, "net1"); return r != nil && r.IDs["b"] != "" })

	// An etcd that was emptied in one deletion takes nothing away.
	etcd := etcdtest.Shared(t).Client(t)
	_, err := etcd.Delete(t.Context(), "/calico/", clientv3.WithPrefix())
	must(t, err)
	b.syncer.Kick()
	time.Sleep(300 * time.Millisecond) //nolint:forbidigo // nothing may happen
	list, err := b.syncer.Engine.Networks(t.Context())
	must(t, err)
	if len(list) != 1 {
		t.Errorf("b has %v", list)
	}
	if r := record(t, s, "net1"); r != nil {
		t.Errorf("an emptied store was written to: %+v", r)
	}
	_, err = s.Create(t.Context(), model.ReadyKey{}, new(model.Ready(true)))
	must(t, err)
	enginetest.Eventually(t, "b writes it back", func() bool { r := record(t, s, "net1"); return r != nil && r.IDs["b"] != "" })
}
