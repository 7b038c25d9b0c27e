package resource

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// Deletion says how objects are deleted.
type Deletion struct {
	// SkipMissing passes over what does not exist.
	SkipMissing bool
	// Force deletes also what is in use.
	Force bool
}

// Delete removes objects. What is in use is refused, unless it is forced. It returns
// the outcomes of those that were done, also when it fails.
func (s *Store) Delete(ctx context.Context, objects []manifest.Object, how Deletion) ([]Outcome, error) {
	todo, done, err := s.deletable(ctx, objects, how)
	if err != nil {
		return nil, err
	}
	if err := s.CheckUnlocked(ctx); err != nil {
		return nil, err
	}
	for retries := 0; len(todo.objects) > 0; {
		outcomes, err := s.deleteNext(ctx, todo)
		done, todo.objects = append(done, outcomes...), todo.objects[len(outcomes):]
		switch conflict := errors.Is(err, etcdstore.ErrConflict); {
		case conflict && retries < maxRetries:
			retries++ // somebody may use it by now
			todo, _, err = s.deletable(ctx, todo.objects, how)
		case conflict:
			err = fmt.Errorf("others wrote what decides about it each time that it was looked at (%d times); try again: %w", retries+1, err)
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// deletions are objects to be deleted, with what is stored of them and the conditions
// under which they may be.
type deletions struct {
	objects []manifest.Object
	found   map[model.Key]stored
	still   map[model.Key][]etcdstore.Write
	force   bool
}

// deletable reads what is to be deleted, or says what stands against it. todo is what
// exists or is named by its key, done what is skipped.
func (s *Store) deletable(ctx context.Context, objects []manifest.Object, how Deletion) (todo deletions, done []Outcome, err error) {
	known, unknown, err := s.Resolve(ctx, objects)
	if err != nil {
		return todo, nil, err
	}
	todo = deletions{objects: known, force: how.Force}
	if todo.found, err = s.read(ctx, known); err != nil {
		return todo, nil, err
	}
	var faults []error
	for _, o := range unknown {
		if !how.SkipMissing {
			faults = append(faults, Missing(o.Key))
		}
		done = append(done, Outcome{o, Skipped})
	}
	for _, o := range known {
		if o.Kind != nil && o.Kind.ReadOnly != "" {
			faults = append(faults, fmt.Errorf("%s: %s", o.Key, o.Kind.ReadOnly))
		}
	}
	for _, o := range known {
		if _, exists := todo.found[o.Key]; !exists && !how.SkipMissing {
			faults = append(faults, Missing(o.Key))
		}
	}
	users, err := s.users(ctx, known, todo.found)
	if err != nil {
		return todo, nil, err
	}
	faults = append(faults, users.judge(known, how.Force)...)
	if !how.Force {
		todo.still = users.still
	}
	return todo, done, errors.Join(faults...)
}

// deleteNext deletes the first of the objects, and as many after it as fit into the
// same transaction.
func (s *Store) deleteNext(ctx context.Context, todo deletions) ([]Outcome, error) {
	first := todo.objects[0]
	e, exists := todo.found[first.Key]
	switch k := first.Key.(type) {
	case model.IPPoolKey:
		return s.deletePool(ctx, todo)
	case model.NodeKey:
		return s.deleteOne(ctx, todo, func() error { return s.emptyNode(ctx, k.Name, todo) })
	case model.WorkloadEndpointKey:
		if !exists {
			return []Outcome{{first, Skipped}}, nil
		}
		if err := s.deleteEndpoint(ctx, etcdstore.Entry{Key: k, Value: e.value}, todo.still[k]...); err != nil {
			return nil, err
		}
		return []Outcome{{first, Deleted}}, nil
	}
	if isSettings(first.Key.Kind()) {
		if !exists {
			return []Outcome{{first, Skipped}}, nil
		}
		err := s.deleteSettings(ctx, first, e)
		if err != nil {
			return nil, err
		}
		return []Outcome{{first, Deleted}}, nil
	}
	var outcomes []Outcome
	var writes []etcdstore.Write
	ops := 0
	for _, o := range todo.objects {
		still := todo.still[o.Key]
		if ops += len(model.Paths(o.Key)) + len(still); ops > maxOps || special(o.Key) {
			break
		}
		if _, exists := todo.found[o.Key]; !exists {
			outcomes = append(outcomes, Outcome{o, Skipped})
			continue
		}
		w, err := etcdstore.DeleteWrite(o.Key, 0)
		if err != nil {
			return nil, err
		}
		writes = append(append(writes, w), still...)
		outcomes = append(outcomes, Outcome{o, Deleted})
	}
	if err := s.write(ctx, writes...); err != nil {
		return nil, err
	}
	return outcomes, nil
}

// special is true for kinds whose deletion takes more than a delete.
func special(k model.Key) bool {
	switch k.Kind() {
	case model.KindIPPool, model.KindNode, model.KindWorkloadEndpoint:
		return true
	default:
		return isSettings(k.Kind())
	}
}

// deleteOne deletes the first of the objects after what has to be done before.
func (s *Store) deleteOne(ctx context.Context, todo deletions, before func() error) ([]Outcome, error) {
	o := todo.objects[0]
	if _, exists := todo.found[o.Key]; !exists {
		return []Outcome{{o, Skipped}}, nil
	}
	if err := before(); err != nil {
		return nil, fmt.Errorf("delete %s: %w", o.Key, err)
	}
	w, err := etcdstore.DeleteWrite(o.Key, 0)
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, append([]etcdstore.Write{w}, todo.still[o.Key]...)...); err != nil {
		return nil, err
	}
	return []Outcome{{o, Deleted}}, nil
}

// emptyNode removes what a node leaves behind: when it is forced its workload endpoints
// with their addresses, and its claims on blocks. The node itself goes last, so that a
// deletion that broke off can be repeated. One that is not forced has found no endpoint:
// should a container start meanwhile, only claims have gone, and it keeps its address.
func (s *Store) emptyNode(ctx context.Context, node string, todo deletions) error {
	if todo.force {
		if err := s.deleteEndpoints(ctx, node); err != nil {
			return err
		}
	}
	if err := s.ipam.ReleaseNode(ctx, node); err != nil {
		return err
	}
	return s.deleteScoped(ctx, node, todo.still[model.NodeKey{Name: node}])
}

func (s *Store) deleteEndpoints(ctx context.Context, node string) error {
	endpoints, err := s.wholeOf(ctx, workloadPrefix(node), model.KindWorkloadEndpoint)
	if err != nil {
		return err
	}
	for _, e := range endpoints.entries {
		if err := s.deleteEndpoint(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// deleteScoped deletes what exists only for a node: its host endpoints, BGP peers,
// settings, and what felix reported about it.
func (s *Store) deleteScoped(ctx context.Context, node string, still []etcdstore.Write) error {
	entries, _, bad, err := s.etcd.ListUnder(ctx, nodePrefixes(node), func(k model.Key) bool { return scopeOf(k) == node })
	if err != nil {
		return err
	}
	var writes []etcdstore.Write
	for _, e := range withBad(entries, bad) {
		w, err := etcdstore.DeleteWrite(e.Key, 0)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	for some := range slices.Chunk(writes, maxOps) {
		if err := s.write(ctx, slices.Concat(some, still)...); err != nil {
			return err
		}
	}
	return nil
}

// nodePrefixes are those under which all stands that exists for a node.
func nodePrefixes(node string) []string {
	var prefixes []string
	for key, end := range map[model.Key]string{
		model.HostEndpointKey{Node: node, Name: "x"}:                               "endpoint/x",
		model.BGPConfigKey{Node: node, Name: "x"}:                                  "x",
		model.FelixStatusKey{Node: node}:                                           "status",
		model.HistoryKey{Node: node}:                                               "history",
		model.ConfigurationKey{Of: model.BGPConfigurations, Name: ofNode + node}:   "",
		model.ConfigurationKey{Of: model.FelixConfigurations, Name: ofNode + node}: "",
	} {
		prefixes = append(prefixes, strings.TrimSuffix(model.Paths(key)[0], end))
	}
	return prefixes
}

// ofNode begins the name of a node's configuration.
const ofNode = "node."

// scopeOf is the node that a resource exists for; empty when it is for all.
func scopeOf(k model.Key) string {
	switch k := k.(type) {
	case model.HostEndpointKey:
		return k.Node
	case model.BGPPeerKey:
		return k.Node
	case model.FelixConfigKey:
		return k.Node
	case model.BGPConfigKey:
		return k.Node
	case model.ConfigurationKey:
		if node, ok := strings.CutPrefix(k.Name, ofNode); ok {
			return node
		}
	case model.FelixStatusKey:
		return k.Node
	case model.HistoryKey:
		return k.Node
	case model.EndpointStatusKey:
		return k.Node
	}
	return ""
}

// deleteEndpoint deletes an endpoint, under some conditions, and releases its addresses.
// Those that carry the endpoint as their handle go in the same transaction; of the others
// only those that have no owner, or the endpoint's node but no other endpoint of it, are
// released, after the endpoint is gone.
func (s *Store) deleteEndpoint(ctx context.Context, e etcdstore.Entry, still ...etcdstore.Write) error {
	key, _ := e.Key.(model.WorkloadEndpointKey)
	handled, loose, err := s.addressesOf(ctx, key, e.Value)
	if err != nil {
		return err
	}
	w, err := etcdstore.DeleteWrite(e.Key, 0)
	if err != nil {
		return err
	}
	commit := s.etcd.Commit
	if handled {
		commit = func(ctx context.Context, writes ...etcdstore.Write) (int64, error) {
			return s.ipam.ReleaseOf(ctx, key.Name, writes...)
		}
	}
	if err := s.writeBy(ctx, commit, append([]etcdstore.Write{w}, still...)...); err != nil {
		return err
	}
	if len(loose) == 0 {
		return nil
	}
	_, err = s.ipam.Release(ctx, loose...)
	return err
}

// addressesOf says whether any of an endpoint's addresses is assigned under the
// endpoint's name, and which others are to be released with it.
func (s *Store) addressesOf(ctx context.Context, key model.WorkloadEndpointKey, value model.Resource) (handled bool, loose []netip.Addr, err error) {
	wep, ok := value.(*model.WorkloadEndpoint)
	if !ok {
		return true, nil, nil // nobody can read which, but its name is there
	}
	for _, n := range slices.Concat(wep.IPv4Nets, wep.IPv6Nets) {
		owner, err := s.ipam.Lookup(ctx, n.Addr())
		switch {
		case errors.Is(err, ipam.ErrNotAssigned):
		case err != nil:
			return false, nil, err
		case owner.Handle == key.Name:
			handled = true
		case owner.Attrs[ipam.AttrNode] == "" || owner.Attrs[ipam.AttrNode] == key.Node:
			has, err := s.hasEndpoint(ctx, key, owner.Handle)
			if err != nil {
				return false, nil, err
			}
			if !has {
				loose = append(loose, n.Addr())
			}
		}
	}
	return handled, loose, nil
}

// hasEndpoint says whether there is an endpoint beside another that has a name.
func (s *Store) hasEndpoint(ctx context.Context, beside model.WorkloadEndpointKey, name string) (bool, error) {
	if name == "" {
		return false, nil
	}
	beside.Name = name
	_, err := s.etcd.Get(ctx, beside)
	switch {
	case errors.Is(err, etcdstore.ErrNotFound):
		return false, nil
	case errors.Is(err, etcdstore.ErrUnreadable):
		return true, nil
	}
	return err == nil, err
}
