package ipam

import (
	"context"
	"fmt"
	"net/netip"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// abandonedBlock finds empty blocks of nobody, and blocks of nodes that are not there. It
// deletes the former, and takes the latter from their nodes.
type abandonedBlock struct{}

func (abandonedBlock) find(c *checker) {
	for _, cidr := range c.sorted {
		b := c.blocks[cidr]
		if b.fault != nil || !c.isAbandoned(b) {
			continue
		}
		p := Problem{ID: ID{Kind: ProblemAbandonedBlock, Block: cidr, Node: b.node}}
		if b.owned {
			p.Text = fmt.Sprintf("block %s belongs to node %s, which does not exist", cidr, b.node)
			p = p.with("take the block from the node")
		} else {
			p.Text = fmt.Sprintf("block %s is empty and belongs to no node", cidr)
			p = p.with("delete the block")
		}
		c.add(p)
	}
}

func (c *checker) isAbandoned(b keptBlock) bool {
	if !b.owned {
		return len(b.uses) == 0
	}
	_, known := c.nodes[b.node]
	return !known
}

func (abandonedBlock) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	if p.Node == "" {
		return cl.mendBy(ctx, &dropEmpty{cidr: p.Block})
	}
	absent, err := etcdstore.CheckWrite(model.NodeKey{Name: p.Node}, 0)
	if err != nil {
		return false, err
	}
	return cl.mendBy(ctx, &giveUpBlock{cidr: p.Block, node: p.Node}, absent)
}

// dropEmpty deletes a block that is empty and nobody's.
type dropEmpty struct{ cidr netip.Prefix }

func (d *dropEmpty) run(w *work) *stop {
	if s := w.afresh(model.BlockKey{CIDR: d.cidr}); s != nil {
		return s
	}
	b, s := w.block(d.cidr)
	if s != nil || b == nil {
		return s
	}
	w.settle(b)
	w.result.done = w.written(model.BlockKey{CIDR: d.cidr})
	return nil
}
