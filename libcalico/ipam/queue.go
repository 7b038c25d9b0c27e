package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// How long a caller waits whose context does not end before: a request to the store has
// storeTimeout, and a batch gives up after batchTimeout, whatever was the matter with the
// store or with other writers. The search for a free address, which goes on beside the
// batches, has searchTimeout, in which the time counts that it waits for others' searches. A release of which nobody knows whether it was done is tried
// again while its caller waits, for patience, and then without the caller.
const (
	batchTimeout  = 30 * time.Second
	storeTimeout  = 5 * time.Second
	searchTimeout = 2 * time.Second
	patience      = 3 * time.Second
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
	// claimed lists all blocks of a family that exist.
	claimed(ctx context.Context, ipv6 bool) ([]netip.Prefix, error)
	// overlapping returns the blocks of other sizes that share addresses with a block.
	overlapping(ctx context.Context, cidr netip.Prefix) ([]netip.Prefix, error)
	// places reads what nodes, and the store itself, have taken for themselves.
	places(ctx context.Context) ([]localnet.Place, error)
	// commit is that of [etcdstore.Client].
	commit(ctx context.Context, writes []etcdstore.Write) (rev int64, err error)
}

// op is an operation on copies of stored values. It may be run several times, and keeps
// nothing between two runs: what it came to is in the work.
type op interface{ run(w *work) *stop }

// call is an operation that somebody waits for.
type call struct {
	op   op
	also []etcdstore.Write

	done     chan struct{}
	answered atomic.Bool // by the queue, or by a caller who left
	result   result
	err      error
	// trouble is what keeps the call from an answer.
	trouble atomic.Pointer[error]

	// The rest belongs to the goroutine that runs.
	fresh  bool
	solo   bool // not to be committed together with others
	parked bool // it is not in the batch now, and comes back
	losses int  // how often other writers were faster
	search search
	tried  result // of the last run
	debt   *debt  // when it is one
	wakes  *call  // when it is none, but tells that another has waited long enough
}

// over says that the call is not to be dealt with in this batch any more.
func (c *call) over() bool { return c.parked || c.answered.Load() }

// queue serves the calls of one node, those together that wait together.
type queue struct {
	backend backend
	node    string
	places  *places
	waiting waiting
	// lateness is how long after its time a write may still be done, and patience how long
	// a caller waits for a definite answer about a release.
	lateness, patience time.Duration
	// refusedPause is after how long what etcd refused is tried again, and owing is told of it.
	refusedPause time.Duration
	owing        func(Owed)
	// borrowing, when not nil, is told the blocks of others from which addresses are taken.
	borrowing func(block netip.Prefix)

	// The rest belongs to the goroutine that runs.
	memory
	start time.Time // of the present batch
	// alone are the blocks that were seen, in this batch or a search before it, to have none
	// of another size in their range.
	alone map[netip.Prefix]moment
	// searching is how many searches for addresses of a family, IPv6 or not, are under way,
	// and behind are calls that wait for what these find.
	searching map[bool]int
	behind    map[bool][]*call
	// looks are what the searches under way have read, by family.
	looks map[bool]*looks
}

func newQueue(b backend, node string) *queue {
	return &queue{
		backend: b, node: node, places: newPlaces(b.places), waiting: newWaiting(), lateness: 2 * storeTimeout, patience: patience,
		refusedPause: refusedPause, owing: func(Owed) {},
		memory: newMemory(), alone: map[netip.Prefix]moment{}, searching: map[bool]int{}, behind: map[bool][]*call{}, looks: map[bool]*looks{},
	}
}

// do runs an operation in the next batch. When ctx ends first, what the operation has
// given out meanwhile is taken back.
func (q *queue) do(ctx context.Context, c *call) (result, error) {
	if err := ctx.Err(); err != nil {
		return result{}, err
	}
	c.done = make(chan struct{})
	q.enqueue(c) //nolint:contextcheck // a batch serves several callers, and outlives each
	select {
	case <-c.done:
	case <-ctx.Done():
		if c.answered.CompareAndSwap(false, true) {
			return result{}, c.leave(ctx)
		}
		<-c.done
	}
	return c.result, c.err
}

// leave words why a caller left without an answer.
func (c *call) leave(ctx context.Context) error {
	if trouble := c.trouble.Load(); trouble != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), *trouble)
	}
	return context.Cause(ctx)
}

func (q *queue) enqueue(c *call) {
	if q.waiting.add(c) {
		go q.run()
	}
}

// run serves batches until nobody waits.
func (q *queue) run() {
	for {
		q.waiting.gather()
		batch := q.waiting.take()
		if batch == nil {
			return
		}
		q.serve(batch)
	}
}

// answer tells a caller the outcome, or takes it back if the caller has left.
func (q *queue) answer(c *call, r result, err error) {
	if c.debt != nil {
		q.paid(c, r, err)
		return
	}
	c.result, c.err = r, err
	left := !c.answered.CompareAndSwap(false, true)
	close(c.done)
	if left && err == nil {
		q.takeBack(r)
	}
}

func (q *queue) answerAll(calls []*call, err error) {
	for _, c := range calls {
		if !c.over() {
			q.answer(c, result{}, err)
		}
	}
}
