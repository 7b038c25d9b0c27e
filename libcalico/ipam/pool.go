package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

// The block sizes of pools that name none, as prefix lengths.
const (
	defaultBlockBits4 = 26
	defaultBlockBits6 = 122
)

// maxBlocks bounds the blocks of a pool that are ever looked at; only IPv6 pools that
// are wider than /60 have more.
const maxBlocks = 1 << 62

// pool is an IP pool as its addresses are given out.
type pool struct {
	cidr      netip.Prefix
	blockBits int
	disabled  bool   // or being deleted
	manual    bool   // used only when a request names it, or a range of it
	selects   string // the nodes that may use it; empty means all
	rev       int64
}

func newPool(p *model.IPPool, rev int64) pool {
	bits := p.BlockSize
	switch {
	case bits > 0:
	case p.CIDR.Addr().Is4():
		bits = defaultBlockBits4
	default:
		bits = defaultBlockBits6
	}
	return pool{
		cidr:      p.CIDR.Masked(),
		blockBits: max(bits, p.CIDR.Bits()), // a pool below the size of a block is one block
		disabled:  p.Closed(),
		manual:    p.Manual,
		selects:   p.NodeSelector,
		rev:       rev,
	}
}

func (p pool) ipv6() bool { return p.cidr.Addr().Is6() }

// size is the number of the pool's addresses.
func (p pool) size() *big.Int { return sizeOf(p.cidr) }

func sizeOf(p netip.Prefix) *big.Int {
	return new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
}

// blocks is the number of the pool's blocks, at most maxBlocks.
func (p pool) blocks() uint64 {
	if n := p.blockBits - p.cidr.Bits(); n < 62 {
		return 1 << n
	}
	return maxBlocks
}

// block is the i-th block of the pool.
func (p pool) block(i uint64) netip.Prefix {
	shift := p.cidr.Addr().BitLen() - p.blockBits
	high, low := halves(p.cidr.Addr())
	addHigh, addLow := uint64(0), i<<shift
	if shift > 0 {
		addHigh = i >> (64 - shift)
	}
	if shift >= 64 {
		addHigh, addLow = i<<(shift-64), 0
	}
	// The base has zeros where the index goes, so that nothing is carried.
	return netip.PrefixFrom(join(high|addHigh, low|addLow, p.cidr.Addr().Is4()), p.blockBits)
}

// blockOf is the block that an address of the pool belongs to.
func (p pool) blockOf(a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a, p.blockBits).Masked()
}

func (p pool) owns(block netip.Prefix) bool {
	return block.Bits() >= p.cidr.Bits() && p.cidr.Contains(block.Addr())
}

// cuts says whether a block is one that the pool is cut into, as it is now.
func (p pool) cuts(block netip.Prefix) bool { return block.Bits() == p.blockBits && p.owns(block) }

// parts cuts ranges out of a pool, in whole blocks, none of them twice; no ranges stand
// for the whole pool.
func (p pool) parts(within []netip.Prefix) []pool {
	if len(within) == 0 {
		return []pool{p}
	}
	var out []pool
	for _, r := range distinct(within, p.cidr) {
		cut := p
		cut.cidr = netip.PrefixFrom(r.Addr(), min(r.Bits(), p.blockBits)).Masked()
		if !slices.Contains(out, cut) { // two ranges in one block
			out = append(out, cut)
		}
	}
	return out
}

// minus cuts a range of whole blocks out of a part of a pool.
func (p pool) minus(r netip.Prefix) []pool {
	switch {
	case !r.Overlaps(p.cidr):
		return []pool{p}
	case r.Bits() <= p.cidr.Bits():
		return nil
	}
	var out []pool
	for bits := p.cidr.Bits() + 1; bits <= r.Bits(); bits++ { // on the way down to r, the other half
		half := p
		half.cidr = sibling(netip.PrefixFrom(r.Addr(), bits).Masked())
		out = append(out, half)
	}
	return out
}

// sibling is the other half of the range of which p is one half.
func sibling(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	last := p.Bits() - 1
	b[last/8] ^= 0x80 >> (last % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

// distinct cuts ranges down to what lies in a pool, without those that are a part of
// others.
func distinct(ranges []netip.Prefix, pool netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for i, r := range ranges {
		covers := func(o netip.Prefix) bool { return o.Bits() < r.Bits() && o.Contains(r.Addr()) }
		switch {
		case !r.Overlaps(pool), slices.ContainsFunc(ranges, covers), slices.Contains(ranges[:i], r):
		case r.Bits() <= pool.Bits():
			return []netip.Prefix{pool}
		default:
			out = append(out, r)
		}
	}
	return out
}

// walk visits all blocks of parts of a pool, each part once, in an order that depends
// on the node, so that nodes seldom want the same one.
type walk struct {
	seed     [32]byte
	parts    []pool // the first is under way
	at, step uint64
	to       uint64
	left     uint64
}

func newWalk(node string, parts ...pool) *walk {
	w := &walk{seed: sha256.Sum256([]byte(node)), parts: parts}
	w.begin()
	return w
}

// begin starts at an index made from the node's name and goes on, around the part's
// end, in steps that differ from node to node as well: in a pool with a long run of
// taken blocks a node leaves the run at once. The number of blocks is a power of two,
// so that any odd step visits all.
func (w *walk) begin() {
	if len(w.parts) == 0 {
		return
	}
	n := w.parts[0].blocks()
	w.at = binary.BigEndian.Uint64(w.seed[:8]) % n
	w.step = binary.BigEndian.Uint64(w.seed[8:16])%n | 1
	w.to, w.left = n, n
}

// blocks is how many blocks are left of the walk, at most maxBlocks.
func (w *walk) blocks() uint64 {
	if len(w.parts) == 0 {
		return 0
	}
	n := w.left
	for _, p := range w.parts[1:] {
		n = min(n+p.blocks(), maxBlocks)
	}
	return n
}

// chunks returns up to n times the next blocks of a walk.
func (w *walk) chunks(n int) [][]netip.Prefix {
	var out [][]netip.Prefix
	for range n {
		some := w.next(pointReads)
		if len(some) == 0 {
			break
		}
		out = append(out, some)
	}
	return out
}

// next returns the next blocks, up to n; none when all were visited.
func (w *walk) next(n int) []netip.Prefix {
	var out []netip.Prefix
	for len(w.parts) > 0 && len(out) < n {
		out = append(out, w.parts[0].block(w.at))
		w.at = (w.at + w.step) % w.to
		if w.left--; w.left == 0 {
			w.parts = w.parts[1:]
			w.begin()
		}
	}
	return out
}

// environment is what the store says about how addresses are to be given out.
type environment struct {
	pools     []pool // sorted by address
	config    model.IPAMConfig
	configRev int64 // 0 when there is none
	// locked says that nothing may be given out now; readyRev is the revision of the flag
	// that says so, 0 when there is none.
	locked   bool
	lockedBy *model.Lock // who says so, if that is known
	readyRev int64
	reserved []netip.Prefix
	// labels are the node's, read only when a pool selects nodes.
	labels map[string]string
	// affine are the blocks that the node owns according to its affinities.
	affine []netip.Prefix
	// taken is what hosts have of the pools' ranges for themselves.
	taken []localnet.Place
	// here are the addresses of the host's containers by its routes; nil until somebody
	// needs them.
	here []netip.Addr
	// overlapped are blocks that cannot be claimed because there is one of another size,
	// which is named, in their range: one that was left when the pool was made anew.
	overlapped map[netip.Prefix]netip.Prefix
}

// leaves says whether a block may be given addresses from: no host has a part of it for
// itself.
func (e *environment) leaves(block netip.Prefix) bool {
	_, taken := localnet.Across(e.taken, block)
	return !taken
}

// heldBack says that a reservation covers a whole block.
func (e *environment) heldBack(block netip.Prefix) bool {
	return slices.ContainsFunc(e.reserved, func(r netip.Prefix) bool { return r.Bits() <= block.Bits() && r.Contains(block.Addr()) })
}

// wide is how much smaller than a part of a pool a range may be, in bits, for the search to
// go around it; what is smaller it comes across, and leaves.
const wide = 8

// open returns the parts of a pool, in whole blocks, in which blocks may be claimed, but for
// small ones that may not be: in a pool of 2^58 blocks nobody could pass by those that a
// reservation, or a host's network, has.
func (e *environment) open(p pool, within []netip.Prefix) []pool {
	parts := p.parts(within)
	for _, r := range e.reserved {
		parts = without(parts, r)
	}
	for _, t := range e.taken {
		parts = without(parts, t.Prefix)
	}
	return parts
}

func without(parts []pool, r netip.Prefix) []pool {
	var out []pool
	for _, p := range parts {
		if r.Bits() > p.blockBits || r.Bits() > p.cidr.Bits()+wide {
			out = append(out, p)
		} else {
			out = append(out, p.minus(r)...)
		}
	}
	return out
}

// inTheWay are the blocks of other sizes than their pools' that keep blocks from being claimed.
func (e *environment) inTheWay() []localnet.Place {
	var out []localnet.Place
	for _, other := range slices.SortedFunc(maps.Values(e.overlapped), netip.Prefix.Compare) {
		out = append(out, localnet.Place{Prefix: other, What: "a block of another size"})
	}
	return slices.Compact(out)
}

// choose returns the pools of a family that a request may use, in the order in which
// they are to be used.
func (e *environment) choose(wanted, within []netip.Prefix, ipv6 bool) ([]pool, error) {
	if e.locked {
		return nil, etcdstore.Locked(e.lockedBy)
	}
	out, err := e.candidates(wanted, ipv6, len(within) > 0)
	if err != nil || len(within) == 0 {
		return out, err
	}
	out = slices.DeleteFunc(out, func(p pool) bool { return len(p.parts(within)) == 0 })
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no enabled pool that this node may use has addresses%s", ErrNoPool, inRanges(within))
	}
	return out, nil
}

// candidates are the pools of a family without regard to ranges; manual ones only if they
// are named, or ranges are.
func (e *environment) candidates(wanted []netip.Prefix, ipv6, ranges bool) ([]pool, error) {
	var out []pool
	named := false
	for _, w := range wanted {
		if w.Addr().Is6() != ipv6 {
			continue
		}
		named = true
		p, err := e.named(w)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if named {
		return out, nil
	}
	for _, p := range e.pools {
		if p.ipv6() == ipv6 && !p.disabled && (ranges || !p.manual) && e.admits(p) {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: there is no enabled %s pool for this node; create one (calicoctl create), or enable one", ErrNoPool, familyName(ipv6))
	}
	return out, nil
}

// named finds a pool that a request names.
func (e *environment) named(w netip.Prefix) (pool, error) {
	i := slices.IndexFunc(e.pools, func(p pool) bool { return p.cidr == w.Masked() })
	switch {
	case i < 0:
		return pool{}, fmt.Errorf("%w: pool %s does not exist", ErrNoPool, w)
	case e.pools[i].disabled:
		return pool{}, fmt.Errorf("%w: pool %s is disabled", ErrNoPool, w)
	case !e.admits(e.pools[i]):
		return pool{}, notForNode(e.pools[i])
	}
	return e.pools[i], nil
}

func notForNode(p pool) error {
	return fmt.Errorf("%w: pool %s is not for this node (node selector %s)", ErrNoPool, p.cidr, p.selects)
}

// admits says whether the node may use a pool. A selector that cannot be read admits
// nobody.
func (e *environment) admits(p pool) bool {
	if p.selects == "" {
		return true
	}
	s, err := selector.Parse(p.selects)
	return err == nil && s.Match(selector.Map(e.labels))
}

// poolOf is the pool that an address belongs to, the narrowest if there are several.
func (e *environment) poolOf(a netip.Addr) (best pool, ok bool) {
	for _, p := range e.pools {
		if p.cidr.Contains(a) && (!ok || p.cidr.Bits() > best.cidr.Bits()) {
			best, ok = p, true
		}
	}
	return best, ok
}
