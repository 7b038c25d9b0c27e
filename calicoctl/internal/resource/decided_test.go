package resource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// hooked is a connection to etcd that calls before each transaction that changes anything,
// and does what it says in place of the transaction when that is an error. The transactions
// are counted from 1.
type hooked struct {
	clientv3.KV
	before func(n int) error
	n      int
}

// hook puts one in front of a store's connection.
func hook(s *Store, before func(n int) error) *hooked {
	h := &hooked{KV: s.etcd.Raw().KV, before: before}
	s.etcd.Raw().KV = h
	return h
}

func (h *hooked) Txn(ctx context.Context) clientv3.Txn {
	return &hookedTxn{Txn: h.KV.Txn(ctx), of: h}
}

type hookedTxn struct {
	clientv3.Txn
	of     *hooked
	writes bool
}

func (x *hookedTxn) If(cs ...clientv3.Cmp) clientv3.Txn { x.Txn = x.Txn.If(cs...); return x }
func (x *hookedTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	x.Txn = x.Txn.Else(ops...)
	return x
}

func (x *hookedTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	for _, op := range ops {
		x.writes = x.writes || op.IsPut() || op.IsDelete()
	}
	x.Txn = x.Txn.Then(ops...)
	return x
}

func (x *hookedTxn) Commit() (*clientv3.TxnResponse, error) {
	if x.writes {
		x.of.n++
		if err := x.of.before(x.of.n); err != nil {
			return nil, err
		}
	}
	return x.Txn.Commit()
}

// another is a store of the same etcd by another connection.
func another(t *testing.T, of *Store) *Store {
	t.Helper()
	c, err := etcdstore.New(etcdstore.Config{Endpoints: of.etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return New(c)
}

func v3Manifest(kind, rest string) string {
	return "{apiVersion: projectcalico.org/v3, kind: " + kind + ", " + rest + "}"
}

// TestWritesDecideInTheirTransaction lets somebody else write, between the look and the
// transaction, what stands against the write: that is refused as if it had been there before.
func TestWritesDecideInTheirTransaction(t *testing.T) {
	for _, tc := range []struct {
		name, before, write, meanwhile, want string
		remove                               bool // meanwhile is deleted
	}{
		{
			name:      "pools that overlap",
			write:     "{apiVersion: v1, kind: ipPool, metadata: {cidr: 10.0.0.0/16}}",
			meanwhile: "{apiVersion: v1, kind: ipPool, metadata: {cidr: 10.0.8.0/21}}",
			want:      "overlaps ipPool(cidr=10.0.8.0/21)",
		},
		{
			name:      "IPv6 pools that overlap",
			write:     "{apiVersion: v1, kind: ipPool, metadata: {cidr: 'fd00:1::/48'}}",
			meanwhile: "{apiVersion: v1, kind: ipPool, metadata: {cidr: 'fd00:1::/64'}}",
			want:      "overlaps ipPool(cidr=fd00:1::/64)",
		},
		{
			name:      "nodes with one address",
			write:     "{apiVersion: v1, kind: node, metadata: {name: a}, spec: {bgp: {ipv4Address: 192.0.2.1}}}",
			meanwhile: "{apiVersion: v1, kind: node, metadata: {name: b}, spec: {bgp: {ipv4Address: 192.0.2.1}}}",
			want:      "node(name=a) has the address 192.0.2.1 of node(name=b)",
		},
		{
			name:      "a node that moves to an address",
			before:    "{apiVersion: v1, kind: node, metadata: {name: a}, spec: {bgp: {ipv6Address: 'fd00::1'}}}",
			write:     "{apiVersion: v1, kind: node, metadata: {name: a}, spec: {bgp: {ipv6Address: 'fd00::2'}}}",
			meanwhile: "{apiVersion: v1, kind: node, metadata: {name: b}, spec: {bgp: {ipv6Address: 'fd00::2'}}}",
			want:      "node(name=a) has the address fd00::2 of node(name=b)",
		},
		{
			name:      "pools of one name",
			write:     v3Manifest("IPPool", "metadata: {name: p}, spec: {cidr: 10.1.0.0/16}"),
			meanwhile: v3Manifest("IPPool", "metadata: {name: p}, spec: {cidr: 10.2.0.0/16}"),
			want:      "IPPool(p) is the name of ipPool(cidr=10.2.0.0/16)",
		},
		{
			name:      "peers of one name",
			write:     v3Manifest("BGPPeer", "metadata: {name: p}, spec: {peerIP: 192.0.2.1, asNumber: 1}"),
			meanwhile: v3Manifest("BGPPeer", "metadata: {name: p}, spec: {peerIP: 192.0.2.2, asNumber: 1}"),
			want:      "BGPPeer(p) is the name of bgpPeer(",
		},
		{
			name:      "host endpoints of one name",
			write:     v3Manifest("HostEndpoint", "metadata: {name: h}, spec: {node: a, interfaceName: eth0}"),
			meanwhile: v3Manifest("HostEndpoint", "metadata: {name: h}, spec: {node: b, interfaceName: eth0}"),
			want:      "HostEndpoint(h) is the name of hostEndpoint(",
		},
		{
			name:      "policies of one name",
			before:    v3Manifest("Tier", "metadata: {name: t}, spec: {order: 1}"),
			write:     v3Manifest("GlobalNetworkPolicy", "metadata: {name: p}"),
			meanwhile: v3Manifest("GlobalNetworkPolicy", "metadata: {name: p}, spec: {tier: t}"),
			want:      "GlobalNetworkPolicy(p) is the name of policy(tier=t, name=p)",
		},
		{
			name:      "a policy of v1 with the name of one in another tier",
			before:    v3Manifest("Tier", "metadata: {name: t}, spec: {order: 1}"),
			write:     "{apiVersion: v1, kind: policy, metadata: {name: p}}",
			meanwhile: v3Manifest("GlobalNetworkPolicy", "metadata: {name: p}, spec: {tier: t}"),
			want:      "the name is that of policy(tier=t, name=p)",
		},
		{
			name:  "a policy of v1 with the name of one in a tier that is new",
			write: "{apiVersion: v1, kind: policy, metadata: {name: p}}",
			meanwhile: "- " + v3Manifest("Tier", "metadata: {name: t}, spec: {order: 1}") + "\n- " +
				v3Manifest("GlobalNetworkPolicy", "metadata: {name: p}, spec: {tier: t}"),
			want: "the name is that of policy(tier=t, name=p)",
		},
		{
			name:      "a policy whose tier goes",
			before:    v3Manifest("Tier", "metadata: {name: t}, spec: {order: 1}"),
			write:     v3Manifest("GlobalNetworkPolicy", "metadata: {name: p}, spec: {tier: t}"),
			meanwhile: v3Manifest("Tier", "metadata: {name: t}"),
			remove:    true,
			want:      "spec.tier: there is no tier t",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, ctx := newStore(t), t.Context()
			other := another(t, s)
			if tc.before != "" {
				if _, err := s.Write(ctx, Create, objects(t, tc.before)); err != nil {
					t.Fatal(err)
				}
			}
			hook(s, func(n int) error {
				if n > 1 {
					return nil
				}
				if tc.remove {
					_, err := other.Delete(ctx, objects(t, tc.meanwhile), Deletion{})
					return err
				}
				_, err := other.Write(ctx, Create, objects(t, tc.meanwhile))
				return err
			})
			done, err := s.Write(ctx, Apply, objects(t, tc.write))
			if err == nil || !strings.Contains(err.Error(), tc.want) || len(done) > 0 {
				t.Errorf("%q, error %v, want %q", did(done), err, tc.want)
			}
		})
	}
}

// TestParallelWriters lets two write what cannot be together at once, again and again:
// one of them always fails.
func TestParallelWriters(t *testing.T) {
	s := newStore(t)
	stores := []*Store{s, another(t, s)}
	ctx := t.Context()
	for round := range 20 {
		both := func(i int) []manifest.Object {
			return objects(t, fmt.Sprintf("- {apiVersion: v1, kind: ipPool, metadata: {cidr: 10.%d.0.0/%d}}\n"+
				"- {apiVersion: v1, kind: node, metadata: {name: n%d-%d}, spec: {bgp: {ipv4Address: 192.0.2.%d}}}\n", round, 16+i, round, i, round+1))
		}
		work := [][]manifest.Object{both(0), both(1)}
		errs := make([]error, len(stores))
		var wg sync.WaitGroup
		for i, s := range stores {
			wg.Go(func() { _, errs[i] = s.Write(ctx, Create, work[i]) })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: %v; %v", round, errs[0], errs[1])
		}
	}
	pools, _, err := stores[0].List(ctx, model.KindIPPool, nil)
	if err != nil || len(pools) != 20 {
		t.Errorf("%d pools, %v", len(pools), err)
	}
}

// TestManyNamesAtOnce writes more objects, whose names must be theirs alone, than one
// transaction takes: what is written of them is no reason to look again.
func TestManyNamesAtOnce(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	var b strings.Builder
	for i := range 250 {
		b.WriteString("- " + v3Manifest("GlobalNetworkPolicy", fmt.Sprintf("metadata: {name: p%d}", i)) + "\n")
	}
	h := hook(s, func(int) error { return nil })
	if done, err := s.Write(ctx, Create, objects(t, b.String())); err != nil || len(done) != 250 {
		t.Fatalf("%d done, %v", len(done), err)
	}
	if h.n != 3 {
		t.Errorf("%d transactions, want 3", h.n)
	}
}

// TestFailedReadOverwritesNothing lets the first read of what is stored fail, in a way that
// nothing is known about.
func TestFailedReadOverwritesNothing(t *testing.T) {
	for _, tc := range []struct{ name, stored, write string }{
		{
			"a policy",
			"{apiVersion: v1, kind: policy, metadata: {name: p}, spec: {order: 1}}",
			"{apiVersion: v1, kind: policy, metadata: {name: p}, spec: {order: 2}}",
		},
		{
			"a policy's tier",
			v3Manifest("Tier", "metadata: {name: t}"),
			v3Manifest("GlobalNetworkPolicy", "metadata: {name: p}, spec: {tier: t}"),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, ctx := newStore(t), t.Context()
			stored := objects(t, tc.stored)
			if _, err := s.Write(ctx, Create, stored); err != nil {
				t.Fatal(err)
			}
			before, err := s.etcd.Get(ctx, stored[0].Key)
			if err != nil {
				t.Fatal(err)
			}
			s.etcd.Raw().KV = &failingReads{KV: s.etcd.Raw().KV, path: model.Paths(stored[0].Key)[0]}
			if done, err := s.Write(ctx, Apply, objects(t, tc.write)); !strings.Contains(fmt.Sprint(err), "the proxy lost the answer") || len(done) > 0 {
				t.Errorf("%q, error %v, want the proxy's", did(done), err)
			}
			after, err := another(t, s).etcd.Get(ctx, stored[0].Key)
			if err != nil || after.Revision != before.Revision {
				t.Errorf("revision %d became %d, %v", before.Revision, after.Revision, err)
			}
		})
	}
}

// failingReads is a connection on which a proxy loses the answers about a path.
type failingReads struct {
	clientv3.KV
	path string
}

func (f *failingReads) Txn(ctx context.Context) clientv3.Txn {
	return &failingTxn{Txn: f.KV.Txn(ctx), of: f}
}

type failingTxn struct {
	clientv3.Txn
	of   *failingReads
	fail bool
}

func (x *failingTxn) If(cs ...clientv3.Cmp) clientv3.Txn { x.Txn = x.Txn.If(cs...); return x }
func (x *failingTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	x.Txn = x.Txn.Else(ops...)
	return x
}

func (x *failingTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	for _, op := range ops {
		x.fail = x.fail || op.IsGet() && string(op.KeyBytes()) == x.of.path
	}
	x.Txn = x.Txn.Then(ops...)
	return x
}

func (x *failingTxn) Commit() (*clientv3.TxnResponse, error) {
	if x.fail {
		return nil, status.Error(codes.Internal, "the proxy lost the answer")
	}
	return x.Txn.Commit()
}

// TestUnreadableIsReplacedAsItWasSeen lets the value that nobody can read be put right by
// somebody else meanwhile: what they wrote is not overwritten unseen.
func TestUnreadableIsReplacedAsItWasSeen(t *testing.T) {
	for _, n := range []int{1, 9} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s, ctx := newStore(t), t.Context()
			other := another(t, s)
			key := model.NewPolicyKey("", "p0")
			if _, err := s.etcd.Raw().Put(ctx, model.Paths(key)[0], "{"); err != nil {
				t.Fatal(err)
			}
			hook(s, func(n int) error {
				if n > 1 {
					return nil
				}
				_, err := other.etcd.Update(ctx, key, &model.Policy{Meta: model.Meta{UID: "theirs"}}, 0)
				return err
			})
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, "- {apiVersion: v1, kind: policy, metadata: {name: p%d}, spec: {order: 1}}\n", i)
			}
			if _, err := s.Write(ctx, Apply, objects(t, b.String())); err != nil {
				t.Fatal(err)
			}
			e, err := s.etcd.Get(ctx, key)
			if err != nil || e.Value.(*model.Policy).UID != "theirs" {
				t.Errorf("stored %+v, %v, want what they wrote to be carried on", e.Value, err)
			}
		})
	}
}

// TestUnreadableSettingsAreReplaced has metadata of settings that nobody can read.
func TestUnreadableSettingsAreReplaced(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	path := model.Paths(model.ConfigurationKey{Of: model.FelixConfigurations, Name: "default"})[0]
	if _, err := s.etcd.Raw().Put(ctx, path, "{"); err != nil {
		t.Fatal(err)
	}
	work := objects(t, v3Manifest("FelixConfiguration", "metadata: {name: default}, spec: {logPrefix: x}"))
	if done, err := s.Write(ctx, Apply, work); err != nil || did(done) != "configured" {
		t.Errorf("%q, %v", did(done), err)
	}
	if done, err := s.Delete(ctx, work, Deletion{}); err != nil || did(done) != "deleted" {
		t.Errorf("%q, %v", did(done), err)
	}
}

// TestOrderOfSteps gives a file that is longer than a transaction and has its tier last: no
// policy is ever stored without its tier, neither when they come nor when they go, and what
// is said follows the file.
func TestOrderOfSteps(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	var b strings.Builder
	const n = 150
	for i := range n {
		b.WriteString("- " + v3Manifest("GlobalNetworkPolicy", fmt.Sprintf("metadata: {name: p%03d}, spec: {tier: t}", i)) + "\n")
	}
	b.WriteString("- " + v3Manifest("Tier", "metadata: {name: t}, spec: {order: 5}") + "\n")
	other := another(t, s)
	tier := func() bool {
		_, err := other.etcd.Get(ctx, model.TierKey{Name: "t"})
		return err == nil
	}
	h := hook(s, func(i int) error {
		if i > 1 && !tier() {
			t.Errorf("no tier before transaction %d", i)
		}
		return nil
	})
	done, err := s.Write(ctx, Create, objects(t, b.String()))
	if err != nil || len(done) != n+1 || h.n < 2 {
		t.Fatalf("%d done in %d transactions, %v", len(done), h.n, err)
	}
	for i, o := range done {
		if want := model.NewPolicyKey("t", fmt.Sprintf("p%03d", i)); i < n && o.Key != want || o.At != i {
			t.Fatalf("outcome %d is of %s", i, o.Key)
		}
	}
	h.n, h.before = 0, func(i int) error {
		if !tier() {
			t.Errorf("no tier before deletion %d", i)
		}
		return nil
	}
	if done, err = s.Delete(ctx, objects(t, b.String()), Deletion{}); err != nil || len(done) != n+1 || done[n].Key != (model.TierKey{Name: "t"}) {
		t.Errorf("%d deleted, %v", len(done), err)
	}
}

// TestPartlyDone names what is done by its place in the file.
func TestPartlyDone(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	work := objects(t, profiles(40, "a")+"- {apiVersion: v1, kind: node, metadata: {name: n}}\n")
	broken := errors.New("broken")
	hook(s, func(n int) error {
		if n > 1 {
			return broken
		}
		return nil
	})
	done, err := s.Write(ctx, Create, work)
	if !errors.Is(err, broken) || len(done) != 31 {
		t.Fatalf("%d done, %v", len(done), err)
	}
	if last := done[len(done)-1]; last.At != 40 || last.Key != (model.NodeKey{Name: "n"}) {
		t.Errorf("the last outcome is %d, %s; a node comes before profiles, and stands where it stood", last.At, last.Key)
	}
}

// TestObjectAboveTheLimit is named, with its size.
func TestObjectAboveTheLimit(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	var nets strings.Builder
	for i := range 120000 {
		fmt.Fprintf(&nets, "10.%d.%d.%d/32,", i>>16, i>>8&255, i&255)
	}
	text := profiles(3, "a") + "- " + v3Manifest("GlobalNetworkSet", "metadata: {name: big}, spec: {nets: ["+nets.String()+"]}") + "\n"
	done, err := s.Write(ctx, Create, objects(t, text))
	if !errors.Is(err, etcdstore.ErrTooLarge) || !strings.HasPrefix(err.Error(), "GlobalNetworkSet(big) takes 2005 KiB, ") {
		t.Errorf("%q, error %v", did(done), err)
	}
}
