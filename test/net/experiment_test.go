// Package net has the tests of what must hold between the programs, and between hosts:
// the built programs run on hosts that are network namespaces, with a real etcd and no
// Docker.
package net

import (
	"net/netip"
	"strings"
	"testing"

	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

var gateway = netip.MustParseAddr("169.254.1.1")

// TestReferenceExperiment is the experiment without Docker, on hosts without a
// default route: containers reach their gateway and each other, by network.
func TestReferenceExperiment(t *testing.T) {
	r := cluster.New(t, 2)
	r.StartAll()
	a, b := r.Hosts[0].Add("a", "net1"), r.Hosts[0].Add("b", "net2")
	c, d := r.Hosts[1].Add("c", "net1"), r.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, c, d} {
		w.InForce()
		if _, err := w.Ping(gateway, cluster.Answer); err != nil {
			t.Errorf("%s does not reach its gateway on a host without a default route: %v", w.IP, err)
		}
	}
	for i, h := range r.Hosts {
		own, other := []*cluster.Workload{a, c}[i], []*cluster.Workload{c, a}[i]
		h.HasRoute("blackhole " + cluster.Block(own.IP).String() + " proto bird")
		h.HasRoute(cluster.Block(other.IP).String() + " via " + r.Hosts[1-i].Addr(false).String() + " dev eth0 proto bird")
		h.HasRoute(own.IP.String() + " dev cali" + own.Key.Name[:11] + " scope link")
	}
	a.Reaches(c.IP, 62)
	c.Reaches(a.IP, 62)
	b.Reaches(d.IP, 62)
	a.Cut(b.IP)
	a.Cut(d.IP)

	r.Profile("net2", "net1")
	a.Reaches(d.IP, 62)
	a.Reaches(b.IP, 63)
	r.Profile("net2")
	nettest.Eventually(t, cluster.Patience, func() error {
		if _, err := a.Ping(d.IP, cluster.Answer/2); err == nil {
			return errStillOpen
		}
		return nil
	})
	a.Cut(b.IP)
	a.Cut(d.IP)
	b.Reaches(d.IP, 62)
}

// TestProgramsKilled: with everything dead on a host, what flows goes on and what is
// denied stays denied; what starts again rewrites nothing that is right.
func TestProgramsKilled(t *testing.T) {
	r := cluster.New(t, 2)
	r.StartAll()
	a := r.Hosts[0].Add("a", "net1")
	c, d := r.Hosts[1].Add("c", "net1"), r.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, c, d} {
		w.InForce()
	}
	a.Reaches(c.IP, 62)
	h := r.Hosts[0]
	before := h.Routes()
	for _, p := range []*nettest.Process{h.Felix, h.BGPD, h.Confd} {
		p.Kill()
	}
	if after := h.Routes(); after != before {
		t.Errorf("routes changed when the programs died:\n%s\nbefore:\n%s", after, before)
	}
	a.Reaches(c.IP, 62)
	a.Cut(d.IP)
	if all := r.Hosts[1].Routes(); !strings.Contains(all, cluster.Block(a.IP).String()+" via") {
		t.Errorf("the other host dropped the route of a dead bgpd at once:\n%s", all)
	}
	h.StartFelix()
	h.StartBGP()
	h.HasPeer(r.Hosts[1].Addr(false).String(), "established")
	a.InForce()
	if after := h.Routes(); after != before {
		t.Errorf("routes changed by the restart:\n%s\nbefore:\n%s", after, before)
	}
	a.Reaches(c.IP, 62)
	a.Cut(d.IP)
	r.Profile("net2", "net1")
	a.Reaches(d.IP, 62)
}
