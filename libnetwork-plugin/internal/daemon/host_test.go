package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/hostrecord"
	libipam "calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/libnetwork-plugin/internal/config"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/enginetest"
	"calico.internal/libnetwork-plugin/internal/felixtest"
	"calico.internal/libnetwork-plugin/internal/veth"
)

func TestMain(m *testing.M) {
	os.Exit(nettest.Main(func() int { return withPrograms(m) }))
}

// The pools that every test has.
var (
	pool4 = netip.MustParsePrefix("192.168.0.0/16")
	pool6 = netip.MustParsePrefix("fd80:24e2:f998:72d6::/64")
)

// host is a node with the plugin running on it, between a real etcd, a real kernel, and
// an engine and a felix that can be made to fail.
type host struct {
	t      testing.TB
	cfg    config.Config
	env    map[string]string
	engine *enginetest.Engine
	felix  *felixtest.Felix
	store  *etcdstore.Client
	raw    *clientv3.Client
	links  *veth.Links
	stop   func() error
	// quiet keeps the plugin's log to itself.
	quiet bool
	// heard, when not nil, gets the plugin's log too.
	heard io.Writer
}

// newHost returns a node that does not run yet, over an etcd that holds only the pools.
func newHost(t testing.TB, r enginetest.Release) *host {
	t.Helper()
	nettest.NeedPrivate(t)
	etcd := etcdtest.Shared(t)
	h := onEtcd(t, r, "node00", etcd.Endpoint())
	h.raw = etcd.Client(t)
	must(t, first(h.store.Create(t.Context(), model.ReadyKey{}, new(model.Ready(true)))))
	for _, p := range []netip.Prefix{pool4, pool6} {
		must(t, first(h.store.Create(t.Context(), model.IPPoolKey{CIDR: p}, &model.IPPool{CIDR: p, IPAM: true})))
	}
	return h
}

// onEtcd returns another node over an etcd.
func onEtcd(t testing.TB, r enginetest.Release, node, etcd string) *host {
	t.Helper()
	felix := felixtest.Start(t)
	h := &host{
		t: t, engine: enginetest.Start(t, r), felix: felix, env: map[string]string{"ETCD_ENDPOINTS": etcd},
		cfg: config.Config{
			Node: node, RunDir: filepath.Dir(felix.Socket), PluginDir: t.TempDir(), StateDir: t.TempDir(),
			InterfacePrefix: "cali", CreateProfiles: true, LabelTimeout: 2 * time.Second,
			FelixTimeout: 5 * time.Second, StartContainers: true, SyncNetworks: true,
		},
	}
	h.cfg.DockerHost = h.engine.Host()
	h.env[hostrecord.DirVariable] = h.cfg.StateDir
	var err error
	h.store, err = etcdstore.New(etcdstore.Config{Endpoints: []string{etcd}})
	must(t, err)
	h.links, err = veth.New()
	must(t, err)
	t.Cleanup(func() {
		pairs, err := h.links.List()
		must(t, err)
		for name := range pairs {
			must(t, first(h.links.Remove(strings.TrimPrefix(name, veth.HostPrefix))))
		}
		h.links.Close()
		must(t, h.store.Close())
	})
	return h
}

// noRecord waits until etcd knows a network as removed from all hosts, or not at all.
func (h *host) noRecord(name string) {
	h.t.Helper()
	enginetest.Eventually(h.t, "the network's record is gone", func() bool {
		e, err := h.store.Get(h.t.Context(), model.DockerNetworkKey{Name: name})
		if err != nil {
			return errors.Is(err, etcdstore.ErrNotFound)
		}
		n := e.Value.(*model.DockerNetwork)
		return n.Removed && len(n.IDs) == 0
	})
}

// start runs the plugin until the test ends or stop is called.
func (h *host) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	if h.heard != nil {
		log = slog.New(slog.NewTextHandler(io.MultiWriter(h.t.Output(), h.heard), nil))
	}
	if h.quiet {
		log = slog.New(slog.DiscardHandler)
	}
	go func() { done <- Run(ctx, h.cfg, func(k string) string { return h.env[k] }, log) }()
	stopped := false
	h.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	h.t.Cleanup(func() {
		if err := h.stop(); err != nil {
			h.t.Error(err)
		}
	})
	enginetest.Eventually(h.t, "both of Docker's sockets are there", func() bool {
		_, err1 := os.Lstat(h.socket("calico"))
		_, err2 := os.Lstat(h.socket("calico-ipam"))
		return err1 == nil && err2 == nil
	})
}

func (h *host) socket(plugin string) string { return filepath.Join(h.cfg.PluginDir, plugin+".sock") }

// followed waits until the plugin follows the engine's events.
func (h *host) followed() {
	h.t.Helper()
	enginetest.Eventually(h.t, "the plugin follows the engine", func() bool { return h.engine.Followers() > 0 })
}

// call makes a call as the engine does and returns the answer's text and error.
func (h *host) call(method, body string) (string, error) {
	h.t.Helper()
	text, refused, err := h.attempt(method, body)
	must(h.t, err)
	return text, refused
}

// attempt makes a call as the engine does. It returns the answer's text or error, or else
// why there is no answer.
func (h *host) attempt(method, body string) (answer string, refused, err error) {
	plugin := "calico"
	if strings.HasPrefix(method, "IpamDriver.") {
		plugin = "calico-ipam"
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", h.socket(plugin))
		},
	}}
	resp, err := client.Post("http://plugin/"+method, "application/vnd.docker.plugins.v1.1+json", strings.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is buffered
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return strings.TrimSpace(string(text)), nil, nil
	}
	var failure struct{ Err string }
	if err := json.Unmarshal(text, &failure); err != nil {
		return "", nil, err
	}
	return "", errors.New(failure.Err), nil
}

// ok makes a call that must succeed.
func (h *host) ok(method, format string, args ...any) string {
	h.t.Helper()
	text, err := h.call(method, fmt.Sprintf(format, args...))
	if err != nil {
		h.t.Fatalf("%s: %v", method, err)
	}
	return text
}

// refused makes a call that must fail with a sentence that holds all the parts.
func (h *host) refused(method, body string, parts ...string) {
	h.t.Helper()
	text, err := h.call(method, body)
	if err == nil {
		h.t.Errorf("%s %s: answered %s", method, body, text)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			h.t.Errorf("%s: %q is not in: %v", method, part, err)
		}
	}
}

// network makes a network in the engine as the plugin sees it: calls first, then the
// event.
func (h *host) network(id, name string, options string) {
	h.t.Helper()
	h.ok("IpamDriver.RequestPool", `{"AddressSpace":"CalicoLocalAddressSpace","Pool":"","SubPool":"","Options":{},"V6":false}`)
	h.ok("NetworkDriver.CreateNetwork", `{"NetworkID":%q,"Options":{"com.docker.network.enable_ipv6":false,
"com.docker.network.generic":%s},"IPv4Data":[{"AddressSpace":"CalicoLocalAddressSpace","Pool":"0.0.0.0/0","Gateway":"169.254.1.1/32"}],
"IPv6Data":[]}`, id, options)
	var opts map[string]string
	must(h.t, json.Unmarshal([]byte(options), &opts))
	h.engine.AddNetwork(enginetest.Network{
		ID: id, Name: name, Driver: "calico", Scope: "local", Subnets: []string{"0.0.0.0/0"}, Options: opts,
	})
	enginetest.Eventually(h.t, "the network's name is in etcd", func() bool {
		e, err := h.store.Get(h.t.Context(), model.DockerNetworkKey{Name: name})
		return err == nil && e.Value.(*model.DockerNetwork).IDs[h.cfg.Node] == id
	})
}

// address asks for an address, any if chosen is empty.
func (h *host) address(poolID, chosen string) string {
	h.t.Helper()
	var answer struct{ Address string }
	text := h.ok("IpamDriver.RequestAddress", `{"PoolID":%q,"Address":%q,"Options":{}}`, poolID, chosen)
	must(h.t, json.Unmarshal([]byte(text), &answer))
	return answer.Address
}

// container is a container as a test describes it.
type container struct {
	id, name, network, networkID, endpoint, sandbox string
	labels                                          map[string]string
}

// create does the part of a container's start that comes before Join and returns its
// address.
func (h *host) create(c container) string {
	h.t.Helper()
	addr := h.address("CalicoPoolIPv4", "")
	h.ok("NetworkDriver.CreateEndpoint", `{"NetworkID":%q,"EndpointID":%q,"Options":{
"com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":[]},
"Interface":{"Address":%q,"AddressIPv6":"","MacAddress":""}}`, c.networkID, c.endpoint, addr)
	h.engine.SetContainer(enginetest.Container{
		ID: c.id, Name: c.name, Labels: c.labels, State: "created", Joining: true,
		Endpoints: map[string]enginetest.Endpoint{c.network: {ID: c.endpoint, IPv4: addr}},
	})
	return addr
}

// joinBody is a Join call.
func joinBody(c container) string {
	return fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"SandboxKey":%q,"Options":{
"com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":[]}}`, c.networkID, c.endpoint, c.sandbox)
}

// running notes that the engine has a container's start behind it.
func (h *host) running(c container, addr string) {
	h.engine.SetContainer(enginetest.Container{
		ID: c.id, Name: c.name, Labels: c.labels, State: "running",
		Endpoints: map[string]enginetest.Endpoint{c.network: {ID: c.endpoint, IPv4: addr}},
	})
}

// remove does a container's stop as the engine does it.
func (h *host) remove(c container, addrs ...string) {
	h.t.Helper()
	ids := fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q}`, c.networkID, c.endpoint)
	h.ok("NetworkDriver.RevokeExternalConnectivity", "%s", ids)
	h.ok("NetworkDriver.Leave", "%s", ids)
	h.ok("NetworkDriver.DeleteEndpoint", "%s", ids)
	for _, a := range addrs {
		bare, _, _ := strings.Cut(a, "/")
		h.ok("IpamDriver.ReleaseAddress", `{"PoolID":"CalicoPoolIPv4","Address":%q}`, bare)
	}
	h.engine.RemoveContainer(c.id)
}

// endpoint reads an endpoint that must be in etcd.
func (h *host) endpoint(id string) *model.WorkloadEndpoint {
	h.t.Helper()
	e, err := h.store.Get(h.t.Context(), endpoint.Key(h.cfg.Node, id))
	must(h.t, err)
	return e.Value.(*model.WorkloadEndpoint)
}

// owner reads who has an address, which must be somebody's.
func (h *host) owner(addr string) libipam.Owner {
	h.t.Helper()
	who, err := libipam.New(h.store, h.cfg.Node).Lookup(h.t.Context(), netip.MustParsePrefix(addr).Addr())
	must(h.t, err)
	return who
}

// nothingLeft fails the test if endpoints, addresses or interfaces are left.
func (h *host) nothingLeft() {
	h.t.Helper()
	for _, prefix := range []string{"/calico/v1/host/", "/calico/ipam/v2/handle/", "/calico/docker/v1/name/"} {
		resp, err := h.raw.Get(h.t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		must(h.t, err)
		for _, kv := range resp.Kvs {
			h.t.Errorf("left in etcd: %s", kv.Key)
		}
	}
	entries, _, _, err := h.store.List(h.t.Context(), model.KindBlock, nil)
	must(h.t, err)
	for _, e := range entries {
		for _, a := range e.Value.(*model.Block).Attributes {
			h.t.Errorf("left in %s: %v", e.Key, a.Secondary)
		}
	}
	pairs, err := h.links.List()
	must(h.t, err)
	for name := range pairs {
		h.t.Errorf("left in the kernel: %s", name)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// first keeps the error of a call with another result.
func first[T any](_ T, err error) error { return err }
