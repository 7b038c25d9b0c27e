package etcdstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

const (
	// gapsAtATime is how many gaps are read in one transaction, and gapReads how many of these
	// are under way at the same time: etcd answers reads beside each other.
	gapsAtATime = 64
	gapReads    = 4
	// gapSize is how many keys of a gap are read at a time. Beside its workload endpoints a
	// node has few.
	gapSize = 64
)

// eachBeside reads a host tree but for what concerns workload endpoints. It reads the gaps
// between the subtrees that the known nodes have for these. Nodes that are not known are
// found out when one of their endpoints turns up in a gap.
func (c *Client) eachBeside(ctx context.Context, tree keyRange, nodes nodeNames, r reading, at *position) error {
	gaps := gapsIn(tree, nodes)
	for len(gaps) > 0 {
		some := gaps[:min(len(gaps), gapsAtATime*gapReads)]
		gaps = gaps[len(some):]
		answers, err := c.readGaps(ctx, some, r.keysOnly, at)
		if err != nil {
			return err
		}
		for i, answer := range answers {
			if rest := some[i].take(tree.from, answer.GetResponseRange(), r.f); rest.from < rest.to {
				gaps = append(gaps, rest)
			}
		}
	}
	return nil
}

// nodeNames are nodes, as they are written in paths.
type nodeNames map[string]bool

// noting adds to a reading of [model.NodesPrefix] that the nodes found are noted.
func (n nodeNames) noting(r reading) reading {
	next := r.f
	r.f = func(kv store.KV) {
		node, _, _ := strings.Cut(strings.TrimPrefix(kv.Path, model.NodesPrefix), "/")
		n[node] = true
		next(kv)
	}
	return r
}

// knownNodes lists the nodes that are registered. A user who may not read where that stands
// knows none.
func (c *Client) knownNodes(ctx context.Context, at *position) (nodeNames, error) {
	nodes := nodeNames{}
	r := nodes.noting(reading{keysOnly: true, f: func(store.KV) {}})
	if err := c.eachPage(ctx, under(model.NodesPrefix), r, at); err != nil && !errors.Is(err, ErrUnauthorized) {
		return nil, err
	}
	return nodes, nil
}

// gapsIn is a tree without the subtrees that nodes have for workload endpoints.
func gapsIn(tree keyRange, nodes nodeNames) []keyRange {
	subtrees := make([]string, 0, len(nodes))
	for node := range nodes {
		subtrees = append(subtrees, model.WorkloadSubtree(tree.from, node))
	}
	slices.Sort(subtrees)
	return without(tree, subtrees)
}

// without is a range without the subtrees in it, which are in order.
func without(r keyRange, subtrees []string) []keyRange {
	gaps := make([]keyRange, 0, len(subtrees)+1)
	from := r.from
	for _, subtree := range subtrees {
		gaps = append(gaps, keyRange{from: from, to: subtree})
		from = under(subtree).to
	}
	return append(gaps, keyRange{from: from, to: r.to})
}

// readGaps reads the first keys of gaps, at a position, or at the present one, which it sets.
func (c *Client) readGaps(ctx context.Context, gaps []keyRange, keysOnly bool, at *position) ([]*etcdserverpb.ResponseOp, error) {
	answers := make([]*etcdserverpb.ResponseOp, 0, len(gaps))
	if at.revision == 0 {
		first := min(len(gaps), gapsAtATime)
		resp, err := c.readSomeGaps(ctx, gaps[:first], keysOnly, 0)
		if err != nil {
			return nil, err
		}
		at.begin(resp.Header)
		answers, gaps = append(answers, resp.Responses...), gaps[first:]
	}
	parts := slices.Collect(slices.Chunk(gaps, gapsAtATime))
	found := make([]*clientv3.TxnResponse, len(parts))
	errs := make([]error, len(parts))
	var reads sync.WaitGroup
	for i, part := range parts {
		reads.Go(func() { found[i], errs[i] = c.readSomeGaps(ctx, part, keysOnly, at.revision) })
	}
	reads.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, resp := range found {
		answers = append(answers, resp.Responses...)
	}
	return answers, nil
}

// readSomeGaps is one transaction.
func (c *Client) readSomeGaps(ctx context.Context, gaps []keyRange, keysOnly bool, revision int64) (*clientv3.TxnResponse, error) {
	ops := make([]clientv3.Op, len(gaps))
	for i, gap := range gaps {
		opts := []clientv3.OpOption{clientv3.WithRange(gap.to), clientv3.WithLimit(gapSize), clientv3.WithRev(revision)}
		if keysOnly {
			opts = append(opts, clientv3.WithKeysOnly())
		}
		ops[i] = clientv3.OpGet(gap.from, opts...)
	}
	return c.bareTxn(ctx, nil, ops, nil)
}

// take gives the keys that were read of a gap to f, and returns what is still to be read.
func (gap keyRange) take(tree string, answer *etcdserverpb.RangeResponse, f func(store.KV)) (rest keyRange) {
	for _, kv := range answer.GetKvs() {
		path := string(kv.Key)
		if subtree, ok := model.WorkloadSubtreeOf(tree, path); ok {
			return keyRange{from: under(subtree).to, to: gap.to}
		}
		f(newKV(kv))
		gap.from = path + "\x00"
	}
	if !answer.GetMore() {
		return keyRange{}
	}
	return gap
}
