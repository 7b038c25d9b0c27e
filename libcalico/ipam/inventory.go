package ipam

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
)

// Inventory is all that the store says about addresses, at one revision.
type Inventory struct {
	Revision int64
	// Cluster is the id of the etcd cluster.
	Cluster uint64

	env        environment
	blocks     map[netip.Prefix]foundBlock
	affinities map[model.BlockAffinityKey]string // the state
	handles    map[string]*model.Handle          // nil: not readable
	endpoints  map[model.WorkloadEndpointKey]foundEndpoint
	nodes      map[string]bool // by name; true for those with a node resource
	unreadable []model.Key     // pools, reservations, configuration, nodes
}

// foundBlock is a block as it is stored.
type foundBlock struct {
	// block is nil when the value is not JSON of a block at all; with a fault it can
	// only be repaired.
	block *model.Block
	fault error
	rev   int64
}

type foundEndpoint struct {
	value *model.WorkloadEndpoint // nil: not readable
	rev   int64
}

// Counts says how much an inventory holds.
type Counts struct {
	Pools     int `json:"pools"`
	Blocks    int `json:"blocks"`
	Addresses int `json:"addresses"` // in use
	Handles   int `json:"handles"`
	Endpoints int `json:"endpoints"`
	Nodes     int `json:"nodes"`
}

// Counts counts.
func (i *Inventory) Counts() Counts {
	n := Counts{Pools: len(i.env.pools), Blocks: len(i.blocks), Handles: len(i.handles), Endpoints: len(i.endpoints)}
	for _, b := range i.blocks {
		if b.block != nil && b.fault == nil {
			n.Addresses += inUse(b.block)
		}
	}
	for _, has := range i.nodes {
		if has {
			n.Nodes++
		}
	}
	return n
}

// Config is how addresses are given out.
func (i *Inventory) Config() model.IPAMConfig { return i.env.config }

// Holdings lists all addresses in use, in order.
func (i *Inventory) Holdings() []Holding {
	var out []Holding
	for _, cidr := range slices.SortedFunc(maps.Keys(i.blocks), netip.Prefix.Compare) {
		if b := i.blocks[cidr]; b.fault == nil {
			out = appendAll(out, b.block)
		}
	}
	return out
}

// OwnerOf is the node that owns a block; it is empty when none does.
func (i *Inventory) OwnerOf(block netip.Prefix) string {
	if b := i.blocks[block]; b.block != nil {
		return nodeOf(b.block)
	}
	return ""
}

// Inventory reads everything, at one revision.
func (c *Client) Inventory(ctx context.Context) (*Inventory, error) {
	i := &Inventory{
		env:        environment{config: model.IPAMConfig{AutoAllocateBlocks: true}},
		blocks:     map[netip.Prefix]foundBlock{},
		affinities: map[model.BlockAffinityKey]string{},
		handles:    map[string]*model.Handle{},
		endpoints:  map[model.WorkloadEndpointKey]foundEndpoint{},
		nodes:      map[string]bool{},
	}
	var err error
	if i.Revision, i.Cluster, err = c.backend.each(ctx, inventoryPrefixes(), i.add); err != nil {
		return nil, fmt.Errorf("read what there is of addresses: %w", err)
	}
	if i.env.taken, err = c.Taken(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(i.env.pools, func(a, b pool) int { return a.cidr.Compare(b.cidr) })
	slices.SortFunc(i.unreadable, model.Compare)
	return i, nil
}

// inventoryPrefixes are the ranges to read, none within another.
func inventoryPrefixes() []string {
	var all []string
	for _, kind := range []model.Kind{
		model.KindIPPool, model.KindIPReservation, model.KindIPAMConfig, model.KindBlock, model.KindBlockAffinity,
		model.KindHandle, model.KindWorkloadEndpoint, model.KindNode, model.KindLiveness,
	} {
		all = append(all, model.ListPrefixes(kind)...)
	}
	slices.Sort(all)
	var out []string
	for _, p := range all {
		if len(out) == 0 || !strings.HasPrefix(p, out[len(out)-1]) {
			out = append(out, p)
		}
	}
	return out
}

// add takes up one stored value.
func (i *Inventory) add(kv *mvccpb.KeyValue) {
	path := string(kv.Key)
	key, ok := model.ParsePath(path)
	if !ok {
		return
	}
	switch k := key.(type) {
	case model.BlockKey:
		i.blocks[k.CIDR] = readBlock(k, kv)
	case model.BlockAffinityKey:
		a, _ := decode(k, path, kv.Value).(*model.BlockAffinity)
		if a == nil {
			a = &model.BlockAffinity{}
		}
		i.affinities[k] = cmp.Or(a.State, model.AffinityConfirmed)
	case model.HandleKey:
		h, _ := decode(k, path, kv.Value).(*model.Handle)
		i.handles[k.ID] = h
	case model.WorkloadEndpointKey:
		ep, _ := decode(k, path, kv.Value).(*model.WorkloadEndpoint)
		i.endpoints[k] = foundEndpoint{ep, kv.ModRevision}
		i.know(k.Node)
	case model.NodeKey:
		i.nodes[k.Name] = true
	case model.LivenessKey:
		i.know(k.Node)
	case model.IPPoolKey, model.IPReservationKey, model.IPAMConfigKey:
		if _, bad := decode(k, path, kv.Value).(damaged); bad {
			i.unreadable = append(i.unreadable, k)
			return
		}
		i.env.add("", path, kv.Value, kv.ModRevision)
	}
}

// know notes a node that may have no resource.
func (i *Inventory) know(node string) {
	if _, ok := i.nodes[node]; !ok {
		i.nodes[node] = false
	}
}

// readBlock reads a block that may be damaged as far as it can be read.
func readBlock(k model.BlockKey, kv *mvccpb.KeyValue) foundBlock {
	r, err := model.Decode(k, map[string][]byte{string(kv.Key): kv.Value})
	b, _ := r.(*model.Block)
	if err == nil {
		err = model.Validate(k, b)
	}
	return foundBlock{block: b, fault: err, rev: kv.ModRevision}
}

// raw reads a block that may be damaged.
func (e etcd) raw(ctx context.Context, k model.BlockKey) (foundBlock, error) {
	resp, err := e.txn(ctx, []clientv3.Op{clientv3.OpGet(blockPath(k.CIDR))})
	if err != nil {
		return foundBlock{}, err
	}
	for _, kv := range resp.Responses[0].GetResponseRange().GetKvs() {
		return readBlock(k, kv), nil
	}
	return foundBlock{}, nil
}

// each reads prefixes at one revision.
func (e etcd) each(ctx context.Context, prefixes []string, f func(*mvccpb.KeyValue)) (rev int64, cluster uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pages := make(chan blocksPage)
	go func() {
		defer close(pages)
		for _, prefix := range prefixes {
			rev = e.readPages(ctx, prefix, rev, pages)
		}
	}()
	for p := range pages {
		if p.err != nil {
			return 0, 0, p.err
		}
		cluster = p.cluster
		for _, kv := range p.kvs {
			f(kv)
		}
	}
	return rev, cluster, nil
}
