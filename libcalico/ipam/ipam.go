// Package ipam gives out addresses from the pools: to containers, and to whatever
// else needs one.
//
// A pool is cut into blocks (/26 or /122, or as the pool says). A node claims whole
// blocks, so that all its containers need one route, and gives out their addresses;
// when no block is free it borrows single addresses from the blocks of others. The
// values in the store are those of Calico v2.6: blocks, affinities (which node owns a
// block) and handles (how many addresses an owner has in which block).
//
//	caller ─► waiting ─► round: ops (pure: read and change copies) ─► one transaction
//	             ▲         │    ▲                                        │
//	             │         │    └── memory: environment, blocks ◄────────┤
//	             └ search ◄┘        and handles                          ▼
//	             └────────────────────────────────────────────────── debts, when in doubt
//
// Each operation of [Client] is a pure function over copies of stored values
// (assign.go, release.go, owner.go), which says what it came to: it is done, something must
// be read, addresses must be searched for, or it is refused. A [Client] runs the operations
// that wait at the same time one after the other over the same copies and commits them
// together, on the condition that nothing it changes, or relies on, has changed in the
// store; when something has, it reads that again and runs them anew. While the store is locked
// ([etcdstore.ErrLocked]) nothing is given out, and what is no longer needed is still
// taken back: that a container is gone is a fact. So blocks, affinities and
// handles always agree, and callers on one node speed each other up instead of
// colliding.
//
// A search for free addresses beside the node's own blocks goes on beside the rounds, and
// concerns its own call only. When the store does not answer a transaction, nobody knows
// whether it was done: what it may have given out is taken back, and what it may not have
// taken back is, again and again until there is a definite answer (debt.go). Each call's
// owner has a time of its own, so that nobody else's address is touched.
package ipam

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"

	"calico.internal/libcalico/localnet"
	"calico.internal/libcalico/model"
)

// The attributes that an address can carry, besides its handle.
const (
	// AttrNode is the node that asked for the address.
	AttrNode = "node"
	// AttrTimestamp is when it did, in RFC 3339.
	AttrTimestamp = "timestamp"
	// AttrNetwork is the Docker network, AttrEndpoint Docker's endpoint, and
	// AttrContainer the container that the address is for.
	AttrNetwork   = "network"
	AttrEndpoint  = "endpoint"
	AttrContainer = "container"
	// AttrType says what an address is for that belongs to no container, such as
	// "ipipTunnelAddress".
	AttrType = "type"
)

// Owner says who has an address.
type Owner struct {
	// Handle groups addresses that are released together; it may be empty.
	Handle string
	// Attrs are for whoever looks later. [AttrNode] and [AttrTimestamp] are filled in
	// when an address is given out without them.
	Attrs map[string]string
}

// Request asks for addresses of whatever value.
type Request struct {
	// IPv4 and IPv6 are how many of each.
	IPv4, IPv6 int
	// Pools are the pools to take from, in this order; of a family of which none is
	// named, all enabled pools are used, in the order of their addresses.
	Pools []netip.Prefix
	// Within are the ranges that addresses of their family must be in, each a part of a
	// pool or as wide as several; none of a family means anywhere.
	Within []netip.Prefix
	Owner  Owner
}

// What an operation can fail with, besides the end of its context and the errors of
// the store. Use [errors.Is]; [*InUseError] and [*PoolFullError] tell more.
var (
	// ErrPoolFull says that no pool has enough free addresses.
	ErrPoolFull = errors.New("no free address")
	// ErrNoPool says that a pool that was asked for does not exist or is disabled, or
	// that there is none.
	ErrNoPool = errors.New("no usable IP pool")
	// ErrNotInPool says that an address is in no enabled pool.
	ErrNotInPool = errors.New("the address is not in an enabled IP pool")
	// ErrTaken says that the block of an address touches what hosts have for themselves.
	ErrTaken = errors.New("the address is among those of hosts")
	// ErrInUse says that somebody else has the address.
	ErrInUse = errors.New("the address is in use")
	// ErrStrictAffinity says that the address belongs to a block of another node, which
	// strict affinity reserves for that node.
	ErrStrictAffinity = errors.New("the address is in a block of another node, and strict affinity is on")
	// ErrNotAssigned says that nobody has the address.
	ErrNotAssigned = errors.New("the address is not assigned")
	// ErrBlockLimit says that the node has as many blocks as one may have.
	ErrBlockLimit = errors.New("the node has as many blocks as maxBlocksPerHost allows")
	// ErrOverlap says that a block cannot be claimed, because there is one of another size
	// in its range.
	ErrOverlap = errors.New("a block of another size is in the way (calicoctl ipam check)")
	// ErrSearch says that the search for a free address was given up.
	ErrSearch = errors.New("the search for a free address did not come to an end")
	// ErrDamaged says that a stored block contradicts itself.
	ErrDamaged = errors.New("the block's stored value is damaged")
	// ErrBusy says that other writers were faster.
	ErrBusy = errors.New("other writers were faster")
)

// InUseError says who has an address. It Is [ErrInUse].
type InUseError struct {
	Addr  netip.Addr
	Owner Owner
}

// Error names the address and its owner.
func (e *InUseError) Error() string {
	return fmt.Sprintf("%s: %v by %s", e.Addr, ErrInUse, e.Owner)
}

// Unwrap returns [ErrInUse].
func (e *InUseError) Unwrap() error { return ErrInUse }

// BusyError says over what a call has lost again and again against other writers. It Is [ErrBusy].
type BusyError struct {
	// Keys are what was changed by others the last time; nil when blocks that were about to be
	// claimed never were free by then.
	Keys   []model.Key
	Losses int
}

// Error says what to do.
func (e *BusyError) Error() string {
	if len(e.Keys) == 0 {
		return fmt.Sprintf("%v: %d times a block could not be claimed any more when it was about to be; nothing was changed: ask again, or add a pool",
			ErrBusy, e.Losses)
	}
	var paths []string
	for _, k := range e.Keys {
		paths = append(paths, model.Paths(k)[0])
	}
	return fmt.Sprintf("%v, %d times; nothing was changed: ask again, and if that does not help, find out what keeps writing there (etcdctl watch %s)",
		ErrBusy, e.Losses, strings.Join(paths, ", or "))
}

// Unwrap returns [ErrBusy].
func (e *BusyError) Unwrap() error { return ErrBusy }

// IsEndpoint says whether the owner names a workload endpoint, by the handle or by Docker's id.
func (o Owner) IsEndpoint(k model.WorkloadEndpointKey) bool {
	names := k.Name != "" && (o.Handle == k.Name || o.Attrs[AttrEndpoint] == k.Name)
	return names && (o.Attrs[AttrNode] == "" || o.Attrs[AttrNode] == k.Node)
}

// String names the owner by its handle and attributes.
func (o Owner) String() string {
	var parts []string
	if o.Handle != "" {
		parts = append(parts, "handle "+o.Handle)
	}
	for _, name := range []string{AttrContainer, AttrEndpoint, AttrNetwork, AttrType, AttrNode, AttrTimestamp} {
		if v := o.Attrs[name]; v != "" {
			parts = append(parts, name+" "+v)
		}
	}
	if parts == nil {
		return "an unnamed owner"
	}
	return strings.Join(parts, ", ")
}

// PoolFullError says which pools were asked for addresses in vain. It Is
// [ErrPoolFull], and [ErrBlockLimit] when that limit was met.
type PoolFullError struct {
	Wanted int
	IPv6   bool
	Pools  []PoolFill
	// Within are the ranges that the address had to be in; the figures of Pools are then
	// those of these parts of the pools.
	Within []netip.Prefix
	// Strict says that addresses in blocks of other nodes did not count, because
	// strict affinity is on.
	Strict bool
	// Limit is the number of blocks that the node may have, if that was the reason.
	Limit int
	// Taken is what hosts have for themselves; blocks that touch any of it did not count.
	Taken []localnet.Place
}

// PoolFill is how full a pool was found.
type PoolFill struct {
	Pool netip.Prefix
	// Size is the number of the pool's addresses; InUse how many of them are taken;
	// Blocks how many of its blocks are claimed.
	Size   *big.Int
	InUse  int
	Blocks int
	// Reserved is the number of free addresses that reservations hold back.
	Reserved int
}

// Error names each pool and its use.
func (e *PoolFullError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: asked for %d %s", ErrPoolFull, e.Wanted, familyName(e.IPv6))
	for i, p := range e.Pools {
		b.WriteString([]string{"; ", ", "}[min(i, 1)])
		fmt.Fprintf(&b, "pool %s: %d of %s addresses%s in use, %d blocks claimed", p.Pool, p.InUse, p.Size, inRanges(e.Within), p.Blocks)
		if p.Reserved > 0 {
			fmt.Fprintf(&b, ", %d reserved", p.Reserved)
		}
	}
	if taken := e.taken(); taken != "" {
		fmt.Fprintf(&b, "; no address comes from blocks that touch %s", taken)
	}
	switch {
	case e.Limit > 0:
		fmt.Fprintf(&b, "; the node has %d blocks, which is as many as maxBlocksPerHost allows", e.Limit)
	case e.Strict:
		b.WriteString("; strict affinity keeps free addresses in blocks of other nodes for those")
	default:
		b.WriteString("; add a pool, or release addresses (calicoctl ipam check)")
	}
	return b.String()
}

func (e *PoolFullError) taken() string {
	ranges := make([]netip.Prefix, len(e.Pools))
	for i, p := range e.Pools {
		ranges[i] = p.Pool
	}
	return localnet.Overlap(e.Taken, ranges...)
}

// Unwrap returns what the error Is.
func (e *PoolFullError) Unwrap() []error {
	if e.Limit > 0 {
		return []error{ErrPoolFull, ErrBlockLimit}
	}
	return []error{ErrPoolFull}
}

func inRanges(ranges []netip.Prefix) string {
	if len(ranges) == 0 {
		return ""
	}
	names := make([]string, len(ranges))
	for i, r := range ranges {
		names[i] = r.String()
	}
	return " within " + strings.Join(names, ", ")
}

func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}
