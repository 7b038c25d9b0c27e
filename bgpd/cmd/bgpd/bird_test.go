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
	return n.startBird(b.String())
}

// startBird runs BIRD with a configuration.
func (n *node) startBird(conf string) *bird {
	n.lab.t.Helper()
	if _, err := exec.LookPath("bird"); err != nil {
		n.lab.t.Skip("BIRD 2 is missing: apt-get install bird2")
	}
	if err := os.WriteFile(filepath.Join(n.dir, "bird.conf"), []byte(conf), 0o644); err != nil {
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

// TestBIRD has sessions of both families with BIRD, in all roles, and restarts both ends.
func TestBIRD(t *testing.T) {
	for _, tc := range []struct {
		name string
		ours int // the index of bgpd's node; in the mesh the lower one listens
		// global makes BIRD an outside peer, which is told that bgpd restarted.
		global  bool
		passive bool // BIRD waits
	}{
		{"in the mesh, bgpd listens", 0, false, false},
		{"in the mesh, bgpd dials", 1, false, true},
		{"outside, bgpd dials", 0, true, true},
		{"outside, both dial", 1, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, 2)
			us, it := l.nodes[tc.ours], l.nodes[1-tc.ours]
			for _, b := range []struct {
				n     *node
				block string
			}{{us, "192.168.0.0/26"}, {us, "fd80::1:0/122"}, {it, "192.168.1.0/26"}, {it, "fd80::2:0/122"}} {
				b.n.giveBlock(b.block)
			}
			if tc.global {
				us.doc.mesh = false
				us.doc.peers = peerText("Global_4", "global", it.v4, 64512) + peerText("Global_6", "global", it.v6, 64512)
			}
			b := runBird(it, us, "192.168.1.0/26", "fd80::2:0/122", tc.passive)
			us.write()
			us.start()
			us.awaitPeers(2)
			b.awaitExchange(us)
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
			b.awaitFresh()
			b.awaitExchange(us)
			if events := ours.list(); len(events) > 0 {
				t.Errorf("bgpd's restart touched its routes: %v", events)
			}
			if events := its.list(); tc.global && len(events) > 0 {
				t.Errorf("bgpd's restart touched BIRD's routes: %v", events)
			}

			b.proc.Kill()
			us.awaitPeers(0)
			start = time.Now()
			b.start("-R")
			us.awaitPeers(2)
			t.Logf("BIRD is back after %v", time.Since(start))
			b.awaitExchange(us)
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

// awaitExchange waits until both kernels have the routes of the other.
func (b *bird) awaitExchange(us *node) {
	b.lab.t.Helper()
	us.awaitRoute("192.168.1.0/26", via("192.168.1.0/26", b.v4))
	us.awaitRoute("fd80::2:0/122", via6("fd80::2:0/122", b.v6))
	b.awaitRoute("192.168.0.0/26", birdRoute("192.168.0.0/26", us.v4))
	b.awaitRoute("fd80::1:0/122", birdRoute("fd80::1:0/122", us.v6))
}

// awaitFresh waits until BIRD has bgpd's blocks by a session and not as left-overs.
func (b *bird) awaitFresh() {
	b.lab.t.Helper()
	b.lab.eventually("bgpd's blocks are advertised again", func() error {
		for _, prefix := range []string{"192.168.0.0/26", "fd80::1:0/122"} {
			if out := b.control("show", "route", "for", prefix, "all"); !strings.Contains(out, "BGP.local_pref") || strings.Contains(out, "stale") {
				return fmt.Errorf("%s", out)
			}
		}
		return nil
	})
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

// runRouter runs BIRD as an outside router of both families that advertises prefixes
// with LOCAL_PREF 500, which a router of another system should not send at all.
func runRouter(n, o *node, prefixes ...string) *bird {
	n.lab.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "log stderr { warning, error, bug, fatal };\nrouter id %s;\nprotocol device { scan time 2; }\n", n.v4)
	for _, f := range []struct {
		family    string
		own, peer netip.Addr
	}{{"ipv4", n.v4, o.v4}, {"ipv6", n.v6, o.v6}} {
		fmt.Fprintf(&b, `
protocol direct { %[1]s; interface "eth0"; }
protocol bgp Up_%[1]s {
  local %[2]s as %[3]d;
  neighbor %[4]s as %[5]d;
  multihop;
  allow bgp_local_pref on;
  graceful restart on;
  connect delay time 1; connect retry time 2; error wait time 1,5;
  %[1]s { import all; export filter { if source = RTS_STATIC then { bgp_local_pref = 500; accept; } reject; }; next hop self; gateway recursive; };
}
protocol static static_%[1]s { %[1]s;
`, f.family, f.own, n.doc.as, f.peer, o.doc.as)
		for _, p := range prefixes {
			if strings.Contains(p, ":") == f.own.Is6() {
				fmt.Fprintf(&b, "  route %s blackhole;\n", p)
			}
		}
		b.WriteString("}\n")
	}
	return n.startBird(b.String())
}

// learned lists the prefixes that BIRD has from its peer, with their AS paths.
func (b *bird) learned() []string {
	var out []string
	for _, family := range []string{"ipv4", "ipv6"} {
		prefix := ""
		for line := range strings.Lines(b.control("show", "route", "protocol", "Up_"+family, "all")) {
			switch f := strings.Fields(line); {
			case len(f) > 0 && strings.Contains(f[0], "/"):
				prefix = f[0]
			case len(f) > 0 && f[0] == "BGP.as_path:":
				out = append(out, prefix+" "+strings.Join(f[1:], " "))
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestBIRD_two_outside_routers_and_nodes_of_two_systems: a host with two outside routers
// of different systems, in a mesh whose nodes are of two systems as well. Nobody hears
// from it anything but its own blocks, and no router takes those away.
func TestBIRD_two_outside_routers_and_nodes_of_two_systems(t *testing.T) {
	l := newLab(t, 5)
	routers := l.nodes[3:]
	l.nodes = l.nodes[:3]
	us, near, far := l.nodes[0], l.nodes[1], l.nodes[2]
	far.doc.as = 64513
	for i, r := range routers {
		r.doc.as = 65001 + uint32(i)
		us.doc.peers += peerText("Node_"+r.v4.String(), "node", r.v4, r.doc.as) + peerText("Node_"+r.v6.String(), "node", r.v6, r.doc.as)
	}
	for i, n := range l.nodes {
		n.giveBlock(fmt.Sprintf("192.168.%d.0/26", i))
		n.giveBlock(fmt.Sprintf("fd80::%x:0/122", i+1))
	}
	one := runRouter(routers[0], us, "0.0.0.0/0", "203.0.113.0/24", "192.168.0.0/26", "::/0", "2001:db8:1::/48", "fd80::1:0/122")
	two := runRouter(routers[1], us, "0.0.0.0/0", "198.51.100.0/24", "192.168.0.0/26", "::/0", "2001:db8:2::/48", "fd80::1:0/122")
	for _, n := range l.nodes {
		n.write()
		n.start()
	}
	us.awaitPeers(8)
	us.awaitRoute("203.0.113.0/24", via("203.0.113.0/24", one.v4))
	us.awaitRoute("198.51.100.0/24", via("198.51.100.0/24", two.v4))
	us.awaitRoute("2001:db8:2::/48", via6("2001:db8:2::/48", two.v6))

	// What comes last has everything before it.
	us.giveBlock("192.168.0.64/26")
	us.giveBlock("fd80::1:40/122")
	for _, n := range []*node{near, far} {
		n.awaitRoute("192.168.0.64/26", via("192.168.0.64/26", us.v4))
		n.awaitRoute("fd80::1:40/122", via6("fd80::1:40/122", us.v6))
	}
	want := []string{"192.168.0.0/26 64512", "192.168.0.64/26 64512", "fd80::1:0/122 64512", "fd80::1:40/122 64512"}
	for _, b := range []*bird{one, two} {
		l.eventually(b.name+" hears our blocks and nothing else", func() error {
			if got := b.learned(); !slices.Equal(got, want) {
				return fmt.Errorf("%q, want %q", got, want)
			}
			return nil
		})
	}
	l.awaitMesh() // our blackholes, and each block from its owner alone
	for _, n := range []*node{near, far} {
		routes, err := n.routesOf()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if len(r.GetNextHops()) > 1 || !strings.HasPrefix(r.GetPrefix(), "192.168.") && !strings.HasPrefix(r.GetPrefix(), "fd80:") {
				t.Errorf("%s hears %v", n.name, r)
			}
		}
	}
}
