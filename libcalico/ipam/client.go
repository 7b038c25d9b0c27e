package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// Client gives out and takes back addresses for one node. It may be used by several
// goroutines, and a program that makes one client a node gets the most out of it:
// calls that wait at the same time share a transaction. Every method returns soon
// after its context has ended.
type Client struct {
	backend store
	node    string
	queue   *queue
	now     func() time.Time
	under   []etcdstore.Write // the conditions that the caller holds the lock

	mu      sync.Mutex
	spares  map[netip.Prefix]spare // empty blocks that ReleaseSpareBlocks has seen
	stamped time.Time              // the last stamp
}

// store is all that a client needs of the store.
type store interface {
	backend
	// blocksIn lists the blocks and the affinities in a range, of whatever node.
	blocksIn(ctx context.Context, within netip.Prefix) (blocks []netip.Prefix, affinities []model.BlockAffinityKey, err error)
	// eachBlock calls f for every stored block, at one revision.
	eachBlock(ctx context.Context, f func(BlockUsage)) error
	// WhileUnlocked is that of [etcdstore.Client].
	WhileUnlocked(ctx context.Context, commit func(open etcdstore.Write) (int64, error)) (int64, error)
	// raw reads a block that may be damaged.
	raw(ctx context.Context, k model.BlockKey) (foundBlock, error)
	// each calls f for every key with one of the prefixes, at one revision.
	each(ctx context.Context, prefixes []string, f func(*mvccpb.KeyValue)) (rev int64, cluster uint64, err error)
}

// Option changes how a [Client] works.
type Option func(*Client)

// OnHost says what the client's own host has taken for itself, besides what the store
// knows of nodes; no block that touches any of it is used. It is [localnet.List] but in
// tests.
func OnHost(list func() ([]localnet.Place, error)) Option {
	return func(c *Client) { c.queue.places.host = list }
}

// Routed says which routes to containers the client's own host has. A block that the store
// lacks and that has one is not claimed for the want of addresses: after a restored backup
// it is the block of a node whose containers run on. It is [localnet.Routes] but in tests.
func Routed(list func() ([]localnet.Route, error)) Option {
	return func(c *Client) { c.queue.places.routes = list }
}

// Borrowing has note called with each block of another node, or of nobody, from which an
// address is about to be given out, before it is: so that whoever remembers them can ask
// [Client.Borrowed] later.
func Borrowing(note func(block netip.Prefix)) Option {
	return func(c *Client) { c.queue.borrowing = note }
}

// Owing has note called when etcd refuses to have addresses taken back that nobody has, and
// again when they are. The client's other calls wait meanwhile.
func Owing(note func(Owed)) Option {
	return func(c *Client) { c.queue.owing = note }
}

// UnderLock is for who has locked the store: held are the conditions that the lock is still
// theirs. What [Client.Mend] does then depends on all of them, and not on the store being
// open; it fails, with an [*etcdstore.ConflictError], when one does not hold any more.
func UnderLock(held ...etcdstore.Write) Option {
	return func(c *Client) { c.under = held }
}

// New makes a client for the host that node names.
func New(s *etcdstore.Client, node string, opts ...Option) *Client {
	return newClient(etcd{s}, node, opts...)
}

func newClient(s store, node string, opts ...Option) *Client {
	c := &Client{backend: s, node: node, queue: newQueue(s, node), now: time.Now, spares: map[netip.Prefix]spare{}}
	for _, o := range opts {
		o(c)
	}
	return c
}

// Prepare reads what the first address would have to wait for. It need not be called.
func (c *Client) Prepare(ctx context.Context) error {
	_, err := c.queue.places.known(ctx)
	return err
}

// AutoAssign gives out as many addresses as are asked for, IPv4 before IPv6, or none.
// The error is a [*PoolFullError] when there are too few, a [*SearchError] when looking for
// one took too long, and Is [ErrNoPool] when no pool can be used. When etcd did not answer,
// what may have been given out is taken back as soon as it does.
func (c *Client) AutoAssign(ctx context.Context, r Request) ([]netip.Addr, error) {
	if r.IPv4 < 0 || r.IPv6 < 0 {
		return nil, fmt.Errorf("assign %d IPv4 and %d IPv6 addresses: negative number", r.IPv4, r.IPv6)
	}
	if r.IPv4+r.IPv6 == 0 {
		return nil, nil
	}
	r.Owner = c.stamp(r.Owner)
	r.Pools, r.Within = slices.Clone(r.Pools), slices.Clone(r.Within)
	given, err := c.queue.do(ctx, &call{op: &autoAssign{Request: r}})
	if err != nil {
		return nil, fmt.Errorf("assign an address: %w", err)
	}
	return given.addrs, nil
}

// Assign gives out one certain address, which must be in an enabled pool
// ([ErrNotInPool]) for this node ([ErrNoPool]) and free ([*InUseError]). If nobody has its block, the node claims
// it; if another node has, the address is borrowed, unless strict affinity forbids it
// ([ErrStrictAffinity]).
func (c *Client) Assign(ctx context.Context, addr netip.Addr, o Owner) error {
	return c.assign(ctx, &assign{addr: addr.Unmap(), owner: c.stamp(o)})
}

// Keep is Assign for an address that a container has already, and that nobody has by the
// store: it does not matter whether its pool gives out new ones, and to this node.
func (c *Client) Keep(ctx context.Context, addr netip.Addr, o Owner) error {
	return c.assign(ctx, &assign{addr: addr.Unmap(), owner: c.stamp(o), held: true})
}

func (c *Client) assign(ctx context.Context, op *assign) error {
	if _, err := c.queue.do(ctx, &call{op: op}); err != nil {
		return fmt.Errorf("assign: %w", err)
	}
	return nil
}

// stamp adds who asks and when. No two owners of a client have the same time, so that a
// call can tell what it has given out itself from what others have.
func (c *Client) stamp(o Owner) Owner {
	c.mu.Lock()
	now := c.now()
	if !now.After(c.stamped) {
		now = c.stamped.Add(1)
	}
	c.stamped = now
	c.mu.Unlock()
	attrs := map[string]string{AttrNode: c.node, AttrTimestamp: now.UTC().Format(time.RFC3339Nano)}
	maps.Copy(attrs, o.Attrs)
	return Owner{Handle: o.Handle, Attrs: attrs}
}

// SetOwner says more about who has addresses, all of which must be assigned
// ([ErrNotAssigned]): they get the handle, unless it is empty, and the attributes, of
// which an empty one is removed; other attributes stay. An address with another
// handle is refused ([*InUseError]). It is done in one transaction with the other
// writes; a condition of theirs that fails is an [*etcdstore.ConflictError].
func (c *Client) SetOwner(ctx context.Context, addrs []netip.Addr, o Owner, also ...etcdstore.Write) (rev int64, err error) {
	op := &changeOwner{addrs: unmap(addrs), owner: Owner{Handle: o.Handle, Attrs: maps.Clone(o.Attrs)}}
	set, err := c.queue.do(ctx, &call{op: op, also: also})
	if err != nil {
		return 0, fmt.Errorf("set the owner of addresses: %w", err)
	}
	return set.rev, nil
}

// addrsAtOnce is how many addresses one transaction frees; each may have a block and
// a handle of its own.
const addrsAtOnce = 40

// Release frees addresses and returns those of them that nobody had. When etcd does not
// answer, it is tried again until it does, for a while with the caller waiting, and then,
// or when ctx ends, without: what somebody else is given meanwhile is not touched.
func (c *Client) Release(ctx context.Context, addrs ...netip.Addr) (notAssigned []netip.Addr, err error) {
	for some := range slices.Chunk(unmap(addrs), addrsAtOnce) {
		released, err := c.queue.do(ctx, &call{op: &release{addrs: some}})
		if err != nil {
			return notAssigned, fmt.Errorf("release addresses: %w", err)
		}
		notAssigned = append(notAssigned, released.notAssigned...)
	}
	return notAssigned, nil
}

func unmap(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		out[i] = a.Unmap()
	}
	return out
}

// ReleaseByHandle frees all addresses of a handle. An unknown handle is no error.
func (c *Client) ReleaseByHandle(ctx context.Context, handle string) error {
	_, err := c.ReleaseOf(ctx, handle)
	return err
}

// ReleaseOf frees all addresses of a handle in one transaction with the other writes.
// An unknown handle is no error; the writes are done all the same.
func (c *Client) ReleaseOf(ctx context.Context, handle string, also ...etcdstore.Write) (rev int64, err error) {
	return c.PassOn(ctx, handle, nil, also...)
}

// PassOn is [Client.ReleaseOf] but for those addresses that workload endpoints have beside the
// one that the handle is of: these become theirs, if they are still there.
func (c *Client) PassOn(ctx context.Context, handle string, heirs map[netip.Addr]model.WorkloadEndpointKey, also ...etcdstore.Write) (rev int64, err error) {
	to := make(map[netip.Addr]Owner, len(heirs))
	for a, k := range heirs {
		there, err := etcdstore.ExistsWrite(k)
		if err != nil {
			return 0, err
		}
		to[a], also = c.As(k.Node).ownerBy(k.Name), append(also[:len(also):len(also)], there)
	}
	for {
		released, err := c.queue.do(ctx, &call{op: &releaseHandle{handle: handle, heirs: to, whole: true}, also: also})
		if errors.Is(err, errTooMany) { // no container has so many: free most of them before
			_, err = c.queue.do(ctx, &call{op: &releaseHandle{handle: handle, heirs: to}})
			if err == nil {
				continue
			}
		}
		if err != nil {
			return 0, fmt.Errorf("release handle %s: %w", handle, err)
		}
		return released.rev, nil
	}
}

// Lookup tells who has an address ([ErrNotAssigned] if nobody does).
func (c *Client) Lookup(ctx context.Context, addr netip.Addr) (Owner, error) {
	addr = addr.Unmap()
	var keys []model.Key
	for bits := narrowest(addr); bits >= widest(addr); bits-- {
		keys = append(keys, model.BlockKey{CIDR: netip.PrefixFrom(addr, bits).Masked()})
	}
	found, err := c.backend.read(ctx, keys)
	if err != nil {
		return Owner{}, fmt.Errorf("look up %s: %w", addr, err)
	}
	for _, k := range keys {
		switch b := found[k].value.(type) {
		case *model.Block:
			if ordinal, ok := ordinalOf(b, addr); ok {
				if attrs, taken := attributesOf(b, ordinal); taken {
					return ownerOf(attrs), nil
				}
			}
		case damaged:
			return Owner{}, fmt.Errorf("look up %s: %v: %w", addr, k, ErrDamaged)
		}
	}
	return Owner{}, fmt.Errorf("look up %s: %w", addr, ErrNotAssigned)
}
