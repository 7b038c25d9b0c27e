package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// outage is how long TestAnOutageOfEtcd keeps etcd away.
func outage() time.Duration {
	if long() {
		return 10 * time.Minute
	}
	return 15 * time.Second
}

// soonAfter is how long what is written after an outage may take to be in force: a program
// waits some seconds between two tries to reach etcd.
const soonAfter = 10 * time.Second

// TestAnOutageOfEtcd: etcd is away for long. Traffic and denials hold, the programs live, do
// not grow and hardly work, and what is written after it is in force soon.
func TestAnOutageOfEtcd(t *testing.T) {
	c := cluster.New(t, 2)
	c.StartAll()
	h := c.Hosts[0]
	a, b, d := h.Add("a", "net1"), c.Hosts[1].Add("b", "net1"), c.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, d} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	events, stop := routeEvents(t, h, "proto", "bird")
	programs := map[string]*nettest.Process{"felix": h.Felix, "bgpd": h.BGPD, "confd": h.Confd}
	used, size := map[string]time.Duration{}, map[string]int{}
	for name, p := range programs {
		used[name], size[name] = processorTime(t, p), memory(t, p)
	}
	hold := a.Hold(b, d)
	c.Etcd.Stop()
	<-time.After(outage())
	for name, p := range programs {
		work, grown := processorTime(t, p)-used[name], memory(t, p)-size[name]
		t.Logf("%s has worked for %v of %v and is %d kB larger", name, work, outage(), grown)
		if work > time.Second+outage()/100 {
			t.Errorf("%s has worked for %v", name, work)
		}
		if grown > 10_000 {
			t.Errorf("%s has grown by %d kB", name, grown)
		}
	}
	running(t, h)
	hold.End()
	stop()
	for _, line := range events() {
		t.Errorf("a route of another host changed: %s", line)
	}
	if err := c.Etcd.Restart(); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, cluster.Patience, func() error { return c.Store.Ping(t.Context()) })
	c.Profile("net2", "net1")
	began := time.Now()
	a.Reaches(d.IP, 62)
	a.Reaches(d.IP6, 62)
	t.Logf("what was written after it is in force after %v", time.Since(began))
	if took := time.Since(began); took > soonAfter {
		t.Errorf("it took %v", took)
	}
}

// TestEverythingRestartsWithoutEtcd: etcd is away for longer than BGP's hold time and restart
// time together, and meanwhile all programs of a host are killed and start, once with bgpd's
// document and once without, as in a new container; then they are ended and start once more.
// All traffic goes on, the other host's routes are not touched, and the status says from what
// the host works. When etcd is back, all follow it.
func TestEverythingRestartsWithoutEtcd(t *testing.T) {
	const hold, restart = 3 * time.Second, 8 * time.Second
	c := cluster.New(t, 2)
	h, other := c.Hosts[0], c.Hosts[1]
	for _, h := range c.Hosts {
		h.ShortTimes(hold, restart)
	}
	c.StartAll()
	a, b, d := h.Add("a", "net1"), other.Add("b", "net1"), other.Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, d} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	awaitRemembered(t, h, cluster.Block(a.IP).Addr().String(), cluster.Block(a.IP6).Addr().String())
	traffic := a.Hold(b, d)
	events, stop := routeEvents(t, other, "proto", "bird")
	c.Etcd.Stop()
	restartAll := func(end func(*nettest.Process)) {
		for _, p := range []*nettest.Process{h.Felix, h.BGPD, h.Confd} {
			end(p)
		}
		began := time.Now()
		h.StartFelix()
		h.StartBGP()
		for _, ipv6 := range []bool{false, true} {
			h.HasPeer(other.Addr(ipv6).String(), "established")
		}
		t.Logf("the sessions are up %v after the start", time.Since(began))
	}
	restartAll((*nettest.Process).Kill)
	<-time.After(hold + restart)
	restartAll(func(p *nettest.Process) {
		p.Kill()
		if p == h.BGPD {
			if err := os.Remove(h.BGPConfig()); err != nil {
				t.Error(err)
			}
		}
	})
	<-time.After(hold + restart)
	restartAll(func(p *nettest.Process) {
		if err := p.Stop(cluster.Patience); err != nil {
			t.Error(err)
		}
	})
	running(t, h)
	if out, code := h.Ctl(nil, "node", "status", "--run-dir", h.Dir); code == 0 || !strings.Contains(out, "works from what this host remembers since") {
		t.Errorf("the status, exit code %d:\n%s", code, out)
	}
	traffic.Await(100)
	if _, err := os.Stat(h.BGPConfig()); err == nil {
		t.Error("there is a document that nobody can have made")
	}

	if err := c.Etcd.Restart(); err != nil {
		t.Fatal(err)
	}
	awaitHeld(t, h, false)
	awaitHeld(t, other, false)
	traffic.Await(100)
	traffic.End()
	stop()
	for _, line := range events() {
		t.Errorf("a route of the other host changed: %s", line)
	}
	late := h.Add("late", "net1")
	late.InForce()
	late.Reaches(b.IP, 62)
}

// awaitRemembered waits until a host's bgpd remembers blocks.
func awaitRemembered(t *testing.T, h *cluster.Host, blocks ...string) {
	t.Helper()
	nettest.Eventually(t, cluster.Patience, func() error {
		text, err := os.ReadFile(filepath.Join(h.State(), "bgpd.json"))
		for _, block := range blocks {
			if err == nil && !bytes.Contains(text, []byte(block+"-")) {
				err = fmt.Errorf("%s does not remember %s: %s", h.Node, block, text)
			}
		}
		return err
	})
}
