package resource

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// deleteNode deletes a node with what it leaves behind: when it is forced its workload
// endpoints, then its addresses and its claims on blocks, what stands under its name, and
// its part in Docker's networks. The node itself goes last, so that a deletion that broke
// off can be repeated. Each step of one that is not forced depends on the node having
// neither a program that lives nor an endpoint.
func (s *Store) deleteNode(ctx context.Context, t target, force bool) error {
	node := t.object.Key.(model.NodeKey).Name
	if force {
		if err := s.deleteEndpoints(ctx, node); err != nil {
			return fmt.Errorf("delete %s: %w", t.object.Key, err)
		}
	}
	for _, leave := range []func(context.Context, string, []etcdstore.Write) error{
		s.releaseAddresses, s.releaseBlocks, s.deleteScoped, s.leaveNetworks,
	} {
		if err := leave(ctx, node, t.still); err != nil {
			return fmt.Errorf("delete %s: %w", t.object.Key, err)
		}
	}
	w, err := etcdstore.DeleteWrite(t.object.Key, 0)
	if err != nil {
		return err
	}
	return s.write(ctx, append([]etcdstore.Write{w}, t.still...)...)
}

func (s *Store) deleteEndpoints(ctx context.Context, node string) error {
	endpoints, err := s.wholeOf(ctx, workloadPrefix(node), model.KindWorkloadEndpoint)
	if err != nil {
		return err
	}
	for _, e := range endpoints.entries {
		e.Revision = 0
		if err := s.deleteEndpoint(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// releaseAddresses frees the addresses that a node has: those that Docker asked for and that
// no endpoint came to have, in the node's blocks or in others', and those of endpoints that
// are gone.
func (s *Store) releaseAddresses(ctx context.Context, node string, still []etcdstore.Write) error {
	held, err := s.ipam.HoldingsOf(ctx, node)
	if err != nil || len(held) == 0 {
		return err
	}
	endpoints, err := s.wholeOf(ctx, workloadPrefix(node), model.KindWorkloadEndpoint)
	if err != nil {
		return err
	}
	held = slices.DeleteFunc(held, func(h ipam.Holding) bool {
		return slices.ContainsFunc(endpoints.entries, func(e etcdstore.Entry) bool { return e.Key.(model.WorkloadEndpointKey).Name == h.Owner.Handle })
	})
	if held, err = s.withoutUsed(ctx, held, model.WorkloadEndpointKey{}); err != nil {
		return err
	}
	none := etcdstore.StillWrite(model.NodeKey{Name: node}, workloadPrefix(node), endpoints.revision)
	return s.whileUnlocked(ctx, append(slices.Clone(still), none), func(open ...etcdstore.Write) error {
		return s.ipam.ReleaseHeld(ctx, held, open...)
	})
}

// releaseBlocks gives back a node's claims on blocks.
func (s *Store) releaseBlocks(ctx context.Context, node string, still []etcdstore.Write) error {
	return s.whileUnlocked(ctx, still, func(open ...etcdstore.Write) error { return s.ipam.ReleaseNode(ctx, node, open...) })
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

// leaveNetworks takes the ids that a node's engine has for Docker's networks, and what keeps
// it from having one, out of their records. A record goes with the last id in it.
func (s *Store) leaveNetworks(ctx context.Context, node string, still []etcdstore.Write) error {
	networks, _, _, err := s.etcd.List(ctx, model.KindDockerNetwork, nil)
	if err != nil {
		return err
	}
	for _, e := range networks {
		network, _ := e.Value.(*model.DockerNetwork)
		_, has := network.IDs[node]
		if _, troubled := network.Problems[node]; !has && !troubled {
			continue
		}
		rest := *network
		rest.IDs, rest.Problems = maps.Clone(network.IDs), maps.Clone(network.Problems)
		delete(rest.IDs, node)
		delete(rest.Problems, node)
		var w etcdstore.Write
		if len(rest.IDs) == 0 && (has || rest.Removed) {
			w, err = etcdstore.DeleteWrite(e.Key, e.Revision)
		} else {
			w, err = etcdstore.UpdateWrite(e.Key, &rest, e.Revision)
		}
		if err != nil {
			return err
		}
		if err := s.write(ctx, append([]etcdstore.Write{w}, still...)...); err != nil {
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
