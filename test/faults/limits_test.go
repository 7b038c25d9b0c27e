package faults

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// running fails the test when a program of the host has ended.
func running(t *testing.T, h *cluster.Host) {
	t.Helper()
	for name, p := range map[string]*nettest.Process{"felix": h.Felix, "bgpd": h.BGPD, "confd": h.Confd} {
		if p == nil {
			continue
		}
		select {
		case <-p.Done():
			t.Errorf("%s of %s has ended", name, h.Node)
		default:
		}
	}
}

// TestDiskFull: where bgpd's document is written there is no room. The last one stays,
// whole; confd says that it cannot write and does when there is room again.
func TestDiskFull(t *testing.T) {
	c := cluster.New(t, 2)
	h := c.Hosts[0]
	folder := filepath.Dir(h.BGPConfig())
	if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal("no tmpfs can be mounted: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(folder, unix.MNT_DETACH) })
	c.StartAll()
	a, b, d := h.Add("a", "net1"), c.Hosts[1].Add("b", "net1"), c.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, d} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	before := read(t, h.BGPConfig())
	filler := filepath.Join(folder, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("a megabyte fits into 64 kB")
	}
	hold := a.Hold(b, d)
	for i := range 20 { // each peer makes the document longer
		c.Raw(fmt.Sprintf("/calico/bgp/v1/global/peer_v4/10.77.0.%d", 210+i), fmt.Sprintf(`{"ip":"10.77.0.%d","as_num":"65001"}`, 210+i))
	}
	c.Hosts[1].HasPeer("10.77.0.229", "")
	if now := read(t, h.BGPConfig()); now != before {
		t.Errorf("the document on the full disk changed:\n%s", now)
	}
	hold.Await(100)
	hold.End()
	running(t, h)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	h.HasPeer("10.77.0.229", "")
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFewFiles: each program may open 64 files. None ends, what flows goes on, and what is
// new is in force.
func TestFewFiles(t *testing.T) {
	c := cluster.New(t, 2)
	c.StartAll()
	a, b, d := c.Hosts[0].Add("a", "net1"), c.Hosts[1].Add("b", "net1"), c.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, d} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	h := c.Hosts[0]
	for _, p := range []*nettest.Process{h.Felix, h.BGPD, h.Confd} {
		limit := unix.Rlimit{Cur: 64, Max: 64}
		if err := unix.Prlimit(p.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Fatal(err)
		}
	}
	hold := a.Hold(b, d)
	for i := range 20 {
		w := h.Add(fmt.Sprintf("n%dx", i), "net1")
		w.InForce()
	}
	c.Raw("/calico/bgp/v1/global/peer_v4/10.77.0.210", `{"ip":"10.77.0.210","as_num":"65001"}`)
	h.HasPeer("10.77.0.210", "")
	hold.End()
	running(t, h)
}

// TestSockets: what a stranger on the host could misuse is root's alone.
func TestSockets(t *testing.T) {
	c := cluster.New(t, 1)
	h := c.Hosts[0]
	c.StartAll()
	h.AwaitSync()
	for _, program := range []string{"felix", "bgpd", "confd"} {
		nettest.Eventually(t, cluster.Patience, func() error {
			info, err := os.Stat(filepath.Join(h.Dir, program+".sock"))
			if err == nil && info.Mode() != fs.ModeSocket|0o600 {
				t.Errorf("%s.sock has mode %v, want 0600", program, info.Mode())
			}
			return err
		})
	}
	if out := h.Run("ss", "-Hltnp"); strings.Contains(out, "calico-felix") || strings.Contains(out, "confd") {
		t.Errorf("a program listens on TCP that nobody asked to:\n%s", out)
	}
}

// TestFewRights: felix with the right to configure networks and no other does all its
// work, and bgpd with that and the right to listen on port 179.
func TestFewRights(t *testing.T) {
	c := cluster.New(t, 2)
	for _, h := range c.Hosts {
		h.Caps = map[string]string{"calico-felix": "net_admin,net_raw", "bgpd": "net_admin,net_bind_service", "confd": ""}
	}
	c.StartAll()
	a, b, d := c.Hosts[0].Add("a", "net1"), c.Hosts[1].Add("b", "net1"), c.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, b, d} {
		w.InForce()
	}
	a.Reaches(b.IP, 62)
	a.Reaches(b.IP6, 62)
	a.Cut(d.IP)
	rev := c.Put(model.NewPolicyKey("", "open"), &model.Policy{
		Selector: "has(net2)", Types: []string{model.PolicyTypeIngress}, InboundRules: []model.Rule{{Action: model.ActionAllow}},
	})
	if err := d.WaitFor(rev, cluster.Patience); err != nil {
		t.Fatal(err)
	}
	a.Reaches(d.IP, 62)
	a.Reaches(d.IP6, 62)
	for _, p := range []*nettest.Process{c.Hosts[0].Felix, c.Hosts[0].BGPD, c.Hosts[0].Confd} {
		status := read(t, fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		const sysAdmin = 1 << 21
		var effective uint64
		for line := range strings.Lines(status) {
			if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
				if _, err := fmt.Sscanf(hex, "%x", &effective); err != nil {
					t.Fatal(err)
				}
			}
		}
		if effective&sysAdmin != 0 {
			t.Errorf("the program had more rights than this test gives: %x", effective)
		}
	}
}
