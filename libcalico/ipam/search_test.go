package ipam

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// soon is within what a caller may have to wait for a refusal.
func soon(t *testing.T, c *Client, r Request) (time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	start := time.Now()
	_, err := c.AutoAssign(ctx, r)
	return time.Since(start), err
}

// TestAtTheBlockLimitOfIPv6: the search for an IPv6 address beside the node's own blocks does
// not go through all blocks that a pool may have.
func TestAtTheBlockLimitOfIPv6(t *testing.T) {
	for _, strict := range []bool{false, true} {
		w := newWorld(t, "10.0.0.0/24", "fd80::/64")
		w.config(model.IPAMConfig{AutoAllocateBlocks: true, MaxBlocksPerHost: 1, StrictAffinity: strict})
		c, other := w.node("a"), w.node("b")
		if _, err := c.AutoAssign(w.ctx(), Request{IPv6: 64}); err != nil {
			t.Fatal(err)
		}
		w.assign(c, 1, "") // the limit is for each family
		if took, err := soon(t, c, Request{IPv6: 1}); !errors.Is(err, ErrBlockLimit) || !errors.Is(err, ErrPoolFull) {
			t.Errorf("strict %v: after %v: %v", strict, took, err)
		}
		if _, err := other.AutoAssign(w.ctx(), Request{IPv6: 60}); err != nil {
			t.Fatal(err)
		}
		took, err := soon(t, c, Request{IPv6: 4}) // are to be borrowed
		if strict != errors.Is(err, ErrBlockLimit) || !strict && err != nil {
			t.Errorf("strict %v: to borrow: after %v: %v", strict, took, err)
		}
		if _, err := soon(t, c, Request{IPv6: 1}); !errors.Is(err, ErrPoolFull) {
			t.Errorf("strict %v: to borrow more than there is: %v", strict, err)
		}
		w.consistent()
	}
}

// TestIPv6PoolsThatAreHeldBack: what a reservation, or a host's network, has of a pool of
// 2^58 blocks is passed by.
func TestIPv6PoolsThatAreHeldBack(t *testing.T) {
	for _, tc := range []struct {
		name  string
		by    string
		free  string // what is left; empty when nothing is
		taken bool
	}{
		{name: "all of it", by: "fd80::/64"},
		{name: "more than all", by: "fd80::/32"},
		{name: "all but a bit", by: "fd80::/72", free: "fd80::/64"},
		{name: "half of it", by: "fd80::8000:0:0:0/65", free: "fd80::/65"},
		{name: "all of it, by a host", by: "fd80::/64", taken: true},
		{name: "half of it, by a host", by: "fd80::/65", free: "fd80::8000:0:0:0/65", taken: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, "fd80::/64")
			c := w.node("a")
			if tc.taken {
				c = New(w.store, "a", hostHas(tc.by))
			} else {
				w.apply(model.IPReservationKey{Name: "r"}, &model.IPReservation{ReservedCIDRs: prefixes(tc.by)})
			}
			took, err := soon(t, c, Request{IPv6: 1})
			if tc.free == "" {
				if !errors.Is(err, ErrPoolFull) {
					t.Errorf("after %v: %v", took, err)
				}
				return
			}
			if err != nil {
				t.Fatalf("after %v: %v", took, err)
			}
			for a := range w.consistent() {
				if !netip.MustParsePrefix(tc.free).Contains(a) || netip.MustParsePrefix(tc.by).Contains(a) {
					t.Errorf("got %s", a)
				}
			}
		})
	}
}

// slowSearch is a store that does not answer the first search for IPv6 blocks.
type slowSearch struct {
	countingStore
	asked atomic.Bool
}

func (s *slowSearch) wait(ctx context.Context, blocks []netip.Prefix) error {
	if len(blocks) > 0 && blocks[0].Addr().Is6() && !s.asked.Swap(true) {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (s *slowSearch) exist(ctx context.Context, blocks []netip.Prefix) ([]bool, error) {
	if err := s.wait(ctx, blocks); err != nil {
		return nil, err
	}
	return s.countingStore.exist(ctx, blocks)
}

// outcome is how a call ended.
type outcome struct {
	took time.Duration
	addr []netip.Addr
	err  error
}

// ask asks for addresses, and says how that ended.
func ask(t *testing.T, c *Client, r Request, ended chan<- outcome) {
	start := time.Now()
	addrs, err := c.AutoAssign(t.Context(), r)
	ended <- outcome{time.Since(start), addrs, err}
}

// TestASearchConcernsItsCallOnly: while one call's search goes on, others are served, and when
// it is given up, that is told its caller only; who waits for what it finds does so for a part
// of its own time.
func TestASearchConcernsItsCallOnly(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24", "fd80::/64")
	s := &slowSearch{countingStore: countingStore{store: etcd{w.store}}}
	c := newClient(s, "a")
	ended := make(chan outcome, 2)
	for range 2 {
		go ask(t, c, Request{IPv6: 1, Owner: Owner{Handle: "h"}}, ended)
	}
	for range 5 {
		w.release(c, w.assign(c, 1, "")...)
	}
	if len(ended) > 0 {
		t.Error("the others waited for the search")
	}
	if behind := <-ended; behind.err != nil || behind.took > searchTimeout {
		t.Errorf("the call behind the search: after %v: %v", behind.took, behind.err)
	}
	last := <-ended
	var failed *SearchError
	if !errors.As(last.err, &failed) || !errors.Is(last.err, ErrSearch) || last.took > searchTimeout*3/2 {
		t.Errorf("the search ended after %v: %v", last.took, last.err)
	}
	w.consistent()
}

// TestACallEndsInItsTimeWhateverOthersSearch: of a full pool of 5,000 blocks many callers want
// addresses, each of another part, so that none can use what another's search came to. Each has
// its answer in the time that a search may take, and the pool is read for all of them together.
func TestACallEndsInItsTimeWhateverOthersSearch(t *testing.T) {
	w := newWorld(t, "10.0.0.0/8", "11.0.0.0/26")
	const blocks = 5000
	w.fill("10.0.0.0/8", blocks)
	s := &countingStore{store: etcd{w.store}}
	c := newClient(s, "a")
	if err := c.Assign(w.ctx(), netip.MustParseAddr("11.0.0.1"), Owner{}); err != nil {
		t.Fatal(err)
	}
	w.config(model.IPAMConfig{AutoAllocateBlocks: true, MaxBlocksPerHost: 1}) // it has its one
	const callers = 60
	ended := make(chan outcome, callers)
	for i := range callers {
		within := prefixes("10.0.0.0/9", netip.PrefixFrom(addTo(netip.MustParseAddr("10.128.0.0"), uint64(i)<<8), 24).String())
		go ask(t, c, Request{IPv4: 1, Within: within}, ended)
	}
	refused, searched := 0, 0
	for range callers {
		o := <-ended
		switch {
		case errors.Is(o.err, ErrSearch):
			searched++
		case errors.Is(o.err, ErrPoolFull):
			refused++
		default:
			t.Errorf("got %v, %v", o.addr, o.err)
		}
		if o.took > searchTimeout+searchTimeout/2 {
			t.Errorf("a call ended after %v: %v", o.took, o.err)
		}
	}
	t.Logf("%d learned that the pool is full, %d had no time left; %d blocks were read", refused, searched, s.rooms.Load())
	if n := s.rooms.Load(); n > 3*blocks {
		t.Errorf("%d blocks were read of %d", n, blocks)
	}
	w.await("what was read is forgotten", func() bool {
		c.queue.waiting.mu.Lock()
		defer c.queue.waiting.mu.Unlock()
		return !c.queue.waiting.running && len(c.queue.looks) == 0
	})
}

// together has calls come in one batch: they wait while another call's write is held.
func (w *world) together(c *Client, s *countingStore, calls ...func()) {
	w.Helper()
	s.hold, s.holding = make(chan struct{}), make(chan struct{}, 1)
	s.commits.Store(0)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1}); err != nil {
			w.Error(err)
		}
	})
	<-s.holding
	for _, call := range calls {
		wg.Go(call)
	}
	w.await("all of them wait", func() bool {
		c.queue.waiting.mu.Lock()
		defer c.queue.waiting.mu.Unlock()
		return len(c.queue.waiting.calls) == len(calls)
	})
	close(s.hold)
	wg.Wait()
}

// TestAClaimThatFailsConcernsItsCallOnly: when the host cannot say what it has for itself, who
// needs a new block is refused, and nobody else.
func TestAClaimThatFailsConcernsItsCallOnly(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	var silent atomic.Bool
	broken := errors.New("no answer from the kernel")
	s := &countingStore{store: etcd{w.store}}
	c := newClient(s, "a", OnHost(func() ([]localnet.Place, error) {
		if silent.Load() {
			return nil, broken
		}
		return nil, nil
	}))
	held := w.assign(c, 2, "")
	own := w.blocks()[0].CIDR
	other := netip.MustParsePrefix("10.0.0.0/25")
	if other.Contains(own.Addr()) {
		other = netip.MustParsePrefix("10.0.0.128/25")
	}
	silent.Store(true)
	c.queue.places.mu.Lock()
	c.queue.places.seen = time.Time{} // a second has passed
	c.queue.places.mu.Unlock()
	w.together(c, s,
		func() {
			if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Within: []netip.Prefix{other}}); !errors.Is(err, broken) {
				t.Errorf("a new block: %v", err)
			}
		},
		func() { w.release(c, held...) },
		func() { w.assign(c, 3, "h") },
	)
	if n := len(w.consistent()); n != 4 {
		t.Errorf("%d addresses", n)
	}
}

// TestManyCallersOfAFullPool: one search that finds nothing is enough for all that wait.
func TestManyCallersOfAFullPool(t *testing.T) {
	w := newWorld(t, "10.0.0.0/25")
	b := w.node("b")
	w.assign(b, 128, "")
	c := w.node("a")
	errs := make(chan error)
	for range 50 {
		go func() {
			_, err := c.AutoAssign(w.ctx(), Request{IPv4: 1})
			errs <- err
		}()
	}
	for range 50 {
		var full *PoolFullError
		if err := <-errs; !errors.As(err, &full) || full.Pools[0].InUse != 128 || full.Pools[0].Blocks != 2 {
			t.Errorf("got %v", err)
		}
	}
}

// TestBlocksOfALargePoolAreListed: what exists of a pool with more blocks than one would read
// is found from the keys.
func TestBlocksOfALargePoolAreListed(t *testing.T) {
	w := newWorld(t, "10.0.0.0/8")
	w.config(model.IPAMConfig{AutoAllocateBlocks: true, MaxBlocksPerHost: 1})
	w.fill("10.0.0.0/8", 1100) // more than a page
	b, c := w.node("b"), w.node("c")
	w.assign(b, 60, "")
	w.assign(c, 64, "")
	got := w.assign(c, 4, "")
	if block := w.affinitiesOf("b")[0]; slices.ContainsFunc(got, func(a netip.Addr) bool { return !block.Contains(a) }) {
		t.Errorf("got %v, and only %s has room", got, block)
	}
	var full *PoolFullError
	if _, err := c.AutoAssign(w.ctx(), Request{IPv4: 1}); !errors.As(err, &full) || full.Pools[0].Blocks != 1102 || full.Pools[0].InUse != 1102*64 {
		t.Errorf("got %v", err)
	}
}

// TestCallersOwnWritesCount: a resource of several parts counts for as many steps, so that
// no transaction of several calls is beyond etcd's limit.
func TestCallersOwnWritesCount(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	s := &refusals{countingStore: countingStore{store: etcd{w.store}}}
	c := newClient(s, "a")
	const n = 15
	got := w.assign(c, n, "")
	calls := make([]func(), n)
	for i := range n {
		calls[i] = func() {
			name := string(rune('a' + i))
			write, err := etcdstore.PutWrite(model.NodeKey{Name: name}, &model.Node{})
			if err == nil {
				_, err = c.SetOwner(w.ctx(), got[i:i+1], Owner{Handle: name}, write)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	w.together(c, &s.countingStore, calls...)
	if s.tooLarge.Load() {
		t.Error("a transaction was too large")
	}
	w.consistent()
}

// refusals is a store that notes what etcd refuses.
type refusals struct {
	countingStore
	tooLarge atomic.Bool
}

func (r *refusals) commit(ctx context.Context, writes []etcdstore.Write) (int64, error) {
	rev, err := r.countingStore.commit(ctx, writes)
	if errors.Is(err, etcdstore.ErrTooLarge) {
		r.tooLarge.Store(true)
	}
	return rev, err
}
