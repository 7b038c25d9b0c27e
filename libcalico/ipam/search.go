package ipam

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"sync"
	"time"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

const (
	// pointReads is how many keys one transaction reads, and readsAtOnce how many such
	// transactions a long search has under way.
	pointReads  = 64
	readsAtOnce = 4
	// manyBlocks is from how many blocks of a pool on it is quicker to list those that
	// exist than to read each that there may be.
	manyBlocks = 1024
	// searchesAtOnce is how many calls of a node search for addresses of a family at a time.
	searchesAtOnce = 4
)

// searchLevel says how far the search for addresses has gone.
type searchLevel int

const (
	searchOwn    searchLevel = iota // the node's blocks, as they are remembered
	searchVacant                    // the node's blocks were read; look for blocks of nobody, then of others
	searchOver                      // there are none
)

// search is how a call looks for addresses.
type search struct {
	level searchLevel
	walks map[pool]*walk
	finds *finds
	// spent is how long it has searched, or waited for others that do; since is when it began
	// to do the one or the other.
	spent time.Duration
	since time.Time
	// began is when it did so first, or began anew: what any search of the node has read
	// after that tells it what it would read itself.
	began time.Time
	// asked is what the call lacks. It waits for what others find until wake. alone says that it
	// does not wait for that any more: they found nothing in time.
	asked shortage
	alone bool
	wake  *time.Timer
	// found is what the search brought that has just ended.
	found *found
}

// again begins anew, because things are no longer as they were found.
func (s *search) again() {
	s.level, s.walks, s.finds, s.began = min(s.level, searchVacant), nil, nil, time.Time{}
}

// found is what a search brought.
type found struct {
	short  shortage
	vacant map[pool][]netip.Prefix
	blocks known // those of others that have room
	// alone are blocks that have none of another size in their range.
	alone map[netip.Prefix]moment
	finds *finds
	// over says that there is nothing else; the finds are then all that there are.
	over bool
	err  error
}

// findsFor is what a call may use of what was found.
func (q *queue) findsFor(c *call) *finds {
	if c.search.level == searchOwn {
		return &finds{} // the node's own blocks come first
	}
	f := newFinds()
	if c.search.finds != nil {
		*f = *c.search.finds
	}
	f.vacant = q.vacantBlocks()
	return f
}

// seek starts the search for a call, which comes back when it has ended. The other calls of
// the node go on meanwhile; but what one search finds may do for several, so that those which
// want addresses of the same family wait for it: for half of the time that each has. Waiting
// and searching are over when that is.
func (q *queue) seek(c *call, short shortage) {
	left := searchTimeout - c.search.spent
	if c.search.level == searchOver && !c.search.asked.same(short) {
		c.search.again() // that was another pool, or the pool as it was
	}
	c.search.asked = short
	switch {
	case c.search.level == searchOver:
		q.answer(c, result{}, short.err)
		return
	case left <= 0:
		q.answer(c, result{}, short.failure(errOthersFirst))
		return
	}
	c.parked, c.search.since = true, time.Now()
	if c.search.began.IsZero() {
		c.search.began = c.search.since
	}
	c.search.alone = c.search.alone || left <= searchTimeout/2
	if n := q.searching[short.ipv6]; n >= searchesAtOnce || n > 0 && !c.search.alone {
		q.waitBehind(c, left)
		return
	}
	q.hunt(c, short, left)
}

// errOthersFirst says that a call's own search had no time left.
var errOthersFirst = errors.New("the searches of other requests came first")

// waitBehind has a call wait until another's search has ended, or its time is up.
func (q *queue) waitBehind(c *call, left time.Duration) {
	family := c.search.asked.ipv6
	q.behind[family] = append(q.behind[family], c)
	if !c.search.alone {
		left -= searchTimeout / 2
	}
	c.search.wake = time.AfterFunc(left, func() { q.enqueue(&call{wakes: c}) })
}

// hunt searches for a call, for as long as it has left.
func (q *queue) hunt(c *call, short shortage, left time.Duration) {
	q.searching[short.ipv6]++
	if c.search.walks == nil {
		c.search.walks = map[pool]*walk{}
	}
	h := &hunt{
		backend: q.backend, places: q.places, node: q.node, env: q.env, walks: c.search.walks, mixed: maps.Clone(q.mixed),
		looks: q.looksOf(short.ipv6), since: c.search.began,
		found: &found{short: short, vacant: map[pool][]netip.Prefix{}, blocks: known{}, alone: map[netip.Prefix]moment{}, finds: newFinds()},
	}
	if c.search.finds != nil {
		h.found.finds.live = slices.Clone(c.search.finds.live)
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), left)
		defer cancel()
		h.found.err = h.run(ctx)
		c.search.found = h.found
		q.enqueue(c)
	}()
}

// resume takes up what searches have brought, and returns all calls that go on.
func (q *queue) resume(batch []*call) []*call {
	var all []*call
	for _, c := range batch {
		if c.wakes != nil {
			all = append(all, q.wake(c.wakes)...)
			continue
		}
		all = append(all, c)
		c.goOn()
		f := c.search.found
		if f == nil {
			continue
		}
		c.search.found = nil
		family := f.short.ipv6
		q.searching[family]--
		for _, b := range q.behind[family] {
			b.goOn()
			b.search.alone = b.search.alone || f.err != nil
			b.search.share(f)
			all = append(all, b)
		}
		q.behind[family] = nil
		q.takeUp(c, f)
	}
	return all
}

// goOn has a call be in the batch again.
func (c *call) goOn() {
	c.parked = false
	if !c.search.since.IsZero() {
		c.search.spent += time.Since(c.search.since)
		c.search.since = time.Time{}
	}
	if c.search.wake != nil {
		c.search.wake.Stop()
	}
}

// wake returns a call that has waited long enough for what others find, if it still waits.
func (q *queue) wake(c *call) []*call {
	for family, behind := range q.behind {
		if i := slices.Index(behind, c); i >= 0 {
			q.behind[family] = slices.Delete(behind, i, i+1)
			c.goOn()
			c.search.alone = true
			return []*call{c}
		}
	}
	return nil
}

// takeUp remembers what a call's search has found.
func (q *queue) takeUp(c *call, f *found) {
	for p, blocks := range f.vacant {
		q.addVacant(p, blocks)
	}
	for k, s := range f.blocks {
		if have, ok := q.known[k]; !ok || have.rev < s.rev {
			q.known[k] = s
		}
	}
	maps.Copy(q.alone, f.alone)
	if f.err != nil {
		if !c.over() {
			q.answer(c, result{}, f.short.failure(f.err))
		}
		return
	}
	c.search.finds = f.finds
	if f.over {
		c.search.level = searchOver
	}
}

// failure is what the caller is told when the search did not come to an end.
func (s shortage) failure(err error) error {
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errOthersFirst) {
		return err
	}
	e := &SearchError{IPv6: s.ipv6, After: searchTimeout, Err: err}
	for _, p := range s.pools {
		e.Pools = append(e.Pools, p.cidr)
	}
	if s.limited { // the reason is known, if not the figures
		return fmt.Errorf("%w; %w", s.err, e)
	}
	return e
}

// share spares a call its own search, if what another found is all that it would find.
func (s *search) share(f *found) {
	if f.err == nil && f.over && s.asked.same(f.short) {
		s.level, s.finds = searchOver, f.finds
	}
}

// hunt is a search under way. It touches nothing of the queue.
type hunt struct {
	backend backend
	places  *places
	node    string
	env     *environment
	walks   map[pool]*walk
	mixed   map[pool]bool // in which there are blocks of other sizes
	looks   *looks
	since   time.Time // what was read after it does
	listed  []netip.Prefix
	isKnown bool // that is what exists of the family
	*found
}

// all lists the blocks of the family that exist, whatever their size.
func (h *hunt) all(ctx context.Context) ([]netip.Prefix, error) {
	if h.isKnown {
		return h.listed, nil
	}
	var err error
	h.listed, err = h.looks.all(h.since, func() ([]netip.Prefix, error) { return h.backend.claimed(ctx, h.short.ipv6) })
	h.isKnown = err == nil
	return h.listed, err
}

// run looks for blocks that nobody has, and, if there are none, for room in those of others.
func (h *hunt) run(ctx context.Context) error {
	if h.mayClaim() {
		if any, err := h.findVacant(ctx); any || err != nil {
			return err
		}
	}
	return h.findRoomy(ctx)
}

// mayClaim says whether the node may have more blocks.
func (h *hunt) mayClaim() bool { return h.env.config.AutoAllocateBlocks && !h.short.limited }

// sizesDiffer says whether a pool may have blocks of other sizes: such were met, or nobody has
// tried to claim one beside them.
func (h *hunt) sizesDiffer(p pool) bool { return h.mixed[p] || !h.mayClaim() }

// walkOf goes on with the walk through what can be claimed of a pool.
func (h *hunt) walkOf(p pool) *walk {
	if h.walks[p] == nil {
		h.walks[p] = newWalk(h.node, h.env.open(p, h.short.usable.within)...)
	}
	return h.walks[p]
}

// findVacant looks for as many blocks that nobody owns as are needed, in the first pool
// that has some. It returns false when no pool has any.
func (h *hunt) findVacant(ctx context.Context) (any bool, err error) {
	for _, p := range h.short.pools {
		missing := h.short.missing
		occupied, err := h.occupied(ctx, p)
		if err != nil {
			return false, err
		}
		// A pool seldom is so full that the first look finds nothing.
		for chunks := 1; missing > 0; chunks = readsAtOnce {
			some := h.walkOf(p).chunks(chunks)
			if len(some) == 0 {
				break
			}
			beside := func() {}
			if chunks == 1 {
				beside = h.lookBeside(ctx, p, some[0])
			}
			vacant, err := h.vacantOf(ctx, some)
			beside()
			if err != nil {
				return false, err
			}
			for _, cidr := range vacant {
				if occupied.beside(cidr) {
					continue
				}
				h.vacant[p] = append(h.vacant[p], cidr)
				missing -= blockSize(cidr)
				any = true
			}
		}
		if missing <= 0 {
			return true, nil
		}
	}
	return any, nil
}

// lookBeside looks, while others go on, for blocks of other sizes in the range of the block
// that is likely to be claimed, so that the claim need not wait for that: the first that may
// be. The answer holds for the moment from which the search began. The search waits for it by
// calling what is returned.
func (h *hunt) lookBeside(ctx context.Context, p pool, some []netip.Prefix) (wait func()) {
	i := slices.IndexFunc(some, h.mayTake)
	if i < 0 || h.mixed[p] || len(h.alone) > 0 || textRanges(some[i]) == nil {
		return func() {}
	}
	none := make(chan bool, 1)
	go func() {
		others, err := h.backend.overlapping(ctx, some[i])
		none <- err == nil && len(others) == 0 // else the claim asks itself
	}()
	return func() {
		if <-none {
			h.alone[some[i]] = h.env.momentOf(p)
		}
	}
}

// mayTake says whether nothing that is known keeps a block from being claimed.
func (h *hunt) mayTake(cidr netip.Prefix) bool {
	return !h.env.heldBack(cidr) && h.env.leaves(cidr) && !h.env.overlapped[cidr].IsValid()
}

// occupied are the ranges that blocks of other sizes than their pool's have of it: such a
// block, or the pool's block that a smaller one is in.
type occupied map[netip.Prefix]bool

// occupied finds them for a pool in which such blocks were met.
func (h *hunt) occupied(ctx context.Context, p pool) (occupied, error) {
	if !h.mixed[p] {
		return nil, nil
	}
	all, err := h.all(ctx)
	if err != nil {
		return nil, err
	}
	out := occupied{}
	for _, b := range all {
		switch {
		case !b.Overlaps(p.cidr) || b.Bits() == p.blockBits:
		case b.Bits() > p.blockBits:
			out[p.blockOf(b.Addr())] = true
		default:
			out[b] = true
		}
	}
	return out, nil
}

// beside says whether a block would have addresses in common with another.
func (o occupied) beside(block netip.Prefix) bool {
	return len(o) > 0 && (o[block] || slices.ContainsFunc(widerBlocks(block), func(w netip.Prefix) bool { return o[w] }))
}

// vacantOf returns those of some blocks that nobody has.
func (h *hunt) vacantOf(ctx context.Context, lots [][]netip.Prefix) ([]netip.Prefix, error) {
	exist, err := atOnce(ctx, lots, h.backend.exist)
	if err != nil {
		return nil, err
	}
	var absent []netip.Prefix
	for i, cidr := range slices.Concat(lots...) {
		if !exist[i/pointReads][i%pointReads] && h.mayTake(cidr) {
			absent = append(absent, cidr)
		}
	}
	return h.withoutLive(ctx, absent)
}

// withoutLive takes away those of some blocks that are not in the store, but some node's by
// the routes of this host; they are noted.
func (h *hunt) withoutLive(ctx context.Context, blocks []netip.Prefix) ([]netip.Prefix, error) {
	live, err := h.places.live(ctx, blocks)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(blocks, func(cidr netip.Prefix) bool {
		if live[cidr] {
			h.finds.live = append(h.finds.live, localnet.Place{Prefix: cidr, What: "a block by this host's routes, which etcd does not know"})
		}
		return live[cidr]
	}), nil
}

// findRoomy looks for blocks of others with free addresses, until there are enough,
// and counts the use of the pools that it has seen completely.
func (h *hunt) findRoomy(ctx context.Context) error {
	missing := h.short.missing
	h.over = true
	for _, p := range h.short.pools {
		walk := newWalk(h.node, p.parts(h.short.usable.within)...)
		next := walk.chunks
		if walk.blocks() > manyBlocks || h.sizesDiffer(p) {
			all, err := h.all(ctx)
			if err != nil {
				return err
			}
			next = inOrder(h.node, slices.DeleteFunc(slices.Clone(all), func(b netip.Prefix) bool {
				return !p.owns(b) || !h.short.usable.reaches(b)
			}))
		}
		fill := emptyFill(p, h.short.usable)
		for chunks := 1; missing > 0; chunks = readsAtOnce {
			some := next(chunks)
			if len(some) == 0 {
				break
			}
			found, err := atOnce(ctx, some, func(ctx context.Context, blocks []netip.Prefix) (known, error) {
				return h.looks.room(h.since, blocks, func(some []netip.Prefix) (known, error) { return h.backend.room(ctx, some) })
			})
			if err != nil {
				return err
			}
			for i, blocks := range found {
				if n := h.useRoom(p, some[i], blocks, &fill); !h.env.config.StrictAffinity {
					missing -= n
				}
			}
		}
		h.finds.fill[p.cidr] = fill
		h.over = h.over && missing > 0
	}
	return nil
}

// useRoom takes note of blocks that were read and returns how many usable addresses
// they have.
func (h *hunt) useRoom(p pool, candidates []netip.Prefix, blocks known, fill *PoolFill) (n int) {
	u := h.short.usable
	for _, cidr := range candidates {
		s, ok := blocks[model.BlockKey{CIDR: cidr}]
		if !ok || s.rev == 0 {
			continue
		}
		fill.Blocks++
		b, ok := s.value.(*model.Block)
		if ok && !h.env.leaves(cidr) {
			fill.InUse += inUseOf(b, u)
			continue
		}
		if !ok { // full, or not usable
			fill.InUse += overlap(cidr, u)
			continue
		}
		fill.InUse += inUseOf(b, u)
		ordinals, held := free(b, len(b.Allocations), u)
		fill.Reserved += held
		if len(ordinals) > 0 {
			h.blocks[model.BlockKey{CIDR: cidr}] = s
			h.finds.roomy[p.cidr] = append(h.finds.roomy[p.cidr], cidr)
			n += len(ordinals)
		}
	}
	return n
}

// inOrder goes through blocks, from one that depends on the node, in lots as a walk does.
func inOrder(node string, blocks []netip.Prefix) func(n int) [][]netip.Prefix {
	slices.SortFunc(blocks, netip.Prefix.Compare)
	if len(blocks) > 0 {
		seed := sha256.Sum256([]byte(node))
		first := binary.BigEndian.Uint64(seed[:8]) % uint64(len(blocks))
		blocks = slices.Concat(blocks[first:], blocks[:first])
	}
	return func(n int) (out [][]netip.Prefix) {
		for ; n > 0 && len(blocks) > 0; n-- {
			some := blocks[:min(pointReads, len(blocks))]
			out, blocks = append(out, some), blocks[len(some):]
		}
		return out
	}
}

// atOnce reads several lots of blocks, all at the same time.
func atOnce[T any](ctx context.Context, lots [][]netip.Prefix, read func(context.Context, []netip.Prefix) (T, error)) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	out, errs := make([]T, len(lots)), make([]error, len(lots))
	var wg sync.WaitGroup
	for i, lot := range lots {
		wg.Go(func() { out[i], errs[i] = read(ctx, lot) })
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// emptyFill is the use of a pool, or of the part of it that can be used, of which
// nothing has been counted yet.
func emptyFill(p pool, u usable) PoolFill {
	if len(u.within) == 0 {
		return PoolFill{Pool: p.cidr, Size: p.size()}
	}
	fill := PoolFill{Pool: p.cidr, Size: new(big.Int)}
	for _, r := range distinct(u.within, p.cidr) {
		fill.Size.Add(fill.Size, sizeOf(r))
	}
	return fill
}

// overlap is how many addresses of a block are in the ranges that are asked for.
func overlap(block netip.Prefix, u usable) int {
	if len(u.within) == 0 || slices.ContainsFunc(u.within, func(r netip.Prefix) bool { return r.Bits() <= block.Bits() && r.Contains(block.Addr()) }) {
		return blockSize(block)
	}
	if !slices.ContainsFunc(u.within, block.Overlaps) {
		return 0
	}
	n := 0
	for i := range blockSize(block) {
		if holds(u.within, addTo(block.Addr(), uint64(i))) {
			n++
		}
	}
	return n
}

// inUseOf is how many of these addresses somebody has.
func inUseOf(b *model.Block, u usable) int {
	if len(u.within) == 0 {
		return inUse(b)
	}
	n := 0
	for ordinal, taken := range b.Allocations {
		if taken != nil && holds(u.within, addrOf(b, ordinal)) {
			n++
		}
	}
	return n
}

// SearchError says that the search for a free address was given up. Other requests are not
// concerned. It Is [ErrSearch].
type SearchError struct {
	IPv6  bool
	Pools []netip.Prefix
	// After is how long a search may take.
	After time.Duration
	// Err is what the search met.
	Err error
}

// Error says where it searched, and for how long.
func (e *SearchError) Error() string {
	return fmt.Sprintf("%v within %v: %s%s: %v; ask again, or add a pool that is less full", ErrSearch, e.After, familyName(e.IPv6), inRanges(e.Pools), e.Err)
}

// Unwrap returns what the error Is.
func (e *SearchError) Unwrap() []error { return []error{ErrSearch, e.Err} }
