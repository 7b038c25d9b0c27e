package nodestart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/model"
)

// clusterKinds are what a start-up looks at.
var clusterKinds = []model.Kind{
	model.KindNode, model.KindIPPool, model.KindFelixConfig, model.KindBGPConfig, model.KindAcceptedGUID, model.KindReady, model.KindLock,
}

// clusterPrefixes are where that stands. felix' settings for single nodes, and what nodes have
// beside their addresses, do not matter: they stand among all endpoints of the cluster.
func clusterPrefixes() []string {
	prefixes := []string{strings.TrimSuffix(model.Paths(guidKey)[0], guidKey.Name), model.NodesPrefix}
	for _, kind := range clusterKinds {
		if kind != model.KindFelixConfig && kind != model.KindNode {
			prefixes = append(prefixes, model.ListPrefixes(kind)...)
		}
	}
	return prefixes
}

// readCluster reads what the start-up of a node looks at: all of the node itself, and of those
// whose names differ from its by case only.
func readCluster(ctx context.Context, client *etcdstore.Client, node string) (cluster, error) {
	c := cluster{
		nodes: map[string]*model.Node{}, settings: map[model.Key]string{}, revisions: map[model.Key]int64{},
		damaged: map[string]bool{}, unusable: map[string][]string{},
	}
	whole := []model.Key{model.NodeKey{Name: node}}
	entries, revision, bad, err := client.ListUnder(ctx, clusterPrefixes(), func(k model.Key) bool {
		other, isNode := k.(model.NodeKey)
		if isNode && strings.EqualFold(other.Name, node) {
			if !slices.Contains(whole, k) {
				whole = append(whole, k)
			}
			return false
		}
		return slices.Contains(clusterKinds, k.Kind())
	})
	if err != nil {
		return c, fmt.Errorf("read the cluster's settings: %w", err)
	}
	c.revision = revision
	itself, badItself, err := client.GetAll(ctx, whole)
	if err != nil {
		return c, fmt.Errorf("read the node: %w", err)
	}
	for _, b := range append(bad, badItself...) {
		c.unreadable = append(c.unreadable, fmt.Sprintf("%s: %v", b.Path, b.Err))
		if b.Key == (model.ReadyKey{}) {
			c.hasReady = true // and the store is locked, since it does not say that it is ready
		}
	}
	for _, e := range append(entries, itself...) {
		c.add(e)
	}
	for _, b := range append(bad, badItself...) {
		if k, ok := b.Key.(model.NodeKey); ok {
			if err := c.salvage(ctx, client, k); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

func (c *cluster) add(e etcdstore.Entry) {
	switch r := e.Value.(type) {
	case *model.Node:
		if k, ok := e.Key.(model.NodeKey); ok {
			c.nodes[k.Name] = r
		}
	case *model.IPPool:
		c.pools = append(c.pools, r)
	case *model.Setting:
		c.settings[e.Key] = r.Value
	case *model.Ready:
		c.hasReady, c.ready = true, bool(*r)
	case *model.Lock:
		c.lockedBy = r
	}
	c.revisions[e.Key] = e.Revision
}

// same says whether a node is stored as it is to be.
func same(key model.Key, before, node *model.Node) bool {
	if before == nil {
		return false
	}
	is, err1 := model.Encode(key, before)
	will, err2 := model.Encode(key, node)
	return err1 == nil && err2 == nil && maps.EqualFunc(is, will, bytes.Equal)
}

// commit writes what changes, if the store is still that of the cluster that was read, and
// nobody has changed meanwhile what is written. Nothing is written when nothing changes.
func commit(ctx context.Context, client *etcdstore.Client, c cluster, p *plan) (changed bool, err error) {
	b := batch{revisions: c.revisions}
	key := model.NodeKey{Name: p.name}
	if c.damaged[p.name] || !same(key, p.before, p.node) {
		b.set(key, p.node)
	}
	for k, r := range p.writes {
		b.set(k, r)
	}
	if len(b.writes) == 0 {
		return false, b.err
	}
	for _, k := range []model.Key{model.ReadyKey{}, guidKey} {
		if revision, there := c.revisions[k]; there {
			b.add(etcdstore.CheckWrite(k, revision))
		}
	}
	if p.takesAddress() {
		b.add(etcdstore.StillWrite(key, model.NodesPrefix, c.revision), nil)
	}
	lease, err := p.claim(ctx, client, &b)
	if err != nil {
		return false, err
	}
	if b.err != nil {
		return false, b.err
	}
	if _, err := client.Commit(ctx, b.writes...); err != nil {
		if lease != 0 {
			_, _ = client.Raw().Revoke(ctx, lease) // else it runs out
		}
		return false, err
	}
	return true, nil
}

// takesAddress says whether the node gets an address that it had not: no other node may have
// got it since it was looked whether one has it.
func (p *plan) takesAddress() bool {
	if !p.exclusive {
		return false
	}
	is := func(a netip.Addr, before func(*model.Node) netip.Addr) bool {
		return a.IsValid() && (p.before == nil || before(p.before) != a)
	}
	return is(p.node.IPv4, func(n *model.Node) netip.Addr { return n.IPv4 }) ||
		is(p.node.IPv6, func(n *model.Node) netip.Addr { return n.IPv6 })
}

// claimer is the program by whose key a start-up shows that it has taken a name, until the
// programs of the host show it themselves.
const claimer = "calico-node"

// claim adds such a key, if the name was not this host's before: of two hosts that begin at
// the same moment the second sees it.
func (p *plan) claim(ctx context.Context, client *etcdstore.Client, b *batch) (clientv3.LeaseID, error) {
	if !p.host.Known() || p.before != nil && p.before.Host.Same(p.host) {
		return 0, nil
	}
	key := model.LivenessKey{Node: p.name, Program: claimer}
	there, err := client.Get(ctx, key)
	if err != nil && !errors.Is(err, etcdstore.ErrNotFound) && !errors.Is(err, etcdstore.ErrUnreadable) {
		return 0, err
	}
	if by, ok := there.Value.(*model.Liveness); ok && by.Host.Same(p.host) {
		return 0, nil
	}
	lease, err := client.Lease(ctx, liveness.TTL)
	if err != nil {
		return 0, err
	}
	// It has done its work: whether the programs do theirs is up to them.
	value := &model.Liveness{Version: client.Version(), Started: time.Now().UTC().Truncate(time.Second), Ready: true, Host: p.host}
	if there.Revision != 0 {
		b.lease(lease)(etcdstore.UpdateWrite(key, value, there.Revision))
	} else {
		b.lease(lease)(etcdstore.CreateWrite(key, value))
	}
	return lease, nil
}

// batch collects the writes of a transaction, and the first error of making them.
type batch struct {
	revisions map[model.Key]int64
	writes    []etcdstore.Write
	err       error
}

func (b *batch) add(w etcdstore.Write, err error) {
	if err != nil && b.err == nil {
		b.err = err
	}
	b.writes = append(b.writes, w)
}

// lease is add for what goes with a lease.
func (b *batch) lease(id clientv3.LeaseID) func(etcdstore.Write, error) {
	return func(w etcdstore.Write, err error) { b.add(w.WithLease(id), err) }
}

// set writes a resource that is still as it was read, or still not there.
func (b *batch) set(k model.Key, r model.Resource) {
	if revision, there := b.revisions[k]; there {
		b.add(etcdstore.UpdateWrite(k, r, revision))
	} else {
		b.add(etcdstore.CreateWrite(k, r))
	}
}
