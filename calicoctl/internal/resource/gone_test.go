package resource

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// errKilled is what the rest of a program that was killed sees of etcd.
var errKilled = errors.New("killed")

// killedAt deletes objects by a program that is killed after n of its transactions, and says
// whether it got to its end before.
func killedAt(t *testing.T, s *Store, text string, how Deletion, n int) (finished bool) {
	t.Helper()
	doomed := another(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hook(doomed, func(i int) error {
		if i <= n {
			return nil
		}
		return errKilled
	})
	_, err := doomed.Delete(ctx, objects(t, text), how)
	if err != nil && !errors.Is(err, errKilled) {
		t.Fatalf("killed after %d: %v", n, err)
	}
	return err == nil
}

// TestKilledPoolDeletionGoesOn kills a pool's deletion after each of its transactions: the
// next one ends it.
func TestKilledPoolDeletionGoesOn(t *testing.T) {
	for _, how := range []Deletion{{}, {Force: true}} {
		for n := 0; ; n++ {
			s, ctx := newStore(t), t.Context()
			if _, err := s.Write(ctx, Create, objects(t, poolManifest)); err != nil {
				t.Fatal(err)
			}
			claimBlocks(t, s, 3)
			node := ipam.New(s.etcd, "h0")
			if how.Force {
				if err := node.Assign(ctx, netip.MustParseAddr("192.168.3.4"), ipam.Owner{Handle: "e"}); err != nil {
					t.Fatal(err)
				}
			}
			finished := killedAt(t, s, poolManifest, how, n)
			if n > 0 && !finished {
				// It is seen, and nothing comes from the pool.
				pools, _, err := s.List(ctx, model.KindIPPool, nil)
				if err != nil || len(pools) != 1 || pools[0].Value.(*model.IPPool).Deleting.IsZero() || pools[0].Value.(*model.IPPool).Disabled {
					t.Fatalf("killed after %d: pools %v, %v", n, pools, err)
				}
				if addrs, err := ipam.New(s.etcd, "h1").AutoAssign(ctx, ipam.Request{IPv4: 1}); !errors.Is(err, ipam.ErrNoPool) {
					t.Fatalf("killed after %d: assigned %v, %v", n, addrs, err)
				}
			}
			if !finished {
				if done, err := s.Delete(ctx, objects(t, poolManifest), how); err != nil || did(done) != "deleted" {
					t.Fatalf("killed after %d, then: %q, %v", n, did(done), err)
				}
			}
			_, err := s.etcd.Get(ctx, model.IPPoolKey{CIDR: netip.MustParsePrefix("192.168.0.0/16")})
			if !errors.Is(err, etcdstore.ErrNotFound) {
				t.Fatalf("killed after %d: the pool: %v", n, err)
			}
			blocks, _, err1 := s.List(ctx, model.KindBlock, nil)
			affinities, _, err2 := s.List(ctx, model.KindBlockAffinity, nil)
			want := 0
			if how.Force {
				want = 1 // the block with an address in use, by which it is routed
			}
			if err := errors.Join(err1, err2); err != nil || len(blocks) != want || len(affinities) != want {
				t.Fatalf("killed after %d: %d blocks, %d affinities, %v", n, len(blocks), len(affinities), err)
			}
			if finished {
				if n < 5 {
					t.Errorf("%d transactions are too few to tell", n)
				}
				break
			}
		}
	}
}

// TestRefusedPoolIsKept applies a pool whose deletion was killed, and deletes it when it is in
// use: it stays, and can be used.
func TestRefusedPoolIsKept(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := s.Write(ctx, Create, objects(t, poolManifest)); err != nil {
		t.Fatal(err)
	}
	claimBlocks(t, s, 2)
	killedAt(t, s, poolManifest, Deletion{}, 1)
	// What applies it again keeps it.
	if done, err := s.Write(ctx, Apply, objects(t, poolManifest)); err != nil || did(done) != "configured" {
		t.Errorf("applied: %q, %v", did(done), err)
	}
	if err := ipam.New(s.etcd, "h0").Assign(ctx, netip.MustParseAddr("192.168.3.4"), ipam.Owner{}); err != nil {
		t.Error(err)
	}
	if _, err := s.Delete(ctx, objects(t, poolManifest), Deletion{}); err == nil || !strings.Contains(err.Error(), "has 1 address in use; ") {
		t.Errorf("error %v, want a refusal", err)
	}
	if _, err := ipam.New(s.etcd, "h1").AutoAssign(ctx, ipam.Request{IPv4: 1}); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
}

// TestPoolChangesWhileItIsDeleted lets somebody change a pool while it is being deleted: what
// they wrote is not undone, nor deleted unseen.
func TestPoolChangesWhileItIsDeleted(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	other := another(t, s)
	if _, err := s.Write(ctx, Create, objects(t, poolManifest)); err != nil {
		t.Fatal(err)
	}
	pool := model.IPPoolKey{CIDR: netip.MustParsePrefix("192.168.0.0/16")}
	changed := false
	hook(s, func(int) error {
		e, err := other.etcd.Get(ctx, pool)
		if err != nil || changed || e.Value.(*model.IPPool).Deleting.IsZero() {
			return err
		}
		changed = true
		theirs := *e.Value.(*model.IPPool)
		theirs.Masquerade, theirs.Deleting = true, time.Time{}
		if _, err := other.etcd.Update(ctx, pool, &theirs, 0); err != nil {
			return err
		}
		return ipam.New(other.etcd, "h1").Assign(ctx, netip.MustParseAddr("192.168.3.4"), ipam.Owner{})
	})
	if _, err := s.Delete(ctx, objects(t, poolManifest), Deletion{}); err == nil || !strings.Contains(err.Error(), "has 1 address in use; ") {
		t.Errorf("error %v, want a refusal", err)
	}
	e, err := other.etcd.Get(ctx, pool)
	if err != nil || !changed {
		t.Fatalf("changed %t, %v", changed, err)
	}
	if p := e.Value.(*model.IPPool); !p.Masquerade || p.Closed() {
		t.Errorf("the pool: %+v", p)
	}
}

// TestPoolKeepsNoMarkOfALostAnswer loses each of the writes of a pool's deletion that is given
// up or refused, in all ways, and has the next work again: what stays of the pool gives out
// addresses, or the error says that it may not.
func TestPoolKeepsNoMarkOfALostAnswer(t *testing.T) {
	server := etcdtest.Shared(t)
	proxy := server.Proxy(t)
	key := model.IPPoolKey{CIDR: netip.MustParsePrefix("192.168.0.0/16")}
	for _, how := range etcdtest.Losses {
		for lost := 1; ; lost++ {
			s, ctx := newStore(t), t.Context()
			if _, err := s.Write(ctx, Create, objects(t, poolManifest)); err != nil {
				t.Fatal(err)
			}
			claimBlocks(t, s, 2)
			through, err := etcdstore.New(etcdstore.Config{Endpoints: []string{proxy.Endpoint()}, DialTimeout: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			proxy.Lose(lost, how)
			_, err = New(through).Delete(ctx, objects(t, poolManifest), Deletion{})
			writes := proxy.Writes()
			proxy.Lose(0, how)
			_ = through.Close()
			if writes < lost {
				if err != nil || lost < 3 {
					t.Errorf("%v: nothing was lost of %d writes: %v", how, writes, err)
				}
				break
			}
			if err == nil {
				t.Errorf("%v, write %d: no error", how, lost)
			}
			switch e, gerr := s.etcd.Get(ctx, key); {
			case errors.Is(gerr, etcdstore.ErrNotFound): // the last write was done
			case gerr != nil:
				t.Fatal(gerr)
			case e.Value.(*model.IPPool).Closed():
				t.Errorf("%v, write %d: the pool stays closed: %v", how, lost, err)
			default:
				if _, err := ipam.New(s.etcd, "h1").AutoAssign(ctx, ipam.Request{IPv4: 1}); err != nil {
					t.Errorf("%v, write %d: %v", how, lost, err)
				}
			}
		}
	}
}

const nodeManifest = "{apiVersion: v1, kind: node, metadata: {name: h0}}"

// leaveAll gives a node all that it can have, and others what stays.
func leaveAll(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	text := "- " + poolManifest + "\n- " + nodeManifest + "\n- {apiVersion: v1, kind: ipPool, metadata: {cidr: 'fd00:5::/64'}}\n" +
		"- {apiVersion: v1, kind: hostEndpoint, metadata: {name: eth0, node: h0}, spec: {interfaceName: eth0}}\n"
	if _, err := s.Write(ctx, Create, objects(t, text)); err != nil {
		t.Fatal(err)
	}
	mine, others := ipam.New(s.etcd, "h0"), ipam.New(s.etcd, "h1")
	for _, given := range []struct {
		to   *ipam.Client
		addr string
	}{
		{others, "192.168.7.1"},
		{mine, "192.168.3.4"},
		{mine, "192.168.3.5"},
		{mine, "fd00:5::7"},
		{mine, "192.168.7.2"}, // borrowed
	} {
		if err := given.to.Assign(ctx, netip.MustParseAddr(given.addr), ipam.Owner{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := others.Assign(ctx, netip.MustParseAddr("192.168.3.6"), ipam.Owner{Handle: "theirs"}); err != nil { // borrowed of mine
		t.Fatal(err)
	}
	for name, n := range map[string]*model.DockerNetwork{
		"mine": {IDs: map[string]string{"h0": "1"}}, "ours": {IDs: map[string]string{"h0": "2", "h1": "3"}},
		"theirs":  {IDs: map[string]string{"h1": "4"}, Problems: map[string]string{"h0": "it differs", "h2": "it differs"}},
		"removed": {IDs: map[string]string{"h0": "5"}, Removed: true},
	} {
		if _, err := s.etcd.Create(ctx, model.DockerNetworkKey{Name: name}, n); err != nil {
			t.Fatal(err)
		}
	}
}

// whatIsLeft says what there is of the node that left, and of others.
func whatIsLeft(t *testing.T, s *Store) string {
	t.Helper()
	ctx := t.Context()
	var lines []string
	inventory, err := ipam.New(s.etcd, "").Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for h := range inventory.Holdings() {
		lines = append(lines, fmt.Sprintf("%s of %s", h.Addr, h.Owner.Attrs[ipam.AttrNode]))
	}
	for _, kind := range []model.Kind{model.KindNode, model.KindBlockAffinity, model.KindDockerNetwork, model.KindHostEndpoint} {
		entries, _, err := s.List(ctx, kind, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			line := e.Key.String()
			if n, ok := e.Value.(*model.DockerNetwork); ok {
				line += fmt.Sprint(n.IDs, n.Problems)
			}
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

const othersAfter = `192.168.3.6 of h1
192.168.7.1 of h1
ipamBlockAffinity(node=h1, cidr=192.168.7.0/26)
dockerNetwork(name=ours)map[h1:3] map[]
dockerNetwork(name=theirs)map[h1:4] map[h2:it differs]`

// TestNodeLeavesNothing kills a node's deletion after each of its transactions, and has the
// next one end it: nothing is left of the node, and all of others.
func TestNodeLeavesNothing(t *testing.T) {
	for n := 0; ; n++ {
		s := newStore(t)
		leaveAll(t, s)
		finished := killedAt(t, s, nodeManifest, Deletion{}, n)
		if !finished {
			if done, err := s.Delete(t.Context(), objects(t, nodeManifest), Deletion{}); err != nil || did(done) != "deleted" {
				t.Fatalf("killed after %d, then: %q, %v", n, did(done), err)
			}
		}
		if got := whatIsLeft(t, s); got != othersAfter {
			t.Fatalf("killed after %d, left:\n%s\nwant:\n%s", n, got, othersAfter)
		}
		if finished {
			if n < 8 {
				t.Errorf("%d transactions are too few to tell", n)
			}
			break
		}
	}
}

// TestContainerStartsOnALeavingNode lets Docker make an endpoint of an address that it had
// asked for before the node's deletion began: at whichever step that comes, the container
// keeps its address or cannot start, and the deletion is refused.
func TestContainerStartsOnALeavingNode(t *testing.T) {
	endpoint := &model.WorkloadEndpoint{State: "active", Interface: "cali0", IPv4Nets: []netip.Prefix{netip.MustParsePrefix("192.168.3.4/32")}}
	for at := 1; ; at++ {
		s, ctx := newStore(t), t.Context()
		leaveAll(t, s)
		other := another(t, s)
		started, came := error(nil), false
		h := hook(s, func(n int) error {
			if n == at {
				came = true
				w, err := etcdstore.CreateWrite(endpointKey, endpoint)
				if err != nil {
					return err
				}
				_, started = ipam.New(other.etcd, "h0").SetOwner(ctx, []netip.Addr{netip.MustParseAddr("192.168.3.4")}, ipam.Owner{Handle: "e"}, w)
			}
			return nil
		})
		_, err := s.Delete(ctx, objects(t, nodeManifest), Deletion{})
		if !came {
			if at < 8 {
				t.Errorf("%d transactions are too few to tell", h.n)
			}
			return
		}
		who, lookup := ipam.New(s.etcd, "").Lookup(ctx, netip.MustParseAddr("192.168.3.4"))
		switch {
		case started != nil && !errors.Is(started, ipam.ErrNotAssigned):
			t.Errorf("step %d: started with %v", at, started)
		case started != nil && err != nil:
			t.Errorf("step %d: nothing started, but %v", at, err)
		case started == nil && (err == nil || !strings.Contains(err.Error(), "has 1 endpoint; ")):
			t.Errorf("step %d: a container started, error %v", at, err)
		case started == nil && (lookup != nil || who.Handle != "e"):
			t.Errorf("step %d: a container started, and its address is of %v, %v", at, who, lookup)
		}
	}
}

// TestNothingIsDeletedUnderTheLock locks the datastore before each transaction of a deletion:
// from then on nothing changes.
func TestNothingIsDeletedUnderTheLock(t *testing.T) {
	endpoint := "- " + endpointManifest + "\n"
	settings := "- " + v3Manifest("FelixConfiguration", "metadata: {name: default}, spec: {logPrefix: x}") + "\n"
	for name, tc := range map[string]struct {
		text, also string
		how        Deletion
	}{
		"a node":         {nodeManifest, "", Deletion{}},
		"a node, forced": {nodeManifest, endpoint, Deletion{Force: true}},
		"a pool":         {"{apiVersion: v1, kind: ipPool, metadata: {cidr: 'fd00:5::/64'}}", "", Deletion{Force: true}},
		"an endpoint":    {endpointManifest, endpoint, Deletion{}},
		"settings":       {settings, settings, Deletion{}},
	} {
		t.Run(name, func(t *testing.T) {
			for at := 1; ; at++ {
				s, ctx := newStore(t), t.Context()
				leaveAll(t, s)
				if tc.also != "" {
					if _, err := s.Write(ctx, Create, objects(t, tc.also)); err != nil {
						t.Fatal(err)
					}
				}
				other := another(t, s)
				locked := int64(0)
				hook(s, func(n int) error {
					if n < at || locked != 0 {
						return nil
					}
					shut := model.Ready(false)
					_, rev, err := other.etcd.Apply(ctx, model.ReadyKey{}, &shut)
					locked = rev
					return err
				})
				_, err := s.Delete(ctx, objects(t, tc.text), tc.how)
				if locked == 0 {
					if err != nil || at == 1 {
						t.Errorf("%d transactions, %v", at-1, err)
					}
					return
				}
				head, lerr := other.etcd.Raw().Get(ctx, "/calico/")
				if lerr != nil {
					t.Fatal(lerr)
				}
				if !errors.Is(err, etcdstore.ErrLocked) || head.Header.Revision != locked {
					t.Fatalf("locked before transaction %d, at %d: %v; the store is at %d", at, locked, err, head.Header.Revision)
				}
			}
		})
	}
}
