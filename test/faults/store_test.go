package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/nettest"
	"calico.internal/test/internal/cluster"
)

// picture is what the programs of a host keep up: routes, rules, and bgpd's document.
func picture(t *testing.T, h *cluster.Host) string {
	t.Helper()
	document, err := os.ReadFile(h.BGPConfig())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	routes := strings.SplitAfter(h.Run("ip", "-4", "route")+h.Run("ip", "-6", "route"), "\n")
	slices.Sort(routes) // the kernel lists them in no order that lasts
	b.WriteString(strings.Join(routes, ""))
	for _, save := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"} {
		for line := range strings.Lines(h.Run(save)) {
			if strings.HasPrefix(line, "-A") {
				b.WriteString(line)
			}
		}
	}
	b.Write(document)
	return b.String()
}

// without is the lines of a text that another does not have.
func without(text, other string) string {
	have := map[string]bool{}
	for line := range strings.Lines(other) {
		have[line] = true
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !have[line] {
			b.WriteString(line)
		}
	}
	return b.String()
}

// awaitHeld waits until all programs of a host say that they do not follow etcd, or that
// they do, and look so to `calicoctl node status`.
func awaitHeld(t *testing.T, h *cluster.Host, held bool) {
	t.Helper()
	nettest.Eventually(t, cluster.Patience, func() error {
		for _, program := range []string{"felix", "bgpd", "confd"} {
			ready, err := h.Ready(program)
			if err == nil && ready == held {
				err = fmt.Errorf("it is ready: %t", ready)
			}
			if err != nil {
				return fmt.Errorf("%s of %s: %w", program, h.Node, err)
			}
		}
		out, code := h.Ctl(nil, "node", "status", "--run-dir", h.Dir)
		others := 0
		for _, program := range []string{"felix: datastore", "bgpd"} {
			said := false
			for line := range strings.Lines(out) {
				said = said || strings.HasPrefix(line, "PROBLEM: "+program+": etcd at ") && strings.Contains(line, "calicoctl datastore unlock")
			}
			if said != held {
				return fmt.Errorf("the status of %s (exit code %d) is\n%s", h.Node, code, out)
			}
		}
		for line := range strings.Lines(out) {
			// The programs run by themselves here.
			if strings.HasPrefix(line, "PROBLEM: ") && !strings.HasPrefix(line, "PROBLEM: calico-node: ") {
				others++
			}
		}
		if (others != 0) != held {
			return fmt.Errorf("the status of %s (exit code %d) is\n%s", h.Node, code, out)
		}
		return nil
	})
}

// TestAStoreEmptiedKeyByKey: a deletion counts as soon as it is seen, so what goes before the
// Ready flag is taken away: other hosts are not reached. Nothing opens, containers of one host
// go on, and what is brought back is in force again.
func TestAStoreEmptiedKeyByKey(t *testing.T) {
	c := cluster.New(t, 2)
	c.StartAll()
	h := c.Hosts[0]
	a, near, far, d := h.Add("a", "net1"), h.Add("n", "net1"), c.Hosts[1].Add("b", "net1"), c.Hosts[1].Add("d", "net2")
	for _, w := range []*cluster.Workload{a, near, far, d} {
		w.InForce()
	}
	a.Reaches(far.IP, 62)
	a.Reaches(far.IP6, 62)
	backup := filepath.Join(t.TempDir(), "backup.json")
	if out, code := h.Ctl(nil, "datastore", "export", "-f", backup); code != 0 {
		t.Fatal(out)
	}
	hold := a.Hold(near, d)
	etcd := c.Etcd.Client(t)
	keys, err := etcd.Get(t.Context(), "/calico", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range keys.Kvs { // in the order of their names
		if _, err := etcd.Delete(t.Context(), string(kv.Key)); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range c.Hosts {
		awaitHeld(t, h, true)
	}
	hold.Await(100)
	if out, code := h.Ctl(nil, "datastore", "import", "-f", backup); code != 0 {
		t.Fatal(out)
	}
	for _, h := range c.Hosts {
		awaitHeld(t, h, false)
	}
	a.Reaches(far.IP, 62)
	a.Reaches(far.IP6, 62)
	hold.Await(100)
	hold.End()
}

// TestAnEmptiedStore: what is in force stays, is said to be in danger, and goes on when the
// data is back. A host that starts meanwhile does not say that there is a new cluster. Only
// when somebody says that the data is gone for good it is given up.
func TestAnEmptiedStore(t *testing.T) {
	for name, empty := range map[string]func(*testing.T, *cluster.Cluster){
		"its keys are deleted": func(t *testing.T, c *cluster.Cluster) {
			if _, err := c.Etcd.Client(t).Delete(t.Context(), "/calico", clientv3.WithPrefix()); err != nil {
				t.Fatal(err)
			}
		},
		"etcd starts on an empty folder": func(t *testing.T, c *cluster.Cluster) {
			if err := c.Etcd.Reset(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			c := cluster.New(t, 3)
			other := c.Hosts[2]
			hosts := c.Hosts[:2]
			for _, h := range hosts {
				h.StartFelix()
				h.StartBGP()
			}
			a, b := hosts[0].Add("a", "net1"), hosts[1].Add("b", "net1")
			d := hosts[1].Add("d", "net2")
			for _, w := range []*cluster.Workload{a, b, d} {
				w.InForce()
			}
			a.Reaches(b.IP, 62)
			a.Reaches(b.IP6, 62)
			backup := filepath.Join(t.TempDir(), "backup.json")
			if out, code := hosts[0].Ctl(nil, "datastore", "export", "-f", backup); code != 0 {
				t.Fatal(out)
			}
			var before []string
			for _, h := range hosts {
				awaitHeld(t, h, false)
				before = append(before, picture(t, h))
			}

			traffic := a.Hold(b, d)
			empty(t, c)
			for _, h := range hosts {
				awaitHeld(t, h, true)
			}
			out, code := other.Ctl([]string{"IP=" + other.Addr(false).String()}, "node", "startup", "--run-dir", other.Dir)
			if code != 0 || !strings.Contains(out, "WARNING: nothing is written to etcd") {
				t.Errorf("the start-up of another host, exit code %d:\n%s", code, out)
			}
			traffic.Await(100)
			for i, h := range hosts {
				if now := picture(t, h); now != before[i] {
					t.Errorf("gone from %s:\n%s\nnew there:\n%s", h.Node, without(before[i], now), without(now, before[i]))
				}
			}
			keys, err := c.Etcd.Client(t).Get(t.Context(), "/calico", clientv3.WithPrefix(), clientv3.WithKeysOnly())
			if err != nil || keys.Count > 0 {
				t.Errorf("the emptied store holds %v, %v", keys, err)
			}
			// bgpd starts again: that other hosts' routes stay is for it and its peers to see to.
			hosts[0].BGPD.Kill()
			hosts[0].StartBGPD()
			hosts[0].HasPeer(hosts[1].Addr(false).String(), "established")
			traffic.Await(100)

			if out, code := hosts[0].Ctl(nil, "datastore", "import", "-f", backup); code != 0 {
				t.Fatal(out)
			}
			for _, h := range hosts {
				awaitHeld(t, h, false)
			}
			hosts[0].Add("e", "net1").InForce()
			traffic.Await(100)
			traffic.End()

			// Once more, and the data is given up: nobody's profile allows anything.
			empty(t, c)
			for _, h := range hosts {
				awaitHeld(t, h, true)
			}
			a.Reaches(b.IP, 62)
			out, code = hosts[0].Ctl(nil, "datastore", "unlock")
			if code != 0 || !strings.Contains(out, "follow the datastore from now on") || !strings.Contains(out, "that this host knows is") {
				t.Errorf("unlock, exit code %d:\n%s", code, out)
			}
			nettest.Eventually(t, cluster.Patience, func() error {
				st, err := hosts[0].FelixStatus()
				if err == nil && st.GetDatastoreHeld() != "" {
					err = fmt.Errorf("still: %s", st.GetDatastoreHeld())
				}
				return err
			})
			a.Cut(b.IP)
		})
	}
}
