package transfer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
)

// The limits of a transaction, below those of etcd.
const (
	maxOps  = 100
	maxSize = 1 << 20
)

// look finds out what would become of a source.
type look struct {
	*target

	im   Import
	plan Plan
	// arriving are those of the plain kinds that are to be written.
	arriving []resource.Arrival
	// owners are the nodes of the source's blocks, and handles those that its blocks count.
	owners  map[netip.Prefix]string
	handles sighted
	twofold twofold
}

// Look says what would become of a source; of intents alone, if only those are wanted.
func (im Import) Look(ctx context.Context) (Plan, error) {
	t, err := newTarget(ctx, im.Store, im.Intents)
	if err != nil {
		return Plan{}, err
	}
	l := look{target: t, im: im, owners: map[netip.Prefix]string{}}
	if err = l.plan.paths(im.Source); err != nil {
		return Plan{}, err
	}
	if im.Intents {
		l.plan.blocks = nil
	}
	err = l.each(ctx, im.plain, l.plainOnes)
	if err == nil {
		err = l.together(ctx)
	}
	if err == nil && im.Intents {
		err = im.Source.items(isOf(facts), func(item) error {
			l.plan.LeftOut++
			return nil
		}, func(string, error) { l.plan.LeftOut++ })
	} else if err == nil {
		err = l.facts(ctx)
		l.plan.inUse = l.agreed
	}
	slices.SortFunc(l.plan.Invalid, comparePaths)
	slices.SortFunc(l.plan.Skipped, comparePaths)
	slices.SortFunc(l.plan.Refused, comparePaths)
	return l.plan, err
}

// each looks at the resources of some kinds.
func (l *look) each(ctx context.Context, wanted func(model.Kind) bool, f func(context.Context, []item) error) error {
	return l.im.Source.chunks(wanted, l.bad, func(some []item) error { return f(ctx, some) })
}

// facts looks at what tells what is: the blocks first, which tell whose the addresses are.
func (l *look) facts(ctx context.Context) error {
	err := l.each(ctx, isOf([]model.Kind{model.KindBlock}), l.blocks)
	if err == nil {
		err = l.each(ctx, isOf(derived), l.derived)
	}
	if err == nil {
		err = l.endpoints(ctx)
	}
	return err
}

// endpoints looks at the many; again, when some of them turn out to have an address in common.
func (l *look) endpoints(ctx context.Context) error {
	before := l.plan
	before.Counts = slices.Clone(l.plan.Counts)
	err := l.each(ctx, isOf(many), l.compare)
	if err != nil || len(l.twofold.twice) == 0 {
		return err
	}
	l.plan = before
	if err = l.twofold.judge(l.im.Source); err == nil {
		l.plan.twofold = l.twofold.refused
		err = l.each(ctx, isOf(many), l.compare)
	}
	return err
}

func (l *look) bad(path string, why error) {
	l.plan.Invalid = append(l.plan.Invalid, Problem{path, why.Error()})
}

func (l *look) skip(k model.Key, why string) {
	l.plan.Skipped = append(l.plan.Skipped, Problem{model.Paths(k)[0], why})
}

// chunks is [Source.items] for as many at a time as fit into a transaction.
func (s Source) chunks(wanted func(model.Kind) bool, bad func(string, error), f func([]item) error) error {
	var some []item
	ops, size := 0, 0
	flush := func() error {
		err := f(some)
		some, ops, size = nil, 0, 0
		return err
	}
	err := s.items(wanted, func(it item) error {
		paths, n := len(model.Paths(it.key)), it.size()
		if len(some) > 0 && (ops+paths > maxOps || size+n > maxSize) {
			if err := flush(); err != nil {
				return err
			}
		}
		some, ops, size = append(some, it), ops+paths, size+n
		return nil
	}, bad)
	if err == nil && len(some) > 0 {
		err = flush()
	}
	return err
}

// compare counts the states of some resources.
func (l *look) compare(ctx context.Context, some []item) error {
	stored, err := l.read(ctx, some)
	if err != nil {
		return err
	}
	for i, it := range some {
		l.twofold.meet(it)
		state := l.judge(it, stored[i])
		if why := l.objection(it); state == New && why != "" {
			l.skip(it.key, why)
			continue
		}
		if why := l.plan.twofold[it.key]; why != "" && (state == New || state == Different && l.im.Overwrite) {
			l.plan.Refused = append(l.plan.Refused, Problem{model.Paths(it.key)[0], why})
			continue
		}
		if state != New {
			l.plan.stored.addStored(it.key)
		}
		l.plan.count(it.key, state)
	}
	return nil
}

// blocks counts what becomes of some blocks.
func (l *look) blocks(ctx context.Context, some []item) error {
	for _, it := range some {
		from := it.value.(*model.Block)
		l.owners[from.CIDR] = ipam.NodeOf(from)
		for id := range ipam.HandleCounts(from) {
			l.handles.add(id)
		}
	}
	found, err := l.readBlocks(ctx, some)
	if err != nil {
		return err
	}
	for _, it := range some {
		from := it.value.(*model.Block)
		places := l.overlapping(from.CIDR)
		if len(places) == 0 {
			l.plan.count(it.key, New)
			continue
		}
		state := Same
		l.plan.stored.addStored(it.key)
		for _, place := range places {
			m, ok := l.merge(place, found[place], from)
			switch {
			case !ok:
				l.skip(it.key, fmt.Sprintf("the block %s in the datastore is damaged: calicoctl ipam check --fix", place))
			case len(m.Added) > 0:
				state = Merged
			}
		}
		if len(missing(from, places)) > 0 {
			state = Merged
		}
		l.plan.count(it.key, state)
	}
	return nil
}

// readBlocks reads the stored blocks that share addresses with some.
func (t *target) readBlocks(ctx context.Context, some []item) (map[netip.Prefix]etcdstore.Stored, error) {
	var places []item
	for _, it := range some {
		for _, cidr := range t.overlapping(it.key.(model.BlockKey).CIDR) {
			places = append(places, item{key: model.BlockKey{CIDR: cidr}})
		}
	}
	found := map[netip.Prefix]etcdstore.Stored{}
	for part := range slices.Chunk(places, maxOps) {
		stored, err := t.read(ctx, part)
		if err != nil {
			return nil, err
		}
		for i, it := range part {
			found[it.key.(model.BlockKey).CIDR] = stored[i]
		}
	}
	return found, nil
}

// derived counts affinities and handles, which come with the blocks that they follow from.
func (l *look) derived(ctx context.Context, some []item) error {
	stored, err := l.read(ctx, some)
	if err != nil {
		return err
	}
	for i, it := range some {
		if len(stored[i].Parts) > 0 {
			l.plan.count(it.key, Same)
			continue
		}
		switch k := it.key.(type) {
		case model.HandleKey:
			if !l.handles.has(k.ID) {
				l.skip(k, "no block has an address of it")
				continue
			}
		case model.BlockAffinityKey:
			if len(l.overlapping(k.CIDR)) > 0 {
				l.plan.count(k, Kept)
				continue
			}
			if l.owners[k.CIDR] != k.Node {
				l.skip(k, "the block is not there, or is not the node's")
				continue
			}
		}
		l.plan.count(it.key, New)
	}
	return nil
}
