package nodestart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
)

// world is an etcd and the interfaces of this namespace, by which all hosts of a test are.
type world struct {
	t      *testing.T
	etcd   *etcdtest.Server
	client *etcdstore.Client
	boots  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	nettest.Isolate(t)
	w := &world{t: t, etcd: etcdtest.Shared(t)}
	w.etcd.Wipe(t)
	var err error
	if w.client, err = etcdstore.New(etcdstore.Config{Endpoints: w.etcd.Endpoints()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.client.Close() })
	nettest.Run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "p0")
	nettest.Run(t, "ip", "link", "set", "p0", "up")
	nettest.Run(t, "ip", "link", "set", "eth0", "up")
	return w
}

// have makes eth0 have these addresses and no others.
func (w *world) have(addrs ...string) {
	w.t.Helper()
	for _, family := range []string{"-4", "-6"} {
		nettest.Run(w.t, "ip", family, "addr", "flush", "dev", "eth0")
	}
	for _, a := range addrs {
		args := []string{"addr", "add", a, "dev", "eth0"}
		if strings.Contains(a, ":") {
			args = append(args, "nodad")
		}
		nettest.Run(w.t, "ip", args...)
	}
}

// box is a host: its disk, and its environment.
type box struct {
	w   *world
	cfg Config
	env map[string]string
	out bytes.Buffer
}

func (w *world) box(name string, pairs ...string) *box {
	w.boots++
	b := &box{w: w, env: map[string]string{"NODENAME": name, hostrecord.BootVariable: fmt.Sprintf("boot-%d", w.boots), "NO_DEFAULT_POOLS": "true"}}
	b.set(pairs...)
	run := w.t.TempDir()
	b.cfg = Config{
		Getenv: func(n string) string { return b.env[n] }, Out: &b.out, Version: "v9", RunDir: run, LogDir: filepath.Join(run, "log"),
		EnvFile: filepath.Join(run, "startup.env"), StateDir: w.t.TempDir(), Running: func() ([]string, error) { return nil, nil },
		Store: etcdstore.Config{Endpoints: w.etcd.Endpoints()},
	}
	return b
}

func (b *box) set(pairs ...string) {
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		b.env[k] = v
	}
}

func (b *box) run() (Outcome, string, error) {
	b.w.t.Helper()
	b.out.Reset()
	o, err := Run(b.w.t.Context(), b.cfg)
	return o, b.out.String(), err
}

// must starts the host up.
func (b *box) must() (Outcome, string) {
	b.w.t.Helper()
	o, out, err := b.run()
	if err != nil {
		b.w.t.Fatalf("%v:\n%s", err, out)
	}
	return o, out
}

func (b *box) identity() model.Identity {
	b.w.t.Helper()
	id, err := hostrecord.Identity(b.cfg.StateDir, b.cfg.Getenv)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return id
}

// lives shows that a program of the host lives until the returned function is called.
func (b *box) lives(node string) (end func()) {
	b.w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	p := liveness.Program{Node: node, Name: "felix", Host: b.identity(), Ready: func() bool { return true }}
	go func() { done <- liveness.Run(ctx, b.w.client, p) }()
	nettest.Eventually(b.w.t, 5*time.Second, func() error {
		e, err := b.w.client.Get(b.w.t.Context(), model.LivenessKey{Node: node, Program: "felix"})
		if err == nil && e.Value.(*model.Liveness).Host != p.Host {
			return errors.New("it is another's")
		}
		return err
	})
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			b.w.t.Error(err)
		}
	}
	b.w.t.Cleanup(end)
	return end
}

// killed leaves the key of a program of the host that was killed just now.
func (b *box) killed(node string) {
	b.w.t.Helper()
	lease, err := b.w.client.Lease(b.w.t.Context(), liveness.TTL)
	if err != nil {
		b.w.t.Fatal(err)
	}
	wr, err := etcdstore.PutWrite(model.LivenessKey{Node: node, Program: "bgpd"}, &model.Liveness{Version: "v9", Started: time.Now(), Host: b.identity()})
	if err != nil {
		b.w.t.Fatal(err)
	}
	if _, err := b.w.client.Commit(b.w.t.Context(), wr.WithLease(lease)); err != nil {
		b.w.t.Fatal(err)
	}
}

// hook does something when a text is printed.
type hook struct {
	to   io.Writer
	text string
	do   func()
}

func (h hook) Write(p []byte) (int, error) {
	if strings.Contains(string(p), h.text) {
		h.do()
	}
	return h.to.Write(p)
}

// isTaken says whether a start-up was refused because another host has the name.
func isTaken(err error) bool {
	_, is := errors.AsType[*NameTakenError](err)
	return is
}

// etcdForgets removes the key of a program, as when its lease has run out.
func (w *world) etcdForgets(node, program string) {
	w.t.Helper()
	if _, err := w.client.Delete(w.t.Context(), model.LivenessKey{Node: node, Program: program}, 0); err != nil {
		w.t.Fatal(err)
	}
}

// revoke ends the lease of a program's key, as when it has run out.
func (w *world) revoke(node, program string) {
	w.t.Helper()
	resp, err := w.client.Raw().Get(w.t.Context(), model.Paths(model.LivenessKey{Node: node, Program: program})[0])
	if err != nil || len(resp.Kvs) != 1 {
		w.t.Fatalf("%v, %v", resp, err)
	}
	if _, err := w.client.Raw().Revoke(w.t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) node(name string) *model.Node {
	w.t.Helper()
	e, err := w.client.Get(w.t.Context(), model.NodeKey{Name: name})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return e.Value.(*model.Node)
}

func (w *world) store(k model.Key, r model.Resource) {
	w.t.Helper()
	if _, _, err := w.client.Apply(w.t.Context(), k, r); err != nil {
		w.t.Fatal(err)
	}
}

// revision is etcd's, which grows with each write.
func (w *world) revision() int64 {
	w.t.Helper()
	resp, err := w.client.Raw().Get(w.t.Context(), "/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.Header.Revision
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func contains(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if no, is := strings.CutPrefix(line, "!"); is {
			if strings.Contains(out, no) {
				t.Errorf("%q is in\n%s", no, out)
			}
		} else if !strings.Contains(out, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
}

// TestEnvironments has what the environment, the interfaces and the store make of a node.
func TestEnvironments(t *testing.T) {
	w := newWorld(t)
	dual := []string{"10.0.0.100/24", "fd00:10::100/64"}
	for _, tc := range []struct {
		name   string
		have   []string
		stored *model.Node
		env    []string
		ip4    string // with its network; empty: none
		ip6    string
		lines  []string // those that begin with ! must not be there
		err    string
	}{
		{"nothing said", dual, nil, nil, "10.0.0.100/24", "", []string{"Using autodetected IPv4 address on interface eth0: 10.0.0.100/24 (method first-found)", "Node IPv4 changed, will check for conflicts", "Ready flag is now set", "Assigned cluster GUID: ", "Building new node resource Name=\"n1\"", "Using node name: n1", "!WARNING", "!Other IPv4"}, ""},
		{"both families", dual, nil, []string{"IP6=autodetect"}, "10.0.0.100/24", "fd00:10::100/64", []string{"Node IPv6 changed"}, ""},
		{"IPv6 alone", []string{"fd00:10::100/64"}, nil, []string{"IP6=autodetect"}, "", "fd00:10::100/64", []string{"No IPv4 address on this host: it is a node of IPv6 alone"}, ""},
		{"IPv6 alone, as it is stored", []string{"fd00:10::100/64"}, &model.Node{IPv6: addr("fd00:10::100"), IPv6Net: netip.MustParsePrefix("fd00:10::/64")}, nil, "", "fd00:10::100/64", []string{"it is a node of IPv6 alone"}, ""},
		{"IP=none", dual, nil, []string{"IP=none"}, "", "fd00:10::100/64", []string{"!IPv4 address"}, ""},
		{"IP=none takes the stored one away", dual, &model.Node{IPv4: addr("10.0.0.100")}, []string{"IP=none", "IP6=autodetect"}, "", "fd00:10::100/64", []string{"IPv4 address 10.0.0.100 is removed from this node (IP=none)"}, ""},
		{"IP6=none takes the stored one away", dual, &model.Node{IPv6: addr("fd00:10::100")}, []string{"IP6=none"}, "10.0.0.100/24", "", []string{"IPv6 address fd00:10::100 is removed"}, ""},
		{"no address at all", dual, nil, []string{"IP=none", "IP6=none"}, "", "", nil, "leave this node without an address"},
		{"no BGP, no addresses", dual, nil, []string{"CALICO_NETWORKING_BACKEND=none"}, "", "", []string{"!Using autodetected"}, ""},
		{"IPv4 is not there and IPv6 is not asked for", []string{"fd00:10::100/64"}, nil, nil, "", "", nil, "Couldn't autodetect an IPv4 address"},
		{"IPv4 is there, but the method does not find it", dual, nil, []string{"IP6=autodetect", "IP_AUTODETECTION_METHOD=interface=wlan0"}, "", "", nil, "there is 10.0.0.100/24 on eth0"},
		{"a virtual address first", []string{"10.0.0.200/32", "10.0.0.100/24"}, nil, nil, "10.0.0.100/24", "", []string{"Other IPv4 addresses of this host: 10.0.0.200/32 (eth0); IP=ADDRESS or IP_AUTODETECTION_METHOD chooses"}, ""},
		{"several candidates", []string{"10.0.0.100/24", "10.1.0.100/24"}, nil, nil, "10.0.0.100/24", "", []string{"Other IPv4 addresses of this host: 10.1.0.100/24 (eth0)"}, ""},
		{"a given address", dual, nil, []string{"IP=10.0.0.100"}, "10.0.0.100/24", "", []string{"Using IPv4 address from environment: IP=10.0.0.100", "IPv4 address 10.0.0.100 discovered on interface eth0"}, ""},
		{"a given address that is not here", dual, nil, []string{"IP=10.0.0.7/24"}, "10.0.0.7/24", "", []string{"WARNING: Unable to confirm IPv4 address 10.0.0.7 is assigned to this host"}, ""},
		{"a stored address", dual, &model.Node{IPv4: addr("10.0.0.100"), IPv4Net: netip.MustParsePrefix("10.0.0.0/16")}, nil, "10.0.0.100/16", "", []string{"IPv4 address 10.0.0.100 discovered on interface eth0", "!Node IPv4 changed"}, ""},
		{"a stored address that is not here", []string{"10.0.0.150/24"}, &model.Node{IPv4: addr("10.0.0.100"), IPv4Net: netip.MustParsePrefix("10.0.0.0/24")}, nil, "10.0.0.150/24", "", []string{"WARNING: the stored IPv4 address 10.0.0.100 of this node is not on this host: it is detected again", "WARNING: the IPv4 address of this node changes from 10.0.0.100 to 10.0.0.150", "Node IPv4 changed"}, ""},
		{"a stored one of IPv6", []string{"10.0.0.100/24", "fd00:10::150/64"}, &model.Node{IPv6: addr("fd00:10::100")}, nil, "10.0.0.100/24", "fd00:10::150/64", []string{"WARNING: the stored IPv6 address fd00:10::100"}, ""},
		{"a stored one that is not here, and no other", []string{"fd00:10::100/64"}, &model.Node{IPv4: addr("10.0.0.100"), IPv4Net: netip.MustParsePrefix("10.0.0.0/24")}, nil, "10.0.0.100/24", "", []string{"WARNING: Autodetection of IPv4 address failed, keeping existing value: 10.0.0.100"}, ""},
		{"an AS", dual, nil, []string{"AS=65001"}, "10.0.0.100/24", "", []string{"Using AS number specified in environment (AS=65001)"}, ""},
		{"waiting", dual, nil, []string{"WAIT_FOR_DATASTORE=true"}, "10.0.0.100/24", "", []string{"Checking datastore connection", "Datastore connection verified"}, ""},
		{"a quiet one", dual, nil, []string{"CALICO_STARTUP_LOGLEVEL=warning", "VXLAN_VNI=5"}, "10.0.0.100/24", "", []string{"WARNING: VXLAN_VNI has no effect here", "!Using node name"}, ""},
		{"a fault", dual, nil, []string{"AS=x", "IP=y"}, "", "", []string{"!."}, "IP=y is not an IPv4 address"},
		{"a pool over the host's own network", dual, nil, []string{"NO_DEFAULT_POOLS=", "CALICO_IPV4POOL_CIDR=10.0.0.0/16"}, "", "", nil, "CALICO_IPV4POOL_CIDR=10.0.0.0/16 covers 10.0.0.0/24"},
	} {
		// No subtest: it would run in another thread, and so in another namespace.
		func() {
			t.Log(tc.name)
			w.etcd.Wipe(w.t)
			w.have(tc.have...)
			if tc.stored != nil {
				w.store(model.NodeKey{Name: "n1"}, tc.stored)
			}
			b, before := w.box("n1", tc.env...), w.revision()
			o, out, err := b.run()
			contains(t, out, tc.lines...)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				if w.revision() != before {
					t.Error("something was written")
				}
				return
			}
			if err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
			n := w.node("n1")
			for _, f := range []struct {
				want      string
				addr, out netip.Addr
				network   netip.Prefix
			}{{tc.ip4, n.IPv4, o.IPv4, n.IPv4Net}, {tc.ip6, n.IPv6, o.IPv6, n.IPv6Net}} {
				got := ""
				if f.addr.IsValid() {
					got = netip.PrefixFrom(f.addr, f.network.Bits()).String()
				}
				if got != f.want || f.addr != f.out {
					t.Errorf("stored %q, outcome %v, want %q:\n%s", got, f.out, f.want, out)
				}
			}
			if n.Host != b.identity() || !slices.Equal(n.Programs, o.Programs) || len(o.Programs) == 0 || !o.Changed {
				t.Errorf("node %+v, outcome %+v", n, o)
			}
			// Once more: nothing changes, so nothing is written.
			if b.env["IP"] == "none" || b.env["IP6"] == "none" || tc.stored == nil {
				before := w.revision()
				if o, out := b.must(); w.revision() != before || o.Changed {
					t.Errorf("a second start writes:\n%s", out)
				}
			}
		}()
	}
}

// TestACheckWritesNothing has all that a start-up would write, and what would be refused.
func TestACheckWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	b := w.box("n1", "NO_DEFAULT_POOLS=")
	b.cfg.Check = true
	before := w.revision()
	o, out, err := b.run()
	if err != nil || o.IPv4 != addr("10.0.0.100") || w.revision() != before || o.Changed {
		t.Errorf("outcome %+v, %v:\n%s", o, err, out)
	}
	contains(t, out, "Using autodetected", "Checked: nothing was written", "!is now set", "!Created")
	for _, dir := range []string{b.cfg.StateDir, b.cfg.RunDir} {
		if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
			t.Errorf("it left %v, %v", left, err)
		}
	}
}

// TestWhatOthersSetMeanwhileIsKept changes the node between the reading and the writing.
func TestWhatOthersSetMeanwhileIsKept(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	b := w.box("n1")
	b.must()
	b.set("AS=65001")
	st, err := begin(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	st.client = w.client
	c, err := st.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := st.plan(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	n := w.node("n1")
	n.Labels, n.RouteReflectorClusterID = map[string]string{"rack": "1"}, "244.0.0.1"
	w.store(model.NodeKey{Name: "n1"}, n)
	if _, err := commit(t.Context(), w.client, c, p); !errors.Is(err, etcdstore.ErrConflict) {
		t.Fatalf("the node is overwritten: %v", err)
	}
	b.must()
	if n := w.node("n1"); n.Labels["rack"] != "1" || n.RouteReflectorClusterID != "244.0.0.1" || n.ASNumber == nil || *n.ASNumber != 65001 {
		t.Errorf("node %+v", n)
	}
}

// TestTwoHostsOfOneName starts them one after the other, in both orders.
func TestTwoHostsOfOneName(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24", "10.0.0.101/24")
	for _, order := range [][2]string{{"IP=10.0.0.100", "IP=10.0.0.101"}, {"IP=10.0.0.101", "IP=10.0.0.100"}} {
		w.etcd.Wipe(t)
		first, second := w.box("n1", order[0]), w.box("n1", order[1])
		first.must()
		end := first.lives("n1")
		_, out, err := second.run()
		taken, is := errors.AsType[*NameTakenError](err)
		if !is || taken.By[0].Host != first.identity() {
			t.Fatalf("error %v:\n%s", err, out)
		}
		contains(t, err.Error(), first.env["IP"], "id "+first.identity().ID, "felix", "since 20", "NODENAME", "--force", "!copy")
		contains(t, out, "Waiting up to")
		if n := w.node("n1"); n.Host != first.identity() || n.IPv4.String() != first.env["IP"] {
			t.Errorf("the node is the second's: %+v", n)
		}
		// The first may start again as often as it wants.
		before := w.revision()
		if _, out := first.must(); w.revision() != before {
			t.Errorf("it writes:\n%s", out)
		}
		// On purpose.
		second.cfg.Force = true
		_, out = second.must()
		second.cfg.Force = false
		contains(t, out, "WARNING: the node name n1 is taken from another host (", "!Waiting")
		if n := w.node("n1"); n.Host != second.identity() || n.IPv4.String() != second.env["IP"] {
			t.Errorf("the node is not the second's: %+v", n)
		}
		end()
	}
}

// TestTwoHostsThatStartAtTheSameMoment has no programs yet: the start-up of the first shows.
func TestTwoHostsThatStartAtTheSameMoment(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	a, b := w.box("n1"), w.box("n1")
	a.must()
	b.cfg.Out = hook{&b.out, "Waiting", sync.OnceFunc(func() { a.lives("n1") })}
	if _, out, err := b.run(); !isTaken(err) {
		t.Errorf("error %v:\n%s", err, out)
	}
}

// TestAHostThatHasEnded has one that was killed just now, and one that has ended in order.
func TestAHostThatHasEnded(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	a, b := w.box("n1"), w.box("n1")
	a.must()
	a.killed("n1")
	began := time.Now()
	_, out := b.must()
	took := time.Since(began)
	contains(t, out, "Waiting up to", "WARNING: node n1 was another host (id "+a.identity().ID+"), of which nothing lives: this host takes its place")
	if took > liveness.Look {
		t.Errorf("it took %s", took)
	}
	if n := w.node("n1"); n.Host != b.identity() {
		t.Errorf("node %+v", n)
	}
	w.etcd.Wipe(t)
	a, b = w.box("n1"), w.box("n1")
	a.must()
	a.lives("n1")()
	w.etcdForgets("n1", claimer)
	began = time.Now()
	if _, out := b.must(); time.Since(began) > 2*time.Second {
		t.Errorf("it took %s:\n%s", time.Since(began), out)
	}
}

// TestACloneIsToldFromAReboot has the disk of a host twice, or the host itself after a power
// cut.
func TestACloneIsToldFromAReboot(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	a := w.box("n1")
	a.must()
	clone := w.box("n1")
	clone.cfg.StateDir = a.cfg.StateDir
	if a.identity().ID != clone.identity().ID || a.identity() == clone.identity() {
		t.Fatal("it is no clone")
	}
	end := a.lives("n1")
	_, out, err := clone.run()
	if !isTaken(err) {
		t.Fatalf("error %v:\n%s", err, out)
	}
	contains(t, err.Error(), "with the same id, of which one is a copy", "remove /var/lib/calico/node.json")
	end()
	// As a reboot: the same, and what ran before does no more.
	a.killed("n1")
	_, out = clone.must()
	contains(t, out, "!was another host")
	if n := w.node("n1"); n.Host != clone.identity() {
		t.Errorf("node %+v", n)
	}
}

// TestAnOlderHost has programs that do not say where they run.
func TestAnOlderHost(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	for address, refused := range map[string]bool{"10.0.0.100": false, "10.0.0.7": true} {
		w.etcd.Wipe(t)
		w.store(model.NodeKey{Name: "n1"}, &model.Node{IPv4: addr(address)})
		old := w.box("n1")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- liveness.Run(ctx, w.client, liveness.Program{Node: "n1", Name: "felix", Ready: func() bool { return true }})
		}()
		nettest.Eventually(t, 5*time.Second, func() error {
			_, err := w.client.Get(t.Context(), model.LivenessKey{Node: "n1", Program: "felix"})
			return err
		})
		if _, out, err := old.run(); isTaken(err) != refused || !refused && err != nil {
			t.Errorf("%s: error %v, want that it is refused: %t:\n%s", address, err, refused, out)
		}
		cancel()
		<-done
	}
}

// TestSwappedAddresses has two hosts of which each is stored with the other's address.
func TestSwappedAddresses(t *testing.T) {
	w := newWorld(t)
	for _, live := range []bool{false, true} {
		w.etcd.Wipe(t)
		w.have("10.0.0.100/24")
		a := w.box("a", "IP=autodetect")
		a.must()
		w.have("10.0.0.101/24")
		b := w.box("b", "IP=autodetect")
		b.must()
		w.etcdForgets("a", claimer)
		w.etcdForgets("b", claimer)
		if live {
			a.lives("a")
			b.lives("b")
		}
		// Each is started until both are up, as a container that ends is.
		boxes := map[string]*box{"10.0.0.101/24": a, "10.0.0.100/24": b}
		tries := 0
		for done := map[string]bool{}; len(done) < 2; tries++ {
			if tries > 6 {
				t.Fatalf("with living programs %t: a is %+v, b is %+v", live, w.node("a"), w.node("b"))
			}
			for _, has := range slices.Sorted(maps.Keys(boxes)) {
				w.have(has)
				if _, out, err := boxes[has].run(); err == nil {
					done[has] = true
				} else if !live {
					t.Fatalf("%s: %v:\n%s", has, err, out)
				}
			}
		}
		if na, nb := w.node("a"), w.node("b"); na.IPv4 != addr("10.0.0.101") || nb.IPv4 != addr("10.0.0.100") {
			t.Errorf("with living programs %t: a has %s, b has %s", live, na.IPv4, nb.IPv4)
		}
		// An address that is really another's is refused, also then.
		if live {
			w.have("10.0.0.100/24")
			_, out, err := w.box("c").run()
			if err == nil {
				t.Fatalf("c is up:\n%s", out)
			}
			contains(t, err.Error(), "Calico node 'b' is already using the IPv4 address 10.0.0.100. It lives (felix since 20", "!given up")
			if w.node("c") != nil {
				t.Error("c is stored")
			}
		}
	}
}

// TestNamesThatDifferByCase has a node that was imported from v2.6.
func TestNamesThatDifferByCase(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	w.etcd.SetUp(t)
	w.store(model.NodeKey{Name: "Host-A"}, &model.Node{IPv4: addr("10.0.0.100"), Labels: map[string]string{"rack": "1"}})
	_, out, err := w.box("host-a").run()
	if err == nil {
		t.Fatalf("two nodes:\n%s", out)
	}
	contains(t, err.Error(), "Calico node 'Host-A' is already using the IPv4 address 10.0.0.100", "set NODENAME=Host-A")
	b := w.box("Host-A")
	b.must()
	if n := w.node("Host-A"); n.Labels["rack"] != "1" || n.Host != b.identity() || w.node("host-a") != nil {
		t.Errorf("node %+v", n)
	}
}

// TestFromRecord has a host without etcd, before and after its first start.
func TestFromRecord(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	b := w.box("n1", "CALICO_LIBNETWORK_ENABLED=true")
	if _, err := FromRecord(b.cfg); !errors.Is(err, ErrNoRecord) || !strings.Contains(err.Error(), "ETCD_ENDPOINTS") {
		t.Errorf("before the first start: %v", err)
	}
	want, _ := b.must()
	b.cfg.RunDir = t.TempDir() // after a reboot
	b.cfg.Store.Endpoints = []string{"http://127.0.0.1:1"}
	b.out.Reset()
	got, err := FromRecord(b.cfg)
	want.Changed = false
	if err != nil || !slices.Equal(got.Programs, want.Programs) || got.Name != "n1" || got.IPv4 != want.IPv4 || got.IPv4Net != want.IPv4Net || got.Host != want.Host || len(got.Missing) > 0 {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	contains(t, b.out.String(), "This host starts as it was before", "Using node name: n1")
	if files, err := filepath.Glob(filepath.Join(b.cfg.RunDir, "nodename")); err != nil || len(files) != 1 {
		t.Error("the name is not left")
	}
	w.have("10.0.0.150/24")
	b.out.Reset()
	if got, err := FromRecord(b.cfg); err != nil || len(got.Missing) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	contains(t, b.out.String(), "WARNING: the address 10.0.0.100 of this node is not on this host")
	b.set("NODENAME=n2")
	if _, err := FromRecord(b.cfg); !errors.Is(err, ErrNoRecord) || !strings.Contains(err.Error(), "set NODENAME=n1") {
		t.Errorf("with another name: %v", err)
	}
	b.cfg.NoWait = true
	b.set("WAIT_FOR_DATASTORE=true")
	if _, _, err := b.run(); !errors.Is(err, etcdstore.ErrUnavailable) {
		t.Errorf("without etcd: %v", err)
	}
	if err := os.WriteFile(filepath.Join(b.cfg.StateDir, "node.json"), []byte(`{"name":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FromRecord(b.cfg); !errors.Is(err, ErrNoRecord) || strings.Contains(err.Error(), "no node before") {
		t.Errorf("with a record that cannot be read: %v", err)
	}
}

// TestLook follows an address that changes.
func TestLook(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	b := w.box("n1")
	last, _ := b.must()
	look := func(wantChange bool) Outcome {
		t.Helper()
		before := w.revision()
		b.out.Reset()
		now, changed, err := Look(t.Context(), b.cfg, last)
		if err != nil || changed != wantChange || (w.revision() != before) != wantChange {
			t.Errorf("changed %t, written %t, %v, want %t:\n%s", changed, w.revision() != before, err, wantChange, b.out.String())
		}
		last = now
		return now
	}
	look(false)
	w.have("10.0.0.100/24", "10.0.0.7/24") // another one beside it
	look(false)
	w.have("10.0.0.150/24")
	if now := look(true); now.IPv4 != addr("10.0.0.150") || w.node("n1").IPv4 != now.IPv4 {
		t.Errorf("%+v", now)
	}
	contains(t, b.out.String(), "changes from 10.0.0.100 to 10.0.0.150")
	w.have() // as between two leases
	if now := look(false); len(now.Missing) != 1 {
		t.Errorf("missing: %v", now.Missing)
	}
	contains(t, b.out.String(), "WARNING: the address 10.0.0.150 of this node is not on this host any more")
	look(false)
	contains(t, b.out.String(), "!any more")
	w.have("10.0.0.150/24")
	if now := look(false); len(now.Missing) != 0 {
		t.Errorf("missing: %v", now.Missing)
	}
	// A given one is not followed.
	b.set("IP=10.0.0.150")
	w.have("10.0.0.151/24")
	if now := look(false); now.IPv4 != addr("10.0.0.150") {
		t.Errorf("%+v", now)
	}
	contains(t, b.out.String(), "WARNING: the address 10.0.0.150 of this node is not on this host any more")
	// IPv6 that comes later.
	b.set("IP=", "IP6=autodetect")
	w.have("10.0.0.151/24", "fd00:10::100/64")
	if now := look(true); now.IPv6 != addr("fd00:10::100") || now.IPv4 != addr("10.0.0.151") {
		t.Errorf("%+v", now)
	}
}

// put writes a raw value.
func (w *world) put(path, value string) {
	w.t.Helper()
	if _, err := w.client.Raw().Put(w.t.Context(), path, value); err != nil {
		w.t.Fatal(err)
	}
}

// TestANodeThatCannotBeRead keeps what can be read of it, and refuses to write over the rest.
func TestANodeThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	as := model.ASNumber(64999)
	for _, tc := range []struct {
		path, value string
		refused     bool
	}{
		{"/calico/bgp/v1/host/n1/ip_addr_v6", "garbage", false},
		{"/calico/bgp/v1/host/n1/network_v4", "garbage", false},
		{"/calico/bgp/v1/host/n1/ip_addr_v4", "garbage", false},
		{"/calico/bgp/v1/host/n1/as_num", "garbage", true},
		{"/calico/v1/host/n1/metadata", `{"labels":{"rack":`, true},
	} {
		w.etcd.Wipe(t)
		w.etcd.SetUp(t)
		w.store(model.NodeKey{Name: "n1"}, &model.Node{
			IPv4: addr("10.0.0.100"), IPv4Net: netip.MustParsePrefix("10.0.0.0/24"),
			ASNumber: &as, Labels: map[string]string{"rack": "1"}, RouteReflectorClusterID: "244.0.0.1",
		})
		w.put(tc.path, tc.value)
		b, before := w.box("n1"), w.revision()
		_, out, err := b.run()
		if tc.refused {
			if err == nil || !strings.Contains(err.Error(), tc.path) || w.revision() != before {
				t.Errorf("%s: error %v, written %t:\n%s", tc.path, err, w.revision() != before, out)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v:\n%s", tc.path, err, out)
			continue
		}
		contains(t, out, "WARNING: the store holds a value that cannot be used")
		n := w.node("n1")
		if n.ASNumber == nil || *n.ASNumber != as || n.Labels["rack"] != "1" || n.RouteReflectorClusterID != "244.0.0.1" || n.IPv4 != addr("10.0.0.100") || n.Host != b.identity() {
			t.Errorf("%s: node %+v", tc.path, n)
		}
		before = w.revision()
		if _, out := b.must(); w.revision() != before {
			t.Errorf("%s: it is mended again:\n%s", tc.path, out)
		}
	}
}

// TestAnAddressOfANodeThatCannotBeRead counts as that node's.
func TestAnAddressOfANodeThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	a := w.box("a")
	a.must()
	a.lives("a")
	w.put("/calico/bgp/v1/host/a/ip_addr_v6", "garbage")
	if _, out, err := w.box("b").run(); err == nil || !strings.Contains(err.Error(), "node 'a' is already using") {
		t.Errorf("error %v:\n%s", err, out)
	}
}

// TestTwoHostsThatTakeOneAddressAtOnce has the second look before the first has written.
func TestTwoHostsThatTakeOneAddressAtOnce(t *testing.T) {
	w := newWorld(t)
	for _, env := range [][]string{{"IP=10.0.0.100"}, {"IP=none", "IP6=fd00:10::100"}} {
		w.etcd.Wipe(t)
		w.have("10.0.0.100/24", "fd00:10::100/64")
		w.box("other", "IP=none", "IP6=none", "CALICO_NETWORKING_BACKEND=none").must() // the defaults are there
		a, b := w.box("a", env...), w.box("b", env...)
		st, err := begin(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		st.client = w.client
		c, err := st.look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p, err := st.plan(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		a.must()
		if _, err := commit(t.Context(), w.client, c, p); !errors.Is(err, etcdstore.ErrConflict) {
			t.Errorf("%v: both have the address: %v", env, err)
		}
		// It looks again, waits for the programs of the other, and sees them.
		b.cfg.Out = hook{&b.out, "Waiting", sync.OnceFunc(func() {
			a.lives("a")
			w.revoke("a", claimer)
		})}
		if _, out, err := b.run(); err == nil || !strings.Contains(err.Error(), "node 'a' is already using") || w.node("b") != nil {
			t.Errorf("%v: error %v:\n%s", env, err, out)
		}
	}
}

// TestManyHostsStartAtOnce has each with its own address.
func TestManyHostsStartAtOnce(t *testing.T) {
	w := newWorld(t)
	var addrs []string
	for i := range 20 {
		addrs = append(addrs, fmt.Sprintf("10.0.0.%d/24", 100+i))
	}
	w.have(addrs...)
	var starts []*start
	for i, a := range addrs {
		b := w.box(fmt.Sprintf("n%d", i), "IP="+a)
		st, err := begin(b.cfg)
		if err != nil {
			t.Fatal(err)
		}
		st.client = w.client
		starts = append(starts, st)
	}
	here, err := localnet.List()
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, len(starts))
	for _, st := range starts {
		go func() {
			_, _, err := st.writeBeside(t.Context(), here)
			failed <- err
		}()
	}
	for range starts {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	for i, a := range addrs {
		if n := w.node(fmt.Sprintf("n%d", i)); n == nil || n.IPv4 != netip.MustParsePrefix(a).Addr() {
			t.Errorf("%s: node %+v", a, n)
		}
	}
}

// TestARecordThatCannotBeRead counts as that of a member: an emptied store is not founded anew,
// now or after the record was made anew.
func TestARecordThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	for name, spoil := range map[string]func(path string) error{
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"damaged":     func(path string) error { return os.WriteFile(path, []byte(`{"name":`), 0o600) },
	} {
		w.etcd.Wipe(t)
		b := w.box("n1")
		if err := spoil(filepath.Join(b.cfg.StateDir, "node.json")); err != nil {
			t.Fatal(err)
		}
		before := w.revision()
		for range 2 {
			o, out, err := b.run()
			if err != nil || o.Held == "" || w.revision() != before {
				t.Errorf("%s: outcome %+v, %v:\n%s", name, o, err, out)
			}
			contains(t, out, "WARNING: nothing is written to etcd")
		}
	}
}

// TestAHostWithoutAnID does not take the name of one that has one and lives.
func TestAHostWithoutAnID(t *testing.T) {
	w := newWorld(t)
	w.have("10.0.0.100/24")
	a := w.box("n1")
	a.must()
	a.lives("n1")
	b := w.box("n1")
	spoil := func(b *box) {
		b.cfg.StateDir = filepath.Join(t.TempDir(), "file", "dir")
		if err := os.WriteFile(filepath.Dir(b.cfg.StateDir), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spoil(b)
	if _, out, err := b.run(); !isTaken(err) {
		t.Errorf("error %v:\n%s", err, out)
	}
	// It is the host itself, whose disk has become bad while it runs.
	spoil(a)
	if _, out, err := a.run(); err != nil {
		t.Errorf("error %v:\n%s", err, out)
	}
}
