// GoBGP v3 has data races of its own, at which a process built with the detector fails.

//go:build !race

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	bgpdv1 "calico.internal/proto/bgpd/v1"
	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

const (
	etcdURL = "http://10.0.0.250:2379"
	// converge is how long anything may take before a test gives up.
	converge = 15 * time.Second
)

// lab is some hosts with bgpd, joined by a fabric, and an etcd.
type lab struct {
	t     testing.TB
	net   *nettest.Net
	etcd  *clientv3.Client
	store *nettest.Process
	dir   string
	nodes []*node
}

// node is one host.
type node struct {
	*nettest.Host
	lab    *lab
	name   string
	v4, v6 netip.Addr
	dir    string
	doc    document
	proc   *nettest.Process
	output *buffer
	eth0   int
}

// document is what a node's bgpd.toml says.
type document struct {
	as     uint32
	mesh   bool
	peers  string
	extra  string
	timers string
	pools  string
}

// newLab makes n hosts named node00, node01, … with addresses 10.0.0.1, … and fd00::1,
// …; nothing runs on them yet.
func newLab(t testing.TB, n int) *lab {
	t.Helper()
	specs := []nettest.HostSpec{{Name: "etcd", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.250/24")}}}
	for i := range n {
		specs = append(specs, nettest.HostSpec{Name: fmt.Sprintf("node%02d", i), Addrs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+1)),
			netip.MustParsePrefix(fmt.Sprintf("fd00::%x/64", i+1)),
		}})
	}
	l := &lab{t: t, net: nettest.New(t, specs...), dir: shortDir(t)}
	l.startEtcd()
	for i := range n {
		l.nodes = append(l.nodes, l.newNode(i))
	}
	return l
}

// shortDir is a temporary directory whose path leaves room for sockets; that of
// TempDir has the test's name in it.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bgpd") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// runEtcd runs etcd on the data that there is.
func (l *lab) runEtcd() {
	host := l.net.Host("etcd")
	cmd := host.Command(context.Background(), "etcd", "--data-dir", filepath.Join(l.dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL, "--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error")
	cmd.Stdout, cmd.Stderr = &buffer{}, &buffer{}
	l.store = host.StartCommand(cmd)
}

func (l *lab) startEtcd() {
	l.t.Helper()
	l.runEtcd()
	host := l.net.Host("etcd")
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{etcdURL}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(_ context.Context, addr string) (conn net.Conn, err error) {
			host.Do(func() { conn, err = net.DialTimeout("tcp", addr, time.Second) })
			return conn, err
		})},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = client.Close() })
	l.etcd = client
	l.eventually("etcd answers", func() error {
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
		defer cancel()
		_, err := client.Get(ctx, "x")
		return err
	})
	etcdtest.SetUp(l.t, client)
}

func (l *lab) newNode(i int) *node {
	name := fmt.Sprintf("node%02d", i)
	n := &node{Host: l.net.Host(name), lab: l, name: name, dir: filepath.Join(l.dir, name)}
	n.v4, n.v6 = n.Addr(false), n.Addr(true)
	n.doc = document{as: 64512, mesh: true}
	if err := os.MkdirAll(filepath.Join(n.dir, "run"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	n.Do(func() {
		if eth0, err := net.InterfaceByName("eth0"); err == nil {
			n.eth0 = eth0.Index
		}
	})
	l.put(model.NodeKey{Name: name}, &model.Node{IPv4: n.v4, IPv6: n.v6})
	return n
}

// put writes a resource to etcd.
func (l *lab) put(k model.Key, r model.Resource) {
	l.t.Helper()
	parts, err := model.Encode(k, r)
	if err != nil {
		l.t.Fatal(err)
	}
	for path, value := range parts {
		if _, err := l.etcd.Put(l.t.Context(), path, string(value)); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) remove(k model.Key) {
	l.t.Helper()
	for _, path := range model.Paths(k) {
		if _, err := l.etcd.Delete(l.t.Context(), path); err != nil {
			l.t.Fatal(err)
		}
	}
}

func affinity(node, cidr string) model.BlockAffinityKey {
	return model.BlockAffinityKey{Node: node, CIDR: netip.MustParsePrefix(cidr)}
}

// giveBlock gives a node a block.
func (n *node) giveBlock(cidr string) {
	n.lab.t.Helper()
	n.lab.put(affinity(n.name, cidr), &model.BlockAffinity{State: model.AffinityConfirmed})
}

func (l *lab) eventually(what string, f func() error) {
	l.t.Helper()
	nettest.Eventually(l.t, converge, func() error {
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// text renders the document.
func (n *node) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "node = %q\nrouter_id = %q\nas_number = %d\nlisten_addresses = [%q, %q]\n%s\n", n.name, n.v4, n.doc.as, n.v4, n.v6, n.doc.extra)
	fmt.Fprintf(&b, "[mesh]\nenabled = %t\n[timers]\n%s\n", n.doc.mesh, n.doc.timers)
	for _, o := range n.lab.nodes {
		for _, a := range []netip.Addr{o.v4, o.v6} {
			if o != n {
				b.WriteString(peerText("Mesh_"+a.String(), "mesh", a, o.doc.as))
			}
		}
	}
	b.WriteString(n.doc.peers)
	pools := n.doc.pools
	if pools == "" {
		pools = "[[pool]]\ncidr = \"192.168.0.0/16\"\n[[pool]]\ncidr = \"fd80::/48\"\n"
	}
	b.WriteString(pools)
	return b.String()
}

func peerText(name, kind string, a netip.Addr, as uint32) string {
	return fmt.Sprintf("[[peer]]\nname = %q\ntype = %q\naddress = %q\nas_number = %d\n", name, kind, a, as)
}

func (n *node) config() string { return filepath.Join(n.dir, "conf", "bgpd.toml") }

// write puts the document in place as confd does: by renaming.
func (n *node) write() { n.writeText(n.text()) }

func (n *node) writeText(text string) {
	n.lab.t.Helper()
	if err := os.MkdirAll(filepath.Dir(n.config()), 0o755); err != nil {
		n.lab.t.Fatal(err)
	}
	tmp := n.config() + ".tmp"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		n.lab.t.Fatal(err)
	}
	if err := os.Rename(tmp, n.config()); err != nil {
		n.lab.t.Fatal(err)
	}
}

// command is bgpd, as a process of the host.
func (n *node) command(args ...string) *exec.Cmd {
	cmd := n.Command(context.Background(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asBgpd+"=1", "NODENAME="+n.name, "ETCD_ENDPOINTS="+etcdURL)
	return cmd
}

func (n *node) runDir() string { return filepath.Join(n.dir, "run") }

// start starts bgpd.
func (n *node) start() {
	n.lab.t.Helper()
	cmd := n.command("run", "--config", n.config(), "--run-dir", n.runDir(), "--state-dir", n.runDir())
	n.output = &buffer{t: n.lab.t, prefix: n.name + "| "}
	cmd.Stderr = n.output
	n.proc = n.StartCommand(cmd)
}

// startAll writes all documents, starts all and waits until all sessions are up.
func (l *lab) startAll() {
	l.t.Helper()
	for _, n := range l.nodes {
		n.write()
		n.start()
	}
	for _, n := range l.nodes {
		n.awaitPeers(2 * (len(l.nodes) - 1))
	}
}

// client talks to the node's bgpd.
func (n *node) client() bgpdv1.BgpdClient {
	n.lab.t.Helper()
	conn, err := grpcsock.Dial(filepath.Join(n.runDir(), "bgpd.sock"))
	if err != nil {
		n.lab.t.Fatal(err)
	}
	n.lab.t.Cleanup(func() { _ = conn.Close() })
	return bgpdv1.NewBgpdClient(conn)
}

func (n *node) peers() ([]*bgpdv1.Peer, error) {
	ctx, cancel := context.WithTimeout(n.lab.t.Context(), 2*time.Second)
	defer cancel()
	resp, err := n.client().ListPeers(ctx, &bgpdv1.ListPeersRequest{})
	return resp.GetPeers(), err
}

func (n *node) established() (int, error) {
	peers, err := n.peers()
	up := 0
	for _, p := range peers {
		if p.GetState() == "established" {
			up++
		}
	}
	return up, err
}

func (n *node) awaitPeers(want int) {
	n.lab.t.Helper()
	n.lab.eventually(n.name+" has its sessions", func() error {
		up, err := n.established()
		if err == nil && up != want {
			err = fmt.Errorf("%d established, want %d", up, want)
		}
		return err
	})
}

func (n *node) status() *bgpdv1.StatusResponse {
	n.lab.t.Helper()
	st, err := n.client().Status(n.lab.t.Context(), &bgpdv1.StatusRequest{})
	if err != nil {
		n.lab.t.Fatal(err)
	}
	return st
}

// routes is what "ip route" says of one prefix, links by name, spaces trimmed.
func (n *node) routes(prefix string) string {
	family := "-4"
	if strings.Contains(prefix, ":") {
		family = "-6"
	}
	return strings.TrimSpace(n.Run("ip", family, "route", "show", "exact", prefix))
}

func (n *node) awaitRoute(prefix, want string) {
	n.lab.t.Helper()
	n.lab.eventually(fmt.Sprintf("%s has the route to %s", n.name, prefix), func() error {
		if got := n.routes(prefix); got != want {
			return fmt.Errorf("%q, want %q", got, want)
		}
		return nil
	})
}

func via(prefix string, next netip.Addr) string {
	return fmt.Sprintf("%s via %s dev eth0 proto bird", prefix, next)
}

func via6(prefix string, next netip.Addr) string {
	return via(prefix, next) + " metric 1024 pref medium"
}

// all lists all routes of ours.
func (n *node) all() []string {
	out := n.Run("ip", "-o", "route", "show", "proto", "bird") + n.Run("ip", "-6", "-o", "route", "show", "proto", "bird")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return lines
}

// watcher records what happens to routes of ours on a node.
type watcher struct {
	mu     sync.Mutex
	events []string
	added  chan string
}

func (n *node) watch() *watcher {
	n.lab.t.Helper()
	w := &watcher{added: make(chan string, 65536)}
	ch := make(chan netlink.RouteUpdate, 65536)
	done := make(chan struct{})
	var err error
	n.Do(func() { err = subscribe(ch, done) })
	if err != nil {
		n.lab.t.Fatal(err)
	}
	n.lab.t.Cleanup(func() { close(done) })
	go func() {
		for u := range ch {
			if u.Protocol != 12 || u.Dst == nil {
				continue
			}
			verb := "add"
			if u.Type == unix.RTM_DELROUTE {
				verb = "del"
			}
			w.mu.Lock()
			w.events = append(w.events, verb+" "+u.Dst.String())
			w.mu.Unlock()
			if verb == "add" {
				w.added <- u.Dst.String()
			}
		}
	}()
	return w
}

func subscribe(ch chan<- netlink.RouteUpdate, done <-chan struct{}) error {
	return netlink.RouteSubscribeWithOptions(ch, done, netlink.RouteSubscribeOptions{ReceiveBufferSize: 16 << 20, ReceiveBufferForceSize: true})
}

func (w *watcher) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// await waits for the route to a prefix to be added.
func (w *watcher) await(t testing.TB, prefix string) {
	t.Helper()
	timer := time.NewTimer(converge)
	defer timer.Stop()
	for {
		select {
		case p := <-w.added:
			if p == prefix {
				return
			}
		case <-timer.C:
			t.Fatalf("no route to %s; events %v", prefix, w.list())
		}
	}
}

// buffer keeps a process's output, and shows it in the test's log.
type buffer struct {
	mu     sync.Mutex
	all    bytes.Buffer
	t      testing.TB
	prefix string
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.t != nil && b.t.Context().Err() == nil {
		b.t.Logf("%s%s", b.prefix, bytes.TrimSpace(p))
	}
	return b.all.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

func (n *node) awaitOutput(pattern string) {
	n.lab.t.Helper()
	re := regexp.MustCompile(pattern)
	n.lab.eventually(n.name+" says "+pattern, func() error {
		if !re.MatchString(n.output.String()) {
			return errors.New("not yet")
		}
		return nil
	})
}

func (n *node) routesOf() ([]*bgpdv1.Route, error) {
	resp, err := n.client().ListRoutes(n.lab.t.Context(), &bgpdv1.ListRoutesRequest{})
	return resp.GetRoutes(), err
}

// rss is the memory of the node's bgpd in MB.
func (n *node) rss() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.proc.Process.Pid))
	if err != nil {
		return 0
	}
	var kb float64
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
			break
		}
	}
	return kb / 1024
}
