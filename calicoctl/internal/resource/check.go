package resource

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// check finds what is wrong among resources rather than in one: pools that overlap,
// nodes that have the same address, pools over hosts' networks, names that another resource has, and tiers that are
// not there. What it finds right rests on lists, which the writes must depend on.
func (s *Store) check(ctx context.Context, steps []step) (rests, []error) {
	var on rests
	var faults []error
	for _, look := range []func(context.Context, []step, *rests) []error{
		s.checkPools, s.checkNodes, s.checkNames, s.checkBlocks, s.checkPlaces, s.checkTiers,
	} {
		faults = append(faults, look(ctx, steps, &on)...)
	}
	return on, faults
}

// checkPools finds new pools that overlap others.
func (s *Store) checkPools(ctx context.Context, steps []step, on *rests) []error {
	return s.checkAmong(ctx, model.KindIPPool, steps, on, among{
		claims: func(st step) bool { return st.did == Created },
		prefix: model.ListPrefixes(model.KindIPPool)[0],
		conflict: func(a, b etcdstore.Entry) string {
			if a.Key.(model.IPPoolKey).CIDR.Overlaps(b.Key.(model.IPPoolKey).CIDR) {
				return "overlaps"
			}
			return ""
		},
	})
}

// checkNodes finds nodes that get an address of another.
func (s *Store) checkNodes(ctx context.Context, steps []step, on *rests) []error {
	return s.checkAmong(ctx, model.KindNode, steps, on, among{
		claims: func(st step) bool {
			old, _ := st.old.(*model.Node)
			now, ok := st.object.Value.(*model.Node)
			return ok && (old == nil || old.IPv4 != now.IPv4 || old.IPv6 != now.IPv6)
		},
		prefix:   nodeAddresses(),
		conflict: nodeConflict,
	})
}

// nodeAddresses is where all nodes' addresses stand.
func nodeAddresses() string {
	const node, field = "n", "/ip_addr_v4"
	paths := model.Paths(model.NodeKey{Name: node})
	i := slices.IndexFunc(paths, func(p string) bool { return strings.HasSuffix(p, field) })
	return strings.TrimSuffix(paths[i], node+field)
}

func nodeConflict(a, b etcdstore.Entry) string {
	n, ok1 := a.Value.(*model.Node)
	m, ok2 := b.Value.(*model.Node)
	if !ok1 || !ok2 {
		return ""
	}
	for _, pair := range [][2]netip.Addr{{n.IPv4, m.IPv4}, {n.IPv6, m.IPv6}} {
		if pair[0].IsValid() && pair[0] == pair[1] {
			return fmt.Sprintf("has the address %s of", pair[0])
		}
	}
	return ""
}

// among is how resources of a kind get into each other's way.
type among struct {
	// claims says whether a step, which writes, takes something that another may have.
	claims func(step) bool
	// prefix is where what they may have stands.
	prefix string
	// conflict says what a has to do with b, if they cannot both be.
	conflict func(a, b etcdstore.Entry) string
}

func (s *Store) checkAmong(ctx context.Context, kind model.Kind, steps []step, on *rests, how among) []error {
	written := map[model.Key]bool{}
	var claims, others []etcdstore.Entry
	for _, st := range steps {
		if st.object.Key.Kind() != kind || len(st.writes) == 0 {
			continue
		}
		e := etcdstore.Entry{Key: st.object.Key, Value: st.object.Value}
		written[e.Key] = true
		if how.claims(st) {
			claims = append(claims, e)
		} else {
			others = append(others, e)
		}
	}
	if len(claims) == 0 {
		return nil
	}
	all, err := s.whole(ctx, kind, func(k model.Key) bool { return !written[k] })
	if err != nil {
		return []error{err}
	}
	on.add(claims[0].Key, how.prefix, all.revision)
	others = append(others, all.entries...)
	var faults []error
	for i, a := range claims {
		for _, b := range slices.Concat(claims[i+1:], others) {
			if why := how.conflict(a, b); why != "" {
				faults = append(faults, clashOf(a.Key, "%s %s %s", a.Key, why, b.Key))
			}
		}
	}
	return faults
}

// checkBlocks finds pools that are new, or come to have another block size, and in whose range
// there are blocks of another size, or come with them.
func (s *Store) checkBlocks(ctx context.Context, steps []step, _ *rests) []error {
	var faults []error
	var stored, coming []model.Key
	for _, st := range steps {
		if _, ok := st.object.Key.(model.BlockKey); ok {
			coming = append(coming, st.object.Key)
		}
	}
	for _, st := range steps {
		pool, ok := st.object.Value.(*model.IPPool)
		if !ok || !st.setsBlockSize(pool) {
			continue
		}
		if stored == nil {
			var err error
			if stored, _, err = s.etcd.Keys(ctx, model.KindBlock, model.Scope{}, 0); err != nil {
				return []error{err}
			}
		}
		odd, comes := oddIn(stored, pool), oddIn(coming, pool)
		switch {
		case len(odd) > 0:
			found, err := s.describe(ctx, odd)
			if err != nil {
				return []error{err}
			}
			faults = append(faults, clashOf(st.object.Key, "%s: spec.blockSize: is %d, but there is the block %s", st.object.Shown(), blockSize(pool), found))
		case len(comes) > 0:
			faults = append(faults, clashOf(st.object.Key, "%s: spec.blockSize: is %d, but the block %s in its range comes with it",
				st.object.Shown(), blockSize(pool), comes[0].(model.BlockKey).CIDR))
		}
	}
	return faults
}

// setsBlockSize says whether a pool comes to have a block size that it did not have.
func (st step) setsBlockSize(pool *model.IPPool) bool {
	old, ok := st.old.(*model.IPPool)
	return st.did == Created || st.did == Configured && (!ok || blockSize(old) != blockSize(pool))
}

// oddIn are those of some blocks that share addresses with a pool and are not of its size.
func oddIn(blocks []model.Key, pool *model.IPPool) []model.Key {
	return slices.DeleteFunc(slices.Clone(blocks), func(k model.Key) bool {
		block := k.(model.BlockKey).CIDR
		return !block.Overlaps(pool.CIDR) || block.Bits() == blockSize(pool)
	})
}

// describe says which of some blocks stands in the way of others: one with addresses in use
// if there is one.
func (s *Store) describe(ctx context.Context, blocks []model.Key) (string, error) {
	few := blocks[:min(len(blocks), etcdstore.MaxTxnOps)]
	entries, bad, err := s.etcd.GetAll(ctx, few)
	if err != nil {
		return "", err
	}
	for _, e := range withBad(entries, bad) {
		block, ok := e.Value.(*model.Block)
		if !ok || slices.ContainsFunc(block.Allocations, func(a *int) bool { return a != nil }) {
			return fmt.Sprintf("%s in its range with addresses in use", e.Key.(model.BlockKey).CIDR), nil
		}
	}
	return fmt.Sprintf("%s in its range, which its node gives back after a while without containers in it", few[0].(model.BlockKey).CIDR), nil
}
