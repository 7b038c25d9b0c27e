package calicoctl_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// cli is the program as it is shipped, with a datastore.
type cli struct {
	*testing.B
	path  string
	etcd  *etcdtest.Server
	store *etcdstore.Client
	// env is what the program's environment has besides the datastore, and dir where it runs.
	env []string
	dir string
}

// of is the same program for another benchmark.
func (c *cli) of(b *testing.B) *cli {
	other := *c
	other.B = b
	return &other
}

func newCLI(b *testing.B) *cli {
	b.Helper()
	c := &cli{B: b, path: filepath.Join(b.TempDir(), "calicoctl"), etcd: etcdtest.Start(b)}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", c.path, "./cmd/calicoctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	var err error
	if c.store, err = etcdstore.New(etcdstore.Config{Endpoints: c.etcd.Endpoints()}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.store.Close() })
	return c
}

// file writes a file of 1,000 policies with such names.
func (c *cli) file(prefix string) string {
	c.Helper()
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "- apiVersion: v1\n  kind: policy\n  metadata:\n    name: %s%04d\n  spec:\n    order: %d\n    selector: role == 'r%d'\n"+
			"    ingress:\n    - action: allow\n      protocol: tcp\n      source:\n        selector: role == 'r%d'\n      destination:\n        ports: [80, 443]\n",
			prefix, i, i, i%50, (i+1)%50)
	}
	path := filepath.Join(c.TempDir(), prefix+".yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		c.Fatal(err)
	}
	return path
}

// usage is what a run took.
type usage struct {
	wall, cpu []time.Duration
	peakMB    float64
}

// run runs a command line, which must succeed, and adds what it took.
func (u *usage) run(c *cli, args ...string) string {
	c.Helper()
	out, err := u.try(c, args...)
	if err != nil {
		c.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// try is run for one that may end with an error.
func (u *usage) try(c *cli, args ...string) (string, error) {
	c.Helper()
	var out bytes.Buffer
	cmd := exec.Command(c.path, args...)
	cmd.Env = append([]string{"ETCD_ENDPOINTS=" + c.etcd.Endpoint(), "HOME=/nonexistent"}, c.env...)
	cmd.Dir = c.dir
	cmd.Stdout, cmd.Stderr = &out, &out
	forgetPeak(c)
	start := time.Now()
	err := cmd.Run()
	u.wall = append(u.wall, time.Since(start))
	u.cpu = append(u.cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.peakMB = max(u.peakMB, float64(ru.Maxrss)/1024)
	}
	return out.String(), err
}

// forgetPeak makes the kernel forget how big this process was: a child's peak begins with
// that of its parent.
func forgetPeak(c *cli) {
	c.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		c.Fatal(err)
	}
}

func (u *usage) report(b *testing.B) {
	b.Helper()
	b.ReportMetric(medianMS(u.wall), "p50-ms")
	b.ReportMetric(medianMS(u.cpu), "cpu-ms")
	b.ReportMetric(u.peakMB, "peak-MB")
	b.ReportMetric(0, "ns/op")
}

// medianMS is a median in milliseconds.
func medianMS(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}

// BenchmarkCommands measures whole runs of the program. The floor is a bare request to
// the same etcd.
func BenchmarkCommands(b *testing.B) {
	c := newCLI(b)
	sub := func(name string, f func(c *cli, u *usage)) {
		b.Run(name, func(b *testing.B) {
			u := &usage{}
			f(c.of(b), u)
			if len(u.wall) > 0 {
				u.report(b)
			}
		})
	}
	sub("etcd round trip", func(c *cli, _ *usage) {
		for c.Loop() {
			if err := c.store.Ping(c.Context()); err != nil {
				c.Fatal(err)
			}
		}
	})
	sub("help", func(c *cli, u *usage) {
		for c.Loop() {
			u.run(c, "--help")
		}
	})
	sub("apply 1000 new policies", func(c *cli, u *usage) {
		for i := 0; c.Loop(); i++ {
			c.StopTimer()
			c.etcd.Wipe(c)
			file := c.file(fmt.Sprintf("new%d-", i))
			c.StartTimer()
			u.run(c, "apply", "-f", file)
		}
	})
	sub("apply 1000 unchanged policies", func(c *cli, u *usage) {
		c.etcd.Wipe(c)
		file := c.file("same-")
		new(usage).run(c, "apply", "-f", file)
		for c.Loop() {
			u.run(c, "apply", "-f", file)
		}
	})
	sub("get 1000 policies", func(c *cli, u *usage) {
		for c.Loop() {
			if out := u.run(c, "get", "policies"); strings.Count(out, "\n") < 1000 {
				c.Fatalf("printed only: %s", out)
			}
		}
	})
	sub("ipam show of 5000 blocks", func(c *cli, u *usage) {
		c.etcd.Wipe(c)
		c.fillBlocks(5000)
		for c.Loop() {
			if out := u.run(c, "ipam", "show"); !strings.Contains(out, "320000") {
				c.Fatalf("printed: %s", out)
			}
		}
	})
}

// BenchmarkBigCluster measures whole runs of the program that concern one node or one object
// of a cluster with 100,000 endpoints.
func BenchmarkBigCluster(b *testing.B) {
	c := newCLI(b)
	world{nodes: 1000, endpoints: 100, policies: 10_000, blocks: 5000}.fill(b, c.etcd.Client(b))
	one := endpointKey(777, 42)
	host := c.TempDir()
	policy := filepath.Join(host, "policy.yaml")
	text := "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: new}, spec: {selector: a == 'b'}}"
	if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	c.env = []string{"NODENAME=" + nodeName(777), "IP=" + nodeAddr(777).String(), "WAIT_FOR_DATASTORE=true"}
	c.dir = host
	for _, tt := range []struct {
		name string
		want string
		line []string
	}{
		{"get nodes", nodeName(999), []string{"get", "nodes"}},
		{"node status --all", nodeName(999), []string{"node", "status", "--all"}},
		{"node startup", "Using node name", []string{"node", "startup", "--run-dir=" + host, "--state-dir=" + host}},
		{"get one policy", policyName(7777), []string{"get", "policy", policyName(7777)}},
		{"apply one policy in v3", "unchanged", []string{"apply", "-f", policy}},
		{
			"get one workload endpoint", one.Name,
			[]string{"get", "wep", "--node=" + one.Node, "--orchestrator=libnetwork", "--workload=libnetwork", one.Name},
		},
		{"get the endpoints of a node", one.Name, []string{"get", "wep", "--node=" + one.Node}},
		{"complete policies", policyName(9999), []string{"__complete", "get", "policy", ""}},
		{"complete nodes", nodeName(999), []string{"__complete", "get", "node", ""}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			u, c := &usage{}, c.of(b)
			u.run(c, tt.line...)
			*u = usage{}
			for c.Loop() {
				if out := u.run(c, tt.line...); !strings.Contains(out, tt.want) {
					c.Fatalf("no %q in: %s", tt.want, out)
				}
			}
			u.report(b)
		})
	}
}

// fillBlocks gives out all addresses of so many blocks to 50 nodes.
func (c *cli) fillBlocks(blocks int) {
	c.Helper()
	pool := netip.MustParsePrefix("10.0.0.0/8")
	if _, _, err := c.store.Apply(c.Context(), model.IPPoolKey{CIDR: pool}, &model.IPPool{CIDR: pool, IPAM: true}); err != nil {
		c.Fatal(err)
	}
	var writes []etcdstore.Write
	for i := range blocks {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26)
		write, err := etcdstore.PutWrite(model.BlockKey{CIDR: cidr}, fullBlock(cidr, fmt.Sprint("node", i%50)))
		if err != nil {
			c.Fatal(err)
		}
		if writes = append(writes, write); len(writes) < 50 && i < blocks-1 {
			continue
		}
		if _, err := c.store.Commit(c.Context(), writes...); err != nil {
			c.Fatal(err)
		}
		writes = nil
	}
}

// fullBlock has 64 addresses of 64 containers.
func fullBlock(cidr netip.Prefix, node string) *model.Block {
	b := &model.Block{CIDR: cidr, Affinity: new("host:" + node), Unallocated: []int{}}
	for i := range 64 {
		b.Allocations = append(b.Allocations, new(i))
		b.Attributes = append(b.Attributes, model.BlockAttributes{
			HandleID:  new(fmt.Sprintf("0123456789abcdef-%s-%d", cidr.Addr(), i)),
			Secondary: map[string]string{ipam.AttrNode: node, ipam.AttrTimestamp: "2026-01-02T03:04:05.123456Z", ipam.AttrNetwork: "net1"},
		})
	}
	return b
}
