package ipam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// etcd is the [backend] over the real store.
type etcd struct{ *etcdstore.Client }

func (e etcd) commit(ctx context.Context, writes []etcdstore.Write) (int64, error) {
	return e.Commit(ctx, writes...)
}

// damaged is the value of a key that cannot be used.
type damaged struct{ kind model.Kind }

func (d damaged) Kind() model.Kind { return d.kind }

// txn reads in one transaction. When there is no connection yet, or no longer, it
// waits for one as the operations of etcdstore do, and gives their account of what is
// wrong.
func (e etcd) txn(ctx context.Context, ops []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := e.Raw().Txn(ctx).Then(ops...).Commit()
	if err == nil {
		return resp, nil
	}
	if err := e.Ping(ctx); err != nil {
		return nil, err
	}
	if resp, err = e.Raw().Txn(ctx).Then(ops...).Commit(); err != nil {
		return nil, fmt.Errorf("%w: %w", etcdstore.ErrUnavailable, err)
	}
	return resp, nil
}

func (e etcd) read(ctx context.Context, keys []model.Key) (known, error) {
	out := known{}
	if len(keys) == 0 {
		return out, nil
	}
	ops := make([]clientv3.Op, len(keys))
	for i, k := range keys {
		ops[i] = clientv3.OpGet(model.Paths(k)[0])
	}
	resp, err := e.txn(ctx, ops)
	if err != nil {
		return nil, err
	}
	for i, k := range keys {
		out[k] = stored{}
		for _, kv := range resp.Responses[i].GetResponseRange().GetKvs() {
			out[k] = stored{decode(k, string(kv.Key), kv.Value), kv.ModRevision}
		}
	}
	return out, nil
}

// decode reads a value; one that cannot be used comes out as damaged.
func decode(k model.Key, path string, value []byte) model.Resource {
	r, err := model.Decode(k, map[string][]byte{path: value})
	if err == nil {
		err = model.Validate(k, r)
	}
	if err != nil {
		return damaged{k.Kind()}
	}
	return r
}

func (e etcd) exist(ctx context.Context, blocks []netip.Prefix) ([]bool, error) {
	ops := make([]clientv3.Op, len(blocks))
	for i, cidr := range blocks {
		ops[i] = clientv3.OpGet(blockPath(cidr), clientv3.WithCountOnly())
	}
	resp, err := e.txn(ctx, ops)
	if err != nil {
		return nil, err
	}
	out := make([]bool, len(blocks))
	for i := range blocks {
		out[i] = resp.Responses[i].GetResponseRange().GetCount() > 0
	}
	return out, nil
}

func blockPath(cidr netip.Prefix) string { return model.Paths(model.BlockKey{CIDR: cidr})[0] }

// nothingFree is how a block without free addresses is written.
var nothingFree = []byte(`"unallocated":[]`)

func (e etcd) room(ctx context.Context, blocks []netip.Prefix) (known, error) {
	ops := make([]clientv3.Op, len(blocks))
	for i, cidr := range blocks {
		ops[i] = clientv3.OpGet(blockPath(cidr))
	}
	resp, err := e.txn(ctx, ops)
	if err != nil {
		return nil, err
	}
	out := known{}
	for i, cidr := range blocks {
		for _, kv := range resp.Responses[i].GetResponseRange().GetKvs() {
			k := model.BlockKey{CIDR: cidr}
			if bytes.Contains(kv.Value, nothingFree) {
				out[k] = stored{nil, kv.ModRevision} // not worth decoding
			} else {
				out[k] = stored{decode(k, string(kv.Key), kv.Value), kv.ModRevision}
			}
		}
	}
	return out, nil
}

func (e etcd) environment(ctx context.Context, node string) (*environment, error) {
	prefixes := append(slices.Clone(model.ListPrefixes(model.KindIPPool)), model.ListPrefixes(model.KindIPReservation)...)
	for _, sample := range []string{"0.0.0.0/0", "::/0"} {
		path := model.Paths(model.BlockAffinityKey{Node: node, CIDR: netip.MustParsePrefix(sample)})[0]
		prefixes = append(prefixes, path[:strings.LastIndexByte(path, '/')+1])
	}
	ops := []clientv3.Op{
		clientv3.OpGet(model.Paths(model.IPAMConfigKey{})[0]),
		clientv3.OpGet(model.Paths(model.ReadyKey{})[0]),
		clientv3.OpGet(model.Paths(model.LockKey{})[0]),
	}
	for _, p := range prefixes {
		ops = append(ops, clientv3.OpGet(p, clientv3.WithPrefix()))
	}
	resp, err := e.txn(ctx, ops)
	if err != nil {
		return nil, err
	}
	env := &environment{config: model.IPAMConfig{AutoAllocateBlocks: true}}
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			env.add(node, string(kv.Key), kv.Value, kv.ModRevision)
		}
	}
	slices.SortFunc(env.pools, func(a, b pool) int { return a.cidr.Compare(b.cidr) })
	slices.SortFunc(env.affine, netip.Prefix.Compare)
	return env, e.addLabels(ctx, env, node)
}

// add takes up one stored value. A pool that cannot be used gives out no addresses.
func (env *environment) add(node, path string, value []byte, rev int64) {
	k, ok := model.ParsePath(path)
	if !ok {
		return
	}
	if a, ok := k.(model.BlockAffinityKey); ok {
		if a.Node == node {
			env.affine = append(env.affine, a.CIDR)
		}
		return
	}
	switch r := decode(k, path, value).(type) {
	case *model.IPPool:
		env.pools = append(env.pools, newPool(r, rev))
	case *model.IPReservation:
		env.reserved = append(env.reserved, r.ReservedCIDRs...)
	case *model.IPAMConfig:
		env.config, env.configRev = *r, rev
	case *model.Ready:
		env.locked, env.readyRev = !bool(*r), rev
	case *model.Lock:
		env.lockedBy = r
	case damaged:
		switch k.(type) {
		case model.IPAMConfigKey:
			env.configRev = rev
		case model.ReadyKey: // nobody can say that it is open
			env.locked, env.readyRev = true, rev
		}
	}
}

// addLabels reads the node's labels if a pool asks for them.
func (e etcd) addLabels(ctx context.Context, env *environment, node string) error {
	if !slices.ContainsFunc(env.pools, func(p pool) bool { return p.selects != "" }) {
		return nil
	}
	entry, err := e.Get(ctx, model.NodeKey{Name: node})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return nil // a node that is not there has no labels
	}
	if err != nil {
		return err
	}
	if n, ok := entry.Value.(*model.Node); ok {
		env.labels = n.Labels
	}
	return nil
}

// keysPage is how many keys are listed at a time.
const keysPage = 1000

func (e etcd) claimed(ctx context.Context, ipv6 bool) ([]netip.Prefix, error) {
	sample := netip.MustParsePrefix("0.0.0.0/0")
	if ipv6 {
		sample = netip.MustParsePrefix("::/0")
	}
	from := blockPath(sample)
	from = from[:strings.LastIndexByte(from, '/')+1]
	end := clientv3.GetPrefixRangeEnd(from)
	var out []netip.Prefix
	for {
		resp, err := e.txn(ctx, []clientv3.Op{clientv3.OpGet(from, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(keysPage))})
		if err != nil {
			return nil, err
		}
		page := resp.Responses[0].GetResponseRange()
		for _, kv := range page.GetKvs() {
			if k, ok := model.ParsePath(string(kv.Key)); ok && k.Kind() == model.KindBlock {
				out = append(out, k.(model.BlockKey).CIDR)
			}
			from = string(kv.Key) + "\x00"
		}
		if !page.GetMore() {
			return out, nil
		}
	}
}

// blocksIn reads keys only: it is for whoever deletes a pool.
func (e etcd) blocksIn(ctx context.Context, within netip.Prefix) ([]netip.Prefix, []model.BlockAffinityKey, error) {
	prefixes := append(slices.Clone(model.ListPrefixes(model.KindBlock)), model.ListPrefixes(model.KindBlockAffinity)...)
	ops := make([]clientv3.Op, len(prefixes))
	for i, p := range prefixes {
		ops[i] = clientv3.OpGet(p, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	}
	resp, err := e.txn(ctx, ops)
	if err != nil {
		return nil, nil, err
	}
	inside := func(p netip.Prefix) bool { return p.Bits() >= within.Bits() && within.Contains(p.Addr()) }
	var blocks []netip.Prefix
	var affinities []model.BlockAffinityKey
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			switch k, _ := model.ParsePath(string(kv.Key)); k := k.(type) {
			case model.BlockKey:
				if inside(k.CIDR) {
					blocks = append(blocks, k.CIDR)
				}
			case model.BlockAffinityKey:
				if inside(k.CIDR) {
					affinities = append(affinities, k)
				}
			}
		}
	}
	return blocks, affinities, nil
}

// How many keys are read at a time: first as many as blocks, of which few are to be in
// memory, then more if they are small, since etcd counts for each page all keys behind it. Of
// blocks never many more: full ones, of 12 KiB, may come after empty ones.
const (
	firstPage, lastPage = 250, 8000
	lastBlocksPage      = 500
	smallPage           = 1 << 20 // bytes
)

// eachBlock reads the next page while f looks at the one before.
func (e etcd) eachBlock(ctx context.Context, f func(BlockUsage)) error {
	_, _, err := e.each(ctx, model.ListPrefixes(model.KindBlock), func(kv *mvccpb.KeyValue) {
		if k, _ := model.ParsePath(string(kv.Key)); k != nil && k.Kind() == model.KindBlock {
			f(summarize(k.(model.BlockKey).CIDR, string(kv.Key), kv.Value))
		}
	})
	return err
}

type blocksPage struct {
	kvs     []*mvccpb.KeyValue
	rev     int64 // at which it was read
	cluster uint64
	err     error
}

// readPages reads all keys with a prefix, at a revision that it returns (0: now).
func (e etcd) readPages(ctx context.Context, prefix string, rev int64, out chan<- blocksPage) int64 {
	end := clientv3.GetPrefixRangeEnd(prefix)
	limit, last := int64(firstPage), int64(lastPage)
	if slices.Contains(model.ListPrefixes(model.KindBlock), prefix) {
		last = lastBlocksPage
	}
	for from := prefix; ; {
		resp, err := e.txn(ctx, []clientv3.Op{
			clientv3.OpGet(from, clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(rev)),
		})
		page := blocksPage{err: err}
		if err == nil {
			if rev == 0 {
				rev = resp.Header.Revision
			}
			page = blocksPage{kvs: resp.Responses[0].GetResponseRange().GetKvs(), rev: rev, cluster: resp.Header.ClusterId}
		}
		select {
		case out <- page:
		case <-ctx.Done():
			return rev
		}
		if err != nil {
			return rev
		}
		if !resp.Responses[0].GetResponseRange().GetMore() {
			return rev
		}
		from = string(page.kvs[len(page.kvs)-1].Key) + "\x00"
		if page.size() < smallPage {
			limit = min(4*limit, last)
		}
	}
}

func (p blocksPage) size() (bytes int) {
	for _, kv := range p.kvs {
		bytes += len(kv.Key) + len(kv.Value)
	}
	return bytes
}
