package ipam

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// silentStore does not answer one write, the at-th; the program lives on.
type silentStore struct {
	store
	how silence
	at  int64

	// commits counts the writes, and pending those that are under way, or to be done late.
	commits, pending atomic.Int64
	// before, when not nil, is called before each write, and after when the one that is not
	// answered was done.
	before func(n int64)
	after  func()
}

// silence is what happens to the write that is not answered.
type silence int

const (
	notDone silence = iota
	done
	doneLate
)

func (s silence) String() string { return []string{"is not done", "is done", "is done late"}[s] }

// late is how much later than its time a write is done, and testLateness what clients expect.
const (
	late         = 20 * time.Millisecond
	testLateness = 600 * time.Millisecond
)

func (s *silentStore) commit(ctx context.Context, writes []etcdstore.Write) (int64, error) {
	s.pending.Add(1)
	isLate := false
	defer func() {
		if !isLate {
			s.pending.Add(-1)
		}
	}()
	n := s.commits.Add(1)
	if s.before != nil {
		s.before(n)
	}
	if n != s.at {
		return s.store.commit(ctx, writes)
	}
	switch s.how {
	case notDone:
	case done:
		if _, err := s.store.commit(ctx, writes); err != nil {
			return 0, err
		}
		if s.after != nil {
			s.after()
		}
	case doneLate:
		isLate = true
		time.AfterFunc(late, func() {
			defer s.pending.Add(-1)
			_, _ = s.store.commit(context.Background(), writes) // it may come too late
		})
	}
	return 0, fmt.Errorf("%w: no answer", etcdstore.ErrUnavailable)
}

// scene is two nodes, of which a's store falls silent once, and the truth about who has
// which address, by what the callers were told.
type scene struct {
	*world
	store *silentStore
	a, b  *Client
	has   map[netip.Addr]string // the handle
}

func newScene(t *testing.T, pools ...string) *scene {
	s := &scene{world: newWorld(t, pools...), has: map[netip.Addr]string{}}
	s.store = &silentStore{store: etcd{s.world.store}, at: -1}
	s.a, s.b = newClient(s.store, "a"), s.node("b")
	s.a.queue.lateness = testLateness
	return s
}

// take is what a caller does who wants addresses: if there is an error it has none.
func (s *scene) take(c *Client, handle string, v4, v6 int) []netip.Addr {
	got, err := c.AutoAssign(s.ctx(), Request{IPv4: v4, IPv6: v6, Owner: Owner{Handle: handle}})
	if err == nil {
		s.note(handle, got...)
	}
	return got
}

func (s *scene) takeOne(c *Client, handle, addr string) netip.Addr {
	a := netip.MustParseAddr(addr)
	if err := c.Assign(s.ctx(), a, Owner{Handle: handle}); err == nil {
		s.note(handle, a)
	}
	return a
}

func (s *scene) note(handle string, addrs ...netip.Addr) {
	for _, a := range addrs {
		if by, taken := s.has[a]; taken {
			s.Errorf("%s was given to %s while %s had it", a, handle, by)
		}
		s.has[a] = handle
	}
}

// free gives addresses back; with one write that is not answered that always comes to an end.
// Somebody on another node gets them as soon as they are free.
func (s *scene) free(addrs []netip.Addr, release func() error) {
	s.Helper()
	for _, a := range addrs {
		delete(s.has, a)
	}
	s.store.after = func() {
		for _, a := range addrs {
			s.takeOne(s.b, "quick", a.String())
		}
	}
	if err := release(); err != nil {
		s.Errorf("release: %v", err)
	}
}

func (s *scene) freeAddrs(addrs ...netip.Addr) {
	s.Helper()
	s.free(addrs, func() error {
		missing, err := s.a.Release(s.ctx(), addrs...)
		if len(missing) > 0 {
			s.Errorf("not assigned: %v", missing)
		}
		return err
	})
}

// again is what a caller does who needs something done.
func (s *scene) again(what func() error) {
	s.Helper()
	var err error
	for range 3 {
		if err = what(); err == nil {
			return
		}
	}
	s.Error(err)
}

// settled checks, when all is over, that everybody has what they were told, and that nothing
// else is in use.
func (s *scene) settled() {
	s.Helper()
	s.await("no write is under way", func() bool { return s.store.pending.Load() == 0 })
	same := func() bool {
		owners := s.inUse()
		handles := map[netip.Addr]string{}
		for a, o := range owners {
			handles[a] = o.Handle
		}
		return maps.Equal(handles, s.has)
	}
	s.await(fmt.Sprintf("in use is just %v", s.has), same)
	if s.store.how == doneLate {
		<-time.After(testLateness + firstPause) // until all looks were had
	}
	if !same() {
		s.Errorf("in use are %v, and given are %v", s.inUse(), s.has)
	}
	s.consistent()
}

// TestAWriteThatIsNotAnswered has, for every operation, each of its writes done without an
// answer, or late, or not at all.
func TestAWriteThatIsNotAnswered(t *testing.T) {
	v4, both := []string{"10.0.0.0/24"}, []string{"10.0.0.0/24", "fd80::/120"}
	endpoint := model.WorkloadEndpointKey{Node: "a", Orchestrator: orchestrator, Workload: orchestrator, Name: "e"}
	bind := func(s *scene, addrs []netip.Addr) {
		write, err := etcdstore.PutWrite(endpoint, &model.WorkloadEndpoint{State: "active", Interface: "calie"})
		if err != nil {
			t.Fatal(err)
		}
		s.again(func() error {
			_, err := s.a.SetOwner(s.ctx(), addrs, Owner{Handle: "e"}, write)
			return err
		})
		for _, a := range addrs {
			s.has[a] = "e"
		}
	}
	for _, tc := range []struct {
		name    string
		pools   []string
		prepare func(s *scene) []netip.Addr
		run     func(s *scene, held []netip.Addr)
	}{
		{"assign from a new block", v4, nil, func(s *scene, _ []netip.Addr) { s.take(s.a, "h", 1, 0) }},
		{"assign without a handle", v4, nil, func(s *scene, _ []netip.Addr) { s.take(s.a, "", 1, 0) }},
		{
			"assign from an own block", v4,
			func(s *scene) []netip.Addr { return s.take(s.a, "h", 1, 0) },
			func(s *scene, _ []netip.Addr) { s.take(s.a, "h", 2, 0) },
		},
		{"assign from two blocks", v4, nil, func(s *scene, _ []netip.Addr) { s.take(s.a, "h", 70, 0) }},
		{"assign of both families", both, nil, func(s *scene, _ []netip.Addr) { s.take(s.a, "h", 1, 1) }},
		{
			"assign, and ask again", v4, nil,
			func(s *scene, _ []netip.Addr) {
				s.take(s.a, "h", 1, 0)
				s.take(s.a, "h", 1, 0)
			},
		},
		{
			"borrow",
			[]string{"10.0.0.0/26"},
			func(s *scene) []netip.Addr { return s.take(s.b, "b", 1, 0) },
			func(s *scene, _ []netip.Addr) { s.take(s.a, "h", 1, 0) },
		},
		{
			"assign a certain address, and ask again", v4, nil,
			func(s *scene, _ []netip.Addr) {
				a := s.takeOne(s.a, "h", "10.0.0.7")
				if _, ok := s.has[a]; !ok {
					s.takeOne(s.a, "h", "10.0.0.7")
				}
			},
		},
		{
			"borrow a certain address", v4,
			func(s *scene) []netip.Addr { return []netip.Addr{s.takeOne(s.b, "b", "10.0.0.1")} },
			func(s *scene, _ []netip.Addr) { s.takeOne(s.a, "h", "10.0.0.7") },
		},
		{
			"release", v4,
			func(s *scene) []netip.Addr { return s.take(s.a, "h", 3, 0) },
			func(s *scene, held []netip.Addr) { s.freeAddrs(held[:2]...) },
		},
		{
			"release what has no handle", v4,
			func(s *scene) []netip.Addr { return s.take(s.a, "", 1, 0) },
			func(s *scene, held []netip.Addr) { s.freeAddrs(held...) },
		},
		{
			"release what was borrowed", v4,
			func(s *scene) []netip.Addr {
				s.takeOne(s.b, "b", "10.0.0.1")
				return []netip.Addr{s.takeOne(s.a, "h", "10.0.0.7")}
			},
			func(s *scene, held []netip.Addr) { s.freeAddrs(held...) },
		},
		{
			"release the last of nobody's block", v4,
			func(s *scene) []netip.Addr {
				held := s.take(s.a, "h", 1, 0)
				s.again(func() error { return s.a.ReleaseNode(s.ctx(), "a") })
				return held
			},
			func(s *scene, held []netip.Addr) { s.freeAddrs(held...) },
		},
		{
			"release of both families", both,
			func(s *scene) []netip.Addr { return s.take(s.a, "h", 1, 1) },
			func(s *scene, held []netip.Addr) { s.freeAddrs(held...) },
		},
		{
			"release a handle in two blocks", v4,
			func(s *scene) []netip.Addr { return s.take(s.a, "h", 70, 0) },
			func(s *scene, held []netip.Addr) {
				s.free(held, func() error { return s.a.ReleaseByHandle(s.ctx(), "h") })
			},
		},
		{
			"bind", v4,
			func(s *scene) []netip.Addr { return s.take(s.a, "", 1, 0) },
			func(s *scene, held []netip.Addr) { bind(s, held) },
		},
		{
			"release an endpoint", both,
			func(s *scene) []netip.Addr {
				held := s.take(s.a, "", 1, 1)
				bind(s, held)
				return held
			},
			func(s *scene, held []netip.Addr) {
				remove, err := etcdstore.DeleteWrite(endpoint, 0)
				if err != nil {
					t.Fatal(err)
				}
				s.free(held, func() error {
					_, err := s.a.ReleaseOf(s.ctx(), "e", remove)
					return err
				})
				s.await("the endpoint is gone", func() bool {
					_, err := s.world.store.Get(s.ctx(), endpoint)
					return err != nil
				})
			},
		},
		{
			"release spare blocks", v4,
			func(s *scene) []netip.Addr {
				held := s.take(s.a, "h", 129, 0)
				for _, a := range held {
					delete(s.has, a)
				}
				s.release(s.a, held...)
				return nil
			},
			func(s *scene, _ []netip.Addr) {
				s.again(func() error {
					_, err := s.a.ReleaseSpareBlocks(s.ctx(), 0)
					return err
				})
			},
		},
		{
			"release a node", v4,
			func(s *scene) []netip.Addr { return s.take(s.a, "h", 70, 0) },
			func(s *scene, _ []netip.Addr) {
				s.again(func() error { return s.a.ReleaseNode(s.ctx(), "a") })
			},
		},
		{
			"release a pool", v4,
			func(s *scene) []netip.Addr {
				s.take(s.b, "b", 1, 0)
				held := s.take(s.a, "h", 70, 0) // blocks with addresses in use would stay
				for _, a := range held {
					delete(s.has, a)
				}
				s.release(s.a, held...)
				return nil
			},
			func(s *scene, _ []netip.Addr) {
				s.again(func() error { return s.a.ReleasePool(s.ctx(), netip.MustParsePrefix(v4[0])) })
			},
		},
		{
			"assign for a caller who leaves", v4, nil,
			func(s *scene, _ []netip.Addr) {
				ctx, cancel := context.WithCancel(s.ctx())
				left := make(chan struct{})
				s.store.before = func(n int64) {
					if n == 1 {
						cancel()
						<-left
					}
				}
				if got, err := s.a.AutoAssign(ctx, Request{IPv4: 1, Owner: Owner{Handle: "h"}}); err == nil {
					t.Errorf("got %v", got)
				}
				close(left)
				s.await("it is taken back", func() bool { return s.store.commits.Load() >= 2 || s.store.at == 1 })
			},
		},
	} {
		for _, how := range []silence{notDone, done, doneLate} {
			for n := int64(1); ; n++ {
				s := newScene(t, tc.pools...)
				var held []netip.Addr
				if tc.prepare != nil {
					held = tc.prepare(s)
				}
				s.store.commits.Store(0)
				s.store.how, s.store.at = how, n
				hit := false
				t.Run(fmt.Sprintf("%s/write %d %s", tc.name, n, how), func(t *testing.T) {
					s.TB = t
					tc.run(s, held)
					if hit = s.store.commits.Load() >= n; hit {
						s.settled()
					}
				})
				if !hit {
					if n == 1 {
						t.Errorf("%s writes nothing", tc.name)
					}
					break
				}
			}
		}
	}
}

// TestAStoreThatIsSilentForLong has many callers whose addresses may have been given out while
// nothing is answered; later nobody has any of them.
func TestAStoreThatIsSilentForLong(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	var silent atomic.Bool
	s := &countingStore{store: etcd{w.store}}
	c := newClient(everyOther{s, &silent, new(atomic.Int64)}, "a")
	c.queue.lateness = testLateness
	held := w.assign(c, 5, "held")
	silent.Store(true)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if got, err := c.AutoAssign(w.ctx(), Request{IPv4: 1, Owner: Owner{Handle: fmt.Sprint(i)}}); err == nil {
				t.Errorf("got %v", got)
			}
		})
	}
	wg.Wait()
	silent.Store(false)
	w.await("only what is held is in use", func() bool {
		return slices.Equal(slices.SortedFunc(maps.Keys(w.inUse()), netip.Addr.Compare), sorted(held))
	})
	w.consistent()
}

// everyOther does every other write while it is silent, and answers none.
type everyOther struct {
	*countingStore
	silent *atomic.Bool
	n      *atomic.Int64
}

func (e everyOther) commit(ctx context.Context, writes []etcdstore.Write) (int64, error) {
	if !e.silent.Load() {
		return e.countingStore.commit(ctx, writes)
	}
	if e.n.Add(1)%2 == 1 {
		_, _ = e.countingStore.commit(ctx, writes)
	}
	return 0, fmt.Errorf("%w: no answer", etcdstore.ErrUnavailable)
}
