package calicoctl_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// addressed is a cluster whose blocks are full, with a handle of each address.
type addressed struct {
	nodes, blocks int // blocks of each node
	// endpoints says that there are those which the addresses were given to.
	endpoints bool
}

// BenchmarkIPAMCheck measures whole runs of the commands that compare all addresses: of
// 100,000 endpoints, and of 320,000 addresses that have no endpoint, each of which is a
// problem.
func BenchmarkIPAMCheck(b *testing.B) {
	for _, world := range []struct {
		name    string
		cluster addressed
		most    float64 // megabytes
		found   string
	}{
		{"100000 endpoints", addressed{nodes: 250, blocks: 7, endpoints: true}, 120, "found 0 problems"},
		{"320000 addresses without endpoints", addressed{nodes: 500, blocks: 10}, 200, "found 320000 problems"},
	} {
		b.Run(world.name, func(b *testing.B) { measureChecks(b, world.cluster, world.most, world.found) })
	}
}

// BenchmarkDeleteEndpoint is the deletion of one endpoint of 100,000, for which it is looked up
// whether another one has its address. The floor is the reading of all endpoints.
func BenchmarkDeleteEndpoint(b *testing.B) {
	c, u := newCLI(b), &usage{}
	addressed{nodes: 250, blocks: 7, endpoints: true}.fill(b, c.etcd.Client(b))
	keys, _, err := c.store.Keys(b.Context(), model.KindWorkloadEndpoint, model.Scope{Node: nodeName(7)}, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("floor", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			start := time.Now()
			n := 0
			_, _, err := etcdstore.GatherValues(b.Context(), c.store, model.ListPrefixes(model.KindWorkloadEndpoint), func(model.Key, []byte) (struct{}, bool) {
				n++
				return struct{}{}, false
			})
			if err != nil || n < 100_000 {
				b.Fatal(n, err)
			}
			took = append(took, time.Since(start))
		}
		b.ReportMetric(medianMS(took), "p50-ms")
		b.ReportMetric(0, "ns/op")
	})
	b.Run("delete", func(b *testing.B) {
		c := c.of(b)
		for b.Loop() {
			k, _ := keys[0].(model.WorkloadEndpointKey)
			keys = keys[1:]
			u.run(c, "delete", "wep", "--node="+k.Node, "--orchestrator="+k.Orchestrator, "--workload="+k.Workload, k.Name)
		}
		u.report(b)
		if u.peakMB > 45 {
			b.Errorf("it took %.0f MB", u.peakMB)
		}
	})
}

// measureChecks measures the commands with a cluster: what a check says that it found, and
// the most memory in megabytes that each takes.
func measureChecks(b *testing.B, cluster addressed, most float64, found string) {
	b.Helper()
	c := newCLI(b)
	cluster.fill(b, c.etcd.Client(b))
	report := filepath.Join(b.TempDir(), "report.json")
	for _, tt := range []struct {
		name, want string
		line       []string
	}{
		{"check", found, []string{"ipam", "check"}},
		{"check with a report", found, []string{"ipam", "check", "-o", report}},
		{"check and mend", found, []string{"ipam", "check", "--fix", "--grace=1s"}},
		{"show borrowed", "No addresses are borrowed", []string{"ipam", "show", "--show-borrowed"}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			c, u := c.of(b), &usage{}
			c.env = []string{"NODENAME=elsewhere", "DOCKER_HOST=unix:///nonexistent"}
			for b.Loop() {
				if out, err := u.try(c, tt.line...); !strings.Contains(out, tt.want) { // that something was found is an error too
					b.Fatalf("no %q in: %.2000s (%v)", tt.want, out, err)
				}
			}
			u.report(b)
			if u.peakMB > most {
				b.Errorf("it took %.0f MB, more than %.0f", u.peakMB, most)
			}
		})
	}
}

// fill writes the cluster into an empty store, as the plugin does.
func (a addressed) fill(b *testing.B, client *clientv3.Client) {
	b.Helper()
	var ops []clientv3.Op
	commit := func() {
		if _, err := client.Txn(b.Context()).Then(ops...).Commit(); err != nil {
			b.Fatal(err)
		}
		ops = ops[:0]
	}
	a.all(func(k model.Key, r model.Resource) {
		parts, err := model.Encode(k, r)
		if err != nil {
			b.Fatal(k, err)
		}
		for path, value := range parts {
			ops = append(ops, clientv3.OpPut(path, string(value)))
		}
		if len(ops) >= fillOps-8 {
			commit()
		}
	})
	commit()
}

// all gives everything of the cluster to put.
func (a addressed) all(put func(model.Key, model.Resource)) {
	ready := model.Ready(true)
	put(model.ReadyKey{}, &ready)
	pool := netip.MustParsePrefix("10.0.0.0/8")
	put(model.IPPoolKey{CIDR: pool}, &model.IPPool{CIDR: pool, IPAM: true})
	for n := range a.nodes {
		put(model.NodeKey{Name: nodeName(n)}, &model.Node{IPv4: nodeAddr(n)})
		for i := range a.blocks {
			a.block(nodeName(n), blockCIDR(n*a.blocks+i), put)
		}
	}
}

// block gives a block of a node with all its addresses in use.
func (a addressed) block(node string, cidr netip.Prefix, put func(model.Key, model.Resource)) {
	put(model.BlockAffinityKey{Node: node, CIDR: cidr}, &model.BlockAffinity{State: model.AffinityConfirmed})
	b := fullBlock(cidr, node)
	addr := cidr.Addr()
	for i := range b.Attributes {
		id := fmt.Sprintf("%x%056x", addr.As4(), i)
		b.Attributes[i].HandleID = &id
		b.Attributes[i].Secondary[ipam.AttrEndpoint] = id
		b.Attributes[i].Secondary[ipam.AttrContainer] = fmt.Sprintf("shop-web-%d", i)
		put(model.HandleKey{ID: id}, &model.Handle{HandleID: id, Block: map[string]int{cidr.String(): 1}})
		if a.endpoints {
			put(model.WorkloadEndpointKey{Node: node, Orchestrator: "libnetwork", Workload: "libnetwork", Name: id}, &model.WorkloadEndpoint{
				State: "active", Interface: "cali" + id[:11], MAC: "ee:ee:ee:ee:ee:ee", Profiles: []string{"net1"},
				IPv4Nets: []netip.Prefix{netip.PrefixFrom(addr, 32)}, Labels: map[string]string{"role": "web", "app": "shop"},
			})
		}
		addr = addr.Next()
	}
	put(model.BlockKey{CIDR: cidr}, b)
}
