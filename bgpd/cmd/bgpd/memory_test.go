//go:build !race

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

func (n *node) memory() string { return filepath.Join(n.runDir(), "bgpd.json") }

// awaitMemory waits until the node remembers something.
func (n *node) awaitMemory(what string) {
	n.lab.t.Helper()
	n.lab.eventually(n.name+" remembers "+what, func() error {
		text, err := os.ReadFile(n.memory())
		if err == nil && !bytes.Contains(text, []byte(what)) {
			err = fmt.Errorf("it remembers %s", text)
		}
		return err
	})
}

func (n *node) loseDocument() {
	n.lab.t.Helper()
	if err := os.Remove(n.config()); err != nil {
		n.lab.t.Fatal(err)
	}
}

// loseMemory makes the node one that was none before.
func (n *node) loseMemory() {
	n.lab.t.Helper()
	if err := os.Remove(n.memory()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.lab.t.Fatal(err)
	}
}

// setEtcd takes etcd away from all nodes, or brings it back. What the test writes meanwhile
// gets there.
func (l *lab) setEtcd(there bool) { l.net.Host("etcd").SetFabricPort(there) }

const remembers = "works from what this host remembers since"

// short are times that let a test wait for their end.
const (
	shortTimers = "hold = 3\nrestart = 6"
	shortEnd    = 3*time.Second + 6*time.Second
)

// rememberingNodes is a mesh of nodes that remember it.
func rememberingNodes(t *testing.T, timers string) *lab {
	t.Helper()
	l := newLab(t, 3)
	for i, n := range l.nodes {
		n.doc.timers = timers
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
		n.giveBlock(fmt.Sprintf("fd80::%x:0/122", i+1))
	}
	l.startAll()
	l.awaitMesh()
	for i, n := range l.nodes {
		n.awaitMemory(fmt.Sprintf("fd80::%x:0-122", i+1))
	}
	return l
}

// TestMemory_everything_restarts_without_etcd: an outage of etcd that is longer than hold
// time and restart time together, in which bgpd is killed, ended and killed again, with its
// document and without. No packet is lost and no route of another host is touched, also when
// etcd is back.
func TestMemory_everything_restarts_without_etcd(t *testing.T) {
	for name, victim := range map[string]int{"listens": 0, "dials": 2} {
		t.Run(name, func(t *testing.T) {
			l := rememberingNodes(t, shortTimers)
			a, other := l.nodes[victim], l.nodes[1]
			addr := func(i int) []netip.Addr {
				return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.168.%d.7", i)), netip.MustParseAddr(fmt.Sprintf("fd80::%x:7", i+1))}
			}
			near, far := a.container("caliA", addr(victim)...), other.container("caliB", addr(1)...)
			streams := map[string]*stream{}
			for i, v := range []string{"IPv4", "IPv6"} {
				streams[v+" out"], streams[v+" in"] = newStream(t, near, addr(1)[i]), newStream(t, far, addr(victim)[i])
			}
			var watchers []*watcher
			for _, n := range l.nodes {
				watchers = append(watchers, n.watch())
			}
			l.setEtcd(false)
			restart := func(end func()) {
				t.Helper()
				end()
				start := time.Now()
				a.start()
				a.awaitPeers(4)
				t.Logf("back in all sessions %v after the start", time.Since(start))
				other.awaitPeers(4)
				a.awaitHold(remembers, false)
			}
			restart(func() { a.proc.Kill() })
			restart(func() { a.proc.Kill(); a.loseDocument() })
			a.awaitProblem("works with the configuration that this host remembers")
			restart(func() {
				if err := a.proc.Stop(converge); err != nil {
					t.Error(err)
				}
			})
			<-time.After(shortEnd)

			l.setEtcd(true)
			a.write()
			a.awaitProblem("")
			a.awaitReady(true)
			other.awaitReady(true)
			l.untouched(watchers)
			for what, s := range streams {
				s.end(t, what)
			}
			l.awaitMesh()
		})
	}
}

// TestMemory_a_host_boots_without_etcd: nothing of bgpd's is in the kernel.
func TestMemory_a_host_boots_without_etcd(t *testing.T) {
	l := rememberingNodes(t, shortTimers)
	a, other := l.nodes[0], l.nodes[1]
	w := other.watch()
	l.setEtcd(false)
	a.proc.Kill()
	a.loseDocument()
	a.Run("ip", "route", "flush", "proto", "bird")
	a.Run("ip", "-6", "route", "flush", "proto", "bird")
	a.start()
	a.awaitPeers(4)
	l.awaitMesh()
	<-time.After(shortEnd)
	l.awaitMesh()
	if events := w.list(); len(events) > 0 {
		t.Errorf("%s: routes were touched: %v", other.name, events)
	}
}

// TestMemory_what_changed_meanwhile_follows: a block is given away, one is new, a node is
// gone. The store wins at once, and what is the same is not touched.
func TestMemory_what_changed_meanwhile_follows(t *testing.T) {
	l := rememberingNodes(t, shortTimers)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	const moved, fresh = "192.168.50.0/26", "192.168.51.0/26"
	a.giveBlock(moved)
	b.awaitRoute(moved, via(moved, a.v4))
	a.awaitMemory("192.168.50.0-26")
	watchers := []*watcher{a.watch(), b.watch()}
	l.setEtcd(false)
	a.proc.Kill()
	a.loseDocument()
	l.remove(affinity(a.name, moved))
	b.giveBlock(moved)
	a.giveBlock(fresh)
	a.start()
	a.awaitPeers(4)
	a.awaitProblem(remembers)

	l.setEtcd(true)
	a.awaitRoute(moved, via(moved, b.v4))
	b.awaitRoute(moved, "blackhole "+moved+" proto bird")
	c.awaitRoute(moved, via(moved, b.v4))
	a.awaitRoute(fresh, "blackhole "+fresh+" proto bird")
	c.awaitRoute(fresh, via(fresh, a.v4))
	a.write()
	a.awaitProblem("")
	a.awaitReady(true)
	for i, w := range watchers {
		for _, e := range w.list() {
			if !strings.HasSuffix(e, moved) && !strings.HasSuffix(e, fresh) {
				t.Errorf("%s: %s", l.nodes[i].name, e)
			}
		}
	}

	// A node that was deleted meanwhile is not brought back either.
	l.setEtcd(false)
	a.proc.Kill()
	l.remove(model.NodeKey{Name: c.name})
	c.proc.Kill()
	a.start()
	a.awaitPeers(2)
	a.awaitProblem(remembers)
	l.setEtcd(true)
	a.awaitProblem("")
	a.awaitRoute("192.168.2.0/26", "")
}

// TestMemory_the_kernel_knows_better: a block that came after the record was written, and has
// its blackhole, stays; one whose blackhole is gone, as when it was given up since, does not
// come back; one with a container stays whatever else is missing.
func TestMemory_the_kernel_knows_better(t *testing.T) {
	l := rememberingNodes(t, shortTimers)
	a, b := l.nodes[0], l.nodes[1]
	const gone, used, young = "192.168.60.0/26", "192.168.61.0/26", "192.168.62.0/26"
	a.giveBlock(gone)
	a.giveBlock(used)
	a.container("caliA", netip.MustParseAddr("192.168.61.7"))
	a.awaitMemory("192.168.61.0-26")
	a.giveBlock(young) // sooner than ten seconds after the last writing
	b.awaitRoute(young, via(young, a.v4))
	l.setEtcd(false)
	a.proc.Kill()
	if text, err := os.ReadFile(a.memory()); err != nil || bytes.Contains(text, []byte("192.168.62.0-26")) {
		t.Fatalf("the block is remembered already: %s, %v", text, err)
	}
	a.Run("ip", "route", "del", "blackhole", gone)
	a.Run("ip", "route", "del", "blackhole", used)
	a.loseDocument()
	a.start()
	a.awaitPeers(4)
	a.awaitOutput("the kernel's routes say otherwise.*block=" + gone)
	b.awaitRoute(gone, "")
	a.awaitRoute(used, "blackhole "+used+" proto bird")
	b.awaitRoute(young, via(young, a.v4))
	b.awaitRoute(used, via(used, a.v4))
	a.awaitRoute(gone, "")
	l.setEtcd(true)
	b.awaitRoute(gone, via(gone, a.v4)) // it is this node's, says the store
}

// TestMemory_of_no_use: what cannot be used is named and left out, and the start is one
// without it.
func TestMemory_of_no_use(t *testing.T) {
	l := newLab(t, 2)
	n, other := l.nodes[0], l.nodes[1]
	for i, n := range l.nodes {
		n.doc.timers = "restart = 60"
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
	}
	l.startAll()
	other.awaitMemory("192.168.1.0-26")
	n.awaitMemory("192.168.0.0-26")
	own, err := os.ReadFile(n.memory())
	if err != nil {
		t.Fatal(err)
	}
	others, err := os.ReadFile(other.memory())
	if err != nil {
		t.Fatal(err)
	}
	l.setEtcd(false)
	for says, text := range map[string][]byte{
		"it is damaged": bytes.Replace(own, []byte("192.168.0.0-26"), []byte("192.168.9.0-26"), 1),
		`is of node \\"node01\\", but this host is \\"node00\\"`: others,
		"its format is 0": bytes.Replace(own, []byte(`"version":1`), []byte(`"version":0`), 1),
	} {
		n.proc.Kill()
		if err := os.WriteFile(n.memory(), text, 0o600); err != nil {
			t.Fatal(err)
		}
		n.start()
		n.awaitOutput("what this host remembers is left out.*" + says)
		n.awaitOutput("going on with the blocks that the kernel has")
		n.awaitPeers(2)
		other.awaitRoute("192.168.0.0/26", via("192.168.0.0/26", n.v4))
		if now, err := os.ReadFile(n.memory()); err != nil || !bytes.Equal(now, text) {
			t.Errorf("%s: it was written to before etcd was heard: %s, %v", says, now, err)
		}
	}
	l.setEtcd(true)
	n.awaitReady(true)
	n.awaitMemory(`192.168.0.0-26`)
}

// TestMemory_one_family_is_missing at a start without etcd: the other goes on.
func TestMemory_one_family_is_missing(t *testing.T) {
	for _, missing := range []string{"IPv4", "IPv6"} {
		t.Run(missing, func(t *testing.T) {
			l := rememberingNodes(t, shortTimers)
			a, other := l.nodes[0], l.nodes[1]
			there, flag := "fd80::1:0/122", "ip"
			want, lost := via6(there, a.v6), netip.PrefixFrom(a.v4, 24)
			if missing == "IPv6" {
				there, flag, lost = "192.168.0.0/26", "ip6", netip.PrefixFrom(a.v6, 64)
				want = via(there, a.v4)
			}
			l.setEtcd(false)
			a.proc.Kill()
			a.loseDocument()
			a.Run("ip", "addr", "del", lost.String(), "dev", "eth0")
			a.start()
			a.awaitPeers(2)
			a.awaitProblem("this host does not have " + lost.Addr().String() + ", the address of this node; give it to an interface, or correct the node's address (calicoctl node run --" + flag)
			a.awaitProblem(remembers)
			other.awaitPeers(3)
			other.awaitRoute(there, want)
			a.Run("ip", "addr", "add", lost.String(), "dev", "eth0", "nodad")
			a.awaitPeers(4)
		})
	}
}

// TestMemory_while_the_store_is_held: a store that was emptied is no truth; what is
// remembered is, at once. When the data is back, what it lacks of nodes was not deleted by
// anybody.
func TestMemory_while_the_store_is_held(t *testing.T) {
	l := rememberingNodes(t, shortTimers)
	a, lost := l.nodes[0], l.nodes[2]
	var watchers []*watcher
	for _, n := range l.nodes {
		watchers = append(watchers, n.watch())
	}
	if _, err := l.etcd.Delete(t.Context(), "/calico", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	a.awaitHold("there is no /calico/v1/Ready", false)
	a.proc.Kill()
	a.loseDocument()
	a.start()
	// Which of the two depends on how soon etcd answers.
	a.awaitOutput("etcd (is not followed|does not answer); going on with what this host remembers")
	a.awaitHold(remembers, false)
	a.awaitPeers(4)
	l.untouched(watchers)
	for i, n := range l.nodes {
		if n != lost {
			l.put(model.NodeKey{Name: n.name}, &model.Node{IPv4: n.v4, IPv6: n.v6})
		}
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
		n.giveBlock(fmt.Sprintf("fd80::%x:0/122", i+1))
	}
	etcdtest.SetUp(t, l.etcd)
	a.write()
	a.awaitHold("lacks node "+lost.name, true)
	l.untouched(watchers)
}

// startWithoutConfd starts the node anew without its document, with an etcd that answers in
// time. One that is late is none, for which nobody waits as for confd.
func (n *node) startWithoutConfd() {
	n.lab.t.Helper()
	const lost = "there is no configuration; going on with the one that this host remembers"
	for range 10 {
		n.proc.Kill()
		if err := os.Remove(n.config()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.lab.t.Fatal(err)
		}
		start := time.Now()
		n.start()
		n.awaitPeers(4)
		took, out := time.Since(start), n.output.String()
		heard := strings.Index(out, "in sync with etcd")
		if heard < 0 || heard > strings.Index(out, lost) {
			continue
		}
		if took < 4*time.Second {
			n.lab.t.Errorf("confd had only %v to write a document", took)
		}
		return
	}
	n.lab.t.Fatal("etcd was late each time")
}

// TestMemory_etcd_answers_and_confd_does_not: the document is confd's to write; after a while
// the remembered one does, until it comes.
func TestMemory_etcd_answers_and_confd_does_not(t *testing.T) {
	l := rememberingNodes(t, "restart = 60")
	a, other := l.nodes[0], l.nodes[1]
	w := other.watch()
	a.startWithoutConfd()
	a.awaitProblem("works with the configuration that this host remembers")
	if problems := a.status().GetProblems(); slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, remembers) }) {
		t.Errorf("etcd is there, and the problems are %q", problems)
	}
	a.awaitReady(false)
	before := a.since()
	a.doc.extra = "networks = [\"10.0.0.0/24\"]"
	a.write()
	a.awaitProblem("")
	a.awaitReady(true)
	if now := a.since(); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("sessions were made anew: %v, then %v", before, now)
	}
	a.awaitMemory("networks = ") // else the next start would go on with the one before
	if events := w.list(); len(events) > 0 {
		t.Errorf("%s: routes were touched: %v", other.name, events)
	}
}
