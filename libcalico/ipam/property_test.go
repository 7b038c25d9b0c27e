package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// ledger is the truth about who was given which address.
type ledger struct {
	testing.TB
	mu    sync.Mutex
	given map[netip.Addr]string
}

func (l *ledger) give(handle string, addrs []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range addrs {
		if by := l.given[a]; by != "" {
			l.Errorf("%s was given to %s while %s had it", a, handle, by)
		}
		l.given[a] = handle
	}
}

// drop is called before addresses are released, since another may get them at once.
func (l *ledger) drop(addrs []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range addrs {
		delete(l.given, a)
	}
}

// TestClientsOnHostsInterleaved runs several programs on several hosts against one
// store: a small pool, so that they claim, borrow, run out and give blocks back.
func TestClientsOnHostsInterleaved(t *testing.T) {
	for _, tc := range []struct {
		name               string
		hosts, perHost     int
		pool               string
		config             model.IPAMConfig
		atOnce, operations int
	}{
		{"roomy", 4, 3, "10.0.0.0/22", model.IPAMConfig{AutoAllocateBlocks: true}, 3, 40},
		{"tight, borrowing", 4, 3, "10.0.0.0/28", model.IPAMConfig{AutoAllocateBlocks: true}, 3, 40},
		{"tight, strict", 3, 3, "10.0.0.0/27", model.IPAMConfig{AutoAllocateBlocks: true, StrictAffinity: true}, 3, 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.pool(tc.pool, func(p *model.IPPool) {
				if p.CIDR.Bits() > 24 {
					p.BlockSize = p.CIDR.Bits() + 1
				}
				if p.BlockSize == 28 {
					p.BlockSize = 29
				}
			})
			w.config(tc.config)
			l := &ledger{TB: t, given: map[netip.Addr]string{}}
			var wg sync.WaitGroup
			for host := range tc.hosts {
				for program := range tc.perHost {
					// Each program has a client of its own and several callers.
					c := w.node(fmt.Sprint("host", host))
					for caller := range tc.atOnce {
						wg.Go(func() {
							u := &user{
								ledger: l, client: c, name: fmt.Sprintf("%d-%d-%d", host, program, caller),
								rand: rand.New(rand.NewPCG(uint64(host), uint64(program*100+caller))),
							}
							u.run(w.ctx(), tc.operations)
						})
					}
				}
			}
			wg.Wait()
			owners := w.consistent()
			for a, o := range owners {
				if l.given[a] != o.Handle {
					t.Errorf("%s belongs to %s, and was given to %q", a, o.Handle, l.given[a])
				}
			}
			for a, handle := range l.given {
				if owners[a].Handle != handle {
					t.Errorf("%s was given to %s, and belongs to %q", a, handle, owners[a].Handle)
				}
			}
		})
	}
}

// user does random things, one after the other.
type user struct {
	*ledger
	client *Client
	name   string
	rand   *rand.Rand
	n      int
	held   map[string][]netip.Addr // by handle
}

func (u *user) run(ctx context.Context, operations int) {
	u.held = map[string][]netip.Addr{}
	for range operations {
		switch u.rand.IntN(10) {
		case 0, 1, 2, 3:
			u.assign(ctx)
		case 4:
			u.assignOne(ctx)
		case 5, 6:
			u.release(ctx)
		case 7:
			u.releaseHandle(ctx)
		case 8:
			u.setOwner(ctx)
		case 9:
			if _, err := u.client.ReleaseSpareBlocks(ctx, 0); err != nil {
				u.Errorf("release spare blocks: %v", err)
			}
		}
	}
}

func (u *user) handle() string {
	u.n++
	return fmt.Sprintf("%s-%d", u.name, u.n)
}

func (u *user) assign(ctx context.Context) {
	h := u.handle()
	r := Request{IPv4: 1 + u.rand.IntN(3), Owner: Owner{Handle: h}}
	if u.rand.IntN(3) == 0 {
		r.Within = prefixes([]string{"10.0.0.0/29", "10.0.0.4/30", "10.0.0.0/27"}[u.rand.IntN(3)])
	}
	got, err := u.client.AutoAssign(ctx, r)
	if errors.Is(err, ErrPoolFull) || errors.Is(err, ErrSearch) { // on a busy machine
		return
	}
	if err != nil {
		u.Errorf("assign: %v", err)
		return
	}
	u.give(h, got)
	u.held[h] = got
}

func (u *user) assignOne(ctx context.Context) {
	h := u.handle()
	a := addTo(netip.MustParseAddr("10.0.0.0"), uint64(u.rand.IntN(32)))
	err := u.client.Assign(ctx, a, Owner{Handle: h})
	if errors.Is(err, ErrInUse) || errors.Is(err, ErrStrictAffinity) || errors.Is(err, ErrNotInPool) {
		return
	}
	if err != nil {
		u.Errorf("assign one: %v", err)
		return
	}
	u.give(h, []netip.Addr{a})
	u.held[h] = []netip.Addr{a}
}

// pick returns one of the handles that the user holds.
func (u *user) pick() (handle string, ok bool) {
	for h := range u.held {
		return h, true
	}
	return "", false
}

func (u *user) release(ctx context.Context) {
	h, ok := u.pick()
	if !ok {
		return
	}
	n := 1 + u.rand.IntN(len(u.held[h]))
	some := u.held[h][:n]
	if u.held[h] = u.held[h][n:]; len(u.held[h]) == 0 {
		delete(u.held, h)
	}
	u.drop(some)
	missing, err := u.client.Release(ctx, some...)
	if err != nil || len(missing) > 0 {
		u.Errorf("release %v: not assigned %v, %v", some, missing, err)
	}
}

func (u *user) releaseHandle(ctx context.Context) {
	h, ok := u.pick()
	if !ok {
		return
	}
	u.drop(u.held[h])
	delete(u.held, h)
	if err := u.client.ReleaseByHandle(ctx, h); err != nil {
		u.Errorf("release by handle: %v", err)
	}
}

func (u *user) setOwner(ctx context.Context) {
	h, ok := u.pick()
	if !ok {
		return
	}
	_, err := u.client.SetOwner(ctx, u.held[h], Owner{Handle: h, Attrs: map[string]string{AttrContainer: u.handle()}})
	if err != nil {
		u.Errorf("set owner: %v", err)
	}
}

// TestImpatientCallersLeakNothing has callers who leave at any moment.
func TestImpatientCallersLeakNothing(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	c := w.node("a")
	var wg sync.WaitGroup
	for caller := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(caller)))
			for range 50 {
				ctx, cancel := context.WithTimeout(w.ctx(), time.Duration(r.IntN(3000))*time.Microsecond)
				got, err := c.AutoAssign(ctx, Request{IPv4: 1, Owner: Owner{Handle: fmt.Sprint(caller)}})
				cancel()
				if err == nil {
					w.release(c, got...)
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	wg.Wait()
	w.release(c, w.assign(c, 1, "")...) // comes after what is still under way
	w.release(c, w.assign(c, 1, "")...)
	if owners := w.consistent(); len(owners) > 0 {
		t.Errorf("left are %v", owners)
	}
}

// TestACrashAtAnyWriteLeavesNothingInconsistent ends programs between any two
// transactions, before or after one was done.
func TestACrashAtAnyWriteLeavesNothingInconsistent(t *testing.T) {
	crash := fmt.Errorf("%w: crash", etcdstore.ErrUnavailable)
	for _, late := range []bool{false, true} {
		for at := int64(1); at <= 8; at++ {
			w := newWorld(t, "10.0.0.0/24")
			failing := &countingStore{store: etcd{w.store}, late: late, fail: func(n int64) error {
				if n >= at {
					return crash
				}
				return nil
			}}
			c := newClient(failing, "a")
			c.queue.patience = 0 // the program is dead
			script(w, c)
			owners := w.consistent()
			for a, o := range owners { // whatever is left can be traced
				if o.Handle == "" || o.Attrs[AttrNode] != "a" {
					t.Errorf("%s belongs to %v", a, o)
				}
			}
		}
	}
}

// script does a bit of everything and does not mind errors.
func script(w *world, c *Client) {
	got, _ := c.AutoAssign(w.ctx(), Request{IPv4: 70, Owner: Owner{Handle: "h"}})
	more, _ := c.AutoAssign(w.ctx(), Request{IPv4: 2, Owner: Owner{Handle: "g"}})
	_, _ = c.SetOwner(w.ctx(), more, Owner{Attrs: map[string]string{AttrContainer: "c"}})
	if len(got) > 3 {
		_, _ = c.Release(w.ctx(), got[:3]...)
	}
	_ = c.ReleaseByHandle(w.ctx(), "h")
	_, _ = c.ReleaseSpareBlocks(w.ctx(), 0)
	_ = c.ReleaseNode(w.ctx(), "a")
}

func TestEndlessConflictsEnd(t *testing.T) {
	w := newWorld(t, "10.0.0.0/24")
	k := model.BlockKey{CIDR: netip.MustParsePrefix("10.0.0.0/26")}
	c := newClient(&countingStore{store: etcd{w.store}, fail: func(int64) error {
		return &etcdstore.ConflictError{Keys: []model.Key{k}, Errs: []error{etcdstore.ErrConflict}}
	}}, "a")
	if err := c.Assign(w.ctx(), netip.MustParseAddr("10.0.0.5"), Owner{}); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
}
