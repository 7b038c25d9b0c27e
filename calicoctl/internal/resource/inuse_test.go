package resource

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// TestDeletionDecidesInItsTransaction lets a user come between the look and the
// deletion: nothing is deleted, and the next look names the user.
func TestDeletionDecidesInItsTransaction(t *testing.T) {
	endpoint := &model.WorkloadEndpoint{State: "active", Interface: "cali0", Profiles: []string{"net1"}}
	rule := model.Rule{Action: model.ActionDeny, Source: model.Match{Selector: "kind == 'bad'"}}
	for _, tc := range []struct {
		name, doc string
		came      model.Key
		as        model.Resource
		want      string
	}{
		{
			"node with an endpoint", "{apiVersion: v1, kind: node, metadata: {name: h0}}",
			model.WorkloadEndpointKey{Node: "h0", Orchestrator: "o", Workload: "w", Name: "e"},
			endpoint, "node(name=h0) has 1 endpoint; ",
		},
		{
			"node with a program", "{apiVersion: v1, kind: node, metadata: {name: h0}}",
			model.LivenessKey{Node: "h0", Program: "felix"},
			&model.Liveness{Version: "v1"}, "node(name=h0) is alive (felix); ",
		},
		{
			"profile", "{apiVersion: v1, kind: profile, metadata: {name: net1}}",
			model.WorkloadEndpointKey{Node: "h0", Orchestrator: "o", Workload: "w", Name: "e"},
			endpoint, "profile(name=net1) is named by 1 endpoint on h0; ",
		},
		{
			"network set", "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: s, labels: {kind: bad}}, spec: {nets: [203.0.113.0/24]}}",
			model.PolicyKey{Name: "p"},
			&model.Policy{InboundRules: []model.Rule{rule}}, "networkSet(name=s) is selected by rules of policy(name=p); ",
		},
		{
			"tier", "{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}}",
			model.PolicyKey{Tier: "security", Name: "p"},
			&model.Policy{}, "tier(name=security) holds policy(tier=security, name=p); ",
		},
		{
			"endpoint", endpointManifest,
			model.LivenessKey{Node: "h0", Program: "felix"},
			&model.Liveness{Version: "v1"}, "workloadEndpoint(node=h0, orchestrator=o, workload=w, name=e) is on a node that is alive; ",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, ctx, objs := newStore(t), t.Context(), objects(t, tc.doc)
			if _, err := s.Write(ctx, Create, objs); err != nil {
				t.Fatal(err)
			}
			todo, err := s.deletable(ctx, objs, Deletion{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.etcd.Create(ctx, tc.came, tc.as); err != nil {
				t.Fatal(err)
			}
			if n, err := s.deleteNext(ctx, todo); !errors.Is(err, etcdstore.ErrConflict) || n > 0 {
				t.Errorf("deleted %d, error %v, want a conflict", n, err)
			}
			if _, err := s.Delete(ctx, objs, Deletion{}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if _, err := s.etcd.Get(ctx, objs[0].Key); err != nil {
				t.Error(err)
			}
			if _, err := s.Delete(ctx, objs, Deletion{Force: true}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDeletionRestsOnWhatItRead lets somebody change an object between the look and its
// deletion: the next look decides by what it holds by then. A forced deletion does not care.
func TestDeletionRestsOnWhatItRead(t *testing.T) {
	set := model.NetworkSetKey{Name: "s"}
	nets := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	rule := model.Rule{Action: model.ActionDeny, Source: model.Match{Selector: "kind == 'bad'"}}
	given := netip.MustParseAddr("192.168.3.6")
	for _, tc := range []struct {
		name, doc string
		key       model.Key
		as        model.Resource
		refusal   string // of the next look; it deletes when there is none
	}{
		{
			"a set gets the label that a rule selects", v3Manifest("GlobalNetworkSet", "metadata: {name: s}, spec: {nets: [203.0.113.0/24]}"),
			set, &model.NetworkSet{Labels: map[string]string{"kind": "bad"}, Nets: nets}, "networkSet(name=s) is selected by rules of policy(name=p); ",
		},
		{
			"an endpoint gets an address", endpointManifest, endpointKey,
			&model.WorkloadEndpoint{State: "active", Interface: "cali0", IPv4Nets: []netip.Prefix{netip.PrefixFrom(given, 32)}}, "",
		},
	} {
		for _, how := range []Deletion{{}, {Force: true}} {
			t.Run(fmt.Sprintf("%s, forced %t", tc.name, how.Force), func(t *testing.T) {
				s, ctx, objs := newStore(t), t.Context(), objects(t, tc.doc)
				if _, err := s.Write(ctx, Create, append(objects(t, poolManifest), objs...)); err != nil {
					t.Fatal(err)
				}
				if _, err := s.etcd.Create(ctx, model.PolicyKey{Name: "p"}, &model.Policy{InboundRules: []model.Rule{rule}}); err != nil {
					t.Fatal(err)
				}
				node := ipam.New(s.etcd, "h0")
				if err := node.Assign(ctx, given, ipam.Owner{}); err != nil {
					t.Fatal(err)
				}
				todo, err := s.deletable(ctx, objs, how)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.etcd.Update(ctx, tc.key, tc.as, 0); err != nil {
					t.Fatal(err)
				}
				n, err := s.deleteNext(ctx, todo)
				if how.Force {
					if n != 1 || err != nil {
						t.Errorf("deleted %d, %v", n, err)
					}
					return
				}
				if !errors.Is(err, etcdstore.ErrConflict) || n > 0 {
					t.Errorf("deleted %d, error %v, want a conflict", n, err)
				}
				_, err = s.Delete(ctx, objs, how)
				if tc.refusal != "" {
					if err == nil || !strings.Contains(err.Error(), tc.refusal) {
						t.Errorf("error %v, want %q", err, tc.refusal)
					}
					return
				}
				if _, lookup := node.Lookup(ctx, given); err != nil || !errors.Is(lookup, ipam.ErrNotAssigned) {
					t.Errorf("deleted: %v; its address: %v", err, lookup)
				}
			})
		}
	}
}

const endpointManifest = "{apiVersion: v1, kind: workloadEndpoint, metadata: {name: e, node: h0, orchestrator: o, workload: w}, " +
	"spec: {interfaceName: cali0, ipNetworks: [192.168.3.4/32, 192.168.3.5/32]}}"

var endpointKey = model.WorkloadEndpointKey{Node: "h0", Orchestrator: "o", Workload: "w", Name: "e"}

// TestEndpointOfALivingContainer is deleted only when that is forced, and its addresses are
// free then, but for one that has come to another.
func TestEndpointOfALivingContainer(t *testing.T) {
	for _, tc := range []struct {
		name, status string
		alive        bool
		refused      bool
	}{
		{"up", model.EndpointUp, true, true},
		{"felix does not tell", "", true, true},
		{"down", model.EndpointDown, true, false},
		{"of a dead node", model.EndpointUp, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, ctx := newStore(t), t.Context()
			objs := objects(t, endpointManifest)
			if _, err := s.Write(ctx, Create, append(objects(t, poolManifest), objs...)); err != nil {
				t.Fatal(err)
			}
			mine, others := netip.MustParseAddr("192.168.3.4"), netip.MustParseAddr("192.168.3.5")
			node := ipam.New(s.etcd, "h0")
			for a, handle := range map[netip.Addr]string{mine: "e", others: "another"} {
				if err := node.Assign(ctx, a, ipam.Owner{Handle: handle}); err != nil {
					t.Fatal(err)
				}
			}
			other := endpointKey
			other.Name = "another"
			if _, err := s.etcd.Create(ctx, other, &model.WorkloadEndpoint{State: "active", Interface: "cali1"}); err != nil {
				t.Fatal(err)
			}
			if tc.alive {
				if _, err := s.etcd.Create(ctx, model.LivenessKey{Node: "h0", Program: "felix"}, &model.Liveness{Version: "v1"}); err != nil {
					t.Fatal(err)
				}
			}
			if tc.status != "" {
				if _, err := s.etcd.Create(ctx, model.EndpointStatusKey(endpointKey), &model.EndpointStatus{Status: tc.status}); err != nil {
					t.Fatal(err)
				}
			}
			_, err := s.Delete(ctx, objs, Deletion{})
			if refused := err != nil && strings.Contains(err.Error(), "is on a node that is alive; remove its container instead, or use --force"); refused != tc.refused || err != nil && !refused {
				t.Errorf("error %v, want a refusal: %t", err, tc.refused)
			}
			if tc.refused {
				if _, err := s.etcd.Get(ctx, endpointKey); err != nil {
					t.Errorf("after the refusal: %v", err)
				}
				if _, err := s.Delete(ctx, objs, Deletion{Force: true}); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.etcd.Get(ctx, endpointKey); !errors.Is(err, etcdstore.ErrNotFound) {
				t.Errorf("the endpoint: %v", err)
			}
			if _, err := node.Lookup(ctx, mine); !errors.Is(err, ipam.ErrNotAssigned) {
				t.Errorf("its address: %v", err)
			}
			if who, err := node.Lookup(ctx, others); err != nil || who.Handle != "another" {
				t.Errorf("another's address: %v, %v", who, err)
			}
		})
	}
}

// TestUnreadableEndpointGivesItsAddressesBack deletes one whose addresses nobody can read.
func TestUnreadableEndpointGivesItsAddressesBack(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := s.Write(ctx, Create, objects(t, poolManifest)); err != nil {
		t.Fatal(err)
	}
	node, addr := ipam.New(s.etcd, "h0"), netip.MustParseAddr("192.168.3.4")
	if err := node.Assign(ctx, addr, ipam.Owner{Handle: "e"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.etcd.Raw().Put(ctx, model.Paths(endpointKey)[0], "{"); err != nil {
		t.Fatal(err)
	}
	if done, err := s.Delete(ctx, objects(t, endpointManifest), Deletion{}); err != nil || did(done) != "deleted" {
		t.Errorf("%s, %v", did(done), err)
	}
	if _, err := node.Lookup(ctx, addr); !errors.Is(err, ipam.ErrNotAssigned) {
		t.Errorf("its address: %v", err)
	}
}

// TestPoolComesIntoUse lets an address be given out between the look and the deletion:
// the pool stays, and can be used on.
func TestPoolComesIntoUse(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	objs := objects(t, "{apiVersion: v1, kind: ipPool, metadata: {cidr: 192.168.0.0/16}}")
	if _, err := s.Write(ctx, Create, objs); err != nil {
		t.Fatal(err)
	}
	todo, err := s.deletable(ctx, objs, Deletion{})
	if err != nil {
		t.Fatal(err)
	}
	node := ipam.New(s.etcd, "h0")
	if err := node.Assign(ctx, netip.MustParseAddr("192.168.3.4"), ipam.Owner{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.deleteNext(ctx, todo); err == nil || !strings.Contains(err.Error(), "has 1 address in use; ") {
		t.Errorf("error %v, want the number of addresses", err)
	}
	if _, err := node.AutoAssign(ctx, ipam.Request{IPv4: 1}); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
}

// TestPoolDeletionBreaksOff lets a deletion come to nothing after the pool was disabled: the
// pool can be used on.
func TestPoolDeletionBreaksOff(t *testing.T) {
	for _, tc := range []struct {
		name string
		how  Deletion
		// breakOff comes between at the start.
		breakOff func(t *testing.T, s *Store, cancel context.CancelFunc)
		why      error
	}{
		{"interrupted", Deletion{}, cancelOnceDisabled, context.Canceled},
		{"interrupted, forced", Deletion{Force: true}, cancelOnceDisabled, context.Canceled},
		{"locked meanwhile", Deletion{}, func(t *testing.T, s *Store, _ context.CancelFunc) {
			if _, err := s.Lock(t.Context(), &model.Lock{By: "ann@host1"}); err != nil {
				t.Error(err)
			}
		}, etcdstore.ErrLocked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t)
			objs := objects(t, poolManifest)
			if _, err := s.Write(t.Context(), Create, objs); err != nil {
				t.Fatal(err)
			}
			claimBlocks(t, s, 100) // to give back all of them takes a while
			todo, err := s.deletable(t.Context(), objs, tc.how)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			tc.breakOff(t, s, cancel)
			if _, err := s.deleteNext(ctx, todo); !errors.Is(err, tc.why) {
				t.Fatalf("error %v, want %v", err, tc.why)
			}
			if _, err := s.Unlock(t.Context(), Unlocking{NewGUID: "new"}); err != nil {
				t.Fatal(err)
			}
			if _, err := ipam.New(s.etcd, "h0").AutoAssign(t.Context(), ipam.Request{IPv4: 1}); err != nil {
				t.Errorf("after the deletion: %v", err)
			}
		})
	}
}

const poolManifest = "{apiVersion: v1, kind: ipPool, metadata: {cidr: 192.168.0.0/16}}"

// cancelOnceDisabled cancels as soon as the pool is written.
func cancelOnceDisabled(t *testing.T, s *Store, cancel context.CancelFunc) {
	pool := model.IPPoolKey{CIDR: netip.MustParsePrefix("192.168.0.0/16")}
	written := s.etcd.Raw().Watch(clientv3.WithRequireLeader(t.Context()), model.Paths(pool)[0], clientv3.WithCreatedNotify())
	<-written // the watch stands
	go func() {
		<-written
		cancel()
	}()
}

// claimBlocks makes n nodes that have a block each, without an address in use.
func claimBlocks(t *testing.T, s *Store, n int) {
	t.Helper()
	for i := range n {
		node := ipam.New(s.etcd, fmt.Sprint("node", i))
		addrs, err := node.AutoAssign(t.Context(), ipam.Request{IPv4: 1})
		if err == nil {
			_, err = node.Release(t.Context(), addrs...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// counting counts the keys with values that etcd answers with.
type counting struct {
	clientv3.KV
	n int
}

func (c *counting) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := c.KV.Get(ctx, key, opts...)
	if err == nil {
		c.n += len(resp.Kvs)
	}
	return resp, err
}

// TestDeletionReadsWhatItHasTo deletes in a cluster with many endpoints.
func TestDeletionReadsWhatItHasTo(t *testing.T) {
	const endpoints = 300
	for _, tc := range []struct {
		name, doc string
		how       Deletion
		most      int
	}{
		{"a node", "{apiVersion: v1, kind: node, metadata: {name: n1}}", Deletion{}, 30},
		{"a node, forced", "{apiVersion: v1, kind: node, metadata: {name: n0}}", Deletion{Force: true}, 60},
		{"a profile", "{apiVersion: v1, kind: profile, metadata: {name: unused}}", Deletion{}, endpoints + 30},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, ctx, objs := newStore(t), t.Context(), objects(t, tc.doc)
			if _, err := s.Write(ctx, Create, objs); err != nil {
				t.Fatal(err)
			}
			put := func(k model.Key, r model.Resource) {
				if _, err := s.etcd.Create(ctx, k, r); err != nil {
					t.Fatal(err)
				}
			}
			for i := range endpoints {
				node := fmt.Sprint("n", i/10*10) // a node n0, and none n1
				name := fmt.Sprint("e", i)
				put(model.WorkloadEndpointKey{Node: node, Orchestrator: "o", Workload: "w", Name: name}, &model.WorkloadEndpoint{State: "active", Interface: "cali0", Profiles: []string{"net1"}})
				put(model.EndpointStatusKey{Node: node, Orchestrator: "o", Workload: "w", Name: name}, &model.EndpointStatus{Status: model.EndpointUp})
			}
			mine := objs[0].Key
			if k, ok := mine.(model.NodeKey); ok {
				for _, k := range []model.Key{
					model.FelixConfigKey{Node: k.Name, Name: "LogSeverityScreen"}, model.BGPConfigKey{Node: k.Name, Name: "loglevel"},
				} {
					put(k, &model.Setting{Of: k.Kind(), Value: "info"})
				}
				put(model.FelixStatusKey{Node: k.Name}, &model.FelixStatus{})
				put(model.HistoryKey{Node: k.Name}, &model.History{Count: 1})
				put(model.ConfigurationKey{Of: model.FelixConfigurations, Name: "node." + k.Name}, &model.Configuration{})
				put(model.ConfigurationKey{Of: model.FelixConfigurations, Name: "node." + k.Name + "9"}, &model.Configuration{})
			}
			count := &counting{KV: s.etcd.Raw().KV}
			s.etcd.Raw().KV = count
			if _, err := s.Delete(ctx, objs, tc.how); err != nil {
				t.Fatal(err)
			}
			s.etcd.Raw().KV = count.KV
			if count.n > tc.most {
				t.Errorf("%d keys were read, want at most %d", count.n, tc.most)
			}
			if k, ok := mine.(model.NodeKey); ok {
				left, _, bad, err := s.etcd.ListUnder(ctx, []string{"/calico/"}, func(of model.Key) bool { return scopeOf(of) == k.Name })
				if err != nil || len(left)+len(bad) > 0 {
					t.Errorf("left of the node: %v, %v, %v", left, bad, err)
				}
				if _, err := s.etcd.Get(ctx, model.ConfigurationKey{Of: model.FelixConfigurations, Name: "node." + k.Name + "9"}); err != nil {
					t.Errorf("another node's configuration: %v", err)
				}
			}
		})
	}
}

// TestManyDeletionsWithConditions has more objects with conditions than one transaction takes.
func TestManyDeletionsWithConditions(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	objs := objects(t, profiles(90, "a"))
	if _, err := s.Write(ctx, Create, objs); err != nil {
		t.Fatal(err)
	}
	done, err := s.Delete(ctx, objs, Deletion{})
	if err != nil || len(done) != len(objs) {
		t.Errorf("%d of %d deleted, %v", len(done), len(objs), err)
	}
}
