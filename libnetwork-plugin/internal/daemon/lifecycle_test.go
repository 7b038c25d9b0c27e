package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	"calico.internal/libnetwork-plugin/internal/httpapi"
	libnetworkv1 "calico.internal/proto/libnetwork/v1"
)

// run runs a second plugin with a host's settings, which must not start.
func (h *host) run() error {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	return Run(ctx, h.cfg, func(k string) string { return h.env[k] }, slog.New(slog.DiscardHandler))
}

func TestDockersSocketsAreOursAloneAndGoWithUs(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	stale, err := net.Listen("unix", h.socket("calico"))
	must(t, err)
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, stale.Close())
	h.start()
	for _, plugin := range []string{"calico", "calico-ipam"} {
		info, err := os.Lstat(h.socket(plugin))
		must(t, err)
		if info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%s: mode %v", plugin, info.Mode())
		}
	}
	for method, want := range map[string]string{
		"Plugin.Activate":                          `{"Implements": ["NetworkDriver"]}`,
		"NetworkDriver.GetCapabilities":            `{"Scope":"local","ConnectivityScope":""}`,
		"NetworkDriver.DiscoverNew":                `{}`,
		"NetworkDriver.FreeNetwork":                `{}`,
		"IpamDriver.GetCapabilities":               `{"RequiresMACAddress":false}`,
		"IpamDriver.GetDefaultAddressSpaces":       `{"LocalDefaultAddressSpace":"CalicoLocalAddressSpace","GlobalDefaultAddressSpace":"CalicoGlobalAddressSpace"}`,
		"NetworkDriver.RevokeExternalConnectivity": `{}`,
	} {
		if got := h.ok(method, ""); got != want {
			t.Errorf("%s: %s, want %s", method, got, want)
		}
	}
	must(t, h.stop())
	left, err := os.ReadDir(h.cfg.PluginDir)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestASecondPluginIsRefused(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	if err := h.run(); !errors.Is(err, httpapi.ErrInUse) || !strings.Contains(err.Error(), h.socket("calico")) {
		t.Errorf("error %v", err)
	}
	h.cfg.PluginDir = t.TempDir()
	if err := h.run(); !errors.Is(err, grpcsock.ErrInUse) {
		t.Errorf("error with other plugin sockets: %v", err)
	}
	left, err := os.ReadDir(h.cfg.PluginDir)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("the refused plugin leaves %v", left)
	}
}

func TestWhatKeepsThePluginFromStarting(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	good := h.cfg
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for name, tt := range map[string]struct {
		change func()
		want   string
	}{
		"the folder for Docker cannot be made": {func() { h.cfg.PluginDir = filepath.Join(file, "plugins") }, "folder of Docker's plugins"},
		"the engine's address is none":         {func() { h.cfg.DockerHost = "ssh://host" }, "DOCKER_HOST"},
		"the node's name is none":              {func() { h.cfg.Node = "a b" }, "NODENAME"},
	} {
		t.Run(name, func(t *testing.T) {
			h.cfg = good
			tt.change()
			if err := h.run(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
		})
	}
	h.cfg = good
	h.env["ETCD_ENDPOINTS"] = "nonsense://"
	if err := h.run(); err == nil || !strings.Contains(err.Error(), "ETCD_ENDPOINTS") {
		t.Errorf("error %v", err)
	}
}

func TestStatusHealthAndLiveness(t *testing.T) {
	h := newHost(t, enginetest.Docker29)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	h.create(web)
	conn, err := grpcsock.Dial(filepath.Join(h.cfg.RunDir, "libnetwork.sock"))
	must(t, err)
	defer conn.Close() //nolint:errcheck // nothing is buffered
	status, err := libnetworkv1.NewLibnetworkClient(conn).Status(t.Context(), &libnetworkv1.StatusRequest{})
	must(t, err)
	if status.GetNode() != "node00" || status.GetScope() != "local" || !status.GetDatastoreConnected() || !status.GetEngineConnected() {
		t.Errorf("status %v", status)
	}
	if got := status.GetEngineId(); got != enginetest.ID {
		t.Errorf("engine %q", got)
	}
	if n := status.GetNetworks(); len(n) != 1 || n[0].GetName() != "net1" || n[0].GetId() != netID || n[0].GetEndpoints() != 1 {
		t.Errorf("networks %v", n)
	}
	enginetest.Eventually(t, "the plugin is ready", func() bool {
		health, err := healthgrpc.NewHealthClient(conn).Check(t.Context(), &healthgrpc.HealthCheckRequest{})
		return err == nil && health.GetStatus() == healthgrpc.HealthCheckResponse_SERVING
	})
	enginetest.Eventually(t, "the liveness key says ready", func() bool {
		e, err := h.store.Get(t.Context(), model.LivenessKey{Node: "node00", Program: "libnetwork"})
		return err == nil && e.Value.(*model.Liveness).Ready && e.Value.(*model.Liveness).Host.Known()
	})
}

// A plugin that starts without etcd is there for the engine, which else waits 15 s at each
// call, says what is wrong, and does its work once etcd is back.
func TestAStartWithoutEtcd(t *testing.T) {
	nettest.NeedPrivate(t)
	etcd := etcdtest.Start(t)
	etcd.SetUp(t)
	h := onEtcd(t, enginetest.Docker29, "node00", etcd.Endpoint())
	must(t, first(h.store.Create(t.Context(), model.IPPoolKey{CIDR: pool4}, &model.IPPool{CIDR: pool4, IPAM: true})))
	etcd.Stop()
	within := func(what string, limit time.Duration, do func()) {
		t.Helper()
		began := time.Now()
		do()
		took := time.Since(began)
		t.Logf("%s: %v", what, took)
		if took > limit {
			t.Errorf("%s took %v, want at most %v", what, took, limit)
		}
	}
	within("until Docker's sockets are there", 8*time.Second, h.start)
	conn, err := grpcsock.Dial(filepath.Join(h.cfg.RunDir, "libnetwork.sock"))
	must(t, err)
	defer conn.Close() //nolint:errcheck // nothing is buffered
	ready := func() bool {
		health, err := healthgrpc.NewHealthClient(conn).Check(t.Context(), &healthgrpc.HealthCheckRequest{})
		return err == nil && health.GetStatus() == healthgrpc.HealthCheckResponse_SERVING
	}
	status, err := libnetworkv1.NewLibnetworkClient(conn).Status(t.Context(), &libnetworkv1.StatusRequest{})
	must(t, err)
	if status.GetDatastoreConnected() || ready() {
		t.Errorf("status %v, ready %t", status, ready())
	}
	within("a call", 10*time.Second, func() {
		h.refused("IpamDriver.RequestAddress", `{"PoolID":"CalicoPoolIPv4"}`, "etcd at "+etcd.Endpoint(), "ETCD_ENDPOINTS")
	})
	must(t, etcd.Restart())
	within("ready after etcd's return", 6*time.Second, func() { enginetest.Eventually(t, "the plugin is ready", ready) })
	if a := h.address("CalicoPoolIPv4", ""); !pool4.Contains(netip.MustParsePrefix(a).Addr()) {
		t.Errorf("the address %s is not of the pool", a)
	}
}

func TestTheEngineAsksForTheScopeBeforeItAnswers(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.engine.SetClusterStore("etcd://172.28.8.2:2379")
	h.start()
	h.followed()
	must(t, h.stop())
	h.engine.SetSilent(true)
	h.start()
	begun := time.Now()
	if got := h.ok("NetworkDriver.GetCapabilities", ""); !strings.Contains(got, `"Scope":"global"`) {
		t.Errorf("capabilities %s", got)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	h.engine.SetSilent(false)
}

func TestContainersThatTheEngineStartsByItselfGetTheirNamesLater(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.start()
	h.followed()
	h.network(netID, "net1", "{}")
	must(t, h.stop())
	h.engine.SetSilent(true)
	h.start()
	addr := h.create(web)
	h.ok("NetworkDriver.Join", "%s", joinBody(web))
	if got := h.endpoint(epA).Annotations[endpoint.ContainerName]; got != "" {
		t.Errorf("container %s although the engine was silent", got)
	}
	h.running(web, addr)
	h.engine.SetSilent(false)
	enginetest.Eventually(t, "the container's name is noted", func() bool {
		ep := h.endpoint(epA)
		return ep.Annotations[endpoint.ContainerName] == "web" && ep.Annotations[endpoint.ComposeService] == "web"
	})
	if who := h.owner(addr); who.Attrs[ipam.AttrContainer] != "web" {
		t.Errorf("owner %v", who)
	}
}

func TestContainersThatFailedWithoutThePluginAreStarted(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.engine.AddNetworkQuietly(enginetest.Network{ID: netID, Name: "net1", Driver: "calico"})
	h.engine.SetContainer(enginetest.Container{
		ID: web.id, Name: "web", State: "exited", RestartPolicy: "always", Finished: "2025-11-01T00:00:00Z",
		Error:     "failed to create endpoint web on network net1: dial unix /run/docker/plugins/calico.sock: connect: no such file or directory",
		Endpoints: map[string]enginetest.Endpoint{"net1": {}},
	})
	h.start()
	enginetest.Eventually(t, "the container is started", func() bool { return len(h.engine.Started()) == 1 })
	enginetest.Eventually(t, "networks that were made while the plugin was away are learned, too", func() bool {
		e, err := h.store.Get(t.Context(), model.DockerNetworkKey{Name: "net1"})
		return err == nil && e.Value.(*model.DockerNetwork).IDs["node00"] == netID
	})
}

func TestContainersAreNotStartedAgainstTheUsersWish(t *testing.T) {
	h := newHost(t, enginetest.Docker20)
	h.cfg.StartContainers = false
	h.engine.AddNetworkQuietly(enginetest.Network{ID: netID, Name: "net1", Driver: "calico"})
	h.engine.SetContainer(enginetest.Container{
		ID: web.id, Name: "web", State: "exited", RestartPolicy: "always", Error: "network net1",
		Endpoints: map[string]enginetest.Endpoint{"net1": {}},
	})
	h.start()
	h.followed()
	enginetest.Eventually(t, "the network is known", func() bool {
		_, err := h.store.Get(t.Context(), model.DockerNetworkKey{Name: "net1"})
		return err == nil
	})
	must(t, h.stop())
	if got := h.engine.Started(); len(got) != 0 {
		t.Errorf("started %v", got)
	}
}
