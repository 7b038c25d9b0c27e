package address

import (
	"context"
	"net/netip"
	"sync"
)

// hands are the addresses that are changing hands at the moment. Whoever looks at an address's
// owner and acts on it takes it first; what happens to other addresses, and an etcd that does
// not answer for them, keeps nobody waiting.
type hands struct {
	mu    sync.Mutex
	taken map[netip.Addr]chan struct{}
}

// take waits until nobody else has the address in hand, or ctx ends.
func (h *hands) take(ctx context.Context, a netip.Addr) (done func(), err error) {
	for {
		h.mu.Lock()
		other, busy := h.taken[a]
		if !busy {
			mine := make(chan struct{})
			if h.taken == nil {
				h.taken = make(map[netip.Addr]chan struct{})
			}
			h.taken[a] = mine
			h.mu.Unlock()
			return func() { h.give(a, mine) }, nil
		}
		h.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (h *hands) give(a netip.Addr, mine chan struct{}) {
	h.mu.Lock()
	delete(h.taken, a)
	h.mu.Unlock()
	close(mine)
}
