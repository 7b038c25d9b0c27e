package ipam

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// HoldingsOf lists the addresses that were given to a node ([AttrNode]), in whose blocks
// ever, also those that nothing has come to use. All blocks are read, so it is for a node
// that goes. What is in a damaged block is not known.
func (c *Client) HoldingsOf(ctx context.Context, node string) ([]Holding, error) {
	name, err := json.Marshal(node)
	if err != nil {
		return nil, err
	}
	var out []Holding
	_, _, err = c.backend.each(ctx, model.ListPrefixes(model.KindBlock), func(kv *mvccpb.KeyValue) {
		if k, _ := model.ParsePath(string(kv.Key)); k == nil || k.Kind() != model.KindBlock || !bytes.Contains(kv.Value, name) {
			return // not worth decoding
		} else if b, ok := decode(k, string(kv.Key), kv.Value).(*model.Block); ok {
			out = appendGiven(out, b, node)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses of node %s: %w", node, err)
	}
	return out, nil
}

// appendGiven adds the addresses in a block that were given to a node.
func appendGiven(out []Holding, b *model.Block, node string) []Holding {
	for _, h := range appendAll(nil, b) {
		if h.Owner.Attrs[AttrNode] == node {
			out = append(out, h)
		}
	}
	return out
}

// ReleaseHeld frees addresses, each in a transaction with the other writes, unless it has
// another owner by then.
func (c *Client) ReleaseHeld(ctx context.Context, held []Holding, also ...etcdstore.Write) error {
	for _, h := range held {
		op := &release{addrs: []netip.Addr{h.Addr}, only: &h.Owner}
		if _, err := c.queue.do(ctx, &call{op: op, also: also}); err != nil {
			return fmt.Errorf("release %s: %w", h.Addr, err)
		}
	}
	return nil
}
