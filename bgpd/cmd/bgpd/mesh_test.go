//go:build !race

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"calico.internal/libcalico/model"
	bgpdv1 "calico.internal/proto/bgpd/v1"
)

// threeNodes is the mesh of the reference experiment: each node has a block of each
// family.
func threeNodes(t *testing.T) *lab {
	t.Helper()
	l := newLab(t, 3)
	for i, n := range l.nodes {
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
		n.giveBlock(fmt.Sprintf("fd80::%x:0/122", i+1))
	}
	l.startAll()
	l.awaitMesh()
	return l
}

// awaitMesh waits until each node has its blackholes and the routes to the others.
func (l *lab) awaitMesh() {
	l.t.Helper()
	for i, n := range l.nodes {
		for j, o := range l.nodes {
			v4, v6 := fmt.Sprintf("192.168.%d.0/26", j), fmt.Sprintf("fd80::%x:0/122", j+1)
			if i == j {
				n.awaitRoute(v4, "blackhole "+v4+" proto bird")
				n.awaitRoute(v6, "blackhole "+v6+" dev lo proto bird metric 1024 pref medium")
				continue
			}
			n.awaitRoute(v4, via(v4, o.v4))
			n.awaitRoute(v6, via6(v6, o.v6))
		}
	}
}

func TestMesh(t *testing.T) {
	start := time.Now()
	l := threeNodes(t)
	t.Logf("a mesh of three, IPv4 and IPv6, with etcd: %v", time.Since(start))
	n := l.nodes[1]
	t.Logf("memory of bgpd: %.1f MB", n.rss())

	st := n.status()
	if st.GetNode() != n.name || st.GetAsNumber() != 64512 || st.GetRouterId() != n.v4.String() ||
		len(st.GetConfigHash()) != 64 || st.GetConfigError() != "" || !st.GetInSync() || !st.GetDatastoreConnected() {
		t.Errorf("status is %v", st)
	}
	peers, err := n.peers()
	if err != nil || len(peers) != 4 {
		t.Fatalf("peers are %v (%v)", peers, err)
	}
	for _, p := range peers {
		if p.GetType() != bgpdv1.PeerType_PEER_TYPE_MESH || p.GetInfo() != "" || p.GetReceived() != 1 || p.GetAdvertised() != 1 || p.GetSince().AsTime().Before(start.Add(-time.Second)) {
			t.Errorf("peer is %v", p)
		}
	}
	routes, err := n.client().ListRoutes(t.Context(), &bgpdv1.ListRoutesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes.GetRoutes() {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s via %v dev %s advertised=%t kernel=%t %s", r.GetPrefix(), r.GetNextHops(), r.GetDevice(), r.GetAdvertised(), r.GetInKernel(), r.GetWhy())))
	}
	want := []string{
		"192.168.0.0/26 via [10.0.0.1] dev eth0 advertised=false kernel=true",
		"192.168.1.0/26 via [] dev  advertised=true kernel=true",
		"192.168.2.0/26 via [10.0.0.3] dev eth0 advertised=false kernel=true",
		"fd80::1:0/122 via [fd00::1] dev eth0 advertised=false kernel=true",
		"fd80::2:0/122 via [] dev  advertised=true kernel=true",
		"fd80::3:0/122 via [fd00::3] dev eth0 advertised=false kernel=true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("routes are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	l.eventually("the liveness key says ready", func() error {
		resp, err := l.etcd.Get(t.Context(), "/calico/status/v1/host/node01/bgpd")
		if err == nil && (len(resp.Kvs) != 1 || resp.Kvs[0].Lease == 0 || !strings.Contains(string(resp.Kvs[0].Value), `"ready":true`)) {
			err = fmt.Errorf("%v", resp.Kvs)
		}
		return err
	})
}

func TestMesh_a_new_block_reaches_all_kernels(t *testing.T) {
	l := threeNodes(t)
	watchers := []*watcher{l.nodes[0].watch(), l.nodes[1].watch(), l.nodes[2].watch()}
	var took []time.Duration
	for i := range 20 {
		block := fmt.Sprintf("192.168.100.%d/26", i%4*64)
		if i >= 4 {
			block = fmt.Sprintf("192.168.%d.%d/26", 100+i/4, i%4*64)
		}
		start := time.Now()
		l.nodes[2].giveBlock(block)
		for _, w := range watchers {
			w.await(t, block)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("from the write to etcd until the block is in all kernels: p50 %v, max %v", took[len(took)/2], took[len(took)-1])

	start := time.Now()
	l.remove(affinity("node02", "192.168.100.0/26"))
	l.nodes[0].awaitRoute("192.168.100.0/26", "")
	l.nodes[2].awaitRoute("192.168.100.0/26", "")
	t.Logf("and gone again in %v", time.Since(start))
}

// TestMesh_a_killed_peer_comes_back tries both roles: the node with the lowest address
// waits for the others, the one with the highest dials them.
func TestMesh_a_killed_peer_comes_back(t *testing.T) {
	l := threeNodes(t)
	for _, victim := range []*node{l.nodes[0], l.nodes[2]} {
		survivors := slices.DeleteFunc(slices.Clone(l.nodes), func(n *node) bool { return n == victim })
		var watchers []*watcher
		for _, n := range append(survivors, victim) {
			watchers = append(watchers, n.watch())
		}
		before := victim.all()
		victim.proc.Kill()
		for _, n := range survivors {
			n.awaitPeers(2)
		}
		if after := victim.all(); !slices.Equal(before, after) {
			t.Errorf("the victim's routes were %v, are %v", before, after)
		}
		start := time.Now()
		victim.start()
		for _, n := range append(survivors, victim) {
			n.awaitPeers(4)
		}
		t.Logf("%s is back in all sessions after %v", victim.name, time.Since(start))
		victim.lab.eventually("in sync", func() error {
			if st := victim.status(); !st.GetInSync() {
				return fmt.Errorf("%v", st)
			}
			return nil
		})
		for i, w := range watchers {
			if events := w.list(); len(events) > 0 {
				t.Errorf("%s: routes were touched: %v", append(survivors, victim)[i].name, events)
			}
		}
	}
	l.awaitMesh()
}

func TestMesh_routes_of_a_dead_node_go_when_etcd_says_so(t *testing.T) {
	l := threeNodes(t)
	l.nodes[2].proc.Kill()
	l.nodes[0].awaitPeers(2)
	// A session is seen to have fallen before what follows from it.
	l.eventually("its routes are kept", func() error {
		peers, err := l.nodes[0].peers()
		for _, p := range peers {
			if p.GetAddress() == l.nodes[2].v4.String() && !strings.Contains(p.GetInfo(), "1 routes kept for the restart time") {
				return fmt.Errorf("peer is %v", p)
			}
		}
		return err
	})
	l.remove(affinity("node02", "192.168.2.0/26"))
	l.nodes[0].awaitRoute("192.168.2.0/26", "")
	l.nodes[0].awaitRoute("fd80::3:0/122", via6("fd80::3:0/122", l.nodes[2].v6))
	l.remove(model.NodeKey{Name: "node02"})
	l.nodes[0].awaitRoute("fd80::3:0/122", "")
}

func TestMesh_routes_of_a_dead_node_stay_for_the_restart_time(t *testing.T) {
	l := newLab(t, 2)
	for i, n := range l.nodes {
		n.doc.timers = "restart = 3"
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
	}
	l.startAll()
	l.nodes[0].awaitRoute("192.168.1.0/26", via("192.168.1.0/26", l.nodes[1].v4))
	start := time.Now()
	l.nodes[1].proc.Kill()
	l.nodes[0].awaitPeers(0)
	l.nodes[0].awaitRoute("192.168.1.0/26", "")
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("the route went after %v", took)
	}
}

// reload has the node's bgpd read its document, with the command that confd runs.
func (n *node) reload() error {
	out, err := n.command("reload", "--run-dir", n.runDir()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (n *node) mustReload() {
	n.lab.t.Helper()
	n.write()
	if err := n.reload(); err != nil {
		n.lab.t.Fatal(err)
	}
}

func TestMesh_off_and_on(t *testing.T) {
	l := threeNodes(t)
	for _, on := range []bool{false, true} {
		for _, n := range l.nodes {
			n.doc.mesh = on
			n.mustReload()
			if st := n.status(); st.GetConfigError() != "" {
				t.Errorf("status is %v", st)
			}
		}
		if on {
			break
		}
		for i, n := range l.nodes {
			n.awaitPeers(0)
			want := []string{fmt.Sprintf("blackhole 192.168.%d.0/26 ", i), fmt.Sprintf("blackhole fd80::%x:0/122 dev lo metric 1024 pref medium", i+1)}
			if got := n.all(); i == 0 && len(got) != len(l.nodes)*2 {
				t.Errorf("%s dropped routes before a reflector could say them again: it has %q", n.name, got)
			}
			l.eventually("the mesh's routes are gone", func() error {
				if got := n.all(); !slices.Equal(got, want) {
					return fmt.Errorf("%s has %q, want %q", n.name, got, want)
				}
				return nil
			})
			peers, err := n.peers()
			if err != nil || len(peers) != 0 {
				t.Errorf("peers are %v (%v)", peers, err)
			}
		}
	}
	for _, n := range l.nodes {
		n.awaitPeers(4)
	}
	l.awaitMesh()
}

// TestMesh_gives_way_to_a_reflector without a touch of the kernel: the mesh goes off, and
// one node reflects.
func TestMesh_gives_way_to_a_reflector(t *testing.T) {
	l := threeNodes(t)
	var watchers []*watcher
	hub := l.nodes[1]
	for _, n := range l.nodes {
		watchers = append(watchers, n.watch())
		n.doc.mesh = false
		for i, a := range []netip.Addr{n.v4, n.v6} {
			if n == hub {
				continue
			}
			hub.doc.peers += peerText("Node_"+a.String(), "node", a, 64512) + "route_reflector_client = true\n"
			h := []netip.Addr{hub.v4, hub.v6}[i]
			n.doc.peers += peerText("Global_"+h.String(), "global", h, 64512)
		}
	}
	for _, n := range l.nodes {
		n.mustReload()
	}
	hub.awaitPeers(4)
	l.nodes[0].giveBlock("192.168.77.0/26")
	l.nodes[2].awaitRoute("192.168.77.0/26", via("192.168.77.0/26", l.nodes[0].v4))
	l.eventually("the old sessions' time is over", func() error {
		routes, err := l.nodes[2].routesOf()
		if err != nil || len(routes) != 7 {
			return fmt.Errorf("%v (%w)", routes, err)
		}
		return nil
	})
	for i, w := range watchers {
		if events := slices.DeleteFunc(w.list(), func(e string) bool { return e == "add 192.168.77.0/26" }); len(events) > 0 {
			t.Errorf("%s: routes were touched: %v", l.nodes[i].name, events)
		}
	}
	l.awaitMesh()
}

func TestMesh_other_changes_leave_sessions_alone(t *testing.T) {
	l := threeNodes(t)
	n := l.nodes[1]
	before, err := n.peers()
	if err != nil {
		t.Fatal(err)
	}
	n.doc.extra = "log_level = \"debug\"\nnetworks = [\"10.0.0.0/24\"]"
	n.doc.pools = "[[pool]]\ncidr = \"192.168.0.0/17\"\n[[pool]]\ncidr = \"172.20.0.0/16\"\n[[pool]]\ncidr = \"fd80::/48\"\n"
	n.doc.peers = peerText("Global_10.0.0.77", "global", netip.MustParseAddr("10.0.0.77"), 65077)
	n.mustReload()
	n.doc.peers = ""
	n.write()
	if err := n.proc.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	l.eventually("the peer is gone", func() error {
		peers, err := n.peers()
		if err == nil && len(peers) != 4 {
			err = fmt.Errorf("%v", peers)
		}
		return err
	})
	n.giveBlock("172.20.1.0/26")
	l.nodes[0].awaitRoute("172.20.1.0/26", via("172.20.1.0/26", n.v4))
	after, err := n.peers()
	if err != nil {
		t.Fatal(err)
	}
	for i := range before {
		if b, a := before[i], after[i]; b.GetAddress() != a.GetAddress() || !b.GetSince().AsTime().Equal(a.GetSince().AsTime()) {
			t.Errorf("the session was made anew: %v, then %v", b, a)
		}
	}
}

func TestMesh_peers_without_the_mesh(t *testing.T) {
	l := threeNodes(t)
	for _, n := range l.nodes {
		n.doc.mesh = false
	}
	hub := l.nodes[1]
	for _, n := range []*node{l.nodes[0], l.nodes[2]} {
		n.doc.peers = peerText("Node_"+hub.v4.String(), "node", hub.v4, 64512)
		hub.doc.peers += peerText("Node_"+n.v4.String(), "node", n.v4, 64512)
	}
	for _, n := range l.nodes {
		n.mustReload()
	}
	hub.awaitPeers(2)
	hub.awaitRoute("192.168.0.0/26", via("192.168.0.0/26", l.nodes[0].v4))
	l.nodes[0].awaitRoute("192.168.1.0/26", via("192.168.1.0/26", hub.v4))
	l.nodes[0].awaitRoute("192.168.2.0/26", "")
}

// TestMesh_the_AS_changes_live: sessions must be made again, the kernel need not notice.
func TestMesh_the_AS_changes_live(t *testing.T) {
	l := threeNodes(t)
	watchers := []*watcher{l.nodes[0].watch(), l.nodes[1].watch(), l.nodes[2].watch()}
	for _, n := range l.nodes {
		n.doc.as = 64600
	}
	start := time.Now()
	for _, n := range l.nodes {
		n.mustReload()
	}
	for _, n := range l.nodes {
		n.awaitPeers(4)
		if st := n.status(); st.GetAsNumber() != 64600 {
			t.Errorf("status is %v", st)
		}
	}
	t.Logf("all sessions are back after %v", time.Since(start))
	for i, w := range watchers {
		if events := w.list(); len(events) > 0 {
			t.Errorf("%s: routes were touched: %v", l.nodes[i].name, events)
		}
	}
	l.awaitMesh()

	// One node of another AS: eBGP.
	l.nodes[2].doc.as = 65001
	for _, n := range l.nodes {
		n.mustReload()
	}
	l.nodes[2].awaitPeers(4)
	l.awaitMesh()
}

func TestMesh_nothing_comes_through_a_closed_port(t *testing.T) {
	l := newLab(t, 2)
	for i, n := range l.nodes {
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
		for _, tool := range []string{"iptables", "ip6tables"} {
			n.Run(tool, "-A", "INPUT", "-p", "tcp", "--dport", "179", "-j", "DROP")
		}
		n.write()
		n.start()
	}
	for i, n := range l.nodes {
		n.awaitRoute(fmt.Sprintf("192.168.%d.0/26", i), fmt.Sprintf("blackhole 192.168.%d.0/26 proto bird", i))
	}
	// The dialling side has tried and says so.
	l.eventually("a reason", func() error {
		peers, err := l.nodes[1].peers()
		if err == nil && (len(peers) != 2 || !strings.Contains(peers[0].GetInfo(), "cannot connect: ")) {
			err = fmt.Errorf("%v", peers)
		}
		return err
	})
	if got := l.nodes[1].routes("192.168.0.0/26") + l.nodes[0].routes("192.168.1.0/26"); got != "" {
		t.Errorf("there are remote routes: %q", got)
	}
	peers, err := l.nodes[0].peers()
	if err != nil || len(peers) != 2 || peers[0].GetInfo() != "waiting for the peer to connect" {
		t.Errorf("peers are %v (%v)", peers, err)
	}
	for _, n := range l.nodes {
		n.Run("iptables", "-F", "INPUT")
	}
	l.nodes[1].awaitRoute("192.168.0.0/26", via("192.168.0.0/26", l.nodes[0].v4))
}

func TestMesh_repairs_what_others_break(t *testing.T) {
	l := threeNodes(t)
	n := l.nodes[0]
	w := n.watch()
	for _, tc := range []struct{ prefix, want string }{
		{"192.168.1.0/26", via("192.168.1.0/26", l.nodes[1].v4)},
		{"192.168.0.0/26", "blackhole 192.168.0.0/26 proto bird"},
		{"fd80::2:0/122", via6("fd80::2:0/122", l.nodes[1].v6)},
	} {
		start := time.Now()
		n.Run("ip", "route", "del", tc.prefix)
		w.await(t, tc.prefix)
		t.Logf("%s is back %v after its deletion", tc.prefix, time.Since(start))
		n.awaitRoute(tc.prefix, tc.want)
	}
	n.Run("ip", "route", "add", "203.0.113.0/24", "via", "10.0.0.2", "proto", "bird")
	n.awaitRoute("203.0.113.0/24", "")
	n.Run("ip", "route", "add", "203.0.113.0/24", "via", "10.0.0.2", "proto", "static")

	// The link goes down and up: the kernel has dropped the routes without a word.
	n.Run("ip", "link", "set", "eth0", "down")
	n.awaitRoute("192.168.1.0/26", "")
	n.Run("ip", "link", "set", "eth0", "up")
	n.awaitRoute("192.168.1.0/26", via("192.168.1.0/26", l.nodes[1].v4))
}

func TestMesh_own_restart(t *testing.T) {
	l := threeNodes(t)
	n := l.nodes[0]
	before := n.all()
	if err := n.proc.Stop(5 * time.Second); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if after := n.all(); !slices.Equal(before, after) {
		t.Errorf("the end of bgpd changed routes: %v, then %v", before, after)
	}
	l.eventually("the liveness key is gone", func() error {
		resp, err := l.etcd.Get(t.Context(), "/calico/status/v1/host/node00/bgpd")
		if err == nil && len(resp.Kvs) != 0 {
			err = fmt.Errorf("%v", resp.Kvs)
		}
		return err
	})
	// While it was away, one own block and one of node01 went, and somebody left a route.
	l.remove(affinity("node00", "192.168.0.0/26"))
	l.remove(affinity("node01", "192.168.1.0/26"))
	l.nodes[1].awaitRoute("192.168.1.0/26", "")
	n.Run("ip", "route", "add", "203.0.113.0/24", "via", "10.0.0.2", "proto", "bird")
	w := n.watch()
	n.start()
	n.awaitPeers(4)
	n.awaitRoute("192.168.0.0/26", "")
	n.awaitRoute("192.168.1.0/26", "")
	n.awaitRoute("203.0.113.0/24", "")
	n.awaitRoute("192.168.2.0/26", via("192.168.2.0/26", l.nodes[2].v4))
	events := w.list()
	slices.Sort(events)
	if want := []string{"del 192.168.0.0/26", "del 192.168.1.0/26", "del 203.0.113.0/24"}; !slices.Equal(events, want) {
		t.Errorf("the restart did %v, want %v", events, want)
	}
	if out := n.output.String(); strings.Contains(out, "set=") && strings.Contains(out, "table=routes set=1") {
		t.Errorf("the restart wrote routes:\n%s", out)
	}
}

func TestMesh_without_etcd(t *testing.T) {
	l := threeNodes(t)
	watchers := []*watcher{l.nodes[0].watch(), l.nodes[1].watch(), l.nodes[2].watch()}
	l.store.Kill()
	n := l.nodes[0]
	l.eventually("etcd's loss is noticed", func() error {
		if st := n.status(); st.GetDatastoreConnected() || !st.GetInSync() {
			return fmt.Errorf("%v", st)
		}
		return nil
	})
	// A start without etcd and without memory: the blocks that the kernel has are advertised.
	n.proc.Kill()
	n.loseMemory()
	n.start()
	n.awaitPeers(4)
	n.awaitOutput("etcd does not answer; going on with the blocks that the kernel has")
	l.nodes[1].awaitPeers(4)
	l.awaitMesh()
	for i, w := range watchers {
		if events := w.list(); len(events) > 0 {
			t.Errorf("%s: routes were touched: %v", l.nodes[i].name, events)
		}
	}
	if st := n.status(); st.GetInSync() {
		t.Errorf("status is %v", st)
	}
	l.startEtcd()
	l.eventually("in sync", func() error {
		if st := n.status(); !st.GetInSync() || !st.GetDatastoreConnected() {
			return fmt.Errorf("%v", st)
		}
		return nil
	})
	l.nodes[1].giveBlock("192.168.77.0/26")
	n.awaitRoute("192.168.77.0/26", via("192.168.77.0/26", l.nodes[1].v4))
}

func TestMesh_borrowed_address(t *testing.T) {
	l := threeNodes(t)
	n := l.nodes[0]
	key := model.WorkloadEndpointKey{Node: n.name, Orchestrator: "libnetwork", Workload: "libnetwork", Name: "ep1"}
	l.put(key, &model.WorkloadEndpoint{
		State: "active", Interface: "cali0123456789a", MAC: "ee:ee:ee:ee:ee:ee", ActiveInstanceID: n.name, Profiles: []string{"net1"},
		IPv4Nets: []netip.Prefix{netip.MustParsePrefix("192.168.1.7/32")},
	})
	l.nodes[2].awaitRoute("192.168.0.0/26", via("192.168.0.0/26", n.v4))
	if got := l.nodes[2].routes("192.168.1.7"); got != "" {
		t.Errorf("advertised before the route stands: %q", got)
	}
	n.Run("ip", "link", "add", "cali0123456789a", "type", "veth", "peer", "name", "c0")
	n.Run("ip", "link", "set", "c0", "up")
	n.Run("ip", "link", "set", "cali0123456789a", "up")
	n.Run("ip", "route", "add", "192.168.1.7", "dev", "cali0123456789a", "scope", "link")
	l.nodes[2].awaitRoute("192.168.1.7", via("192.168.1.7", n.v4))
	// Also on the owner of the block, beside its blackhole.
	l.nodes[1].awaitRoute("192.168.1.7", via("192.168.1.7", n.v4))
	n.Run("ip", "route", "del", "192.168.1.7", "dev", "cali0123456789a")
	l.nodes[1].awaitRoute("192.168.1.7", "")
	l.nodes[2].awaitRoute("192.168.1.7", "")
}

// TestMesh_borrowed_address_and_a_start_without_etcd: the kernel's route to the container
// tells that it is here, and it stays reachable on other hosts.
func TestMesh_borrowed_address_and_a_start_without_etcd(t *testing.T) {
	l := threeNodes(t)
	n := l.nodes[0]
	key := model.WorkloadEndpointKey{Node: n.name, Orchestrator: "libnetwork", Workload: "libnetwork", Name: "ep1"}
	l.put(key, &model.WorkloadEndpoint{
		State: "active", Interface: "cali0123456789a", MAC: "ee:ee:ee:ee:ee:ee", ActiveInstanceID: n.name, Profiles: []string{"net1"},
		IPv4Nets: []netip.Prefix{netip.MustParsePrefix("192.168.1.7/32")},
	})
	n.Run("sh", "-ec", "ip link add cali0123456789a type veth peer name c0; ip link set c0 up; ip link set cali0123456789a up; ip route add 192.168.1.7 dev cali0123456789a scope link")
	l.nodes[2].awaitRoute("192.168.1.7", via("192.168.1.7", n.v4))
	w := l.nodes[2].watch()
	l.store.Kill()
	n.proc.Kill()
	l.nodes[2].awaitPeers(2)
	n.loseMemory()
	n.start()
	n.awaitOutput("etcd does not answer; going on with the blocks that the kernel has")
	n.awaitPeers(4)
	l.nodes[2].awaitPeers(4)
	l.eventually("all is said again", func() error {
		peers, err := l.nodes[2].peers()
		for _, p := range peers {
			if p.GetAddress() == n.v4.String() && p.GetReceived() != 2 {
				return fmt.Errorf("%v", p)
			}
		}
		return err
	})
	if events := w.list(); len(events) > 0 {
		t.Errorf("routes were touched: %v", events)
	}
	l.startEtcd()
	l.nodes[1].giveBlock("192.168.77.0/26")
	n.awaitRoute("192.168.77.0/26", via("192.168.77.0/26", l.nodes[1].v4))
	if got := l.nodes[2].routes("192.168.1.7"); got == "" {
		t.Error("with etcd back the address is gone")
	}
}

func TestMesh_next_hops_behind_a_router(t *testing.T) {
	l := newLab(t, 2)
	router := l.net.Host("etcd")
	router.Run("ip", "addr", "add", "10.7.0.254/24", "dev", "eth0")
	far := l.nodes[1]
	// node01 has an address of another subnet, as in another rack.
	far.Run("ip", "addr", "add", "10.7.0.2/24", "dev", "eth0")
	far.Run("ip", "addr", "del", "10.0.0.2/24", "dev", "eth0")
	far.Run("ip", "route", "add", "default", "via", "10.7.0.254")
	far.v4 = netip.MustParseAddr("10.7.0.2")
	l.put(model.NodeKey{Name: far.name}, &model.Node{IPv4: far.v4, IPv6: far.v6})
	l.nodes[0].Run("ip", "route", "add", "default", "via", "10.0.0.250")
	for i, n := range l.nodes {
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
	}
	l.startAll()
	l.nodes[0].awaitRoute("192.168.1.0/26", "192.168.1.0/26 via 10.0.0.250 dev eth0 proto bird")
	far.awaitRoute("192.168.0.0/26", "192.168.0.0/26 via 10.7.0.254 dev eth0 proto bird")

	l.nodes[0].Run("ip", "route", "del", "default")
	l.nodes[0].awaitRoute("192.168.1.0/26", "")
	l.nodes[0].Run("ip", "route", "add", "10.7.0.0/24", "via", "10.0.0.250")
	l.nodes[0].awaitRoute("192.168.1.0/26", "192.168.1.0/26 via 10.0.0.250 dev eth0 proto bird")
}

// TestMesh_a_stalled_process_does_not_flap: a stop of a second is no reason to end
// sessions, and neither is a burst of changes.
func TestMesh_a_stalled_process_does_not_flap(t *testing.T) {
	l := threeNodes(t)
	n := l.nodes[0]
	w := l.nodes[1].watch()
	if err := n.proc.Freeze(); err != nil {
		t.Fatal(err)
	}
	l.nodes[1].giveBlock("192.168.50.0/26")
	l.nodes[2].awaitRoute("192.168.50.0/26", via("192.168.50.0/26", l.nodes[1].v4))
	if err := n.proc.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	n.awaitRoute("192.168.50.0/26", via("192.168.50.0/26", l.nodes[1].v4))
	if events := w.list(); !slices.Equal(events, []string{"add 192.168.50.0/26"}) {
		t.Errorf("events are %v", events)
	}
	n.awaitPeers(4)
}
