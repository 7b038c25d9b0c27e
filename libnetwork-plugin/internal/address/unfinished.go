package address

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libnetwork-plugin/internal/endpoint"
	"calico.internal/libnetwork-plugin/internal/veth"
)

// The times of finishing what calls left open: between two tries, from first to last, and
// for one.
const (
	finishPause = time.Second
	longPause   = 30 * time.Second
	finishLimit = 10 * time.Second
)

// lateness is how long after its time a write may still be done: until then, that there is
// no endpoint does not mean that there will be none.
const lateness = 10 * time.Second

// unfinished is what calls have failed to take away: etcd did not answer, or did the work
// and its answer was lost, and Docker asks for each thing once. It is lost at a restart;
// the sweep finds the same then.
type unfinished struct {
	mu        sync.Mutex
	endpoints map[string]*remains // by id
	addrs     map[netip.Addr]bool
	// working is the endpoint that is being removed.
	working string
	more    chan struct{}
}

// remains is an endpoint that must go.
type remains struct {
	since time.Time
	// released are its addresses that Docker has released already.
	released map[netip.Addr]bool
}

func newUnfinished() *unfinished {
	return &unfinished{endpoints: make(map[string]*remains), addrs: make(map[netip.Addr]bool), more: make(chan struct{}, 1)}
}

// addEndpoint notes an endpoint that must go.
func (u *unfinished) addEndpoint(id string) {
	u.mu.Lock()
	u.endpoints[id] = &remains{since: time.Now(), released: make(map[netip.Addr]bool)}
	u.mu.Unlock()
	u.wake()
}

// addAddr notes an address that must be given back.
func (u *unfinished) addAddr(a netip.Addr) {
	u.mu.Lock()
	u.addrs[a] = true
	u.mu.Unlock()
	u.wake()
}

func (u *unfinished) wake() {
	select {
	case u.more <- struct{}{}:
	default:
	}
}

// keepEndpoint notes that Docker wants an endpoint after all. It reports false if it is
// being removed at the moment.
func (u *unfinished) keepEndpoint(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.endpoints, id)
	return u.working != id
}

// keepAddr notes that an address has been given out again: what was to be given back is
// back.
func (u *unfinished) keepAddr(a netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.addrs, a)
}

// list is what is to be done.
func (u *unfinished) list() ([]string, []netip.Addr) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Sorted(maps.Keys(u.endpoints)), slices.SortedFunc(maps.Keys(u.addrs), netip.Addr.Compare)
}

// released notes that Docker has released an address of an endpoint, and reports whether
// that is one that must go.
func (u *unfinished) released(id string, a netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.endpoints[id]
	if r != nil {
		r.released[a] = true
	}
	return r != nil
}

// awaitsRelease reports whether Docker has still to release an address of an endpoint.
func (u *unfinished) awaitsRelease(id string, a netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.endpoints[id]
	return r == nil || !r.released[a]
}

// begin takes an endpoint into work, if it must still go. late tells that nothing of it
// can come any more.
func (u *unfinished) begin(id string) (late, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.endpoints[id]
	if r == nil {
		return false, false
	}
	u.working = id
	return time.Since(r.since) > lateness, true
}

// end notes whether an endpoint is gone.
func (u *unfinished) end(id string, gone bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.working = ""
	if gone {
		delete(u.endpoints, id)
	}
}

// wants tells whether an address must still be given back.
func (u *unfinished) wants(a netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.addrs[a]
}

// errBeingRemoved is told to a Docker that wants an endpoint whose making failed before.
var errBeingRemoved = errors.New("what an earlier, failed start has left of this endpoint is being removed: start the container again")

// Abandon notes that an endpoint must go whose making, or removal, failed in a way that
// leaves open what etcd has done. It is removed, with its addresses, as soon as etcd
// answers; nobody else is given them before.
func (b *Book) Abandon(id string) { b.open.addEndpoint(id) }

// Run finishes what calls left open, until ctx ends.
func (b *Book) Run(ctx context.Context) error {
	pause := finishPause
	retry := time.NewTimer(pause)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.open.more:
			pause = finishPause
		case <-retry.C:
		}
		switch done, err := b.finish(ctx); {
		case err != nil:
			b.log.Warn("not yet removed what failed calls have left", logattr.Err, err, "retry_in", pause.String())
			retry.Reset(pause)
			pause = min(2*pause, longPause)
		case !done:
			retry.Reset(finishPause)
		}
	}
}

// finish tries all that is open once, and reports whether nothing is left.
func (b *Book) finish(ctx context.Context) (done bool, err error) {
	ids, addrs := b.open.list()
	done = true
	var errs []error
	for _, id := range ids {
		late, ok := b.open.begin(id)
		if !ok {
			continue
		}
		gone, err := b.retract(ctx, id, late)
		b.open.end(id, gone)
		done = done && gone
		errs = append(errs, err)
	}
	for _, a := range addrs {
		if !b.open.wants(a) {
			continue
		}
		err := b.giveBack(ctx, a)
		if err == nil {
			b.open.keepAddr(a)
		}
		errs = append(errs, err)
	}
	return done, errors.Join(errs...)
}

// retract removes an endpoint and gives back its addresses, if there is one that no
// container has. Where there is none, one may still come until it is late.
func (b *Book) retract(ctx context.Context, id string, late bool) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, finishLimit)
	defer cancel()
	if state, err := b.links.State(id); err != nil || state == veth.InUse {
		return err == nil, err
	}
	if !late {
		_, err := b.store.Get(ctx, endpoint.Key(b.node, id))
		if errors.Is(err, etcdstore.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	addrs, err := b.unbind(ctx, id)
	if err != nil {
		return false, err
	}
	for _, a := range addrs {
		if b.open.awaitsRelease(id, a) {
			b.mem.free(a)
		}
	}
	b.log.Info("removed the endpoint that a failed call has left", logattr.Endpoint, id)
	return true, nil
}

// giveBack gives an address back that Docker has released.
func (b *Book) giveBack(ctx context.Context, a netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, finishLimit)
	defer cancel()
	return b.release(ctx, a)
}
