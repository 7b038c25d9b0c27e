package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// stored is what the store has under a key: nil, with revision 0, when nothing.
type stored struct {
	value model.Resource
	rev   int64
}

// known holds what was read from the store, by key.
type known map[model.Key]stored

// work is a set of changes in the making. What is read comes from the changes made so
// far, else from what is known of the store.
type work struct {
	node  string
	env   *environment
	known known
	below *work // the changes of the operations before this one

	// fresh says that what the operation reads was read from the store for it, so that
	// it may answer that something is not possible.
	fresh bool
	// finds are the results of searches made for the operation.
	finds *finds

	writes map[model.Key]model.Resource // nil: delete
	checks map[model.Key]int64          // keys that must have a revision
	reads  map[model.Key]bool           // keys that the operation has looked at
	needs  map[model.Key]bool           // keys that are not known
	// needsHere says that the environment must know which containers are here.
	needsHere bool
	chosen    map[netip.Prefix]bool // blocks that are claimed because nobody seems to have them
	// result is what the caller is told when the operation is done.
	result result
}

// result is what an operation came to.
type result struct {
	rev int64 // of the transaction
	// addrs were given out, all to owner.
	addrs []netip.Addr
	owner Owner
	// freed were taken back, each from the owner that it names; notAssigned are those that
	// nobody had.
	freed       []Holding
	notAssigned []netip.Addr
	// done says that the operation found things as it needs them, and more that it has to
	// be repeated.
	done, more bool
}

// finds are the results of searches in the store, by pool.
type finds struct {
	// vacant are blocks that nobody had claimed.
	vacant map[netip.Prefix][]netip.Prefix
	// roomy are blocks of others with free addresses.
	roomy map[netip.Prefix][]netip.Prefix
	// fill tells how full a pool is that was searched completely.
	fill map[netip.Prefix]PoolFill
	// live are blocks that nobody has by the store, but by the host's routes.
	live []localnet.Place
}

func newFinds() *finds {
	return &finds{
		vacant: map[netip.Prefix][]netip.Prefix{},
		roomy:  map[netip.Prefix][]netip.Prefix{},
		fill:   map[netip.Prefix]PoolFill{},
	}
}

func newWork(node string, env *environment, k known) *work {
	return &work{
		node: node, env: env, known: k, finds: &finds{},
		writes: map[model.Key]model.Resource{}, checks: map[model.Key]int64{},
		reads: map[model.Key]bool{}, needs: map[model.Key]bool{}, chosen: map[netip.Prefix]bool{},
	}
}

// fork makes work for one operation on top of w; merge takes over its changes.
func (w *work) fork(fresh bool, f *finds) *work {
	child := newWork(w.node, w.env, w.known)
	child.below, child.fresh, child.finds = w, fresh, f
	return child
}

func (w *work) merge(child *work) {
	maps.Copy(w.writes, child.writes)
	maps.Copy(w.checks, child.checks)
	maps.Copy(w.chosen, child.chosen)
}

// size is the number of steps of the transaction.
func (w *work) size() int { return len(w.writes) + len(w.checks) }

// stop is why an operation cannot be finished with what is known; nil when it can.
type stop struct {
	why   why
	short shortage // when it found too few addresses
	err   error    // when it is refused
}

type why int

const (
	unread  why = iota // something must be read first: the work's needs
	stale              // what it rests on must be read again first: the work's reads
	tooFew             // addresses must be searched for
	refused            // the caller is told the error
)

// is says whether this is the reason; a nil stop has none.
func (s *stop) is(y why) bool { return s != nil && s.why == y }

func refuse(err error) *stop { return &stop{why: refused, err: err} }

// unlessFresh puts off a refusal until it rests on what was just read.
func (w *work) unlessFresh(err error) *stop {
	if w.fresh {
		return refuse(err)
	}
	return &stop{why: stale}
}

// surely is for an operation that has nothing to do, if that is so.
func (w *work) surely() *stop {
	if w.fresh {
		return nil
	}
	return &stop{why: stale}
}

// afresh has an operation begin only when some keys were read for it.
func (w *work) afresh(keys ...model.Key) *stop {
	for _, k := range keys {
		w.get(k)
	}
	return w.surely()
}

// shortage says what an operation found too few addresses of.
type shortage struct {
	ipv6    bool
	pools   []pool
	usable  usable
	missing int
	limited bool  // the node has as many blocks as it may have
	err     error // what to tell the caller when nothing helps
}

// same says whether what is found for one shortage is what would be for another.
func (s shortage) same(o shortage) bool {
	return s.limited == o.limited && slices.Equal(s.pools, o.pools) && slices.Equal(s.usable.within, o.usable.within)
}

// get returns what is under a key; known is false when that must be read first, which
// is noted.
func (w *work) get(k model.Key) (r model.Resource, isKnown bool) {
	w.reads[k] = true
	for layer := w; layer != nil; layer = layer.below {
		if r, ok := layer.writes[k]; ok {
			return r, true
		}
	}
	s, ok := w.known[k]
	if !ok {
		w.needs[k] = true
	}
	return s.value, ok
}

// block returns a block for reading, or nil when there is none.
func (w *work) block(cidr netip.Prefix) (*model.Block, *stop) {
	r, ok := w.get(model.BlockKey{CIDR: cidr})
	if !ok {
		return nil, &stop{why: unread}
	}
	switch r := r.(type) {
	case nil:
		return nil, nil
	case *model.Block:
		return r, nil
	default:
		return nil, refuse(fmt.Errorf("block %s: %w; see calicoctl ipam check", cidr, ErrDamaged))
	}
}

// edit returns a copy of a block, which the operation may change.
func (w *work) edit(b *model.Block) *model.Block {
	k := model.BlockKey{CIDR: b.CIDR}
	if mine, ok := w.writes[k].(*model.Block); ok {
		return mine
	}
	c := cloneBlock(b)
	w.writes[k] = c
	return c
}

// settle deletes a block that an operation has emptied, unless a node owns it.
func (w *work) settle(b *model.Block) {
	if inUse(b) == 0 && b.Affinity == nil {
		w.writes[model.BlockKey{CIDR: b.CIDR}] = nil
	}
}

// handle returns a handle for reading. One that is not known is taken for new when
// the caller is about to count up: if it is not, the transaction says so.
func (w *work) handle(id string, mayBeNew bool) (*model.Handle, *stop) {
	k := model.HandleKey{ID: id}
	if _, ok := w.known[k]; !ok && mayBeNew && !w.written(k) {
		return nil, nil
	}
	r, ok := w.get(k)
	if !ok {
		return nil, &stop{why: unread}
	}
	h, _ := r.(*model.Handle)
	return h, nil
}

func (w *work) written(k model.Key) bool {
	for layer := w; layer != nil; layer = layer.below {
		if _, ok := layer.writes[k]; ok {
			return true
		}
	}
	return false
}

// count changes the number of addresses that a handle has in a block. A count never
// falls below zero: what an older version lost count of is no reason to fail.
func (w *work) count(id string, block netip.Prefix, by int) *stop {
	if id == "" || by == 0 {
		return nil
	}
	h, s := w.handle(id, by > 0)
	if s != nil {
		return s
	}
	if h == nil {
		if by < 0 {
			return nil
		}
		h = &model.Handle{}
	}
	h = &model.Handle{HandleID: h.HandleID, Block: maps.Clone(h.Block), Unknown: h.Unknown}
	if h.Block == nil {
		h.Block = map[string]int{}
	}
	name := block.String()
	if h.Block[name] += by; h.Block[name] <= 0 {
		delete(h.Block, name)
	}
	k := model.HandleKey{ID: id}
	if len(h.Block) == 0 {
		w.writes[k] = nil
	} else {
		w.writes[k] = h
	}
	return nil
}

// rely makes the transaction depend on a pool, the configuration and the lock being as
// the operation found them.
func (w *work) rely(p pool) {
	w.checks[model.IPPoolKey{CIDR: p.cidr}] = p.rev
	w.checks[model.IPAMConfigKey{}] = w.env.configRev
	w.checks[model.ReadyKey{}] = w.env.readyRev
}

// relyOn makes the transaction depend on a block being as the operation found it.
func (w *work) relyOn(block netip.Prefix) {
	k := model.BlockKey{CIDR: block}
	w.checks[k] = w.known[k].rev
}

// owns says whether a block belongs to the node.
func (w *work) owns(b *model.Block) bool { return b.Affinity != nil && nodeOf(b) == w.node }

// locate finds the block of an address. Blocks may be of another size than the pool
// says, or in no pool any more, so all sizes are tried. It returns nil when there is
// none.
func (w *work) locate(a netip.Addr) (*model.Block, *stop) {
	p, inPool := w.env.poolOf(a)
	if inPool {
		b, s := w.block(p.blockOf(a))
		if b != nil || s != nil {
			return b, s
		}
	}
	var found *model.Block
	var stopped *stop
	for bits := narrowest(a); bits >= widest(a); bits-- {
		b, s := w.block(netip.PrefixFrom(a, bits).Masked())
		if s != nil {
			stopped = s // go on: all that is needed is read at once
		} else if b != nil && found == nil {
			found = b
		}
	}
	if stopped != nil {
		return nil, stopped
	}
	return found, nil
}

// The sizes that a block can have.
func narrowest(a netip.Addr) int { return a.BitLen() }

func widest(a netip.Addr) int { return a.BitLen() - 12 }
