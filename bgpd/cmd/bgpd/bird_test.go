//go:build !race

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/nettest"
)

// bird is a host that runs BIRD 2, configured as Calico's node image configured it.
type bird struct {
	*node
	proc *nettest.Process
}

// runBird runs BIRD on a node, with a block of each family, and o as its only peer.
func runBird(n, o *node, block4, block6 string, passive bool) *bird {
	n.lab.t.Helper()
	if _, err := exec.LookPath("bird"); err != nil {
		n.lab.t.Skip("BIRD 2 is missing: apt-get install bird2")
	}
	role := "passive off"
	if passive {
		role = "passive on"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "log stderr { warning, error, bug, fatal };\nrouter id %s;\nprotocol device { scan time 2; }\n", n.v4)
	for _, f := range []struct {
		family, block string
		own, peer     netip.Addr
	}{{"ipv4", block4, n.v4, o.v4}, {"ipv6", block6, n.v6, o.v6}} {
		fmt.Fprintf(&b, `
protocol direct { %[1]s; interface "eth0"; }
protocol kernel { learn; persist; scan time 2; graceful restart; %[1]s { import all; export all; }; }
protocol static static_%[1]s { %[1]s; route %[2]s blackhole; }
protocol bgp Mesh_%[1]s {
  local %[3]s as %[6]d;
  neighbor %[4]s as %[7]d;
  multihop;
  %[5]s;
  graceful restart on;
  connect delay time 1; connect retry time 2; error wait time 1,5;
  %[1]s { import all; export where source = RTS_STATIC; next hop self; gateway recursive; };
}
`, f.family, f.block, f.own, f.peer, role, n.doc.as, o.doc.as)
	}
	conf := filepath.Join(n.dir, "bird.conf")
	if err := os.WriteFile(conf, []byte(b.String()), 0o644); err != nil {
		n.lab.t.Fatal(err)
	}
	out := &bird{node: n}
	out.start()
	return out
}

// start starts BIRD; "-R" says that this is a restart, and the kernel still forwards.
func (b *bird) start(flags ...string) {
	b.lab.t.Helper()
	args := append(flags, "-f", "-c", filepath.Join(b.dir, "bird.conf"), "-s", b.socket(), "-P", filepath.Join(b.dir, "bird.pid"))
	cmd := b.Command(context.Background(), "bird", args...)
	log := &buffer{t: b.lab.t, prefix: b.name + "(bird)| "}
	cmd.Stdout, cmd.Stderr = log, log
	b.proc = b.StartCommand(cmd)
}

func (b *bird) socket() string { return filepath.Join(b.dir, "bird.ctl") }

func (b *bird) control(command ...string) string {
	out, _ := b.TryRun("birdc", append([]string{"-s", b.socket()}, command...)...)
	return out
}

func birdRoute(prefix string, next netip.Addr) string {
	s := fmt.Sprintf("%s via %s dev eth0 proto bird metric 32", prefix, next)
	if next.Is6() {
		s += " pref medium"
	}
	return s
}

func TestBIRD(t *testing.T) {
	for _, tc := range []struct {
		name string
		ours int // the index of bgpd's node; the lower one listens
	}{{"bgpd listens", 0}, {"bgpd dials", 1}} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, 2)
			us, it := l.nodes[tc.ours], l.nodes[1-tc.ours]
			us.giveBlock("192.168.0.0/26")
			us.giveBlock("fd80::1:0/122")
			it.giveBlock("192.168.1.0/26")
			it.giveBlock("fd80::2:0/122")
			b := runBird(it, us, "192.168.1.0/26", "fd80::2:0/122", tc.ours == 1)
			us.write()
			us.start()
			us.awaitPeers(2)
			await := func() {
				us.awaitRoute("192.168.1.0/26", via("192.168.1.0/26", it.v4))
				us.awaitRoute("fd80::2:0/122", via6("fd80::2:0/122", it.v6))
				it.awaitRoute("192.168.0.0/26", birdRoute("192.168.0.0/26", us.v4))
				it.awaitRoute("fd80::1:0/122", birdRoute("fd80::1:0/122", us.v6))
			}
			await()

			ours, its := us.watch(), it.watch()
			us.proc.Kill()
			l.eventually("BIRD notices", func() error {
				if out := b.control("show", "protocols"); strings.Contains(out, "Established") {
					return fmt.Errorf("%s", out)
				}
				return nil
			})
			start := time.Now()
			us.start()
			us.awaitPeers(2)
			t.Logf("bgpd is back after %v", time.Since(start))
			l.eventually("bgpd's blocks are advertised again", func() error {
				for _, prefix := range []string{"192.168.0.0/26", "fd80::1:0/122"} {
					if out := b.control("show", "route", "for", prefix, "all"); !strings.Contains(out, "BGP.local_pref") || strings.Contains(out, "stale") {
						return fmt.Errorf("%s", out)
					}
				}
				return nil
			})
			if events := slices.Concat(ours.list(), its.list()); len(events) > 0 {
				t.Errorf("bgpd's restart touched routes: %v", events)
			}

			b.proc.Kill()
			us.awaitPeers(0)
			start = time.Now()
			b.start("-R")
			us.awaitPeers(2)
			t.Logf("BIRD is back after %v", time.Since(start))
			await()
			if events := ours.list(); len(events) > 0 {
				t.Errorf("BIRD's restart touched our routes: %v", events)
			}

			us.giveBlock("192.168.0.64/26")
			it.awaitRoute("192.168.0.64/26", birdRoute("192.168.0.64/26", us.v4))
			l.remove(affinity(us.name, "192.168.0.64/26"))
			it.awaitRoute("192.168.0.64/26", "")
		})
	}
}

// TestBIRD_as_an_outside_router: another AS, a global peer, with a route from behind it.
func TestBIRD_as_an_outside_router(t *testing.T) {
	l := newLab(t, 2)
	us, it := l.nodes[0], l.nodes[1]
	it.doc.as = 65001
	us.doc.mesh = false
	us.doc.peers = peerText("Global_"+it.v4.String(), "global", it.v4, it.doc.as)
	us.giveBlock("192.168.0.0/26")
	b := runBird(it, us, "203.0.113.0/24", "fd99::/64", false)
	us.write()
	us.start()
	us.awaitPeers(1)
	us.awaitRoute("203.0.113.0/24", via("203.0.113.0/24", it.v4))
	it.awaitRoute("192.168.0.0/26", birdRoute("192.168.0.0/26", us.v4))
	if out := b.control("show", "route", "for", "192.168.0.0/26", "all"); !strings.Contains(out, "BGP.as_path: 64512") {
		t.Errorf("BIRD has %s", out)
	}

	// It ends the session by its own will: its routes go at once.
	b.control("disable", "Mesh_ipv4")
	us.awaitRoute("203.0.113.0/24", "")
	b.control("enable", "Mesh_ipv4")
	us.awaitRoute("203.0.113.0/24", via("203.0.113.0/24", it.v4))

	// It vanishes: they stay.
	b.proc.Kill()
	us.awaitPeers(0)
	if got := us.routes("203.0.113.0/24"); got == "" {
		t.Error("the route of a router that vanished went at once")
	}
}
