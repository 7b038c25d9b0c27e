package ipam

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/libcalico/model"
)

// wrongAffinity finds affinities that say something else than their blocks, and makes them
// say what the blocks say.
type wrongAffinity struct{}

func (wrongAffinity) find(c *checker) {
	for _, cidr := range c.sorted {
		b := c.blocks[cidr]
		if b.fault != nil || !b.owned {
			continue
		}
		p := Problem{ID: ID{Kind: ProblemAffinity, Block: cidr, Node: b.node}}
		switch state, ok := c.affinities[model.BlockAffinityKey{Node: b.node, CIDR: cidr}]; {
		case !ok:
			p.Text = fmt.Sprintf("block %s belongs to node %s, which has no affinity for it", cidr, b.node)
			c.add(p.with("store the affinity"))
		case state != model.AffinityConfirmed:
			p.Text = fmt.Sprintf("the affinity of node %s for its block %s is %s", b.node, cidr, state)
			c.add(p.with("confirm it"))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.affinities), func(a, b model.BlockAffinityKey) int { return model.Compare(a, b) }) {
		b, exists := c.blocks[k.CIDR]
		p := Problem{ID: ID{Kind: ProblemAffinity, Block: k.CIDR, Node: k.Node}}.with("delete the affinity")
		switch {
		case !exists:
			p.Text = fmt.Sprintf("node %s has an affinity for block %s, which does not exist", k.Node, k.CIDR)
		case b.fault != nil || b.node == k.Node:
			continue
		default:
			p.Text = fmt.Sprintf("node %s has an affinity for block %s, which is not its own", k.Node, k.CIDR)
		}
		c.add(p)
	}
}

func (wrongAffinity) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	return cl.mendBy(ctx, &mendAffinity{cidr: p.Block, node: p.Node})
}

// mendAffinity makes a node's affinity for a block what the block says.
type mendAffinity struct {
	cidr netip.Prefix
	node string
}

func (m *mendAffinity) run(w *work) *stop {
	k := model.BlockAffinityKey{Node: m.node, CIDR: m.cidr}
	if s := w.afresh(model.BlockKey{CIDR: m.cidr}, k); s != nil {
		return s
	}
	b, s := w.block(m.cidr)
	if s != nil {
		return s
	}
	w.result.done = true
	w.relyOn(m.cidr)
	if b != nil && b.Affinity != nil && nodeOf(b) == m.node {
		a := &model.BlockAffinity{State: model.AffinityConfirmed}
		if r, _ := w.get(k); r != nil {
			if old, ok := r.(*model.BlockAffinity); ok {
				a.Unknown = old.Unknown
			}
		}
		w.writes[k] = a
	} else {
		w.writes[k] = nil
	}
	return nil
}
