package ipam

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unique"

	"calico.internal/libcalico/model"
)

// The kinds of problems.
const (
	// ProblemUnreadable is a pool, reservation or handle with a value of no use.
	ProblemUnreadable = "unreadable"
	// ProblemDamagedBlock is a block whose value contradicts itself.
	ProblemDamagedBlock = "damaged-block"
	// ProblemLostAddress is an address that is neither in use nor free.
	ProblemLostAddress = "lost-address"
	// ProblemOverlap is a block that shares addresses with another.
	ProblemOverlap = "overlapping-blocks"
	// ProblemOutsidePools is a block that is in no pool.
	ProblemOutsidePools = "block-outside-pools"
	// ProblemAmongHosts is a block that touches what hosts have for themselves.
	ProblemAmongHosts = "block-among-hosts"
	// ProblemAbandonedBlock is an empty block that nobody owns, or one of a node that is
	// no more.
	ProblemAbandonedBlock = "abandoned-block"
	// ProblemAffinity is a block and an affinity that disagree.
	ProblemAffinity = "affinity"
	// ProblemHandle is a handle that counts other addresses than there are.
	ProblemHandle = "handle"
	// ProblemLeakedAddress is an address in use that nothing uses.
	ProblemLeakedAddress = "leaked-address"
	// ProblemUnassigned is an address that an endpoint uses and that is not in use.
	ProblemUnassigned = "unassigned-address"
	// ProblemWrongOwner is an address of an endpoint that is somebody else's.
	ProblemWrongOwner = "wrong-owner"
	// ProblemDuplicate is an address of two endpoints.
	ProblemDuplicate = "duplicate-address"
	// ProblemNotInPool is an address of an endpoint in no pool.
	ProblemNotInPool = "address-outside-pools"
	// ProblemDeadEndpoint is an endpoint that no container has.
	ProblemDeadEndpoint = "endpoint-without-container"
	// ProblemLooseContainer is a container without its endpoint.
	ProblemLooseContainer = "container-without-endpoint"
)

// Problem is one inconsistency.
type Problem struct {
	ID

	// Text says what is wrong.
	Text string `json:"problem"`
	// Remedy says what [Client.Mend] does about it; it is empty when what is right
	// cannot be proven.
	Remedy string `json:"remedy,omitempty"`
	// Advice says what the user can do in that case.
	Advice string `json:"advice,omitempty"`

	proven bool           // what the remedy is
	blind  bool           // the remedy writes over what cannot be read
	owner  packedOwner    // of an address that is in use
	blocks []netip.Prefix // that a handle is about
	rev    int64          // of the endpoint, or the block
}

// Proven says that it is proven what is right, so that [Client.Mend] need not be forced. It
// is false of a problem that was read from a report.
func (p Problem) Proven() bool { return p.proven }

// Blind says that the remedy writes over a value that cannot be read, so that whatever else it
// holds is lost.
func (p Problem) Blind() bool { return p.blind }

// with adds a remedy that is proven to be right.
func (p Problem) with(remedy string) Problem {
	p.Remedy, p.proven = remedy, true
	return p
}

// ID is what a problem is about: of two looks, the same problem has the same.
type ID struct {
	Kind      string       `json:"kind"`
	Addr      netip.Addr   `json:"address,omitzero"`
	Block     netip.Prefix `json:"block,omitzero"`
	Handle    string       `json:"handle,omitempty"`
	Node      string       `json:"node,omitempty"`
	Endpoint  string       `json:"endpoint,omitempty"`
	Container string       `json:"container,omitempty"`
	// Since is when the address was given out.
	Since string `json:"since,omitempty"`
}

// problemKind is a kind of problem: how it is found, and how it is mended.
type problemKind interface {
	// find adds all problems of the kind, in the order of what they are about.
	find(c *checker)
	// mend applies the remedy, on the condition that what it is about is still as it was
	// found; done is false when it is not.
	mend(ctx context.Context, cl *Client, p Problem) (done bool, err error)
}

// problemKinds are all kinds; each has a file of its own.
var problemKinds = map[string]problemKind{
	ProblemUnreadable:     unreadable{},
	ProblemDamagedBlock:   damagedBlock{},
	ProblemLostAddress:    lostAddress{},
	ProblemOverlap:        overlapping{},
	ProblemOutsidePools:   outsidePools{},
	ProblemAmongHosts:     amongHosts{},
	ProblemAbandonedBlock: abandonedBlock{},
	ProblemAffinity:       wrongAffinity{},
	ProblemHandle:         wrongHandle{},
	ProblemLeakedAddress:  leakedAddress{},
	ProblemUnassigned:     unassignedAddress{},
	ProblemWrongOwner:     wrongOwner{},
	ProblemDuplicate:      duplicateAddress{},
	ProblemNotInPool:      notInPool{},
	ProblemDeadEndpoint:   deadEndpoint{},
	ProblemLooseContainer: looseContainer{},
}

// noRemedy is part of the kinds of which nothing ever proves what is right.
type noRemedy struct{}

func (noRemedy) mend(context.Context, *Client, Problem) (done bool, err error) { return false, nil }

// orchestrator is that of Docker's endpoints.
const orchestrator = "libnetwork"

// startTime is how long a container may take from its address to its endpoint.
const startTime = time.Minute

// Check lists all inconsistencies of an inventory, as [Find] finds them.
func Check(i *Inventory, seen Seen, now time.Time) []Problem {
	return slices.Collect(Find(i, seen, now))
}

// Find finds all inconsistencies of an inventory: kind by kind, and in the order of what they
// are about. What was seen must have been seen after the inventory was made. There may be one
// for each address, so that they are made one by one, and not held.
func Find(i *Inventory, seen Seen, now time.Time) iter.Seq[Problem] {
	return func(yield func(Problem) bool) {
		c := newChecker(i, seen, now)
		c.yield = yield
		for _, kind := range slices.Sorted(maps.Keys(problemKinds)) {
			problemKinds[kind].find(c)
		}
	}
}

// Both returns the problems of the second look that the first saw too.
func Both(first, second []Problem) []Problem {
	seen := map[ID]bool{}
	for _, p := range first {
		seen[p.ID] = true
	}
	var out []Problem
	for _, p := range second {
		if seen[p.ID] {
			out = append(out, p)
		}
	}
	return out
}

func compareEndpoints(a, b model.WorkloadEndpointKey) int {
	return cmp.Or(
		strings.Compare(a.Node, b.Node), strings.Compare(a.Orchestrator, b.Orchestrator),
		strings.Compare(a.Workload, b.Workload), strings.Compare(a.Name, b.Name),
	)
}

// checker compares. What it looks things up in are sorted lists, because they are a
// fraction of the size of maps.
type checker struct {
	*Inventory

	evidence
	now     time.Time
	yield   func(Problem) bool // takes what is found
	stopped bool               // it wants no more

	sorted  []netip.Prefix // the blocks
	damaged []netip.Prefix // those that cannot be used
	taken   []taken        // the addresses in use, each once
	users   []addressUser  // the addresses of endpoints
	counts  []count        // what handles have, by handle and block
	names   map[string]bool
}

// taken is an address in use.
type taken struct {
	addr  netip.Addr
	owner *packedOwner
}

// addressUser is an address of an endpoint.
type addressUser struct {
	addr     netip.Addr
	endpoint *keptEndpoint
}

// count is how many addresses of a block a handle has.
type count struct {
	handle string
	handleCount
}

func newChecker(i *Inventory, seen Seen, now time.Time) *checker {
	c := &checker{Inventory: i, now: now, sorted: slices.SortedFunc(maps.Keys(i.blocks), netip.Prefix.Compare)}
	c.listTaken()
	c.listUsers()
	c.evidence = i.judge(seen)
	return c
}

func (c *checker) add(p Problem) { c.stopped = c.stopped || !c.yield(p) }

// listTaken lists what blocks say is in use, and by whom.
func (c *checker) listTaken() {
	all := 0
	for _, b := range c.blocks {
		all += len(b.uses)
	}
	c.taken, c.counts = make([]taken, 0, all), make([]count, 0, all)
	for _, cidr := range c.sorted {
		b := c.blocks[cidr]
		if b.fault != nil {
			c.damaged = append(c.damaged, cidr)
		}
		name := unique.Make(cidr)
		for n := range b.uses {
			owner := &b.uses[n].owner
			c.taken = append(c.taken, taken{addrAt(cidr, b.uses[n].ordinal), owner})
			if owner.handle != "" {
				c.counts = append(c.counts, count{owner.handle, handleCount{name, 1}})
			}
		}
	}
	// Of an address in two blocks, the later one decides.
	slices.SortStableFunc(c.taken, func(a, b taken) int { return a.addr.Compare(b.addr) })
	slices.Reverse(c.taken)
	c.taken = slices.CompactFunc(c.taken, func(a, b taken) bool { return a.addr == b.addr })
	slices.Reverse(c.taken)
	slices.SortStableFunc(c.counts, func(a, b count) int { return strings.Compare(a.handle, b.handle) })
	c.addUp()
}

// addUp makes one of the counts of a handle in a block, which are side by side: they came
// block by block.
func (c *checker) addUp() {
	out := c.counts[:0]
	for _, n := range c.counts {
		if last := len(out) - 1; last >= 0 && out[last].handle == n.handle && out[last].block == n.block {
			out[last].n += n.n
		} else {
			out = append(out, n)
		}
	}
	c.counts = out
}

func (c *checker) listUsers() {
	all := 0
	for _, e := range c.endpoints {
		all += len(e.addrs)
	}
	c.users = make([]addressUser, 0, all)
	for n := range c.endpoints {
		for _, a := range c.endpoints[n].addrs {
			c.users = append(c.users, addressUser{a, &c.endpoints[n]})
		}
	}
	slices.SortStableFunc(c.users, func(a, b addressUser) int { return a.addr.Compare(b.addr) })
}

// usersOf are the endpoints that have an address.
func (c *checker) usersOf(a netip.Addr) []addressUser {
	n, _ := slices.BinarySearchFunc(c.users, a, func(u addressUser, a netip.Addr) int { return u.addr.Compare(a) })
	end := n
	for end < len(c.users) && c.users[end].addr == a {
		end++
	}
	return c.users[n:end]
}

// eachUsed calls f with every address that endpoints have, and with these.
func (c *checker) eachUsed(f func(netip.Addr, []addressUser)) {
	for rest := c.users; len(rest) > 0; {
		users := c.usersOf(rest[0].addr)
		f(rest[0].addr, users)
		rest = rest[len(users):]
	}
}

func (c *checker) isTaken(a netip.Addr) bool {
	_, ok := c.takenAt(a)
	return ok
}

// takenAt finds an address in use.
func (c *checker) takenAt(a netip.Addr) (t taken, ok bool) {
	n, ok := slices.BinarySearchFunc(c.taken, a, func(t taken, a netip.Addr) int { return t.addr.Compare(a) })
	if ok {
		t = c.taken[n]
	}
	return t, ok
}

// isDamaged says that a block that might have the address cannot be used.
func (c *checker) isDamaged(a netip.Addr) bool { return holds(c.damaged, a) }

func (c *checker) endpointExists(name string) bool {
	if c.names == nil {
		c.names = make(map[string]bool, len(c.endpoints))
		for _, e := range c.endpoints {
			c.names[e.key.Name] = true
		}
	}
	return c.names[name]
}
