package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
)

// Stored is a resource as it stands in etcd, not decoded.
type Stored struct {
	// Parts are the values of those of its paths that exist; there are none of a resource
	// that does not.
	Parts map[string][]byte
	// Revision is the highest ModRevision of its parts.
	Revision int64
}

// GetStored reads resources at one revision, in the order of the keys, of which there may be
// as many as have [MaxTxnOps] paths together.
func (c *Client) GetStored(ctx context.Context, keys ...model.Key) ([]Stored, error) {
	objects, err := c.fetch(ctx, keys...)
	if err != nil {
		return nil, err
	}
	out := make([]Stored, len(objects))
	for i, o := range objects {
		out[i] = Stored{Parts: o.values(), Revision: o.revision()}
	}
	return out, nil
}

// The numbers of keys that [Client.EachStored] has in memory at a time. Blocks are ten times
// as large as others; smaller pages of these would take etcd long, which counts for each what
// is left of the range.
const (
	blocksPage = 250
	othersPage = 2000
)

// EachStored calls f for all that is stored under a prefix, in the order of the keys, as of
// one revision (0: now), which it returns. However much there is, few values are in memory
// at a time. The first error of f ends it.
func (c *Client) EachStored(ctx context.Context, prefix string, revision int64, f func(*mvccpb.KeyValue) error) (int64, error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	blocks := model.ListPrefixes(model.KindBlock)[0]
	if !strings.HasPrefix(blocks, prefix) || blocks == prefix {
		return c.eachStoredIn(ctx, keyRange{from: prefix, to: end}, othersPage, revision, f)
	}
	after := clientv3.GetPrefixRangeEnd(blocks)
	for _, part := range []struct {
		within keyRange
		page   int64
	}{{keyRange{from: prefix, to: blocks}, othersPage}, {keyRange{from: blocks, to: after}, blocksPage}, {keyRange{from: after, to: end}, othersPage}} {
		var err error
		if revision, err = c.eachStoredIn(ctx, part.within, part.page, revision, f); err != nil {
			return 0, err
		}
	}
	return revision, nil
}

func (c *Client) eachStoredIn(ctx context.Context, within keyRange, size, revision int64, f func(*mvccpb.KeyValue) error) (int64, error) {
	for from, more := within.from, true; more; {
		var page *clientv3.GetResponse
		err := c.do(ctx, pageTimeout, func(ctx context.Context) (err error) {
			page, err = c.etcd.Get(ctx, from, clientv3.WithRange(within.to), clientv3.WithLimit(size), clientv3.WithRev(revision))
			return err
		})
		if errors.Is(err, rpctypes.ErrCompacted) {
			err = fmt.Errorf("etcd has compacted the revision that was being read; try again: %w", err)
		}
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			if err := f(kv); err != nil {
				return 0, err
			}
			from = string(kv.Key) + "\x00"
		}
		more = page.More
	}
	return revision, nil
}
