package address

import (
	"hash/fnv"
	"iter"
	"net/netip"
	"sync"
)

// A search in a range takes single addresses, as only whole pools can be asked for any.
// It begins at a block that depends on the node, so that nodes do not share blocks when
// there are enough, and goes on where it last found something.
const (
	// blockBits is the size of a block, in bits of an address.
	blockBits = 6
	// tries bounds a search; a range without a free address among so many is full.
	tries = 1024
)

// cursor knows where the search in each range goes on.
type cursor struct {
	node uint64

	mu   sync.Mutex
	next map[netip.Prefix]netip.Addr
}

func newCursor(node string) *cursor {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // It never fails.
	return &cursor{node: h.Sum64(), next: make(map[netip.Prefix]netip.Addr)}
}

// from lists the addresses of a range, each once, beginning where the search goes on.
func (c *cursor) from(within netip.Prefix) iter.Seq[netip.Addr] {
	c.mu.Lock()
	start, ok := c.next[within]
	c.mu.Unlock()
	if !ok {
		start = c.first(within)
	}
	return func(yield func(netip.Addr) bool) {
		a := start
		for range tries {
			if !yield(a) {
				return
			}
			if a = after(within, a); a == start {
				return
			}
		}
	}
}

// at notes that an address was taken.
func (c *cursor) at(within netip.Prefix, a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next[within] = after(within, a)
}

// first is the node's first address in a range: the beginning of one of its blocks.
func (c *cursor) first(within netip.Prefix) netip.Addr {
	free := within.Addr().BitLen() - within.Bits()
	if free <= blockBits {
		return within.Addr()
	}
	block := c.node % (1 << min(free-blockBits, 32))
	bytes := within.Addr().AsSlice()
	for i, shift := len(bytes)-1, block<<blockBits; i >= 0 && shift > 0; i, shift = i-1, shift>>8 {
		bytes[i] |= byte(shift)
	}
	a, _ := netip.AddrFromSlice(bytes) // It has the length that it had.
	return a
}

// after is the next address of a range, the first after the last.
func after(within netip.Prefix, a netip.Addr) netip.Addr {
	if next := a.Next(); within.Contains(next) {
		return next
	}
	return within.Addr()
}
