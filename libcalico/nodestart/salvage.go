package nodestart

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// salvage adds a node of which something cannot be read, with what can be: its good parts
// stay, and an address still counts as that node's. What of it must not be written over is in
// c.unusable.
func (c *cluster) salvage(ctx context.Context, client *etcdstore.Client, k model.NodeKey) error {
	stored, err := client.GetStored(ctx, k)
	if err != nil {
		return fmt.Errorf("read the node: %w", err)
	}
	if len(stored[0].Parts) == 0 {
		return nil // it was deleted meanwhile
	}
	node, lost := readParts(k, stored[0].Parts)
	c.nodes[k.Name], c.revisions[k] = node, stored[0].Revision
	c.damaged[k.Name] = true
	c.unusable[k.Name] = lost
	return nil
}

// readParts reads of a stored node what can be read. lost names the parts that cannot, and
// that say what a start-up cannot find out again: all but the addresses and their networks.
func readParts(k model.NodeKey, parts map[string][]byte) (node *model.Node, lost []string) {
	good := map[string][]byte{}
	for _, path := range slices.Sorted(maps.Keys(parts)) {
		if _, err := model.Decode(k, map[string][]byte{path: parts[path]}); err == nil {
			good[path] = parts[path]
		} else if !isAddressPart(path) {
			lost = append(lost, path)
		}
	}
	r, err := model.Decode(k, good)
	if node, ok := r.(*model.Node); err == nil && ok {
		return node, lost
	}
	return &model.Node{}, append(lost, model.Paths(k)[0])
}

func isAddressPart(path string) bool {
	name := path[strings.LastIndexByte(path, '/')+1:]
	return slices.Contains([]string{"bird_ip", "ip_addr_v4", "ip_addr_v6", "network_v4", "network_v6"}, name)
}

// ErrNodeUnreadable says that what is stored of this node cannot be read, and is not written
// over: a host that was a node before runs on by its record ([FromRecord]) until it is mended.
var ErrNodeUnreadable = errors.New("what is stored of this node cannot be read, and a start would lose it")

// unreadableNode refuses to write over what cannot be read and nobody else knows.
func unreadableNode(name string, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	return fmt.Errorf("node %s: %w: mend %s (etcdctl get, etcdctl put), or delete it, if this host is to have the default in its place (etcdctl del), and start again",
		name, ErrNodeUnreadable, strings.Join(paths, " and "))
}
