package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"calico.internal/libcalico/localnet"
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

	owner  Owner          // of a leaked address
	blocks []netip.Prefix // that a handle is about
	rev    int64          // of the endpoint, or the block
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

// Engine is what the containers of one host use, as its engine says.
type Engine struct {
	Node string
	// Endpoints and Addresses hold the containers' names.
	Endpoints map[string]string
	Addresses map[netip.Addr]string
}

// orchestrator is that of Docker's endpoints.
const orchestrator = "libnetwork"

// startTime is how long a container may take from its address to its endpoint.
const startTime = time.Minute

// Check lists all inconsistencies of an inventory, in the order of what they are
// about. engine may be nil when the engine of no host was asked; it must have been
// asked after the inventory was made.
func Check(i *Inventory, engine *Engine, now time.Time) []Problem {
	c := &checker{
		Inventory: i, engine: engine, now: now,
		users:  map[netip.Addr][]model.WorkloadEndpointKey{},
		counts: map[string]map[string]int{}, inUse: map[netip.Addr]Owner{},
	}
	for _, k := range i.unreadable {
		c.add(Problem{ID: ID{Kind: ProblemUnreadable}, Text: fmt.Sprintf("the stored value of %v cannot be read", k)})
	}
	for _, k := range slices.SortedFunc(maps.Keys(i.endpoints), compareEndpoints) {
		c.endpoint(k, i.endpoints[k])
	}
	sorted := slices.SortedFunc(maps.Keys(i.blocks), netip.Prefix.Compare)
	for n, cidr := range sorted {
		c.block(cidr, i.blocks[cidr])
		if n > 0 && sorted[n-1].Overlaps(cidr) {
			c.add(Problem{
				ID: ID{Kind: ProblemOverlap, Block: cidr}, Text: fmt.Sprintf("block %s overlaps with block %s", cidr, sorted[n-1]),
				Advice: "addresses in both may be given out twice: release one block's addresses",
			})
		}
	}
	c.leftOverAffinities()
	c.wrongHandles()
	c.usedAddresses()
	c.containers()
	slices.SortStableFunc(c.problems, func(a, b Problem) int { return strings.Compare(a.Kind, b.Kind) })
	return c.problems
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

func compareEndpoints(a, b model.WorkloadEndpointKey) int { return model.Compare(a, b) }

type checker struct {
	*Inventory

	engine   *Engine
	now      time.Time
	problems []Problem

	users  map[netip.Addr][]model.WorkloadEndpointKey // by address
	counts map[string]map[string]int                  // of handles, by block
	inUse  map[netip.Addr]Owner
}

func (c *checker) add(p Problem) { c.problems = append(c.problems, p) }

// endpoint notes the addresses of an endpoint and makes sure that a container has it.
func (c *checker) endpoint(k model.WorkloadEndpointKey, ep foundEndpoint) {
	if ep.value == nil {
		c.add(Problem{ID: ID{Kind: ProblemUnreadable, Node: k.Node, Endpoint: k.Name}, Text: fmt.Sprintf("the stored value of %v cannot be read", k)})
		return
	}
	for _, n := range slices.Concat(ep.value.IPv4Nets, ep.value.IPv6Nets) {
		c.users[n.Addr()] = append(c.users[n.Addr()], k)
	}
	if c.engine == nil || k.Node != c.engine.Node || k.Orchestrator != orchestrator {
		return
	}
	if _, alive := c.engine.Endpoints[k.Name]; alive {
		return
	}
	for _, n := range slices.Concat(ep.value.IPv4Nets, ep.value.IPv6Nets) {
		if _, alive := c.engine.Addresses[n.Addr()]; alive {
			return // another of its endpoints has taken over; containers tells
		}
	}
	c.add(Problem{
		ID: ID{Kind: ProblemDeadEndpoint, Node: k.Node, Endpoint: k.Name}, rev: ep.rev,
		Text:   fmt.Sprintf("endpoint %s on node %s belongs to no container there", k.Name, k.Node),
		Remedy: "remove the endpoint and release its addresses",
	})
}

// block checks one block by itself and notes who has its addresses.
func (c *checker) block(cidr netip.Prefix, found foundBlock) {
	b := found.block
	if found.fault != nil {
		p := Problem{ID: ID{Kind: ProblemDamagedBlock, Block: cidr}, rev: found.rev, Text: fmt.Sprintf("block %s is damaged: %v", cidr, found.fault)}
		if repaired(cidr, b) != nil {
			p.Remedy = "rebuild the block; every address in use stays in use"
		} else {
			p.Advice = "no address of it can be given out or released"
		}
		c.add(p)
		return
	}
	for ordinal := range b.Allocations {
		attrs, taken := attributesOf(b, ordinal)
		if !taken {
			continue
		}
		owner := ownerOf(attrs)
		c.inUse[addrOf(b, ordinal)] = owner
		if owner.Handle != "" {
			if c.counts[owner.Handle] == nil {
				c.counts[owner.Handle] = map[string]int{}
			}
			c.counts[owner.Handle][cidr.String()]++
		}
	}
	c.lostAddresses(b, found.rev)
	c.ownerOfBlock(b)
	if places := localnet.Overlap(c.env.taken, cidr); places != "" {
		c.add(Problem{
			ID: ID{Kind: ProblemAmongHosts, Block: cidr}, Text: fmt.Sprintf("block %s touches %s; no new address comes from it", cidr, places),
			Advice: "move the containers that have addresses of it to a pool elsewhere",
		})
	}
}

func (c *checker) lostAddresses(b *model.Block, rev int64) {
	for ordinal, taken := range b.Allocations {
		if taken == nil && !slices.Contains(b.Unallocated, ordinal) {
			c.add(Problem{
				ID: ID{Kind: ProblemLostAddress, Addr: addrOf(b, ordinal), Block: b.CIDR}, rev: rev,
				Text:   fmt.Sprintf("address %s is neither in use nor free", addrOf(b, ordinal)),
				Remedy: "make it free",
			})
		}
	}
}

// ownerOfBlock compares a block with its node, its affinity and its pool.
func (c *checker) ownerOfBlock(b *model.Block) {
	node := nodeOf(b)
	id := ID{Kind: ProblemAbandonedBlock, Block: b.CIDR, Node: node}
	_, isPool := c.env.poolOf(b.CIDR.Addr())
	switch _, known := c.nodes[node]; {
	case b.Affinity == nil && inUse(b) == 0:
		c.add(Problem{ID: id, Text: fmt.Sprintf("block %s is empty and belongs to no node", b.CIDR), Remedy: "delete the block"})
	case b.Affinity != nil && !known:
		c.add(Problem{ID: id, Text: fmt.Sprintf("block %s belongs to node %s, which does not exist", b.CIDR, node), Remedy: "take the block from the node"})
	case !isPool:
		id.Kind = ProblemOutsidePools
		p := Problem{ID: id, Text: fmt.Sprintf("block %s (%d addresses in use) is in no pool", b.CIDR, inUse(b))}
		if inUse(b) == 0 {
			p.Remedy = "delete the block"
		} else {
			p.Advice = "create a pool for it, or stop the containers that have its addresses"
		}
		c.add(p)
	}
	if b.Affinity == nil {
		return
	}
	state, ok := c.affinities[model.BlockAffinityKey{Node: node, CIDR: b.CIDR}]
	switch {
	case !ok:
		c.add(Problem{
			ID:   ID{Kind: ProblemAffinity, Block: b.CIDR, Node: node},
			Text: fmt.Sprintf("block %s belongs to node %s, which has no affinity for it", b.CIDR, node), Remedy: "store the affinity",
		})
	case state != model.AffinityConfirmed:
		c.add(Problem{
			ID:   ID{Kind: ProblemAffinity, Block: b.CIDR, Node: node},
			Text: fmt.Sprintf("the affinity of node %s for its block %s is %s", node, b.CIDR, state), Remedy: "confirm it",
		})
	}
}

func (c *checker) leftOverAffinities() {
	for _, k := range slices.SortedFunc(maps.Keys(c.affinities), func(a, b model.BlockAffinityKey) int { return model.Compare(a, b) }) {
		found, exists := c.blocks[k.CIDR]
		p := Problem{ID: ID{Kind: ProblemAffinity, Block: k.CIDR, Node: k.Node}, Remedy: "delete the affinity"}
		switch {
		case !exists:
			p.Text = fmt.Sprintf("node %s has an affinity for block %s, which does not exist", k.Node, k.CIDR)
		case found.fault != nil || nodeOf(found.block) == k.Node:
			continue
		default:
			p.Text = fmt.Sprintf("node %s has an affinity for block %s, which is not its own", k.Node, k.CIDR)
		}
		c.add(p)
	}
}

// wrongHandles compares the handles with what the blocks say. What cannot be read in a
// block is not held against a handle.
func (c *checker) wrongHandles() {
	all := maps.Clone(c.counts)
	for id := range c.handles {
		if all[id] == nil {
			all[id] = map[string]int{}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		h, stored := c.handles[id]
		p := Problem{ID: ID{Kind: ProblemHandle, Handle: id}, Remedy: "count again"}
		switch {
		case !stored:
			p.Text = fmt.Sprintf("handle %s has addresses, and does not exist", id)
			p.blocks = blockNames(all[id])
		case h == nil:
			p.Text = fmt.Sprintf("the stored value of handle %s cannot be read", id)
			p.blocks = blockNames(all[id])
		default:
			differs := c.differences(h, all[id])
			if len(differs) == 0 {
				continue
			}
			p.Text = fmt.Sprintf("handle %s counts addresses wrongly: %s", id, strings.Join(differs, ", "))
			p.blocks = blockNames(h.Block, all[id])
		}
		if len(p.blocks) > handleBlocks {
			p.Remedy, p.Advice = "", "it has addresses in too many blocks for one transaction"
		}
		c.add(p)
	}
}

func (c *checker) differences(h *model.Handle, has map[string]int) []string {
	var out []string
	for _, cidr := range blockNames(h.Block, has) {
		name := cidr.String()
		if c.blocks[cidr].fault == nil && h.Block[name] != has[name] {
			out = append(out, fmt.Sprintf("%d in block %s where it has %d", h.Block[name], name, has[name]))
		}
	}
	return out
}

// blockNames are the blocks that are named, in order.
func blockNames(maps ...map[string]int) []netip.Prefix {
	var out []netip.Prefix
	for _, m := range maps {
		for name := range m {
			if p, err := netip.ParsePrefix(name); err == nil && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// usedAddresses compares the addresses in use with those that endpoints have.
func (c *checker) usedAddresses() {
	for _, a := range slices.SortedFunc(maps.Keys(c.inUse), netip.Addr.Compare) {
		if users := c.users[a]; len(users) > 0 {
			c.sameOwner(a, c.inUse[a], users)
		} else {
			c.leak(a, c.inUse[a])
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(c.users), netip.Addr.Compare) {
		users := c.users[a]
		if len(users) > 1 {
			c.add(Problem{
				ID:   ID{Kind: ProblemDuplicate, Addr: a},
				Text: fmt.Sprintf("address %s is that of %d endpoints: %s and %s", a, len(users), users[0], users[1]), Advice: "restart one of the containers",
			})
		}
		if _, taken := c.inUse[a]; taken || c.blockDamaged(a) {
			continue
		}
		p, inPool := c.env.poolOf(a)
		id := ID{Addr: a, Node: users[0].Node, Endpoint: users[0].Name}
		if !inPool {
			id.Kind = ProblemNotInPool
			c.add(Problem{ID: id, Text: fmt.Sprintf("endpoint %s on node %s has address %s, which is in no pool", users[0].Name, users[0].Node, a)})
			continue
		}
		id.Kind = ProblemUnassigned
		problem := Problem{
			ID: id, rev: c.endpoints[users[0]].rev,
			Text: fmt.Sprintf("endpoint %s on node %s has address %s, which is not in use", users[0].Name, users[0].Node, a),
		}
		if p.disabled {
			problem.Advice = "its pool " + p.cidr.String() + " is disabled"
		} else {
			problem.Remedy = "mark the address as in use by the endpoint"
		}
		c.add(problem)
	}
}

func (c *checker) blockDamaged(a netip.Addr) bool {
	for cidr, b := range c.blocks {
		if b.fault != nil && cidr.Contains(a) {
			return true
		}
	}
	return false
}

// sameOwner makes sure that an address is in use by the endpoint that has it. An owner
// without a handle, as older programs gave none, can be anybody.
func (c *checker) sameOwner(a netip.Addr, o Owner, users []model.WorkloadEndpointKey) {
	if o.Handle == "" || slices.ContainsFunc(users, func(k model.WorkloadEndpointKey) bool {
		return o.Handle == k.Name || o.Attrs[AttrEndpoint] == k.Name || k.Orchestrator != orchestrator
	}) {
		return
	}
	k := users[0]
	p := Problem{
		ID: ID{Kind: ProblemWrongOwner, Addr: a, Handle: o.Handle, Node: k.Node, Endpoint: k.Name}, owner: o, rev: c.endpoints[k].rev,
		Text: fmt.Sprintf("address %s of endpoint %s on node %s is in use by %s", a, k.Name, k.Node, o),
	}
	if o.Attrs[AttrEndpoint] != "" && len(users) == 1 && !c.endpointExists(o.Attrs[AttrEndpoint]) {
		p.Remedy = "make the endpoint the owner"
	} else {
		p.Advice = "restart the container"
	}
	c.add(p)
}

func (c *checker) endpointExists(name string) bool {
	for k := range c.endpoints {
		if k.Name == name {
			return true
		}
	}
	return false
}

// leak judges an address in use that no endpoint has.
func (c *checker) leak(a netip.Addr, o Owner) {
	if c.engine != nil && c.engine.Addresses[a] != "" {
		return // containers tells
	}
	node, since := o.Attrs[AttrNode], o.Attrs[AttrTimestamp]
	if t, err := time.Parse(time.RFC3339, since); err == nil && c.now.Sub(t) < startTime {
		return // being started
	}
	_, known := c.nodes[node]
	if o.Attrs[AttrType] != "" && known {
		return // the node's own
	}
	p := Problem{
		ID:    ID{Kind: ProblemLeakedAddress, Addr: a, Handle: o.Handle, Node: node, Endpoint: o.Attrs[AttrEndpoint], Since: since},
		owner: o,
		Text:  fmt.Sprintf("address %s is in use by %s, and no endpoint has it", a, o),
	}
	p.rev = c.endpoints[endpointKey(p)].rev
	switch {
	case node == "":
		p.Advice = fmt.Sprintf("nothing proves that no container has it; if none does: calicoctl ipam release --ip=%s", a)
	case !known:
		p.Text += "; the node does not exist"
		p.Remedy = "release the address"
	case o.Attrs[AttrType] != "" || o.Handle != "" && o.Attrs[AttrEndpoint] == "":
		p.Advice = fmt.Sprintf("it is not Docker's, so nothing proves that it is of no use; if it is: calicoctl ipam release --ip=%s", a)
	case c.engine != nil && c.engine.Node == node:
		p.Text += ", nor any container on the node"
		p.Remedy = "release the address"
	default:
		p.Advice = fmt.Sprintf("run calicoctl ipam check on node %s, whose engine knows whether a container has it", node)
	}
	c.add(p)
}

// containers makes sure that what containers have is known.
func (c *checker) containers() {
	if c.engine == nil {
		return
	}
	for _, a := range slices.SortedFunc(maps.Keys(c.engine.Addresses), netip.Addr.Compare) {
		p, inPool := c.env.poolOf(a)
		if len(c.users[a]) > 0 || !inPool {
			continue
		}
		name := c.engine.Addresses[a]
		problem := Problem{
			ID:   ID{Kind: ProblemLooseContainer, Addr: a, Node: c.engine.Node, Container: name},
			Text: fmt.Sprintf("container %s on node %s has address %s, and no endpoint in the datastore", name, c.engine.Node, a), Advice: "restart the container",
		}
		if _, taken := c.inUse[a]; !taken && !p.disabled && !c.blockDamaged(a) {
			problem.Text += "; the address is not in use"
			problem.Remedy = "mark the address as in use by the container"
		}
		c.add(problem)
	}
}
