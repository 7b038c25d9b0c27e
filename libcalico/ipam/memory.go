package ipam

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

const (
	// environmentAge is how old the pools, reservations and configuration may be that a
	// batch starts with. What an operation relies on is checked by its transaction, and
	// a refusal is never based on what is old, so this bounds only how late a new pool or
	// reservation is noticed.
	environmentAge = time.Second
	// vacantAge is how long a block is remembered as nobody's. The older that is, the more
	// likely somebody has claimed it meanwhile, and each try that is too late costs a
	// transaction and a pause.
	vacantAge = 10 * time.Second
	// maxKnown is how many values are kept from batch to batch.
	maxKnown = 2048
)

// memory is what a queue remembers of the store. Any of it may be old: a transaction is
// done only if it is not.
type memory struct {
	env    *environment // never changed, but replaced
	envAt  time.Time
	known  known
	vacant map[netip.Prefix]vacancy // by pool
	// mixed are pools, as they are now, in which a block of another size was met.
	mixed map[pool]bool
}

// vacancy is the blocks of a pool that nobody had claimed when last looked at.
type vacancy struct {
	pool   pool
	at     time.Time
	blocks []netip.Prefix
}

func newMemory() memory {
	return memory{known: known{}, vacant: map[netip.Prefix]vacancy{}, mixed: map[pool]bool{}}
}

// addVacant remembers blocks as nobody's.
func (m *memory) addVacant(p pool, blocks []netip.Prefix) {
	v := m.vacant[p.cidr]
	if v.pool != p {
		v = vacancy{pool: p}
	}
	for _, cidr := range blocks {
		if !slices.Contains(v.blocks, cidr) {
			v.blocks = append(v.blocks, cidr)
		}
		if k := (model.BlockKey{CIDR: cidr}); m.known[k].rev == 0 {
			m.known[k] = stored{}
		} else {
			delete(m.known, k) // which of the two is older is not known
		}
	}
	v.at = time.Now()
	m.vacant[p.cidr] = v
}

// vacantBlocks are the blocks that are nobody's for all that is remembered, by pool.
func (m *memory) vacantBlocks() map[netip.Prefix][]netip.Prefix {
	out := map[netip.Prefix][]netip.Prefix{}
	for cidr, v := range m.vacant {
		out[cidr] = v.blocks
	}
	return out
}

// forgetVacant drops what is too old, or was about a pool as it is no more.
func (m *memory) forgetVacant() {
	for cidr, v := range m.vacant {
		if time.Since(v.at) > vacantAge || !slices.Contains(m.env.pools, v.pool) {
			delete(m.vacant, cidr)
			for _, block := range v.blocks {
				if k := (model.BlockKey{CIDR: block}); m.known[k].rev == 0 {
					delete(m.known, k) // it is as old
				}
			}
		}
	}
}

func (m *memory) dropVacant(cidr netip.Prefix) {
	for pool, v := range m.vacant {
		v.blocks = slices.DeleteFunc(v.blocks, func(p netip.Prefix) bool { return p == cidr })
		m.vacant[pool] = v
	}
}

// committed remembers what is now stored.
func (m *memory) committed(w *work, rev int64) {
	for k, value := range w.writes {
		switch k := k.(type) {
		case model.BlockAffinityKey:
			if k.Node == w.node {
				m.setAffine(k.CIDR, value != nil)
			}
			continue
		case model.BlockKey:
			m.dropVacant(k.CIDR)
		}
		if value == nil {
			delete(m.known, k)
		} else {
			m.known[k] = stored{value, rev}
		}
	}
}

func (m *memory) setAffine(cidr netip.Prefix, is bool) {
	env := *m.env
	env.affine = slices.DeleteFunc(slices.Clone(env.affine), func(p netip.Prefix) bool { return p == cidr })
	if is {
		env.affine = append(env.affine, cidr)
		slices.SortFunc(env.affine, netip.Prefix.Compare)
	}
	m.env = &env
}

// setOverlapped notes that a block cannot be claimed beside another. Where there is one such
// there may be many: what else seemed to be nobody's in the pool is looked at again.
func (m *memory) setOverlapped(cidr, other netip.Prefix) {
	env := *m.env
	if env.overlapped = maps.Clone(env.overlapped); env.overlapped == nil {
		env.overlapped = map[netip.Prefix]netip.Prefix{}
	}
	env.overlapped[cidr] = other
	m.env = &env
	if p, ok := env.poolOf(cidr.Addr()); ok && !m.mixed[p] {
		m.mixed[p] = true
		delete(m.vacant, p.cidr)
	}
	m.dropVacant(cidr)
}

// forget drops what is known of the things that a transaction was about, which may have
// been done or not.
func (m *memory) forget(w *work) {
	for k := range w.writes {
		delete(m.known, k)
	}
	m.envAt = time.Time{} // it may have claimed a block
}

// prune keeps what is remembered from growing, and from growing old.
func (m *memory) prune() {
	if m.env == nil {
		return
	}
	m.forgetVacant()
	if len(m.known) <= maxKnown {
		return
	}
	kept := known{}
	for _, cidr := range m.env.affine {
		k := model.BlockKey{CIDR: cidr}
		if s, ok := m.known[k]; ok {
			kept[k] = s
		}
	}
	m.known = kept
}

// environmentIsOld says that a batch may not start with it.
func (m *memory) environmentIsOld() bool {
	return m.env == nil || time.Since(m.envAt) > environmentAge
}

func (q *queue) readEnvironment(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var failed error
	var meanwhile sync.WaitGroup
	meanwhile.Go(func() { _, failed = q.places.known(ctx) })
	env, err := q.backend.environment(ctx, q.node)
	if meanwhile.Wait(); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	q.env, q.envAt = env, time.Now()
	maps.DeleteFunc(q.mixed, func(p pool, _ bool) bool { return !slices.Contains(env.pools, p) })
	q.forgetVacant()
	return q.findTaken(ctx, q.places.known)
}

// findTaken finds what hosts have of the pools for themselves.
func (q *queue) findTaken(ctx context.Context, places func(context.Context) ([]localnet.Place, error)) error {
	all, err := places(ctx)
	if err != nil {
		return err
	}
	env := *q.env
	env.taken = nil
	for _, place := range all {
		if slices.ContainsFunc(env.pools, func(p pool) bool { return p.cidr.Overlaps(place.Prefix) }) {
			env.taken = append(env.taken, place)
		}
	}
	q.env = &env
	return nil
}

// findHere finds which containers are here.
func (q *queue) findHere(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	here, err := q.places.here(ctx)
	if err != nil {
		return err
	}
	env := *q.env
	env.here = here
	q.env = &env
	return nil
}

func (q *queue) read(ctx context.Context, keys []model.Key) error {
	for chunk := range slices.Chunk(keys, pointReads) {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		values, err := q.backend.read(ctx, chunk)
		if err != nil {
			return err
		}
		maps.Copy(q.known, values)
	}
	return nil
}
