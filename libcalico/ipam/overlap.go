package ipam

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
)

// moment is what the store was like when a block was seen to be alone. It stays so as long
// as that does: nodes claim blocks by the pool as it is, and an import, which does not, closes
// the store before and opens it after.
type moment struct {
	pool     pool
	readyRev int64
}

func (env *environment) momentOf(p pool) moment { return moment{p, env.readyRev} }

// overlapping reads those blocks by their keys, in one transaction but for the first of an
// IPv6 range, whose addresses are not next to each other as text.
func (e etcd) overlapping(ctx context.Context, cidr netip.Prefix) ([]netip.Prefix, error) {
	within := textRanges(cidr)
	if within == nil {
		return e.existing(ctx, slices.Concat(widerBlocks(cidr), narrowerBlocks(cidr)))
	}
	var ops []clientv3.Op
	for _, wider := range widerBlocks(cidr) {
		ops = append(ops, clientv3.OpGet(blockPath(wider), clientv3.WithKeysOnly()))
	}
	for _, r := range within {
		ops = append(ops, clientv3.OpGet(r.from, clientv3.WithRange(r.to), clientv3.WithKeysOnly()))
	}
	resp, err := e.txn(ctx, ops)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			k, _ := model.ParsePath(string(kv.Key))
			if b, ok := k.(model.BlockKey); ok && b.CIDR != cidr && b.CIDR.Overlaps(cidr) && !slices.Contains(out, b.CIDR) {
				out = append(out, b.CIDR)
			}
		}
	}
	return out, nil
}

// textRange is a range of keys.
type textRange struct{ from, to string }

// textRanges are the ranges of keys in which all blocks within a block are, and few others;
// none when there are no such, or too many.
func textRanges(cidr netip.Prefix) []textRange {
	first, size := cidr.Addr(), uint64(blockSize(cidr))
	path := func(a netip.Addr) string { // without the size
		p := blockPath(netip.PrefixFrom(a, a.BitLen()))
		return p[:strings.LastIndexByte(p, '-')]
	}
	if size > 1<<12 {
		return nil
	}
	if first.Is6() {
		if b := first.As16(); b[14] == 0 && b[15] == 0 {
			return nil // zeros are left out of the text
		}
		// The hexadecimal digits of the last group are as many for all.
		return []textRange{{path(first), path(addTo(first, size-1)) + "."}}
	}
	var out []textRange
	for i := uint64(0); i < size; i += 256 { // by the first three numbers
		p := path(addTo(first, i))
		p = p[:strings.LastIndexByte(p, '.')+1]
		out = append(out, textRange{p, clientv3.GetPrefixRangeEnd(p)})
	}
	return out
}

// existing returns those of some blocks of a family that exist.
func (e etcd) existing(ctx context.Context, blocks []netip.Prefix) ([]netip.Prefix, error) {
	if len(blocks) > pointReads*readsAtOnce {
		all, err := e.claimed(ctx, blocks[0].Addr().Is6())
		if err != nil {
			return nil, err
		}
		asked := make(map[netip.Prefix]bool, len(blocks))
		for _, b := range blocks {
			asked[b] = true
		}
		return slices.DeleteFunc(all, func(b netip.Prefix) bool { return !asked[b] }), nil
	}
	lots := slices.Collect(slices.Chunk(blocks, pointReads))
	exist, err := atOnce(ctx, lots, e.exist)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for i, b := range blocks {
		if exist[i/pointReads][i%pointReads] {
			out = append(out, b)
		}
	}
	return out, nil
}
