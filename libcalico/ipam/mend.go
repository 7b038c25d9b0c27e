package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Mend applies the remedy of a problem, in one transaction, on the condition that what
// the remedy is about is still as it was found. It returns false when it is not, or
// when there is no remedy: another check tells what is the matter then. A problem that
// somebody may be causing at this moment is none: mend only what two looks, some time
// apart, have found ([Both]).
func (c *Client) Mend(ctx context.Context, p Problem) (done bool, err error) {
	if p.Remedy == "" {
		return false, nil
	}
	switch p.Kind {
	case ProblemDamagedBlock, ProblemLostAddress:
		done, err = c.mendBlock(ctx, p)
	case ProblemOutsidePools:
		op := &giveUpBlock{cidr: p.Block, onlyEmpty: true}
		_, err = c.queue.do(ctx, &call{op: op})
		done = op.done
	case ProblemAbandonedBlock:
		done, err = c.mendAbandoned(ctx, p)
	case ProblemAffinity:
		done, err = true, c.mendBy(ctx, &mendAffinity{cidr: p.Block, node: p.Node})
	case ProblemHandle:
		done, err = true, c.mendBy(ctx, &mendHandle{id: p.Handle, blocks: p.blocks})
	case ProblemLeakedAddress:
		done, err = c.mendLeak(ctx, p)
	case ProblemUnassigned, ProblemWrongOwner:
		done, err = c.mendAddress(ctx, p)
	case ProblemLooseContainer:
		err = c.As(p.Node).Assign(ctx, p.Addr, Owner{Attrs: map[string]string{AttrContainer: p.Container}})
		done = err == nil
	case ProblemDeadEndpoint:
		done, err = c.mendEndpoint(ctx, p)
	}
	if errors.Is(err, etcdstore.ErrConflict) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", p.Remedy, err)
	}
	return done, nil
}

// As is a client that acts for another node.
func (c *Client) As(node string) *Client {
	other := newClient(c.backend, node)
	other.now = c.now
	return other
}

func (c *Client) mendBy(ctx context.Context, o op, also ...etcdstore.Write) error {
	_, err := c.queue.do(ctx, &call{op: o, also: also})
	return err
}

// mendBlock rebuilds a block whose value contradicts itself.
func (c *Client) mendBlock(ctx context.Context, p Problem) (bool, error) {
	found, err := c.backend.raw(ctx, model.BlockKey{CIDR: p.Block})
	if err != nil {
		return false, err
	}
	b := repaired(p.Block, found.block)
	if b == nil {
		return false, nil
	}
	w, err := etcdstore.UpdateWrite(model.BlockKey{CIDR: p.Block}, b, found.rev)
	if err == nil {
		_, err = c.backend.commit(ctx, []etcdstore.Write{w})
	}
	return err == nil, err
}

// repaired rebuilds a block so that every address in use stays in use, and every other
// is free. It returns nil when the value does not tell which are in use.
func repaired(cidr netip.Prefix, b *model.Block) *model.Block {
	if b == nil || b.CIDR != cidr || len(b.Allocations) != blockSize(cidr) {
		return nil
	}
	out := cloneBlock(b)
	out.Unallocated = nil
	unknown := -1 // the attributes of addresses whose own are missing
	free := make([]bool, len(out.Allocations))
	for ordinal, i := range out.Allocations {
		switch {
		case i == nil:
			free[ordinal] = true
		case *i < 0 || *i >= len(b.Attributes):
			if unknown < 0 {
				unknown = intern(out, model.BlockAttributes{})
			}
			out.Allocations[ordinal] = new(unknown)
		}
	}
	for _, ordinal := range b.Unallocated { // in their order, as far as there is one
		if ordinal >= 0 && ordinal < len(free) && free[ordinal] {
			out.Unallocated = append(out.Unallocated, ordinal)
			free[ordinal] = false
		}
	}
	for ordinal, missing := range free {
		if missing {
			out.Unallocated = append(out.Unallocated, ordinal)
		}
	}
	if model.Validate(model.BlockKey{CIDR: cidr}, out) != nil {
		return nil
	}
	return out
}

// mendAbandoned deletes an empty block of nobody, or takes one from a node that is
// still not there.
func (c *Client) mendAbandoned(ctx context.Context, p Problem) (bool, error) {
	if p.Node == "" {
		op := &dropEmpty{cidr: p.Block}
		err := c.mendBy(ctx, op)
		return op.done, err
	}
	absent, err := etcdstore.CheckWrite(model.NodeKey{Name: p.Node}, 0)
	if err != nil {
		return false, err
	}
	op := &giveUpBlock{cidr: p.Block, node: p.Node}
	err = c.mendBy(ctx, op, absent)
	return op.done, err
}

// mendLeak releases an address that still has the owner that it was found with, whose
// endpoint has not changed since either.
func (c *Client) mendLeak(ctx context.Context, p Problem) (bool, error) {
	var also []etcdstore.Write
	if p.Endpoint != "" && p.Node != "" {
		same, err := etcdstore.CheckWrite(endpointKey(p), p.rev)
		if err != nil {
			return false, err
		}
		also = append(also, same)
	}
	op := &release{addrs: []netip.Addr{p.Addr}, only: &p.owner}
	err := c.mendBy(ctx, op, also...)
	return len(op.notAssigned) == 0, err
}

func endpointKey(p Problem) model.WorkloadEndpointKey {
	return model.WorkloadEndpointKey{Node: p.Node, Orchestrator: orchestrator, Workload: orchestrator, Name: p.Endpoint}
}

// mendAddress makes an endpoint the owner of its address, if it is still there.
func (c *Client) mendAddress(ctx context.Context, p Problem) (bool, error) {
	same, err := etcdstore.CheckWrite(endpointKey(p), p.rev)
	if err != nil {
		return false, err
	}
	node := c.As(p.Node)
	owner := node.stamp(Owner{Handle: p.Endpoint, Attrs: map[string]string{AttrEndpoint: p.Endpoint}})
	if p.Kind == ProblemUnassigned {
		err = node.mendBy(ctx, &assign{addr: p.Addr, owner: owner}, same)
		return err == nil, err
	}
	op := &replaceOwner{addr: p.Addr, from: p.owner, to: owner}
	err = node.mendBy(ctx, op, same)
	return op.done, err
}

// mendEndpoint removes an endpoint that no container has, and releases its addresses.
func (c *Client) mendEndpoint(ctx context.Context, p Problem) (bool, error) {
	remove, err := etcdstore.DeleteWrite(endpointKey(p), p.rev)
	if err == nil {
		_, err = c.ReleaseOf(ctx, p.Endpoint, remove)
	}
	return err == nil, err
}

// mendAffinity makes a node's affinity for a block what the block says.
type mendAffinity struct {
	cidr netip.Prefix
	node string
}

func (m *mendAffinity) run(w *work) error {
	if !w.fresh {
		w.get(model.BlockKey{CIDR: m.cidr})
		return errStale
	}
	b, err := w.block(m.cidr)
	if err != nil {
		return err
	}
	k := model.BlockAffinityKey{Node: m.node, CIDR: m.cidr}
	w.relyOn(m.cidr)
	if b != nil && b.Affinity != nil && nodeOf(b) == m.node {
		w.writes[k] = &model.BlockAffinity{State: model.AffinityConfirmed}
	} else {
		w.writes[k] = nil
	}
	return nil
}

// mendHandle counts the addresses of a handle anew.
type mendHandle struct {
	id     string
	blocks []netip.Prefix // where it has any
}

func (m *mendHandle) run(w *work) error {
	k := model.HandleKey{ID: m.id}
	w.get(k)
	for _, cidr := range m.blocks {
		w.get(model.BlockKey{CIDR: cidr})
	}
	if !w.fresh {
		return errStale
	}
	h := &model.Handle{HandleID: m.id, Block: map[string]int{}}
	for _, cidr := range m.blocks {
		b, err := w.block(cidr)
		if err != nil {
			return err
		}
		if !w.written(model.BlockKey{CIDR: cidr}) {
			w.relyOn(cidr)
		}
		if n := countOf(b, m.id); n > 0 {
			h.Block[cidr.String()] = n
		}
	}
	if w.writes[k] = h; len(h.Block) == 0 {
		w.writes[k] = nil
	}
	return nil
}

// countOf is how many addresses of a block, which may be nil, a handle has.
func countOf(b *model.Block, handle string) int {
	if b == nil {
		return 0
	}
	n := 0
	for ordinal := range b.Allocations {
		if attrs, taken := attributesOf(b, ordinal); taken && handleOf(attrs) == handle {
			n++
		}
	}
	return n
}

// dropEmpty deletes a block that is empty and nobody's.
type dropEmpty struct {
	cidr netip.Prefix
	done bool
}

func (d *dropEmpty) run(w *work) error {
	d.done = false
	if !w.fresh {
		w.get(model.BlockKey{CIDR: d.cidr})
		return errStale
	}
	b, err := w.block(d.cidr)
	if err != nil || b == nil {
		return err
	}
	w.settle(b)
	d.done = w.written(model.BlockKey{CIDR: d.cidr})
	return nil
}

// replaceOwner changes who has an address, if it is still whom it was.
type replaceOwner struct {
	addr     netip.Addr
	from, to Owner
	done     bool
}

func (r *replaceOwner) run(w *work) error {
	r.done = false
	b, err := w.locate(r.addr)
	if err != nil {
		return err
	}
	if b == nil {
		return unlessFreshNil(w)
	}
	ordinal, _ := ordinalOf(b, r.addr)
	if attrs, taken := attributesOf(b, ordinal); !taken || !sameOwner(ownerOf(attrs), r.from) {
		return unlessFreshNil(w)
	}
	r.done = true
	setOwner(w.edit(b), ordinal, r.to)
	if err := w.count(r.from.Handle, b.CIDR, -1); err != nil {
		return err
	}
	return w.count(r.to.Handle, b.CIDR, 1)
}
