package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

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

// What an operation returns that cannot be finished with what is known.
var (
	errNeed  = errors.New("something must be read first")
	errStale = errors.New("something must be read again first")
)

// shortage is returned by an operation that found too few addresses.
type shortage struct {
	pools   []pool
	usable  usable
	missing int
	err     error // what to tell the caller when nothing helps
}

func (s *shortage) Error() string { return s.err.Error() }

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
func (w *work) block(cidr netip.Prefix) (*model.Block, error) {
	r, ok := w.get(model.BlockKey{CIDR: cidr})
	if !ok {
		return nil, errNeed
	}
	switch r := r.(type) {
	case nil:
		return nil, nil
	case *model.Block:
		return r, nil
	default:
		return nil, fmt.Errorf("block %s: %w; see calicoctl ipam check", cidr, ErrDamaged)
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
func (w *work) handle(id string, mayBeNew bool) (*model.Handle, error) {
	k := model.HandleKey{ID: id}
	if _, ok := w.known[k]; !ok && mayBeNew && !w.written(k) {
		return nil, nil
	}
	r, ok := w.get(k)
	if !ok {
		return nil, errNeed
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
func (w *work) count(id string, block netip.Prefix, by int) error {
	if id == "" || by == 0 {
		return nil
	}
	h, err := w.handle(id, by > 0)
	if err != nil {
		return err
	}
	if h == nil {
		if by < 0 {
			return nil
		}
		h = &model.Handle{}
	}
	h = &model.Handle{HandleID: h.HandleID, Block: maps.Clone(h.Block)}
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
func (w *work) locate(a netip.Addr) (*model.Block, error) {
	p, inPool := w.env.poolOf(a)
	if inPool {
		b, err := w.block(p.blockOf(a))
		if b != nil || err != nil {
			return b, err
		}
	}
	var found *model.Block
	var err error
	for bits := narrowest(a); bits >= widest(a); bits-- {
		b, e := w.block(netip.PrefixFrom(a, bits).Masked())
		if e != nil {
			err = e // go on: all that is needed is read at once
		} else if b != nil && found == nil {
			found = b
		}
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// The sizes that a block can have.
func narrowest(a netip.Addr) int { return a.BitLen() }

func widest(a netip.Addr) int { return a.BitLen() - 12 }
