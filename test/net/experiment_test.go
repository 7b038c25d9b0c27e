package net

import (
	"net/netip"
	"strings"
	"testing"

	"calico.internal/libcalico/nettest"
)

var gateway = netip.MustParseAddr("169.254.1.1")

// TestReferenceExperiment is the experiment without Docker, on hosts without a
// default route: containers reach their gateway and each other, by network.
func TestReferenceExperiment(t *testing.T) {
	r := newRig(t, 2)
	r.startAll()
	a, b := r.hosts[0].add("a", "net1"), r.hosts[0].add("b", "net2")
	c, d := r.hosts[1].add("c", "net1"), r.hosts[1].add("d", "net2")
	for _, w := range []*workload{a, b, c, d} {
		w.inForce()
		if _, err := w.Ping(gateway, pingTimeout); err != nil {
			t.Errorf("%s does not reach its gateway on a host without a default route: %v", w.ip, err)
		}
	}
	for i, h := range r.hosts {
		own, other := []*workload{a, c}[i], []*workload{c, a}[i]
		h.hasRoute("blackhole " + block(own.ip) + " proto bird")
		h.hasRoute(block(other.ip) + " via " + r.hosts[1-i].Addr(false).String() + " dev eth0 proto bird")
		h.hasRoute(own.ip.String() + " dev cali" + own.key.Name[:11] + " scope link")
	}
	a.reaches(c.ip, 62)
	c.reaches(a.ip, 62)
	b.reaches(d.ip, 62)
	a.cut(b.ip)
	a.cut(d.ip)

	r.addProfile("net2", "net1")
	a.reaches(d.ip, 62)
	a.reaches(b.ip, 63)
	r.addProfile("net2")
	nettest.Eventually(t, patience, func() error {
		if _, err := a.Ping(d.ip, pingTimeout/2); err == nil {
			return errStillOpen
		}
		return nil
	})
	a.cut(b.ip)
	a.cut(d.ip)
	b.reaches(d.ip, 62)
}

// TestProgramsKilled: with everything dead on a host, what flows goes on and what is
// denied stays denied; what starts again rewrites nothing that is right.
func TestProgramsKilled(t *testing.T) {
	r := newRig(t, 2)
	r.startAll()
	a := r.hosts[0].add("a", "net1")
	c, d := r.hosts[1].add("c", "net1"), r.hosts[1].add("d", "net2")
	for _, w := range []*workload{a, c, d} {
		w.inForce()
	}
	a.reaches(c.ip, 62)
	h := r.hosts[0]
	before := h.routes()
	for _, p := range []*nettest.Process{h.felix, h.bgpd, h.cfd} {
		p.Kill()
	}
	if after := h.routes(); after != before {
		t.Errorf("routes changed when the programs died:\n%s\nbefore:\n%s", after, before)
	}
	a.reaches(c.ip, 62)
	a.cut(d.ip)
	if all := r.hosts[1].routes(); !strings.Contains(all, block(a.ip)+" via") {
		t.Errorf("the other host dropped the route of a dead bgpd at once:\n%s", all)
	}
	h.startFelix()
	h.startBGP()
	h.hasPeer(r.hosts[1].Addr(false).String(), "established")
	a.inForce()
	if after := h.routes(); after != before {
		t.Errorf("routes changed by the restart:\n%s\nbefore:\n%s", after, before)
	}
	a.reaches(c.ip, 62)
	a.cut(d.ip)
	r.addProfile("net2", "net1")
	a.reaches(d.ip, 62)
}
