package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

const (
	// maxSteps bounds the steps of a batch's transaction; the rest of etcd's limit is
	// for the callers' own writes.
	maxSteps = 96
	// alsoSteps is what one of the callers' own writes counts for; a node has six paths.
	alsoSteps = 6
	// maxConflicts is how often a batch may lose against other writers.
	maxConflicts = 100
	// batchTimeout bounds the time for which a batch is tried, and storeTimeout that of
	// one request to the store.
	batchTimeout = 30 * time.Second
	storeTimeout = 5 * time.Second
	// environmentAge is how old the pools, reservations and configuration may be that a
	// batch starts with. What an operation relies on is checked by its transaction, and
	// a refusal is never based on what is old, so this bounds only how late a new pool or
	// reservation is noticed.
	environmentAge = time.Second
	// maxKnown is how many values are kept from batch to batch.
	maxKnown = 2048
	// minGather and maxGather bound how long a batch waits for the callers of the one
	// before to ask for the next thing; within these, it is half as long as a transaction
	// takes.
	minGather = 200 * time.Microsecond
	maxGather = time.Millisecond
	// linger is how long the goroutine of the batches waits for more when all are served.
	linger = 20 * time.Millisecond
)

// backend is the store as the batches use it.
type backend interface {
	// read reads keys at one revision; what does not exist has revision 0, and what
	// cannot be used is a damaged.
	read(ctx context.Context, keys []model.Key) (known, error)
	// environment reads what says how a node may give out addresses.
	environment(ctx context.Context, node string) (*environment, error)
	// exist says which of the blocks exist.
	exist(ctx context.Context, blocks []netip.Prefix) ([]bool, error)
	// room reads the blocks that exist, but for those without a free address, of which
	// it gives only the revision.
	room(ctx context.Context, blocks []netip.Prefix) (known, error)
	// places reads what nodes, and the store itself, have taken for themselves.
	places(ctx context.Context) ([]localnet.Place, error)
	// commit is that of [etcdstore.Client].
	commit(ctx context.Context, writes []etcdstore.Write) (rev int64, err error)
}

// op is an operation on copies of stored values. It may be run several times.
type op interface{ run(w *work) error }

// call is an operation that somebody waits for.
type call struct {
	op   op
	also []etcdstore.Write
	// undo returns addresses to free when nobody waits any more.
	undo func() []netip.Addr

	done    chan struct{}
	settled atomic.Bool // by the batch, or by a caller who left
	rev     int64
	err     error

	// The rest belongs to the batch.
	level searchLevel
	fresh bool
	alone bool // not to be committed together with others
	walks map[netip.Prefix]*walk
	finds *finds
}

// searchLevel says how far the search for addresses has gone.
type searchLevel int

const (
	searchOwn    searchLevel = iota // the node's blocks, as they are remembered
	searchVacant                    // the node's blocks were read; look for blocks of nobody
	searchOthers                    // there are none; look for free addresses elsewhere
	searchOver                      // there are none
)

// queue collects the calls of one node and serves those that wait together.
type queue struct {
	backend backend
	node    string
	places  *places
	mu      sync.Mutex
	waiting []*call
	running bool
	// wanted is for how many calls a batch waits, and gathered tells that they are there.
	wanted   int
	gathered chan struct{}

	// The rest belongs to the goroutine that runs.
	env   *environment
	envAt time.Time
	start time.Time // of the present batch
	// expected is how many calls may come together next: those that waited when a
	// transaction ended, and those whose callers it set free. took is how long it took.
	expected int
	took     time.Duration
	known    known
	vacant   map[netip.Prefix][]netip.Prefix // blocks that nobody had claimed when last looked at
}

func newQueue(b backend, node string) *queue {
	return &queue{
		backend: b, node: node, places: newPlaces(b.places), known: known{}, vacant: map[netip.Prefix][]netip.Prefix{},
		gathered: make(chan struct{}, 1),
	}
}

// do runs an operation in the next batch. When ctx ends first, what the operation
// has given out meanwhile is taken back.
func (q *queue) do(ctx context.Context, c *call) (rev int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	c.done = make(chan struct{})
	q.enqueue(c) //nolint:contextcheck // a batch serves several callers, and outlives each
	select {
	case <-c.done:
		return c.rev, c.err
	case <-ctx.Done():
		if c.settled.CompareAndSwap(false, true) {
			return 0, context.Cause(ctx)
		}
		<-c.done
		return c.rev, c.err
	}
}

func (q *queue) enqueue(c *call) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, c)
	switch {
	case !q.running:
		q.running = true
		go q.run()
	case q.wanted > 0 && len(q.waiting) >= q.wanted:
		q.wanted = 0
		q.gathered <- struct{}{} // it has room: there is one for each time that wanted is set
	}
}

// run serves batches until nobody waits.
func (q *queue) run() {
	for {
		q.gather()
		batch := q.take()
		if batch == nil {
			return
		}
		q.expected = 0
		q.serve(batch)
	}
}

// take returns the calls that wait.
func (q *queue) take() []*call {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.waiting
	q.waiting = nil
	q.running = len(batch) > 0
	return batch
}

// expect notes, before the callers of a transaction are set free, how many calls may
// come together next.
func (q *queue) expect(served int, took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expected, q.took = len(q.waiting)+served, took
}

// gather gives several callers a moment to come back, so that they share the next
// transaction: with each, all of them are served sooner. When nobody waits, it lingers
// a little, since a caller often comes back soon.
func (q *queue) gather() {
	if q.expected > 1 {
		q.await(q.expected, min(max(q.took/2, minGather), maxGather))
	}
	if q.expected > 0 {
		q.await(1, linger)
	}
}

// await waits until so many calls wait, or the time is over.
func (q *queue) await(n int, atMost time.Duration) {
	q.mu.Lock()
	wait := len(q.waiting) < n
	if wait {
		q.wanted = n
	}
	q.mu.Unlock()
	if !wait {
		return
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-q.gathered:
		return
	case <-timer.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.wanted = 0; len(q.gathered) > 0 {
		<-q.gathered // they came just now
	}
}

// settle tells a caller the outcome, or takes it back if the caller has left.
func (q *queue) settle(c *call, rev int64, err error) {
	c.rev, c.err = rev, err
	left := !c.settled.CompareAndSwap(false, true)
	close(c.done)
	if !left || err != nil || c.undo == nil {
		return
	}
	if addrs := c.undo(); len(addrs) > 0 {
		q.enqueue(&call{op: &release{addrs: addrs}, done: make(chan struct{})})
	}
}

// serve runs the calls of a batch until each has an outcome.
func (q *queue) serve(batch []*call) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	q.start = time.Now()
	q.prune()
	if q.env == nil || time.Since(q.envAt) > environmentAge {
		if err := q.readEnvironment(ctx); err != nil {
			q.settleAll(batch, err)
			return
		}
	}
	for conflicts := 0; ; {
		batch = slices.DeleteFunc(batch, (*call).over)
		if len(batch) == 0 {
			return
		}
		conflict, err := q.round(ctx, batch)
		if conflict {
			conflicts++
			err = errors.Join(err, q.pause(ctx, conflicts))
		}
		if err != nil {
			q.settleAll(batch, err)
			return
		}
	}
}

// over says that the call has an outcome, or that nobody waits for one.
func (c *call) over() bool { return c.settled.Load() }

func (q *queue) settleAll(calls []*call, err error) {
	for _, c := range calls {
		if !c.settled.Load() {
			q.settle(c, 0, err)
		}
	}
}

// pause waits after a lost race, longer each time and for a random time, so that
// writers who met do not meet again.
func (q *queue) pause(ctx context.Context, conflicts int) error {
	if conflicts > maxConflicts {
		return fmt.Errorf("%w: gave up after %d attempts", ErrBusy, conflicts)
	}
	if conflicts < 2 {
		return nil
	}
	longest := min(time.Millisecond<<min(conflicts, 6), 50*time.Millisecond)
	timer := time.NewTimer(rand.N(longest) + 1)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// round runs all calls once. Those that are complete are committed; if there are
// none, what the others need is read. conflict says that another writer was faster.
func (q *queue) round(ctx context.Context, batch []*call) (conflict bool, err error) {
	all := newWork(q.node, q.env, q.known)
	var ready []*call
	var stuck []stuckCall
	also := 0
	for _, c := range batch {
		w := all.fork(c.fresh, q.findsFor(c))
		err := c.op.run(w)
		switch {
		case err == nil && !c.fits(all.size()+w.size()+also, len(ready)):
			continue // in a later round
		case err == nil:
			all.merge(w)
			also += len(c.also) * alsoSteps
			ready = append(ready, c)
		case isStuck(err):
			stuck = append(stuck, stuckCall{c, w, err})
			continue
		default:
			q.settle(c, 0, err)
			continue
		}
		if c.alone {
			break
		}
	}
	switch came, err := q.hostsCameTo(ctx, all); {
	case came || err != nil:
		return came, err
	case len(ready) > 0:
		return q.commit(ctx, all, ready)
	}
	return false, q.unstick(ctx, stuck)
}

// hostsCameTo says whether hosts have taken for themselves a part of a block that is
// about to be claimed, since that was looked at last, or whether one that was chosen is a
// node's by the routes.
func (q *queue) hostsCameTo(ctx context.Context, w *work) (bool, error) {
	var claimed []netip.Prefix
	for k, value := range w.writes {
		if b, isBlock := k.(model.BlockKey); isBlock && value != nil && q.known[k].rev == 0 {
			claimed = append(claimed, b.CIDR)
		}
	}
	if len(claimed) == 0 {
		return false, nil
	}
	if err := q.findTaken(ctx, q.places.atClaim); err != nil {
		return false, err
	}
	live, err := q.places.live(slices.Collect(maps.Keys(w.chosen)))
	if err != nil {
		return false, err
	}
	for block := range live {
		q.dropVacant(block)
	}
	return len(live) > 0 || slices.ContainsFunc(claimed, func(p netip.Prefix) bool { return !q.env.leaves(p) }), nil
}

// fits says whether a call can join others whose transaction would then have that
// many steps.
func (c *call) fits(steps, others int) bool {
	return others == 0 || !c.alone && steps+len(c.also)*alsoSteps <= maxSteps
}

func (q *queue) findsFor(c *call) *finds {
	if c.level == searchOwn {
		return &finds{} // the node's own blocks come first
	}
	if c.finds == nil {
		c.finds = newFinds()
	}
	c.finds.vacant = q.vacant
	return c.finds
}

// stuckCall is a call that cannot go on, and why.
type stuckCall struct {
	*call
	work *work
	err  error
}

func isStuck(err error) bool {
	var s *shortage
	return errors.Is(err, errNeed) || errors.Is(err, errStale) || errors.As(err, &s)
}

// unstick reads what the calls need to go on.
func (q *queue) unstick(ctx context.Context, stuck []stuckCall) error {
	keys := map[model.Key]bool{}
	again := false // read the environment too
	searched, here := false, false
	for _, s := range stuck {
		var short *shortage
		switch {
		case errors.Is(s.err, errNeed):
			maps.Copy(keys, s.work.needs)
			here = here || s.work.needsHere
		case errors.Is(s.err, errStale):
			maps.Copy(keys, s.work.reads)
			s.fresh, again = true, true
		case errors.As(s.err, &short) && s.level == searchOwn:
			s.fresh, s.level, again = true, searchVacant, true
			maps.Copy(keys, s.work.reads)
		case errors.As(s.err, &short) && !searched:
			searched = true // the others may find what this one needs no more
			if err := q.search(ctx, s.call, s.work, short); err != nil {
				return err
			}
		}
	}
	if again && q.envAt.Before(q.start) {
		if err := q.readEnvironment(ctx); err != nil {
			return err
		}
	}
	if here {
		if err := q.findHere(); err != nil {
			return err
		}
	}
	return q.read(ctx, slices.Collect(maps.Keys(keys)))
}

// findHere finds which containers are here.
func (q *queue) findHere() error {
	env := *q.env
	var err error
	env.here, err = q.places.here()
	q.env = &env
	return err
}

// search looks for more addresses and settles the call when there are none.
func (q *queue) search(ctx context.Context, c *call, w *work, short *shortage) error {
	if c.level == searchVacant {
		found := false
		if q.env.config.AutoAllocateBlocks && !w.atLimit() {
			var err error
			if found, err = q.findVacant(ctx, c, short); err != nil {
				return err
			}
		}
		if !found {
			c.level, c.walks = searchOthers, nil
		}
		return nil
	}
	if c.level == searchOthers {
		c.level = searchOver
		return q.findRoomy(ctx, c, short)
	}
	q.settle(c, 0, short.err)
	return nil
}

// commit writes what the calls did, in one transaction.
func (q *queue) commit(ctx context.Context, w *work, calls []*call) (conflict bool, err error) {
	writes, err := q.transaction(w)
	for _, c := range calls {
		writes = append(writes, c.also...)
	}
	var rev int64
	start := time.Now()
	if err == nil && len(writes) > 0 {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		rev, err = q.backend.commit(ctx, writes)
	}
	var lost *etcdstore.ConflictError
	switch {
	case err == nil:
		q.committed(w, rev)
		q.expect(len(calls), time.Since(start))
		for _, c := range calls {
			q.settle(c, rev, nil)
		}
		return false, nil
	case errors.As(err, &lost):
		return q.lost(ctx, w, calls, lost)
	}
	q.forget(w)
	if len(calls) > 1 && !errors.Is(err, etcdstore.ErrUnavailable) && ctx.Err() == nil {
		separate(calls) // one of them may be to blame
		return false, nil
	}
	q.settleAll(calls, err)
	return false, nil
}

func separate(calls []*call) {
	for _, c := range calls {
		c.alone = true
	}
}

// transaction turns changes into writes, each on the condition that what it replaces
// is what is known.
func (q *queue) transaction(w *work) ([]etcdstore.Write, error) {
	var out []etcdstore.Write
	var errs []error
	add := func(step etcdstore.Write, err error) {
		out = append(out, step)
		errs = append(errs, err)
	}
	keys := slices.SortedFunc(maps.Keys(w.writes), model.Compare)
	for _, k := range keys {
		value, rev := w.writes[k], q.known[k].rev
		_, affinity := k.(model.BlockAffinityKey)
		switch {
		case affinity && value != nil:
			add(etcdstore.PutWrite(k, value)) // the block decides, not an affinity left over
		case affinity:
			add(etcdstore.DeleteWrite(k, 0))
		case value == nil && rev == 0:
		case value == nil:
			add(etcdstore.DeleteWrite(k, rev))
		case rev == 0:
			add(etcdstore.CreateWrite(k, value))
		default:
			add(etcdstore.UpdateWrite(k, value, rev))
		}
	}
	if len(out) > 0 {
		for k, rev := range w.checks {
			add(etcdstore.CheckWrite(k, rev))
		}
	}
	return out, errors.Join(errs...)
}

// committed remembers what is now stored.
func (q *queue) committed(w *work, rev int64) {
	for k, value := range w.writes {
		switch k := k.(type) {
		case model.BlockAffinityKey:
			if k.Node == q.node {
				q.setAffine(k.CIDR, value != nil)
			}
			continue
		case model.BlockKey:
			q.dropVacant(k.CIDR)
		}
		if value == nil {
			delete(q.known, k)
		} else {
			q.known[k] = stored{value, rev}
		}
	}
}

func (q *queue) setAffine(cidr netip.Prefix, is bool) {
	env := *q.env
	env.affine = slices.DeleteFunc(slices.Clone(env.affine), func(p netip.Prefix) bool { return p == cidr })
	if is {
		env.affine = append(env.affine, cidr)
		slices.SortFunc(env.affine, netip.Prefix.Compare)
	}
	q.env = &env
}

func (q *queue) dropVacant(cidr netip.Prefix) {
	for pool, list := range q.vacant {
		q.vacant[pool] = slices.DeleteFunc(list, func(p netip.Prefix) bool { return p == cidr })
	}
}

// forget drops what is known of the things that a transaction was about.
func (q *queue) forget(w *work) {
	for k := range w.writes {
		delete(q.known, k)
	}
}

// lost reads again what another writer has changed. A conflict that is not about
// addresses is that of a caller's own write.
func (q *queue) lost(ctx context.Context, w *work, calls []*call, lost *etcdstore.ConflictError) (conflict bool, err error) {
	var keys []model.Key
	theirs, environment := false, false
	for _, k := range lost.Keys {
		_, written := w.writes[k]
		_, checked := w.checks[k]
		block, isBlock := k.(model.BlockKey)
		switch {
		case written || checked && isBlock:
			keys = append(keys, k)
			if isBlock {
				q.dropVacant(block.CIDR)
			}
		case checked:
			environment = true
		default:
			theirs = true
		}
	}
	if theirs && len(calls) == 1 && len(keys) == 0 && !environment {
		q.settle(calls[0], 0, lost)
		return false, nil
	}
	if theirs {
		separate(calls)
	}
	for _, c := range calls {
		c.level, c.walks, c.finds = min(c.level, searchVacant), nil, nil
	}
	if environment {
		if err := q.readEnvironment(ctx); err != nil {
			return true, err
		}
	}
	return true, q.read(ctx, keys)
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

// prune keeps what is remembered from growing.
func (q *queue) prune() {
	if len(q.known) <= maxKnown {
		return
	}
	kept := known{}
	for _, cidr := range q.env.affine {
		k := model.BlockKey{CIDR: cidr}
		if s, ok := q.known[k]; ok {
			kept[k] = s
		}
	}
	q.known = kept
}
