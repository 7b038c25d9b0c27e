package transfer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/resource"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/version"
)

// Import brings a source into a datastore.
type Import struct {
	Store  *etcdstore.Client
	Source Source
	// Intents brings in only what somebody wants (policies, profiles, tiers, sets, pools, BGP,
	// host endpoints, settings), and nothing of what is (nodes, endpoints, addresses, networks).
	Intents bool
	// Overwrite replaces what the datastore has with another value.
	Overwrite bool
	// KeepLocked leaves the datastore locked, TakeLock takes a lock that somebody else has.
	KeepLocked, TakeLock bool
	// By signs the lock.
	By *model.Lock
	// Resources is asked what must not be together, and warns; nil is one of Store.
	Resources *resource.Store
	// Progress is called now and then.
	Progress func(done, all int)
}

// Result is what an import did.
type Result struct {
	// Written is how many resources were written.
	Written int
	// Raced are those that the datastore got with another value after the look; they are as
	// they were.
	Raced Keys
	// Refused are those that must not be beside what came after the look.
	Refused []Problem
	// Ended is how many endpoints the datastore had during the import, or when it was looked
	// at, and has no more: their containers have ended, and they are not brought back.
	Ended int
	// Mended is how many inconsistencies of addresses were mended, by what is certain.
	Mended int
	// Problems are inconsistencies of addresses that were not there before.
	Problems []ipam.Problem
	// Lock says how the datastore is in the end.
	Lock string
}

// plain tells the kinds that are held in memory and written first.
func (im Import) plain(k model.Kind) bool { return isPlain(k) && (!im.Intents || isIntent(k)) }

// run is an import that holds the lock.
type run struct {
	Import
	*target

	lock *lock
	plan Plan
	all  int
	// held are the resources that are held in memory, and beside is what must not be together
	// of them. said are the paths of those of which that was said.
	held   []item
	beside resource.Together
	said   map[string]bool
	result Result
}

// Run writes what a look has found, which must be nothing that stands against it. Whatever
// happens, the lock is given back.
func (im Import) Run(ctx context.Context, p Plan) (Result, error) {
	if p.toWrite() == 0 && !im.KeepLocked {
		// Nobody is kept waiting for nothing, if there is no lock or flag to see to either.
		state, err := im.Store.LockState(ctx)
		if err == nil && !state.Locked && state.ReadyRevision != 0 {
			result := Result{Lock: "the datastore is open"}
			var now []ipam.Problem
			if now, err = im.addressProblems(ctx); err == nil && !slices.ContainsFunc(now, isCertain) {
				err = result.judge(nil, now, nil)
				return result, err
			}
		}
		if err != nil {
			return Result{}, err
		}
	}
	if own := im.Store.Version(); p.Needs != "" && !version.AtLeast(own, p.Needs) {
		return Result{}, fmt.Errorf("%s is for %s and later, and this is %s, which would lose some of it: import it with a newer calicoctl%w",
			im.Source.Name, p.Needs, own, silent{etcdstore.ErrTooOld})
	}
	l, err := takeLock(ctx, im.Store, im.By, im.TakeLock)
	if err != nil {
		return Result{}, err
	}
	l.needs = p.Needs
	r := &run{Import: im, lock: l, plan: p, all: p.toWrite(), said: map[string]bool{}}
	for _, p := range slices.Concat(p.Refused, p.Skipped) {
		r.said[p.Path] = true
	}
	if err = r.do(ctx); errors.Is(err, errLockLost) {
		return r.result, err
	}
	how := leaveAsBefore
	switch {
	case im.KeepLocked:
		how = leaveLocked
	case err == nil && !im.Intents:
		how = leaveOpen
	}
	then, lockErr := l.giveBack(ctx, how)
	switch r.result.Lock = then; {
	case then == "" || err == nil:
	case errors.Is(err, errInconsistent):
		err = fmt.Errorf("%w\nall resources were written; after that, \"calicoctl ipam check --fix\" mends what follows from it; %s", err, then)
	default:
		err = fmt.Errorf("%w\n%d of %d resources were written, and %s; repeat the import, which goes on where it broke off", err, r.result.Written, r.all, then)
	}
	return r.result, errors.Join(err, lockErr)
}

// silent is an error that a message does not show and [errors.Is] finds.
type silent struct{ err error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.err }

// do compares, writes, and compares again.
func (r *run) do(ctx context.Context) (err error) {
	if r.target, err = newTarget(ctx, r.Store, r.Intents); err != nil {
		return err
	}
	var before []ipam.Problem
	if !r.Intents {
		before = ipam.Check(r.inventory, ipam.Seen{}, time.Now())
	}
	r.held, err = r.collect()
	if err == nil {
		err = r.check(ctx)
	}
	if err == nil {
		err = r.each(r.held, func(some []item) error { return r.put(ctx, some) })
	}
	if err == nil && !r.Intents {
		err = r.Source.chunks(isOf([]model.Kind{model.KindBlock}), ignore, func(some []item) error { return r.putBlocks(ctx, some) })
	}
	if err == nil && !r.Intents {
		err = r.Source.chunks(isOf(many), ignore, func(some []item) error { return r.put(ctx, some) })
	}
	if err == nil {
		err = r.verify(ctx)
	}
	if err == nil && !r.Intents {
		err = r.settleAddresses(ctx, before)
	}
	return err
}

// ignore passes over what is not valid: the look has named it.
func ignore(string, error) {}

// collect reads what is held in memory, what others refer to first.
func (r *run) collect() (plain []item, err error) {
	err = r.Source.items(r.plain, func(it item) error {
		plain = append(plain, it)
		return nil
	}, ignore)
	slices.SortStableFunc(plain, func(a, b item) int { return resource.CompareKeys(a.key, b.key) })
	return plain, err
}

// each calls f for as many resources at a time as fit into a transaction.
func (r *run) each(items []item, f func([]item) error) error {
	for len(items) > 0 {
		n, ops, size := 0, 0, 0
		for _, it := range items {
			ops, size = ops+len(model.Paths(it.key)), size+it.size()
			if n > 0 && (ops > maxOps || size > maxSize) {
				break
			}
			n++
		}
		if err := f(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// maxTries is how often resources are compared anew because somebody wrote one in between:
// under the lock that is only who gives something back.
const maxTries = 10

// put writes some resources in one transaction, each on the condition that it is as it was
// compared.
func (r *run) put(ctx context.Context, some []item) error {
	for range maxTries {
		writes, raced, err := r.writes(ctx, some)
		if err != nil {
			return err
		}
		if len(writes) > 0 {
			err = r.commit(ctx, writes)
		}
		switch {
		case errors.Is(err, etcdstore.ErrConflict):
			if err = r.check(ctx); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		for _, k := range raced {
			r.result.Raced.add(k)
		}
		for _, w := range writes {
			r.plan.stored.addStored(w.Key())
		}
		r.wrote(len(writes))
		return nil
	}
	return fmt.Errorf("others wrote %s, or what is written with it, each time that it was compared (%d times)", some[0].key, maxTries)
}

// writes compares some resources, and lists what is to be written of them.
func (r *run) writes(ctx context.Context, some []item) (writes []etcdstore.Write, raced []model.Key, err error) {
	stored, err := r.read(ctx, some)
	if err != nil {
		return nil, nil, err
	}
	for i, it := range some {
		var w etcdstore.Write
		state := r.judge(it, stored[i])
		if state != New {
			r.plan.stored.addStored(it.key)
		}
		switch {
		case r.refuses(it.key), state == New && (r.plan.stored.ended(it.key) || r.objects(it)):
			continue
		case state == New:
			w, err = etcdstore.CreateWrite(it.key, it.value)
		case state == Different && r.Overwrite:
			w, err = etcdstore.UpdateWrite(it.key, it.value, stored[i].Revision)
		case state == Different:
			raced = append(raced, it.key)
			continue
		default:
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		writes = append(writes, w)
	}
	return writes, raced, nil
}

// objects says whether a resource is not brought in because of others, and has that said
// unless the look has.
func (r *run) objects(it item) bool {
	why := r.objection(it)
	if path := model.Paths(it.key)[0]; why != "" && !r.said[path] {
		r.said[path] = true
		r.result.Refused = append(r.result.Refused, Problem{path, why})
	}
	return why != ""
}

func (r *run) wrote(n int) {
	if n == 0 {
		return
	}
	r.result.Written += n
	r.all = max(r.all, r.result.Written)
	if r.Progress != nil {
		r.Progress(r.result.Written, r.all)
	}
}

// putBlocks merges some blocks into the datastore.
func (r *run) putBlocks(ctx context.Context, some []item) error {
	for _, it := range some {
		// What both had in use is the datastore's own affair, and may be given back by now.
		whole := it.value.(*model.Block)
		from := ipam.Without(whole, r.plan.inUse.wasInUse)
		places := r.overlapping(from.CIDR)
		if len(places) == 0 && r.plan.stored.ended(it.key) && len(ipam.InUse(from)) == 0 {
			continue
		}
		parts := []*model.Block{from}
		if len(places) > 0 {
			parts = missing(from, places)
		}
		for _, place := range places {
			if err := r.putBlock(ctx, place, whole); err != nil {
				return err
			}
		}
		for _, part := range parts {
			if err := r.putBlock(ctx, part.CIDR, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// putBlock merges a block of the source into one of the datastore, which may be the same or
// not be there yet. What follows from the block is written with it.
func (r *run) putBlock(ctx context.Context, place netip.Prefix, from *model.Block) error {
	for range maxTries {
		stored, err := r.read(ctx, []item{{key: model.BlockKey{CIDR: place}}})
		if err != nil {
			return err
		}
		b := blockWrite{run: r, from: from, place: place, revision: stored[0].Revision}
		exists := len(stored[0].Parts) > 0
		switch {
		case exists:
			m, ok := r.merge(place, stored[0], from)
			if slices.ContainsFunc(m.Added, r.plan.inUse.wasInUse) {
				m, ok = r.merge(place, stored[0], ipam.Without(from, r.plan.inUse.wasInUse))
			}
			if !ok || len(m.Added) == 0 {
				return nil
			}
			b.next, b.added = m.Block, m.Added
		case place != from.CIDR:
			r.hasBlock(place, false) // it was given back meanwhile
			return r.putBlocks(ctx, []item{{key: model.BlockKey{CIDR: from.CIDR}, value: from}})
		default:
			b.next = from
			for _, h := range ipam.InUse(from) {
				b.added = append(b.added, h.Addr)
			}
		}
		n, err := b.do(ctx)
		if errors.Is(err, etcdstore.ErrConflict) {
			continue
		}
		if err == nil {
			r.hasBlock(place, true)
			r.wrote(n)
		}
		return err
	}
	return fmt.Errorf("others wrote block %s each time that it was compared (%d times)", place, maxTries)
}

// blockWrite is the writing of one block.
type blockWrite struct {
	*run

	from, next *model.Block
	place      netip.Prefix
	// revision is that of the stored block, 0 for none.
	revision int64
	added    []netip.Addr
}

// do writes the block with the handles of the addresses that come into use, and with the
// affinity of a new one, and returns how many resources that are new or changed. More handles
// than fit into one transaction go before it.
func (b *blockWrite) do(ctx context.Context) (n int, err error) {
	handles, created, err := b.handles(ctx)
	if err != nil {
		return 0, err
	}
	last, more, err := b.own(ctx)
	if err != nil {
		return 0, err
	}
	for len(handles)+len(last) > maxOps {
		some := handles[:min(maxOps, len(handles))]
		if err := b.lock.commit(ctx, some...); err != nil {
			return 0, err
		}
		handles = handles[len(some):]
	}
	return created + more, b.lock.commit(ctx, append(last, handles...)...)
}

// own is what writes the block itself and, of a new one, the affinity.
func (b *blockWrite) own(ctx context.Context) (writes []etcdstore.Write, n int, err error) {
	k := model.BlockKey{CIDR: b.place}
	if b.revision != 0 {
		w, err := etcdstore.UpdateWrite(k, b.next, b.revision)
		return []etcdstore.Write{w}, 1, err
	}
	w, err := etcdstore.CreateWrite(k, b.next)
	if err != nil {
		return nil, 0, err
	}
	writes = append(writes, w)
	node := ipam.NodeOf(b.next)
	if node == "" {
		return writes, 1, nil
	}
	affinity := model.BlockAffinityKey{Node: node, CIDR: b.place}
	stored, err := b.read(ctx, []item{{key: affinity}})
	if err != nil || len(stored[0].Parts) > 0 {
		return writes, 1, err
	}
	w, err = etcdstore.CreateWrite(affinity, &model.BlockAffinity{State: model.AffinityConfirmed})
	return append(writes, w), 2, err
}

// handles counts the block's addresses of each handle that gets one. created is how many of
// the handles are new.
func (b *blockWrite) handles(ctx context.Context) (writes []etcdstore.Write, created int, err error) {
	counts := ipam.HandleCounts(b.next)
	ids := map[string]bool{}
	for _, h := range ipam.InUse(b.next) {
		if h.Owner.Handle != "" && slices.Contains(b.added, h.Addr) {
			ids[h.Owner.Handle] = true
		}
	}
	var keys []item
	for id := range ids {
		keys = append(keys, item{key: model.HandleKey{ID: id}})
	}
	for some := range slices.Chunk(keys, maxOps) {
		stored, err := b.read(ctx, some)
		if err != nil {
			return nil, 0, err
		}
		for i, it := range some {
			w, ok, err := handleWrite(it.key.(model.HandleKey), stored[i], b.place, counts)
			if err != nil {
				return nil, 0, err
			}
			if !ok {
				continue
			}
			writes = append(writes, w)
			if len(stored[i].Parts) == 0 {
				created++
			}
		}
	}
	return writes, created, nil
}

// handleWrite makes a handle count what a block has of it. One that cannot be read stays as it
// is (ok is false): what else it holds is not known, and the check of the addresses names it.
func handleWrite(k model.HandleKey, stored etcdstore.Stored, block netip.Prefix, counts map[string]int) (w etcdstore.Write, ok bool, err error) {
	h := &model.Handle{}
	if len(stored.Parts) > 0 {
		r, err := model.Decode(k, stored.Parts)
		if err != nil {
			return w, false, nil //nolint:nilerr // it is named later
		}
		h = r.(*model.Handle)
	}
	if h.Block == nil {
		h.Block = map[string]int{}
	}
	h.Block[block.String()] = counts[k.ID]
	if len(stored.Parts) == 0 {
		w, err = etcdstore.CreateWrite(k, h)
	} else {
		w, err = etcdstore.UpdateWrite(k, h, stored.Revision)
	}
	return w, true, err
}

// verify compares all that was to be written with what is stored.
func (r *run) verify(ctx context.Context) error {
	wrong := Plan{}
	check := func(some []item) error {
		stored, err := r.read(ctx, some)
		if err != nil {
			return err
		}
		for i, it := range some {
			switch state := r.judge(it, stored[i]); {
			case state == New && r.plan.stored.ended(it.key):
				r.result.Ended++
			case state == Same, state == Kept, state == New && r.objection(it) != "":
			case state == Different && !r.Overwrite, r.refuses(it.key):
			default:
				wrong.Different.add(it.key)
			}
		}
		return nil
	}
	err := r.each(r.held, check)
	if err == nil && !r.Intents {
		err = r.Source.chunks(isOf(many), ignore, check)
	}
	switch {
	case err != nil:
		return fmt.Errorf("compare what was written: %w", err)
	case wrong.Different.N > 0:
		return fmt.Errorf("%d resources are not what was written, since somebody else writes at the same time, such as %s", wrong.Different.N, wrong.Different.First[0])
	}
	return nil
}

func comparePaths(a, b Problem) int { return strings.Compare(a.Path, b.Path) }
