package etcdstore

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/store"
)

// witness is one change of a history. Another history that has come to the same revision
// has another change there: a restored backup can be told from the store that was lost,
// whatever the number of its revision.
type witness struct {
	path     string
	revision int64
	sum      uint64
}

// witnessSeed is that of all sums of witnesses.
var witnessSeed = maphash.MakeSeed()

func newWitness(kv store.KV) witness {
	return witness{kv.Path, kv.ModRevision, maphash.Bytes(witnessSeed, kv.Value)}
}

// latest is the latest change among some values; zero when there is none.
func latest(kvs []store.KV) witness {
	last := -1
	for i, kv := range kvs {
		if last < 0 || kv.ModRevision > kvs[last].ModRevision {
			last = i
		}
	}
	if last < 0 {
		return witness{}
	}
	return newWitness(kvs[last])
}

// lastPut is the last event that left a value, or nil.
func lastPut(events []*mvccpb.Event) *mvccpb.KeyValue {
	for _, e := range slices.Backward(events) {
		if e.Type == mvccpb.PUT {
			return e.Kv
		}
	}
	return nil
}

// memory is what etcd knows of a witness.
type memory int

const (
	// unknown: it has been compacted, or there is no witness.
	unknown memory = iota
	// remembered: etcd has the same change.
	remembered
	// otherwise: something else happened there.
	otherwise
)

// remembers asks etcd for a change. After a compaction it is still known if it was the
// last one of its key.
func (c *Client) remembers(ctx context.Context, w witness) (memory, error) {
	if w.revision == 0 {
		return unknown, nil
	}
	then, err := c.changeAt(ctx, w.path, w.revision)
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		now, err := c.changeAt(ctx, w.path, 0)
		if now != w || err != nil {
			return unknown, err
		}
		return remembered, nil
	case errors.Is(err, rpctypes.ErrFutureRev):
		return otherwise, nil
	case err != nil:
		return unknown, err
	case then != w:
		return otherwise, nil
	}
	return remembered, nil
}

// changeAt is the last change of a key up to a revision, 0 meaning the present one; zero
// when the key did not exist.
func (c *Client) changeAt(ctx context.Context, path string, revision int64) (w witness, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) error {
		resp, err := c.etcd.Get(ctx, path, clientv3.WithRev(revision))
		if err == nil && len(resp.Kvs) > 0 {
			w = newWitness(newKV(resp.Kvs[0]))
		}
		return err
	})
	return w, err
}
