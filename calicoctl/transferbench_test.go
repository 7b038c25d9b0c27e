package calicoctl_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// The most memory that is taken, however much there is: by an export or a comparison, and by
// an import, which checks all addresses in the end.
const (
	maxTransferMB = 60
	maxImportMB   = 200
)

// BenchmarkTransfer measures export and import of 100,000 endpoints with their addresses.
func BenchmarkTransfer(b *testing.B) {
	c := newCLI(b)
	const endpoints = 100_000
	c.fillBlocks((endpoints + 63) / 64)
	c.fillEndpoints(endpoints)
	file := filepath.Join(b.TempDir(), "backup.json")
	b.Run("export 100000 endpoints", func(b *testing.B) {
		c, u := c.of(b), &usage{}
		for b.Loop() {
			if out := u.run(c, "datastore", "export", "-f", file); !strings.Contains(out, "Exported ") {
				b.Fatal(out)
			}
		}
		u.report(b)
		if u.peakMB > maxTransferMB {
			b.Errorf("the export took %.0f MB, more than %d", u.peakMB, maxTransferMB)
		}
	})
	b.Run("diags with 100000 endpoints", func(b *testing.B) {
		c, u := c.of(b), &usage{}
		for b.Loop() {
			u.run(c, "node", "diags", "--output-dir", b.TempDir(), "--log-dir", b.TempDir(), "--run-dir", b.TempDir())
		}
		u.report(b)
	})
	b.Run("compare with 100000 endpoints", func(b *testing.B) {
		c, u := c.of(b), &usage{}
		for b.Loop() {
			u.run(c, "datastore", "import", "-f", file, "--verify")
		}
		u.report(b)
		if u.peakMB > maxTransferMB {
			b.Errorf("the comparison took %.0f MB, more than %d", u.peakMB, maxTransferMB)
		}
	})
	b.Run("import 100000 endpoints", func(b *testing.B) {
		c, u := c.of(b), &usage{}
		for b.Loop() {
			b.StopTimer()
			c.etcd = etcdtest.Start(b)
			b.StartTimer()
			u.run(c, "datastore", "import", "-f", file)
		}
		u.reportImport(b)
	})
	old := v2Answer(b, file)
	b.Run("import 100000 endpoints of v2.6", func(b *testing.B) {
		c, u := c.of(b), &usage{}
		for b.Loop() {
			b.StopTimer()
			c.etcd = etcdtest.Start(b)
			b.StartTimer()
			u.run(c, "import", "-f", old)
		}
		u.reportImport(b)
	})
}

func (u *usage) reportImport(b *testing.B) {
	b.Helper()
	u.report(b)
	if u.peakMB > maxImportMB {
		b.Errorf("the import took %.0f MB, more than %d", u.peakMB, maxImportMB)
	}
}

// v2Answer writes what is in an export as etcd's v2 API would answer with it.
func v2Answer(b *testing.B, export string) string {
	b.Helper()
	text, err := os.ReadFile(export)
	if err != nil {
		b.Fatal(err)
	}
	var values struct{ Values map[string]string }
	if err = json.Unmarshal(text, &values); err != nil {
		b.Fatal(err)
	}
	type node struct {
		Key   string `json:"key"`
		Value string `json:"value,omitempty"`
		Dir   bool   `json:"dir,omitempty"`
		Nodes []node `json:"nodes,omitempty"`
	}
	top := node{Key: "/calico", Dir: true}
	for path, value := range values.Values {
		top.Nodes = append(top.Nodes, node{Key: path, Value: value})
	}
	if text, err = json.Marshal(map[string]any{"action": "get", "node": top}); err != nil {
		b.Fatal(err)
	}
	old := filepath.Join(b.TempDir(), "old.json")
	if err := os.WriteFile(old, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return old
}

// fillEndpoints makes endpoints that have the addresses of [cli.fillBlocks].
func (c *cli) fillEndpoints(n int) {
	c.Helper()
	var writes []etcdstore.Write
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		k := model.WorkloadEndpointKey{
			Node: fmt.Sprint("node", i/64%50), Orchestrator: "libnetwork", Workload: "libnetwork",
			Name: fmt.Sprintf("0123456789abcdef-%s-%d", netip.PrefixFrom(addr, 26).Masked().Addr(), i%64),
		}
		ep := &model.WorkloadEndpoint{
			State: "active", Interface: fmt.Sprintf("cali%011x", i), MAC: "ee:ee:ee:ee:ee:ee", Profiles: []string{"net1"},
			IPv4Nets: []netip.Prefix{netip.PrefixFrom(addr, 32)}, Labels: map[string]string{"role": fmt.Sprint("r", i%50), "project": "shop"},
			Meta: model.Meta{Annotations: map[string]string{"com.docker.container.name": fmt.Sprint("web-", i), ipam.AttrNetwork: "net1"}},
		}
		write, err := etcdstore.PutWrite(k, ep)
		if err != nil {
			c.Fatal(err)
		}
		handle, err := etcdstore.PutWrite(model.HandleKey{ID: k.Name}, &model.Handle{Block: map[string]int{netip.PrefixFrom(addr, 26).Masked().String(): 1}})
		if err != nil {
			c.Fatal(err)
		}
		if writes = append(writes, write, handle); len(writes) < 120 && i < n-1 {
			continue
		}
		if _, err := c.store.Commit(c.Context(), writes...); err != nil {
			c.Fatal(err)
		}
		writes = nil
	}
}
