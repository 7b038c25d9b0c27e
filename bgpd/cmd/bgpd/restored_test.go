//go:build !race

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/model"
)

// etcdctl runs a command of etcd's own client on etcd's host.
func (l *lab) etcdctl(args ...string) {
	l.t.Helper()
	l.net.Host("etcd").Run("env", append([]string{"ETCDCTL_API=3", "etcdctl", "--endpoints=" + etcdURL}, args...)...)
}

func (l *lab) snapshot() { l.etcdctl("snapshot", "save", filepath.Join(l.dir, "backup.db")) }

// rewind restores the snapshot, in the same cluster. With revisions others use up so many
// before bgpd can reach etcd.
func (l *lab) rewind(revisions int) {
	l.t.Helper()
	l.rewindAnd(func() {
		for i := range revisions {
			if _, err := l.etcd.Put(l.t.Context(), "/spent", fmt.Sprint(i)); err != nil {
				l.t.Fatal(err)
			}
		}
	})
}

// rewindAnd does something before bgpd can reach the restored etcd.
func (l *lab) rewindAnd(then func()) {
	l.t.Helper()
	l.store.Kill()
	if err := os.RemoveAll(filepath.Join(l.dir, "etcd")); err != nil {
		l.t.Fatal(err)
	}
	l.etcdctl("snapshot", "restore", filepath.Join(l.dir, "backup.db"), "--data-dir="+filepath.Join(l.dir, "etcd"))
	host := l.net.Host("etcd")
	host.SetFabricPort(false)
	l.runEtcd()
	then()
	host.SetFabricPort(true)
}

// A store is restored that lacks a whole node. It stays reached, and goes on by itself, also
// when its document says that it has no address; until it is written back, or deleted.
func TestRestored_a_node_that_the_backup_lacks(t *testing.T) {
	l := threeNodes(t)
	other, lost := l.nodes[0], l.nodes[2]
	key := model.NodeKey{Name: lost.name}
	blocks := []string{"192.168.2.0/26", "fd80::3:0/122"}
	lost.Run("sh", "-c", "ip link add caliy type veth peer name c0; ip link set c0 up; ip link set caliy up")
	lost.Run("ip", "route", "add", "192.168.2.7", "dev", "caliy", "scope", "link")
	lost.Run("ip", "-6", "route", "add", "fd80::3:7", "dev", "caliy")
	l.remove(key)
	for _, block := range blocks {
		l.remove(affinity(lost.name, block))
	}
	l.snapshot()
	l.put(key, &model.Node{IPv4: lost.v4, IPv6: lost.v6})
	for _, block := range blocks {
		lost.giveBlock(block)
	}
	l.awaitMesh()
	watchers := []*watcher{l.nodes[0].watch(), l.nodes[1].watch(), lost.watch()}

	l.rewind(0)
	const lacks = "lacks node node02"
	for _, n := range l.nodes {
		n.awaitHold(lacks, true)
	}
	// What confd makes of it after a start, when it knows of no address.
	lost.writeText("node = \"" + lost.name + "\"\nas_number = 64512\nlisten_addresses = []\n")
	lost.awaitHold("would take all addresses of this node away", true)
	lost.awaitPeers(4)
	l.untouched(watchers)

	// Its session falls: its routes are held, since it is a node still, and that etcd has no
	// blocks of it says nothing.
	lost.proc.Kill()
	other.awaitPeers(2)
	<-time.After(time.Second)
	l.untouched(watchers[:2])
	for _, block := range blocks {
		lost.giveBlock(block)
	}
	l.put(key, &model.Node{IPv4: lost.v4, IPv6: lost.v6})
	lost.write()
	lost.start()
	lost.awaitPeers(4)
	for _, n := range l.nodes {
		n.awaitHold("", true)
	}
	l.awaitMesh()
	l.untouched(watchers[:2])
	lost.proc.Kill()
	other.awaitPeers(2)
	l.remove(key)
	other.awaitRoute(blocks[0], "")
}

// Only the host's account can tell that a store was restored, which felix has gone on with
// already: what bgpd saw last is compacted away. Each of its watches hears of it, also when
// bgpd has just started.
func TestRestored_only_the_account_can_tell(t *testing.T) {
	l := newLab(t, 2)
	n, other := l.nodes[0], model.NodeKey{Name: l.nodes[1].name}
	account := model.HistoryKey{Node: n.name}
	const block = "192.168.77.0/26"
	n.Run("sh", "-c", "ip link add caliy type veth peer name c0; ip link set c0 up; ip link set caliy up")
	n.Run("ip", "route", "add", "192.168.77.7", "dev", "caliy", "scope", "link")
	l.remove(other)
	l.put(account, &model.History{Count: 5})
	l.snapshot()
	l.put(account, &model.History{Count: 6})
	l.put(other, &model.Node{IPv4: l.nodes[1].v4, IPv6: l.nodes[1].v6})
	n.giveBlock(block)
	n.write()
	n.start()
	n.awaitRoute(block, "blackhole "+block+" proto bird")
	n.awaitHold("", true)
	w := n.watch()
	l.rewindAnd(func() {
		l.put(account, &model.History{Count: 7, Restored: 1})
		var last int64
		for i := range 300 {
			resp, err := l.etcd.Put(t.Context(), "/spent", fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			last = resp.Header.Revision
		}
		if _, err := l.etcd.Compact(t.Context(), last); err != nil {
			t.Fatal(err)
		}
	})
	n.awaitHold("lacks this node's block "+block, true)
	n.awaitHold("lacks node "+other.Name, true)
	l.untouched([]*watcher{w})
}

// A store is restored that lacks blocks which came after the backup. Those with containers
// stay routed and advertised until the last one is gone; one without goes; and what the
// backup has and was given up since comes back.
func TestRestored_blocks_with_containers_stay(t *testing.T) {
	for what, revisions := range map[string]int{"lower revision": 0, "higher revision": 300} {
		t.Run(what, func(t *testing.T) {
			l := threeNodes(t)
			n, other := l.nodes[0], l.nodes[1]
			n.giveBlock("192.168.70.0/26")
			other.awaitRoute("192.168.70.0/26", via("192.168.70.0/26", n.v4))
			l.snapshot()
			l.remove(affinity(n.name, "192.168.70.0/26"))
			const young, young6, empty = "192.168.77.0/26", "fd80::77:0/122", "192.168.78.0/26"
			for _, block := range []string{young, young6, empty} {
				n.giveBlock(block)
			}
			n.Run("sh", "-c", "ip link add caliy type veth peer name c0; ip link set c0 up; ip link set caliy up")
			n.Run("ip", "route", "add", "192.168.77.7", "dev", "caliy", "scope", "link")
			n.Run("ip", "-6", "route", "add", "fd80::77:7", "dev", "caliy")
			other.awaitRoute(young, via(young, n.v4))
			other.awaitRoute(young6, via6(young6, n.v6))
			other.awaitRoute(empty, via(empty, n.v4))
			other.awaitRoute("192.168.70.0/26", "")
			watchers := []*watcher{n.watch(), other.watch()}

			l.rewind(revisions)
			other.awaitRoute("192.168.70.0/26", via("192.168.70.0/26", n.v4))
			other.awaitRoute(empty, "")
			n.awaitRoute(empty, "")
			n.awaitHold("lacks this node's block "+young, true)
			n.awaitHold("lacks this node's block "+young6, true)
			// A route that goes missing, and that felix repairs, does not end it.
			n.Run("ip", "route", "del", "192.168.77.7", "dev", "caliy")
			<-time.After(time.Second)
			n.Run("ip", "route", "add", "192.168.77.7", "dev", "caliy", "scope", "link")
			<-time.After(5 * time.Second)
			n.awaitHold("lacks this node's block "+young, true)
			for i, w := range watchers {
				for _, e := range w.list() {
					if strings.Contains(e, young) || strings.Contains(e, young6) {
						t.Errorf("%s: %s", l.nodes[i].name, e)
					}
				}
			}
			other.awaitRoute(young, via(young, n.v4))

			// One is written back; of the other the last container goes.
			n.lab.put(affinity(n.name, young6), &model.BlockAffinity{State: model.AffinityConfirmed})
			n.Run("ip", "link", "del", "caliy")
			other.awaitRoute(young, "")
			n.awaitRoute(young, "")
			n.awaitHold("", true)
			other.awaitRoute(young6, via6(young6, n.v6))
		})
	}
}
