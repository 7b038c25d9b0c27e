package calicoctl_test

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
)

// world is how much a cluster has, endpoints being those of each node.
type world struct{ nodes, endpoints, policies, blocks int }

func nodeName(i int) string { return fmt.Sprintf("node%04d", i) }

func nodeAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)}) }

// endpointKey is the key of an endpoint of a node.
func endpointKey(node, i int) model.WorkloadEndpointKey {
	var id [32]byte
	id[0], id[1], id[2], id[3] = byte(i), byte(node>>8), byte(node), byte(i>>8)
	return model.WorkloadEndpointKey{Node: nodeName(node), Orchestrator: "libnetwork", Workload: "libnetwork", Name: hex.EncodeToString(id[:])}
}

func policyName(i int) string { return fmt.Sprintf("policy%05d", i) }

func blockCIDR(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26)
}

// all gives everything of the world to put.
func (w world) all(put func(model.Key, model.Resource)) {
	ready := model.Ready(true)
	put(model.ReadyKey{}, &ready)
	put(model.FelixConfigKey{Name: model.ClusterGUID}, &model.Setting{Of: model.KindFelixConfig, Value: "0123456789abcdef0123456789abcdef"})
	pool := netip.MustParsePrefix("10.0.0.0/8")
	put(model.IPPoolKey{CIDR: pool}, &model.IPPool{CIDR: pool, IPAM: true})
	put(model.ProfileKey{Name: "net1"}, &model.Profile{Tags: []string{"net1"}})
	for n := range w.nodes {
		w.node(n, put)
	}
	for i := range w.policies {
		put(model.NewPolicyKey("", policyName(i)), &model.Policy{
			Order: new(float64(i)), Selector: fmt.Sprintf("role == 'r%d'", i%50), Types: []string{"ingress"},
			InboundRules: []model.Rule{{Action: model.ActionAllow, Source: model.Match{Selector: fmt.Sprintf("role == 'r%d'", i%49)}}},
		})
	}
	for i := range w.blocks {
		put(model.BlockKey{CIDR: blockCIDR(i)}, fullBlock(blockCIDR(i), nodeName(i%w.nodes)))
	}
}

func (w world) node(n int, put func(model.Key, model.Resource)) {
	put(model.NodeKey{Name: nodeName(n)}, &model.Node{IPv4: nodeAddr(n), IPv4Net: netip.PrefixFrom(nodeAddr(n), 16).Masked(), Labels: map[string]string{"rack": fmt.Sprint("r", n%40)}})
	put(model.HostEndpointKey{Node: nodeName(n), Name: "eth0"}, &model.HostEndpoint{Interface: "eth0"})
	put(model.FelixConfigKey{Node: nodeName(n), Name: "LogPrefix"}, &model.Setting{Of: model.KindFelixConfig, Value: "calico"})
	now := time.Now().UTC()
	for _, program := range []string{"felix", "bgpd", "confd", "libnetwork"} {
		put(model.LivenessKey{Node: nodeName(n), Program: program}, &model.Liveness{Version: "v0.1.0", Started: now, Ready: true})
	}
	put(model.FelixStatusKey{Node: nodeName(n), Last: true}, &model.FelixStatus{Time: now})
	for i := range w.endpoints {
		k, at := endpointKey(n, i), n*w.endpoints+i
		addr := netip.AddrFrom4([4]byte{10, byte(at >> 16), byte(at >> 8), byte(at)})
		put(k, &model.WorkloadEndpoint{
			State: "active", Interface: "cali" + k.Name[:11], MAC: "ee:ee:ee:ee:ee:ee", Profiles: []string{"net1"},
			IPv4Nets: []netip.Prefix{netip.PrefixFrom(addr, 32)}, Labels: map[string]string{"role": fmt.Sprint("r", i%50), "app": "web"},
		})
		put(model.EndpointStatusKey(k), &model.EndpointStatus{Status: model.EndpointUp})
	}
}

// The limits of the transactions that fill a store.
const (
	fillOps, fillSize = 100, 1 << 20
	fillers           = 4
)

// fill writes the world into an empty store, in big transactions.
func (w world) fill(tb testing.TB, client *clientv3.Client) {
	tb.Helper()
	transactions, results := make(chan []clientv3.Op), make(chan error, fillers)
	for range fillers {
		go func() {
			var failed error
			for ops := range transactions {
				if failed == nil {
					_, failed = client.Txn(tb.Context()).Then(ops...).Commit()
				}
			}
			results <- failed
		}()
	}
	var ops []clientv3.Op
	size := 0
	flush := func() {
		transactions <- ops
		ops, size = nil, 0
	}
	w.all(func(k model.Key, r model.Resource) {
		parts, err := model.Encode(k, r)
		if err != nil {
			tb.Error(k, err)
		}
		for path, value := range parts {
			ops, size = append(ops, clientv3.OpPut(path, string(value))), size+len(path)+len(value)
		}
		if len(ops) >= fillOps-8 || size >= fillSize {
			flush()
		}
	})
	flush()
	close(transactions)
	for range fillers {
		if err := <-results; err != nil {
			tb.Fatal(err)
		}
	}
}
