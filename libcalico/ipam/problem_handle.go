package ipam

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
)

// wrongHandle finds handles that count other addresses than blocks say, and counts anew.
// What cannot be read in a block is not held against a handle.
type wrongHandle struct{}

func (k wrongHandle) find(c *checker) {
	handles := c.handles // both lists are in the order of the handles' ids
	for counts := c.counts; len(counts) > 0 || len(handles) > 0; {
		switch {
		case len(counts) == 0 || len(handles) > 0 && handles[0].id < counts[0].handle:
			k.compare(c, handles[0], nil)
			handles = handles[1:]
		case len(handles) == 0 || counts[0].handle < handles[0].id:
			n := ofOneHandle(counts)
			k.missing(c, counts[0].handle, counts[:n])
			counts = counts[n:]
		default:
			n := ofOneHandle(counts)
			k.compare(c, handles[0], counts[:n])
			handles, counts = handles[1:], counts[n:]
		}
	}
}

// ofOneHandle is how many counts there are of the handle of the first.
func ofOneHandle(counts []count) int {
	n := 1
	for n < len(counts) && counts[n].handle == counts[0].handle {
		n++
	}
	return n
}

func (k wrongHandle) missing(c *checker, id string, has []count) {
	c.add(k.problem(id, fmt.Sprintf("handle %s has addresses, and does not exist", id), blocksOfCounts(nil, has)))
}

func (k wrongHandle) compare(c *checker, h keptHandle, has []count) {
	if h.unreadable {
		p := k.problem(h.id, fmt.Sprintf("the stored value of handle %s cannot be read", h.id), blocksOfCounts(nil, has))
		p.blind = true
		c.add(p)
		return
	}
	if differs := differences(c, h, has); len(differs) > 0 {
		text := fmt.Sprintf("handle %s counts addresses wrongly: %s", h.id, strings.Join(differs, ", "))
		c.add(k.problem(h.id, text, blocksOfCounts(h.counts, has)))
	}
}

func (wrongHandle) problem(id, text string, blocks []netip.Prefix) Problem {
	p := Problem{ID: ID{Kind: ProblemHandle, Handle: id}, Text: text, blocks: blocks}
	if len(blocks) > handleBlocks {
		p.Advice = "it has addresses in too many blocks for one transaction"
		return p
	}
	return p.with("count again")
}

// differences compares a handle with what it has by the blocks.
func differences(c *checker, h keptHandle, has []count) []string {
	if len(h.counts) == 1 && len(has) == 1 && h.counts[0] == has[0].handleCount {
		return nil // as nearly all are
	}
	stored, real := map[netip.Prefix]int{}, map[netip.Prefix]int{}
	for _, n := range h.counts {
		stored[n.block.Value()] = n.n
	}
	for _, n := range has {
		real[n.block.Value()] = n.n
	}
	var out []string
	for _, cidr := range blocksOfCounts(h.counts, has) {
		if c.blocks[cidr].fault == nil && stored[cidr] != real[cidr] {
			out = append(out, fmt.Sprintf("%d in block %s where it has %d", stored[cidr], cidr, real[cidr]))
		}
	}
	return out
}

// blocksOfCounts are the blocks that are counted in, in order.
func blocksOfCounts(stored []handleCount, has []count) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(stored)+len(has))
	for _, n := range stored {
		out = append(out, n.block.Value())
	}
	for _, n := range has {
		out = append(out, n.block.Value())
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

func (wrongHandle) mend(ctx context.Context, cl *Client, p Problem) (bool, error) {
	return cl.mendBy(ctx, &mendHandle{id: p.Handle, blocks: p.blocks})
}

// mendHandle counts the addresses of a handle anew: in the blocks in which it was found to
// have some, and in those that it counts by now. It may have come to more since, by
// another network.
type mendHandle struct {
	id     string
	blocks []netip.Prefix
}

func (m *mendHandle) run(w *work) *stop {
	k := model.HandleKey{ID: m.id}
	read := []model.Key{k}
	for _, cidr := range m.blocks {
		read = append(read, model.BlockKey{CIDR: cidr})
	}
	if s := w.afresh(read...); s != nil {
		return s
	}
	blocks := m.blocks
	h := &model.Handle{HandleID: m.id, Block: map[string]int{}}
	r, _ := w.get(k)
	if stored, ok := r.(*model.Handle); ok {
		blocks, h.Unknown = blockNames(stored, blocks), stored.Unknown
	}
	if len(blocks) > handleBlocks {
		return refuse(errTooMany)
	}
	var unknown *stop
	for _, cidr := range blocks {
		b, s := w.block(cidr)
		if s != nil {
			unknown = cmp.Or(unknown, s) // go on: all that is needed is read at once
			continue
		}
		if !w.written(model.BlockKey{CIDR: cidr}) {
			w.relyOn(cidr)
		}
		if n := countOf(b, m.id); n > 0 {
			h.Block[cidr.String()] = n
		}
	}
	if unknown != nil {
		return unknown
	}
	w.result.done = true
	if w.writes[k] = h; len(h.Block) == 0 {
		w.writes[k] = nil
	}
	return nil
}

// blockNames are the blocks that a handle counts in, and others, in order. What names no
// block counts nothing.
func blockNames(h *model.Handle, others []netip.Prefix) []netip.Prefix {
	out := slices.Clone(others)
	for name := range h.Block {
		if p, err := netip.ParsePrefix(name); err == nil {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
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
