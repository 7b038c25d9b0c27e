package address

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
)

// readLimit bounds the reading of this node's keys.
const readLimit = 5 * time.Second

// Endpoints lists Docker's endpoints of this node, by id. Only this node's keys are
// read, as there may be many nodes.
func (b *Book) Endpoints(ctx context.Context) (map[string]*model.WorkloadEndpoint, error) {
	path := model.Paths(endpoint.Key(b.node, "x"))[0]
	resp, err := b.folder(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("list endpoints of node %s: %w", b.node, err)
	}
	endpoints := make(map[string]*model.WorkloadEndpoint)
	for _, kv := range resp.Kvs {
		key, ok := model.ParsePath(string(kv.Key))
		id, isEndpoint := key.(model.WorkloadEndpointKey)
		if !ok || !isEndpoint {
			continue
		}
		r, err := model.Decode(id, map[string][]byte{string(kv.Key): kv.Value})
		if err != nil {
			// Whatever stands there, the endpoint exists.
			r = &model.WorkloadEndpoint{}
		}
		endpoints[id.Name] = r.(*model.WorkloadEndpoint)
	}
	return endpoints, nil
}

// Holdings lists the addresses that this node holds for Docker, with their owners: in its
// own blocks, and what it has borrowed from others'. What is in damaged blocks is not known,
// which is said once.
func (b *Book) Holdings(ctx context.Context) (map[netip.Addr]ipam.Owner, error) {
	all, damaged, err := b.ipam.Holdings(ctx, b.node)
	if err != nil {
		return nil, err
	}
	borrowed, alsoDamaged, err := b.borrowed.holdings(ctx, b.ipam, b.node)
	if err != nil {
		return nil, err
	}
	b.sayDamaged(append(damaged, alsoDamaged...))
	all = append(all, borrowed...)
	ours := make(map[netip.Addr]ipam.Owner)
	for _, h := range all {
		if b.ours(h.Owner) {
			ours[h.Addr] = h.Owner
		}
	}
	return ours, nil
}

// sayDamaged names damaged blocks that were not damaged when it was last told of them.
func (b *Book) sayDamaged(blocks []netip.Prefix) {
	b.damagedMu.Lock()
	defer b.damagedMu.Unlock()
	for _, block := range blocks {
		if !slices.Contains(b.damaged, block) {
			b.log.Warn("a block is damaged: which of its addresses nobody needs is not known until `calicoctl ipam check --fix` has mended it", logattr.Block, block)
		}
	}
	b.damaged = blocks
}

// ours reports whether an address was given out by this node for Docker: it is an
// endpoint's, or nobody's yet. Others name what they take addresses for.
func (b *Book) ours(owner ipam.Owner) bool {
	if owner.Attrs[ipam.AttrNode] != b.node || owner.Attrs[ipam.AttrType] != "" {
		return false
	}
	return owner.Handle == "" || owner.Attrs[ipam.AttrEndpoint] == owner.Handle
}

// folder reads all keys beside a path. The store's own operations wait for a connection
// and explain what is wrong; this one has them do so first if it fails.
func (b *Book) folder(ctx context.Context, path string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	prefix := path[:strings.LastIndexByte(path, '/')+1]
	get := func() (*clientv3.GetResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, readLimit)
		defer cancel()
		return b.store.Raw().Get(ctx, prefix, append(opts, clientv3.WithPrefix())...)
	}
	resp, err := get()
	if err == nil {
		return resp, nil
	}
	if err := b.store.Ping(ctx); err != nil {
		return nil, err
	}
	return get()
}

// Reclaim frees an address that nobody needs, if it still has the owner with the given
// handle.
func (b *Book) Reclaim(ctx context.Context, addr netip.Addr, handle string) error {
	still, err := b.sole(ctx)
	if err != nil {
		return err
	}
	done, err := b.hands.take(ctx, addr)
	if err != nil {
		return err
	}
	defer done()
	who, err := b.ipam.Lookup(ctx, addr)
	if errors.Is(err, ipam.ErrNotAssigned) {
		return nil
	}
	if err != nil || who.Handle != handle || b.mem.askedLately(addr) {
		return err
	}
	return b.free(ctx, addr, who, still...)
}

// ReleaseSpares gives back the node's blocks that have been empty for a while, but for
// one in each pool.
func (b *Book) ReleaseSpares(ctx context.Context, grace time.Duration) ([]netip.Prefix, error) {
	if err := b.Sole(ctx); err != nil {
		return nil, err
	}
	return b.ipam.ReleaseSpareBlocks(ctx, grace)
}
