package ipam

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// weighed is a connection to etcd that notes the largest answer, and what all answers weigh.
type weighed struct {
	clientv3.KV
	largest, all int
}

func (x *weighed) Txn(ctx context.Context) clientv3.Txn {
	return &weighedTxn{Txn: x.KV.Txn(ctx), on: x}
}

type weighedTxn struct {
	clientv3.Txn
	on *weighed
}

func (x *weighedTxn) Then(ops ...clientv3.Op) clientv3.Txn { x.Txn = x.Txn.Then(ops...); return x }

func (x *weighedTxn) Commit() (*clientv3.TxnResponse, error) {
	resp, err := x.Txn.Commit()
	if err == nil {
		size := 0
		for _, answer := range resp.Responses {
			size += proto.Size(answer)
		}
		x.on.largest, x.on.all = max(x.on.largest, size), x.on.all+size
	}
	return resp, err
}

// TestHoldingsOfReadsInPages looks for one node's addresses among many full blocks, which come
// after as many empty ones: only a part is in memory at a time.
func TestHoldingsOfReadsInPages(t *testing.T) {
	w := newWorld(t, "10.0.0.0/7")
	const empty, full, nodes, addresses = 3000, 2500, 50, 64 // full as fill makes them
	p := newPool(&model.IPPool{CIDR: netip.MustParsePrefix("10.0.0.0/8")}, 1)
	var writes []etcdstore.Write
	for i := range empty {
		b := newBlock(p.block(uint64(i)), "other7", false)
		put, err := etcdstore.PutWrite(model.BlockKey{CIDR: b.CIDR}, b)
		if err != nil {
			t.Fatal(err)
		}
		writes = append(writes, put)
	}
	for some := range slices.Chunk(writes, 100) {
		if _, err := w.store.Commit(w.ctx(), some...); err != nil {
			t.Fatal(err)
		}
	}
	w.fill("11.0.0.0/8", full)
	c := w.node("")
	x := &weighed{KV: w.store.Raw().KV}
	w.store.Raw().KV = x
	held, err := c.HoldingsOf(w.ctx(), "other7")
	if err != nil || len(held) != full/nodes*addresses {
		t.Errorf("%d addresses, %v", len(held), err)
	}
	if x.all == 0 || x.largest > x.all/4 {
		t.Errorf("the largest answer has %d of %d KiB", x.largest>>10, x.all>>10)
	}
}
