// Package net runs the built programs on hosts that are network namespaces, with a
// real etcd and no Docker: what must hold between the programs, and between hosts.
package net

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	felixv1 "calico.internal/proto/felix/v1"
)

const (
	patience    = 20 * time.Second
	pingTimeout = time.Second
	storeInside = "127.0.0.1:2379"
)

// rig is a cluster: etcd outside of all hosts, and hosts that reach it by a relay.
type rig struct {
	t     *testing.T
	root  string
	etcd  *etcdtest.Server
	store *etcdstore.Client
	hosts []*host
}

// host is a namespace with a node of Calico.
type host struct {
	*nettest.Host
	rig              *rig
	node, dir        string
	felix, bgpd, cfd *nettest.Process
}

// newRig makes hosts with the start-up done and no program running. None has a
// default route.
func newRig(t *testing.T, hosts int) *rig {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, root: root, etcd: etcdtest.Start(t)}
	if _, err := os.Stat(r.bin("calico-felix")); err != nil {
		t.Fatal("the programs are not built: run make build (make test-net does)")
	}
	r.store, err = etcdstore.New(etcdstore.Config{Endpoints: r.etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.store.Close() })
	var specs []nettest.HostSpec
	for i := range hosts {
		specs = append(specs, nettest.HostSpec{
			Name:  fmt.Sprintf("h%d", i),
			Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", i+1))},
		})
	}
	fabric := nettest.New(t, specs...)
	for i, spec := range specs {
		h := &host{Host: fabric.Host(spec.Name), rig: r, node: fmt.Sprintf("node0%d", i), dir: t.TempDir()}
		h.Relay(storeInside, r.etcd.Addr())
		h.startUp()
		r.hosts = append(r.hosts, h)
	}
	return r
}

func (r *rig) bin(name string) string { return filepath.Join(r.root, "bin", name) }

// run starts a program of the suite on the host.
func (h *host) run(name string, args ...string) *nettest.Process {
	cmd := h.Command(context.Background(), h.rig.bin(name), args...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "NODENAME="+h.node, "ETCD_ENDPOINTS=http://"+storeInside,
		"PATH="+filepath.Join(h.rig.root, "bin")+":"+os.Getenv("PATH"))
	return h.StartCommand(cmd)
}

// startUp does what the container calico-node does first.
func (h *host) startUp() {
	h.rig.t.Helper()
	cmd := h.Command(h.rig.t.Context(), h.rig.bin("calicoctl"), "node", "startup", "--run-dir", h.dir)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "NODENAME="+h.node, "ETCD_ENDPOINTS=http://"+storeInside, "IP="+h.Addr(false).String())
	if out, err := cmd.CombinedOutput(); err != nil {
		h.rig.t.Fatalf("start-up of %s: %v\n%s", h.node, err, out)
	}
	h.writeConfd()
}

// writeConfd copies confd's folder with the paths of this host.
func (h *host) writeConfd() {
	t := h.rig.t
	t.Helper()
	for _, d := range []string{"conf.d", "templates", "config"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, filepath.Join(h.rig.root, "confd-templates/templates/bgpd.toml.template"), filepath.Join(h.dir, "templates/bgpd.toml.template"), nil)
	copyFile(t, filepath.Join(h.rig.root, "confd-templates/conf.d/bgpd.toml"), filepath.Join(h.dir, "conf.d/bgpd.toml"), strings.NewReplacer(
		`"/etc/calico/confd/config/bgpd.toml"`, fmt.Sprintf("%q", h.config()),
		`"bgpd reload"`, fmt.Sprintf("%q", "bgpd reload --run-dir "+h.dir)))
}

func copyFile(t *testing.T, from, to string, change *strings.Replacer) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if change != nil {
		text = change.Replace(text)
	}
	if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (h *host) config() string { return filepath.Join(h.dir, "config/bgpd.toml") }

func (h *host) startFelix() { h.felix = h.run("calico-felix", "run", "--run-dir", h.dir) }

func (h *host) startBGP() {
	h.bgpd = h.run("bgpd", "run", "--config", h.config(), "--run-dir", h.dir)
	h.startConfd()
}

func (h *host) startConfd() {
	h.cfd = h.run("confd", "-confdir", h.dir, "-run-dir", h.dir, "-watch")
}

func (r *rig) startAll() {
	for _, h := range r.hosts {
		h.startFelix()
		h.startBGP()
	}
}

// workload is a container with its endpoint in the store.
type workload struct {
	*nettest.Container
	host *host
	key  model.WorkloadEndpointKey
	ip   netip.Addr
	rev  int64
}

// add gives a host a container of a network, as the Docker plugin would: address,
// profile, endpoint, pair, and no more.
func (h *host) add(name, network string) *workload {
	t := h.rig.t
	t.Helper()
	ctx := t.Context()
	h.rig.addProfile(network)
	id := fmt.Sprintf("%s%060d", strings.ToLower(name), 0)
	addrs, err := ipam.New(h.rig.store, h.node).AutoAssign(ctx, ipam.Request{IPv4: 1, Owner: ipam.Owner{Handle: id}})
	if err != nil {
		t.Fatal(err)
	}
	w := &workload{host: h, ip: addrs[0], key: model.WorkloadEndpointKey{Node: h.node, Orchestrator: "libnetwork", Workload: "libnetwork", Name: id}}
	iface := "cali" + id[:11]
	w.Container = h.AddContainer(iface, w.ip)
	w.rev, err = h.rig.store.Create(ctx, w.key, &model.WorkloadEndpoint{
		State: "active", Interface: iface, MAC: "ee:ee:ee:ee:ee:ee", Profiles: []string{network},
		IPv4Nets: []netip.Prefix{netip.PrefixFrom(w.ip, 32)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// inForce waits until felix says that the endpoint is.
func (w *workload) inForce() {
	w.host.rig.t.Helper()
	if err := w.wait(patience); err != nil {
		w.host.rig.t.Fatalf("endpoint of %s is not in force: %v", w.ip, err)
	}
}

func (w *workload) wait(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(w.host.rig.t.Context(), limit)
	defer cancel()
	conn, err := grpcsock.Dial(filepath.Join(w.host.dir, "felix.sock"))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only asked
	for {
		_, err = felixv1.NewFelixClient(conn).WaitEndpoint(ctx, &felixv1.WaitEndpointRequest{
			Id:       &felixv1.EndpointID{Node: w.key.Node, Orchestrator: w.key.Orchestrator, Workload: w.key.Workload, Endpoint: w.key.Name},
			Revision: w.rev,
		})
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "Unavailable") {
			return err
		}
	}
}

func (r *rig) addProfile(network string, alsoFrom ...string) {
	r.t.Helper()
	p := &model.Profile{Tags: []string{network}, OutboundRules: []model.Rule{{Action: model.ActionAllow}}}
	for _, tag := range append([]string{network}, alsoFrom...) {
		p.InboundRules = append(p.InboundRules, model.Rule{Action: model.ActionAllow, Source: model.Match{Tag: tag}})
	}
	if _, _, err := r.store.Apply(r.t.Context(), model.ProfileKey{Name: network}, p); err != nil {
		r.t.Fatal(err)
	}
}

// reaches wants a ping, a flow of its own, to come back.
func (w *workload) reaches(to netip.Addr, ttl int) {
	w.host.rig.t.Helper()
	nettest.Eventually(w.host.rig.t, patience, func() error {
		reply, err := w.Ping(to, pingTimeout)
		if err == nil && reply.TTL != ttl {
			err = fmt.Errorf("TTL %d, want %d", reply.TTL, ttl)
		}
		return err
	})
}

// cut wants pings not to come back. Whoever calls it also shows the same path open.
func (w *workload) cut(to netip.Addr) {
	w.host.rig.t.Helper()
	for range 3 {
		if _, err := w.Ping(to, 300*time.Millisecond); !errors.Is(err, nettest.ErrNoAnswer) {
			w.host.rig.t.Errorf("%s reaches %s: %v", w.ip, to, err)
		}
	}
}

func (h *host) routes() string { return h.Run("ip", "route") }

// hasRoute waits for a line of the host's routing table.
func (h *host) hasRoute(line string) {
	h.rig.t.Helper()
	nettest.Eventually(h.rig.t, patience, func() error {
		if all := h.routes(); !strings.Contains(all, line) {
			return fmt.Errorf("%s has no route %q:\n%s", h.node, line, all)
		}
		return nil
	})
}

// peers lists bgpd's sessions: address and state.
func (h *host) peers() (map[string]string, error) {
	ctx, cancel := context.WithTimeout(h.rig.t.Context(), 5*time.Second)
	defer cancel()
	conn, err := grpcsock.Dial(filepath.Join(h.dir, "bgpd.sock"))
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // only asked
	answer, err := bgpdv1.NewBgpdClient(conn).ListPeers(ctx, &bgpdv1.ListPeersRequest{})
	if err != nil {
		return nil, err
	}
	states := map[string]string{}
	for _, p := range answer.GetPeers() {
		states[p.GetAddress()] = p.GetState()
	}
	return states, nil
}

// hasPeer waits until bgpd's list holds a peer (with a state, unless that is empty).
func (h *host) hasPeer(address, state string) {
	h.rig.t.Helper()
	nettest.Eventually(h.rig.t, patience, func() error {
		states, err := h.peers()
		if err != nil {
			return err
		}
		if got, ok := states[address]; !ok || (state != "" && got != state) {
			return fmt.Errorf("%s: peers %v, want %s %s", h.node, states, address, state)
		}
		return nil
	})
}

func block(a netip.Addr) string { return netip.PrefixFrom(a, 26).Masked().String() }
