//go:build !race

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/grpcsock"
	"calico.internal/libcalico/hostrecord"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/trust"
	bgpdv1 "calico.internal/proto/bgpd/v1"
)

// awaitHold waits until bgpd says why it does not follow etcd, and whether it is ready.
func (n *node) awaitHold(says string, ready bool) {
	n.lab.t.Helper()
	conn, err := grpcsock.Dial(filepath.Join(n.runDir(), "bgpd.sock"))
	if err != nil {
		n.lab.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // only asked
	n.lab.eventually(n.name+" is held or not", func() error {
		st, err := bgpdv1.NewBgpdClient(conn).Status(n.lab.t.Context(), &bgpdv1.StatusRequest{})
		if err != nil {
			return err
		}
		held := strings.Join(st.GetProblems(), "\n")
		if !strings.Contains(held, says) || says == "" && held != "" {
			return fmt.Errorf("the matter with etcd is %q, not %q", held, says)
		}
		health, err := healthgrpc.NewHealthClient(conn).Check(n.lab.t.Context(), &healthgrpc.HealthCheckRequest{})
		if err == nil && (health.GetStatus() == healthgrpc.HealthCheckResponse_SERVING) != ready {
			err = fmt.Errorf("its health is %v", health.GetStatus())
		}
		return err
	})
}

// untouched fails the test if any route was written or deleted since.
func (l *lab) untouched(watchers []*watcher) {
	l.t.Helper()
	for i, w := range watchers {
		if events := w.list(); len(events) > 0 {
			l.t.Errorf("%s: routes were touched: %v", l.nodes[i].name, events)
		}
	}
}

func TestHold_an_emptied_etcd_takes_no_route_away(t *testing.T) {
	l := threeNodes(t)
	watchers := []*watcher{l.nodes[0].watch(), l.nodes[1].watch(), l.nodes[2].watch()}
	wipe := func() {
		if _, err := l.etcd.Delete(t.Context(), "/calico", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
	}
	wipe()
	for _, n := range l.nodes {
		n.awaitHold("there is no /calico/v1/Ready", false)
		n.awaitPeers(4)
	}
	l.untouched(watchers)

	// It is repaired meanwhile, and a start takes over what the kernel has.
	n := l.nodes[0]
	n.Run("ip", "route", "del", "192.168.1.0/26")
	n.Run("ip", "route", "del", "blackhole", "192.168.0.0/26")
	l.awaitMesh()
	watchers[0] = n.watch()
	n.proc.Kill()
	n.loseMemory() // with it: TestMemory_while_the_store_is_held
	n.start()
	n.awaitHold("there is no /calico/v1/Ready", false)
	n.awaitPeers(4)
	n.awaitOutput("etcd (is not followed|does not answer); going on with the blocks that the kernel has")
	l.awaitMesh()
	l.untouched(watchers)
	if resp, err := l.etcd.Get(t.Context(), "/calico", clientv3.WithPrefix()); err != nil || resp.Count > 0 {
		t.Errorf("%v was written to a store that is not the cluster's, %v", resp, err)
	}

	// The data is restored, but for one block.
	for i, n := range l.nodes {
		l.put(model.NodeKey{Name: n.name}, &model.Node{IPv4: n.v4, IPv6: n.v6})
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
		if i < 2 {
			n.giveBlock(fmt.Sprintf("fd80::%x:0/122", i+1))
		}
	}
	l.nodes[0].awaitHold("there is no /calico/v1/Ready", false)
	etcdtest.SetUp(t, l.etcd)
	for _, n := range l.nodes {
		n.awaitHold("", true)
	}
	n.awaitRoute("fd80::3:0/122", "")
	n.awaitRoute("192.168.2.0/26", via("192.168.2.0/26", l.nodes[2].v4))
}

func TestHold_another_clusters_etcd(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	n.giveBlock("192.168.0.0/26")
	if err := hostrecord.Write(n.runDir(), hostrecord.Record{ClusterGUID: "mine"}); err != nil {
		t.Fatal(err)
	}
	n.write()
	n.start()
	n.awaitHold("its GUID is "+etcdtest.GUID+", this host's is mine", false)
	if got := n.routes("192.168.0.0/26"); got != "" {
		t.Errorf("a block of another cluster is routed: %s", got)
	}
	l.put(model.AcceptedGUIDKey{}, &model.Setting{Of: model.KindAcceptedGUID, Value: etcdtest.GUID})
	n.awaitHold("", true)
	n.awaitRoute("192.168.0.0/26", "blackhole 192.168.0.0/26 proto bird")
}

// A user of an older installation may read what bgpd watches, and nothing that says whether
// etcd holds the cluster: bgpd says what is missing, and starts once it is there.
func TestHold_a_role_without_the_keys_that_judge(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	n.giveBlock("192.168.0.0/26")
	n.write()
	ctx, readWrite := t.Context(), clientv3.PermissionType(clientv3.PermReadWrite)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.etcd.UserAdd(ctx, "root", "toor"))
	must(l.etcd.UserGrantRole(ctx, "root", "root"))
	must(l.etcd.RoleAdd(ctx, "bgpd"))
	for _, prefix := range []string{"/calico/bgp/v1/host/", "/calico/ipam/v2/host/", "/calico/v1/host/", "/calico/status/"} {
		must(l.etcd.RoleGrantPermission(ctx, "bgpd", prefix, clientv3.GetPrefixRangeEnd(prefix), readWrite))
	}
	must(l.etcd.UserAdd(ctx, "bgpd", "secret"))
	must(l.etcd.UserGrantRole(ctx, "bgpd", "bgpd"))
	must(l.etcd.AuthEnable(ctx))

	t.Setenv("ETCD_USERNAME", "bgpd")
	t.Setenv("ETCD_PASSWORD", "secret")
	n.start()
	n.awaitOutput(model.Paths(model.AcceptedGUIDKey{})[0])
	n.awaitHold(model.Paths(model.AcceptedGUIDKey{})[0], false)
	for _, path := range trust.Paths() {
		l.etcdctl("--user=root:toor", "role", "grant-permission", "bgpd", "read", path)
	}
	n.awaitHold("", true)
	n.awaitRoute("192.168.0.0/26", "blackhole 192.168.0.0/26 proto bird")
}
