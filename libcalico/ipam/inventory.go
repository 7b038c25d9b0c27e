package ipam

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unique"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
)

// Inventory is all that the store says about addresses, at one revision. Of each value
// only what [Check] asks for is kept, so that it is small for a large cluster too.
type Inventory struct {
	Revision int64
	// Cluster is the id of the etcd cluster.
	Cluster uint64

	env        environment
	blocks     map[netip.Prefix]keptBlock
	affinities map[model.BlockAffinityKey]string // the state
	handles    []keptHandle                      // by id
	endpoints  []keptEndpoint                    // by key
	nodes      map[string]bool                   // by name; true for those with a node resource
	networks   map[string]string                 // the node by the engine's id of a network; several have none
	unreadable []model.Key                       // pools, reservations, configuration, nodes

	texts map[string]string // while it is read: each text once
}

// keptBlock is what is kept of a block.
type keptBlock struct {
	rev int64
	// fault says why the value cannot be used; repairable that it can be rebuilt. Of such
	// a block nothing else is known, but for its node.
	fault      error
	repairable bool
	owned      bool
	node       string // that owns it
	uses       []use  // in order
	lost       []int  // ordinals that are neither in use nor free
}

// use is an address in use.
type use struct {
	ordinal int
	owner   packedOwner
}

// keptHandle is what is kept of a handle.
type keptHandle struct {
	id         string
	unreadable bool
	counts     []handleCount
}

// handleCount is how many addresses a handle has in a block.
type handleCount struct {
	block unique.Handle[netip.Prefix]
	n     int
}

// keptEndpoint is what is kept of an endpoint.
type keptEndpoint struct {
	key        model.WorkloadEndpointKey
	rev        int64
	unreadable bool
	addrs      []netip.Addr
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
		n.Addresses += len(b.uses)
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

// Holdings are all addresses in use, in order. They are made one by one: a list of them is
// many times the size of the inventory.
func (i *Inventory) Holdings() iter.Seq[Holding] {
	return func(yield func(Holding) bool) {
		for _, cidr := range slices.SortedFunc(maps.Keys(i.blocks), netip.Prefix.Compare) {
			for _, u := range i.blocks[cidr].uses {
				if !yield(Holding{Addr: addrAt(cidr, u.ordinal), Block: cidr, Owner: u.owner.owner()}) {
					return
				}
			}
		}
	}
}

func addrAt(cidr netip.Prefix, ordinal int) netip.Addr { return addTo(cidr.Addr(), uint64(ordinal)) }

// OwnerOf is the node that owns a block; it is empty when none does.
func (i *Inventory) OwnerOf(block netip.Prefix) string { return i.blocks[block].node }

// endpoint finds an endpoint; the zero one stands for none.
func (i *Inventory) endpoint(k model.WorkloadEndpointKey) keptEndpoint {
	n, ok := slices.BinarySearchFunc(i.endpoints, k, func(e keptEndpoint, k model.WorkloadEndpointKey) int { return compareEndpoints(e.key, k) })
	if !ok {
		return keptEndpoint{}
	}
	return i.endpoints[n]
}

// Inventory reads everything, at one revision, page by page.
func (c *Client) Inventory(ctx context.Context) (*Inventory, error) {
	i := newInventory()
	var err error
	if i.Revision, i.Cluster, err = c.backend.each(ctx, inventoryPrefixes(), i.add); err != nil {
		return nil, fmt.Errorf("read what there is of addresses: %w", err)
	}
	if i.env.taken, err = c.Taken(ctx); err != nil {
		return nil, err
	}
	i.complete()
	return i, nil
}

func newInventory() *Inventory {
	return &Inventory{
		env:        environment{config: model.IPAMConfig{AutoAllocateBlocks: true}},
		blocks:     map[netip.Prefix]keptBlock{},
		affinities: map[model.BlockAffinityKey]string{},
		nodes:      map[string]bool{},
		networks:   map[string]string{},
		texts:      map[string]string{},
	}
}

// complete puts in order what was added.
func (i *Inventory) complete() {
	i.texts = nil
	i.handles, i.endpoints = slices.Clip(i.handles), slices.Clip(i.endpoints)
	slices.SortFunc(i.env.pools, func(a, b pool) int { return a.cidr.Compare(b.cidr) })
	slices.SortFunc(i.handles, func(a, b keptHandle) int { return strings.Compare(a.id, b.id) })
	slices.SortFunc(i.endpoints, func(a, b keptEndpoint) int { return compareEndpoints(a.key, b.key) })
	slices.SortFunc(i.unreadable, model.Compare)
}

// inventoryPrefixes are the ranges to read, none within another.
func inventoryPrefixes() []string {
	var all []string
	for _, kind := range []model.Kind{
		model.KindIPPool, model.KindIPReservation, model.KindIPAMConfig, model.KindBlock, model.KindBlockAffinity,
		model.KindHandle, model.KindWorkloadEndpoint, model.KindNode, model.KindLiveness, model.KindDockerNetwork,
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
		i.blocks[k.CIDR] = i.block(readBlock(k, kv), k.CIDR)
	case model.BlockAffinityKey:
		a, _ := decode(k, path, kv.Value).(*model.BlockAffinity)
		if a == nil {
			a = &model.BlockAffinity{}
		}
		i.affinities[model.BlockAffinityKey{Node: i.text(k.Node), CIDR: k.CIDR}] = i.text(cmp.Or(a.State, model.AffinityConfirmed))
	case model.HandleKey:
		h, _ := decode(k, path, kv.Value).(*model.Handle)
		i.handles = append(i.handles, i.handle(k.ID, h))
	case model.WorkloadEndpointKey:
		ep, _ := decode(k, path, kv.Value).(*model.WorkloadEndpoint)
		i.endpoints = append(i.endpoints, i.endpointOf(k, ep, kv.ModRevision))
		i.know(k.Node)
	case model.NodeKey:
		i.nodes[i.text(k.Name)] = true
	case model.LivenessKey:
		i.know(k.Node)
	case model.DockerNetworkKey:
		if n, ok := decode(k, path, kv.Value).(*model.DockerNetwork); ok {
			i.network(n)
		}
	case model.IPPoolKey, model.IPReservationKey, model.IPAMConfigKey:
		if _, bad := decode(k, path, kv.Value).(damaged); bad {
			i.unreadable = append(i.unreadable, k)
			return
		}
		i.env.add("", path, kv.Value, kv.ModRevision)
	}
}

// text is a text that nothing else holds on to, such as the page that it was read from;
// equal ones are kept once, since an endpoint's id is that of its handle too.
func (i *Inventory) text(s string) string {
	if known, ok := i.texts[s]; ok {
		return known
	}
	s = strings.Clone(s)
	i.texts[s] = s
	return s
}

// block keeps what is asked for of a block.
func (i *Inventory) block(found foundBlock, cidr netip.Prefix) keptBlock {
	out := keptBlock{rev: found.rev, fault: found.fault}
	if found.block != nil {
		out.owned, out.node = found.block.Affinity != nil, i.text(nodeOf(found.block))
	}
	if found.fault != nil {
		out.repairable = repaired(cidr, found.block) != nil
		return out
	}
	out.uses = make([]use, 0, inUse(found.block))
	free := make([]bool, len(found.block.Allocations))
	for _, ordinal := range found.block.Unallocated {
		free[ordinal] = true
	}
	for ordinal := range found.block.Allocations {
		attrs, taken := attributesOf(found.block, ordinal)
		switch {
		case taken:
			out.uses = append(out.uses, use{ordinal, pack(i.text(handleOf(attrs)), attrs.Secondary)})
		case !free[ordinal]:
			out.lost = append(out.lost, ordinal)
		}
	}
	return out
}

// handle keeps what is asked for of a handle, which is nil when it cannot be read.
func (i *Inventory) handle(id string, h *model.Handle) keptHandle {
	out := keptHandle{id: i.text(id), unreadable: h == nil}
	if h == nil {
		return out
	}
	out.counts = make([]handleCount, 0, len(h.Block))
	for name, n := range h.Block {
		if cidr, err := netip.ParsePrefix(name); err == nil {
			out.counts = append(out.counts, handleCount{unique.Make(cidr), n})
		}
	}
	return out
}

// endpointOf keeps what is asked for of an endpoint, which is nil when it cannot be read.
func (i *Inventory) endpointOf(k model.WorkloadEndpointKey, ep *model.WorkloadEndpoint, rev int64) keptEndpoint {
	out := keptEndpoint{rev: rev, unreadable: ep == nil, key: model.WorkloadEndpointKey{
		Node: i.text(k.Node), Orchestrator: i.text(k.Orchestrator), Workload: i.text(k.Workload), Name: i.text(k.Name),
	}}
	if ep == nil {
		return out
	}
	out.addrs = make([]netip.Addr, 0, len(ep.IPv4Nets)+len(ep.IPv6Nets))
	for _, n := range slices.Concat(ep.IPv4Nets, ep.IPv6Nets) {
		out.addrs = append(out.addrs, n.Addr())
	}
	return out
}

// network notes the engines' ids of a network. Engines that share their networks have
// one id, which tells none of them.
func (i *Inventory) network(n *model.DockerNetwork) {
	for node, id := range n.IDs {
		if other, ok := i.networks[id]; ok && other != node {
			node = ""
		}
		i.networks[i.text(id)] = i.text(node)
	}
}

// know notes a node that may have no resource.
func (i *Inventory) know(node string) {
	if _, ok := i.nodes[node]; !ok {
		i.nodes[i.text(node)] = false
	}
}

// foundBlock is a block as it is stored.
type foundBlock struct {
	// block is nil when the value is not JSON of a block at all; with a fault it can
	// only be repaired.
	block *model.Block
	fault error
	rev   int64
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
		at := int64(0)
		for _, prefix := range prefixes {
			at = e.readPages(ctx, prefix, at, pages)
		}
	}()
	for p := range pages {
		if p.err != nil {
			return 0, 0, p.err
		}
		rev, cluster = p.rev, p.cluster
		for _, kv := range p.kvs {
			f(kv)
		}
	}
	return rev, cluster, ctx.Err()
}
