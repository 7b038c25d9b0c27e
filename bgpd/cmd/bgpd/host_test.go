//go:build !race

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/model"
)

// live is what etcd says of the node's bgpd.
func (n *node) live() (ready, there bool) {
	n.lab.t.Helper()
	key := model.LivenessKey{Node: n.name, Program: "bgpd"}
	resp, err := n.lab.etcd.Get(n.lab.t.Context(), model.Paths(key)[0])
	if err != nil {
		n.lab.t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return false, false
	}
	if !strings.Contains(string(resp.Kvs[0].Value), `"host":{"id":"`) {
		n.lab.t.Errorf("it does not say on which host it is: %s", resp.Kvs[0].Value)
	}
	return strings.Contains(string(resp.Kvs[0].Value), `"ready":true`), true
}

func (n *node) awaitReady(want bool) {
	n.lab.t.Helper()
	n.lab.eventually(fmt.Sprintf("%s says in etcd that it is ready: %t", n.name, want), func() error {
		if ready, there := n.live(); !there || ready != want {
			return fmt.Errorf("ready %t, there %t", ready, there)
		}
		return nil
	})
}

// awaitProblem waits for a problem; an empty one means that there is none.
func (n *node) awaitProblem(text string) {
	n.lab.t.Helper()
	n.lab.eventually(n.name+" names its problem", func() error {
		problems := n.status().GetProblems()
		if text == "" && len(problems) == 0 || text != "" && strings.Contains(strings.Join(problems, "\n"), text) {
			return nil
		}
		return fmt.Errorf("problems are %q, want %q", problems, text)
	})
}

// since is when the sessions that are up came up, by peer.
func (n *node) since() map[string]string {
	n.lab.t.Helper()
	peers, err := n.peers()
	if err != nil {
		n.lab.t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range peers {
		if p.GetState() == "established" {
			out[p.GetAddress()] = p.GetSince().AsTime().String()
		}
	}
	return out
}

// TestHost_lacks_one_address: the other family goes on, at the start, when the address
// comes, and when a new document comes meanwhile.
func TestHost_lacks_one_address(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	for i, n := range l.nodes {
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
		n.giveBlock(fmt.Sprintf("fd80::%x:0/122", i+1))
		n.write()
	}
	b.Run("ip", "addr", "del", b.v6.String()+"/64", "dev", "eth0")
	a.start()
	b.start()
	a.awaitRoute("192.168.1.0/26", via("192.168.1.0/26", b.v4))
	b.awaitRoute("192.168.0.0/26", via("192.168.0.0/26", a.v4))
	b.awaitProblem("this host does not have fd00::2, the address of this node; give it to an interface, or correct the node's address (calicoctl node run --ip6=…)")
	b.awaitReady(false)
	b.awaitOutput("BGP not started; it will be tried again")

	b.doc.pools = "[[pool]]\ncidr = \"192.168.0.0/16\"\n[[pool]]\ncidr = \"172.20.0.0/16\"\n[[pool]]\ncidr = \"fd80::/48\"\n"
	b.mustReload()
	b.giveBlock("172.20.1.0/26")
	a.awaitRoute("172.20.1.0/26", via("172.20.1.0/26", b.v4))
	before := b.since()

	b.Run("ip", "addr", "add", b.v6.String()+"/64", "dev", "eth0", "nodad")
	b.awaitRoute("fd80::1:0/122", via6("fd80::1:0/122", a.v6))
	a.awaitRoute("fd80::2:0/122", via6("fd80::2:0/122", b.v6))
	b.awaitProblem("")
	b.awaitReady(true)
	if after := b.since(); after[a.v4.String()] != before[a.v4.String()] {
		t.Errorf("the IPv4 session was made anew: %v, then %v", before, after)
	}
	if n := strings.Count(b.output.String(), "BGP not started"); n != 1 {
		t.Errorf("it was said %d times that BGP does not start", n)
	}

	// IPv6 leaves the document and comes back: IPv4 does not notice.
	whole := b.text()
	b.writeText(strings.Replace(whole, `, "fd00::2"]`, `]`, 1))
	if err := b.reload(); err != nil {
		t.Fatal(err)
	}
	b.awaitPeers(1)
	b.writeText(whole)
	if err := b.reload(); err != nil {
		t.Fatal(err)
	}
	b.awaitPeers(2)
	if after := b.since(); after[a.v4.String()] != before[a.v4.String()] {
		t.Errorf("the IPv4 session was made anew: %v, then %v", before, after)
	}
}

// TestHost_lacks_all_addresses waits for them, and says so; what the kernel has stays.
func TestHost_lacks_all_addresses(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	for i, n := range l.nodes {
		n.doc.timers = "restart = 2"
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
		n.write()
	}
	a.start()
	b.Run("ip", "route", "add", "192.168.0.0/26", "via", a.v4.String(), "proto", "bird")
	b.Run("ip", "addr", "add", "10.0.0.77/24", "dev", "eth0")
	b.Run("ip", "addr", "del", b.v4.String()+"/24", "dev", "eth0")
	b.Run("ip", "addr", "add", "10.0.0.77/24", "dev", "eth0") // the first address took its secondary with it
	b.Run("ip", "route", "replace", "192.168.0.0/26", "via", a.v4.String(), "proto", "bird")
	b.writeText(strings.ReplaceAll(b.text(), `, "fd00::2"]`, `]`))
	w := b.watch()
	b.start()
	b.awaitOutput("BGP not started; it will be tried again")
	b.awaitProblem("this host does not have 10.0.0.2")
	b.awaitReady(false)
	b.awaitRoute("192.168.1.0/26", "blackhole 192.168.1.0/26 proto bird")
	// Longer than the restart time: a block comes and goes some times.
	for start := time.Now(); time.Since(start) < 4*time.Second; {
		b.giveBlock("192.168.1.64/26")
		b.awaitRoute("192.168.1.64/26", "blackhole 192.168.1.64/26 proto bird")
		l.remove(affinity(b.name, "192.168.1.64/26"))
		b.awaitRoute("192.168.1.64/26", "")
	}
	if events := w.list(); slices.ContainsFunc(events, func(e string) bool { return e == "del 192.168.0.0/26" }) {
		t.Errorf("events are %v", events)
	}
	b.Run("ip", "addr", "add", b.v4.String()+"/24", "dev", "eth0")
	a.awaitRoute("192.168.1.0/26", via("192.168.1.0/26", b.v4))
	b.awaitReady(true)
}

// TestHost_loses_its_address while bgpd runs.
func TestHost_loses_its_address(t *testing.T) {
	l := threeNodes(t)
	n := l.nodes[1]
	n.awaitReady(true)
	n.Run("ip", "addr", "add", "10.0.0.151/25", "dev", "eth0") // of its own, or it would go as well
	n.Run("ip", "addr", "del", n.v4.String()+"/24", "dev", "eth0")
	start := time.Now()
	n.awaitProblem("this host does not have 10.0.0.2, the address of this node; give it to an interface, or correct the node's address (calicoctl node run --ip=…)")
	t.Logf("named after %v", time.Since(start))
	n.awaitReady(false)
	t.Logf("in etcd after %v", time.Since(start))
	n.Run("ip", "addr", "add", n.v4.String()+"/24", "dev", "eth0")
	n.awaitProblem("")
	n.awaitReady(true)
	n.awaitPeers(4)
	l.awaitMesh()
}

// TestHost_in_a_pool: a block over the host's own network, with etcd and the other hosts
// in it, is not laid over them; one that stands already goes; the network comes later.
func TestHost_in_a_pool(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	pools := "[[pool]]\ncidr = \"10.0.0.0/16\"\n[[pool]]\ncidr = \"192.168.0.0/16\"\n[[pool]]\ncidr = \"fd00::/48\"\n"
	for i, n := range l.nodes {
		n.doc.pools = pools
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
	}
	a.giveBlock("10.0.0.0/26")
	a.giveBlock("10.0.0.192/26") // etcd is 10.0.0.250
	a.giveBlock("10.0.7.0/26")
	a.giveBlock("fd00::40/122")
	b.giveBlock("10.0.0.64/26")
	l.startAll()
	b.awaitRoute("10.0.7.0/26", via("10.0.7.0/26", a.v4))
	for _, block := range []string{"10.0.0.0/26", "10.0.0.192/26", "fd00::40/122"} {
		a.awaitProblem("block " + block + " of this host is not routed: it lies in the network ")
	}
	for _, n := range l.nodes {
		for _, r := range n.all() {
			if strings.Contains(r, "10.0.0.0/26") || strings.Contains(r, "10.0.0.64/26") || strings.Contains(r, "10.0.0.192/26") || strings.Contains(r, "fd00::40/122") {
				t.Errorf("%s has %s", n.name, r)
			}
		}
	}

	// A network that comes to the host takes its place; it leaves, and the block is back.
	a.Run("ip", "link", "add", "br0", "type", "bridge")
	a.Run("ip", "link", "set", "br0", "up")
	a.Run("ip", "addr", "add", "10.0.7.1/24", "dev", "br0")
	a.awaitProblem("block 10.0.7.0/26 of this host is not routed: it lies in the network 10.0.7.0/24 of this host")
	b.awaitRoute("10.0.7.0/26", "")
	l.eventually("the blackhole is gone", func() error {
		if slices.Contains(a.all(), "blackhole 10.0.7.0/26 ") {
			return errors.New("it stands")
		}
		return nil
	})
	a.Run("ip", "link", "del", "br0")
	b.awaitRoute("10.0.7.0/26", via("10.0.7.0/26", a.v4))

	// A network that is wider than another host's block takes its route, which is said.
	b.awaitRoute("192.168.0.0/26", via("192.168.0.0/26", a.v4))
	b.Run("ip", "link", "add", "br0", "type", "bridge")
	b.Run("ip", "link", "set", "br0", "up")
	b.Run("ip", "addr", "add", "192.168.0.1/24", "dev", "br0")
	b.awaitProblem("192.168.0.0/26, containers' addresses of node00, is not routed: it lies in the network 192.168.0.0/24 of this host")
	b.awaitRoute("192.168.0.0/26", "")
	b.Run("ip", "link", "del", "br0")
	b.awaitRoute("192.168.0.0/26", via("192.168.0.0/26", a.v4))

	// A router of the host inside a block, and the way to etcd.
	a.giveBlock("10.0.8.0/26")
	b.awaitRoute("10.0.8.0/26", via("10.0.8.0/26", a.v4))
	a.Run("ip", "route", "add", "172.30.0.0/16", "via", "10.0.8.9", "dev", "eth0", "onlink")
	a.awaitProblem("block 10.0.8.0/26 of this host is not routed: it covers the gateway 10.0.8.9")
	b.awaitRoute("10.0.8.0/26", "")
}

// TestHost_with_a_pool_for_IP_in_IP routes it directly, and says so.
func TestHost_with_a_pool_for_IP_in_IP(t *testing.T) {
	l := newLab(t, 2)
	for i, n := range l.nodes {
		n.doc.pools = "[[pool]]\ncidr = \"192.168.0.0/16\"\nipip = \"always\"\n"
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
	}
	l.startAll()
	l.nodes[0].awaitRoute("192.168.1.0/26", via("192.168.1.0/26", l.nodes[1].v4))
	st := l.nodes[0].status()
	if want := []string{"pool 192.168.0.0/16 asks for IP-in-IP (always), which is not built: its routes go without a tunnel"}; !slices.Equal(st.GetNotes(), want) || len(st.GetProblems()) > 0 {
		t.Errorf("notes are %q, problems %q", st.GetNotes(), st.GetProblems())
	}
	l.nodes[0].awaitReady(true)
}

// TestHost_whose_pool_is_disabled_or_gone reaches what runs.
func TestHost_whose_pool_is_disabled_or_gone(t *testing.T) {
	l := newLab(t, 2)
	for i, n := range l.nodes {
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
	}
	l.startAll()
	l.nodes[1].awaitRoute("192.168.0.0/26", via("192.168.0.0/26", l.nodes[0].v4))
	w := l.nodes[1].watch()
	for _, pools := range []string{"[[pool]]\ncidr = \"192.168.0.0/16\"\ndisabled = true\n", "[[pool]]\ncidr = \"172.31.0.0/16\"\n"} {
		for _, n := range l.nodes {
			n.doc.pools = pools
			n.mustReload()
		}
		l.nodes[0].giveBlock("172.31.0.0/26")
		l.nodes[1].awaitRoute("172.31.0.0/26", via("172.31.0.0/26", l.nodes[0].v4))
		l.remove(affinity("node00", "172.31.0.0/26"))
		l.nodes[1].awaitRoute("172.31.0.0/26", "")
	}
	if events := w.list(); slices.Contains(events, "del 192.168.0.0/26") {
		t.Errorf("events are %v", events)
	}
}
