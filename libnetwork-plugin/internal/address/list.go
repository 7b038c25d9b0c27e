package address

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/endpoint"
)

// Endpoints lists Docker's endpoints of this node, by id. Only this node's keys are
// read, as there may be many nodes.
func (b *Book) Endpoints(ctx context.Context) (map[string]*model.WorkloadEndpoint, error) {
	path := model.Paths(endpoint.Key(b.node, "x"))[0]
	resp, err := b.store.Raw().Get(ctx, folder(path), clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list endpoints of node %s: %w", b.node, b.reason(ctx, err))
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

// Holdings lists the addresses that this node holds in its blocks, for Docker, with
// their owners. What others gave it from theirs is not among them: it is found by its
// endpoint.
func (b *Book) Holdings(ctx context.Context) (map[netip.Addr]ipam.Owner, error) {
	blocks, err := b.blocks(ctx)
	if err != nil {
		return nil, err
	}
	holdings := make(map[netip.Addr]ipam.Owner)
	for _, cidr := range blocks {
		entry, err := b.store.Get(ctx, model.BlockKey{CIDR: cidr})
		if errors.Is(err, etcdstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b.hold(holdings, entry.Value.(*model.Block))
	}
	return holdings, nil
}

// hold adds what this node holds of a block for Docker.
func (b *Book) hold(holdings map[netip.Addr]ipam.Owner, block *model.Block) {
	addr := block.CIDR.Addr()
	for _, index := range block.Allocations {
		if index != nil && *index >= 0 && *index < len(block.Attributes) {
			owner := ownerOf(block.Attributes[*index])
			if owner.Attrs[ipam.AttrNode] == b.node && owner.Attrs[ipam.AttrType] == "" {
				holdings[addr] = owner
			}
		}
		addr = addr.Next()
	}
}

// ownerOf reads the owner out of a block.
func ownerOf(a model.BlockAttributes) ipam.Owner {
	owner := ipam.Owner{Attrs: a.Secondary}
	if a.HandleID != nil {
		owner.Handle = *a.HandleID
	}
	return owner
}

// blocks lists this node's blocks of both families.
func (b *Book) blocks(ctx context.Context) ([]netip.Prefix, error) {
	var blocks []netip.Prefix
	for _, family := range []string{"0.0.0.0/0", "::/0"} {
		path := model.Paths(model.BlockAffinityKey{Node: b.node, CIDR: netip.MustParsePrefix(family)})[0]
		resp, err := b.store.Raw().Get(ctx, folder(path), clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return nil, fmt.Errorf("list blocks of node %s: %w", b.node, b.reason(ctx, err))
		}
		for _, kv := range resp.Kvs {
			key, _ := model.ParsePath(string(kv.Key))
			if affinity, ok := key.(model.BlockAffinityKey); ok {
				blocks = append(blocks, affinity.CIDR)
			}
		}
	}
	return blocks, nil
}

// folder is a path up to and with its last slash.
func folder(path string) string { return path[:strings.LastIndexByte(path, '/')+1] }

// reason is why etcd failed, in the store's words where it has some.
func (b *Book) reason(ctx context.Context, err error) error {
	if pingErr := b.store.Ping(ctx); pingErr != nil {
		return pingErr
	}
	return err
}

// Reclaim frees an address that nobody needs, if it still has the owner with the given
// handle.
func (b *Book) Reclaim(ctx context.Context, addr netip.Addr, handle string) error {
	b.hand.Lock()
	defer b.hand.Unlock()
	who, err := b.ipam.Lookup(ctx, addr)
	if errors.Is(err, ipam.ErrNotAssigned) {
		return nil
	}
	if err != nil || who.Handle != handle || b.mem.askedLately(addr) {
		return err
	}
	_, err = b.ipam.Release(ctx, addr)
	return err
}

// ReleaseSpares gives back the node's blocks that have been empty for a while, but for
// one in each pool.
func (b *Book) ReleaseSpares(ctx context.Context, grace time.Duration) ([]netip.Prefix, error) {
	return b.ipam.ReleaseSpareBlocks(ctx, grace)
}
