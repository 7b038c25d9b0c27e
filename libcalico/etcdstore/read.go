package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// pageSize is the number of keys that a list reads at a time.
const pageSize = 2000

var readyPath = model.Paths(model.ReadyKey{})[0]

// Entry is a stored resource.
type Entry struct {
	Key   model.Key
	Value model.Resource
	// Revision is the highest ModRevision of the resource's parts.
	Revision int64
}

// Quarantined is a stored value that is not usable.
type Quarantined = store.Quarantined

// Get reads a resource. A value that cannot be decoded is an error ([ErrUnreadable]), with
// which only its key and revision are returned; one that is merely not valid is returned as
// it is.
func (c *Client) Get(ctx context.Context, k model.Key) (Entry, error) {
	stored, err := c.fetch(ctx, k)
	if err == nil && len(stored[0].parts) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Entry{}, fmt.Errorf("get %v: %w", k, err)
	}
	r, err := model.Decode(k, stored[0].values())
	if err != nil {
		return Entry{Key: k, Revision: stored[0].revision()}, &explained{text: err.Error(), class: ErrUnreadable, causes: []error{err}}
	}
	return Entry{Key: k, Value: r, Revision: stored[0].revision()}, nil
}

// List reads all resources of a kind that match (nil: all) at one revision, which it
// returns, sorted by key. Values that cannot be used are listed apart.
func (c *Client) List(ctx context.Context, kind model.Kind, match func(model.Key) bool) ([]Entry, int64, []Quarantined, error) {
	prefixes := model.ListPrefixes(kind)
	if prefixes == nil {
		return nil, 0, nil, fmt.Errorf("list %q: unknown kind", kind)
	}
	entries, revision, bad, err := c.ListUnder(ctx, prefixes, func(k model.Key) bool {
		return k.Kind() == kind && (match == nil || match(k))
	})
	if err != nil {
		return nil, 0, nil, fmt.Errorf("list %s: %w", kind, err)
	}
	return entries, revision, bad, nil
}

// ListUnder is [Client.List] of whatever kinds under some prefixes: for a part of what is
// stored of a kind that may be large.
func (c *Client) ListUnder(ctx context.Context, prefixes []string, match func(model.Key) bool) ([]Entry, int64, []Quarantined, error) {
	kvs, at, err := c.scan(ctx, newRanges(prefixes))
	if err != nil {
		return nil, 0, nil, err
	}
	entries, bad := collect(kvs, match)
	return entries, at.revision, bad, nil
}

// Gather reads the resources under some prefixes at one revision, which it returns, and
// holds no more of them in memory than what keep makes of each. Their kinds must be stored
// at one path each; the value of one that cannot be decoded is nil.
func Gather[T any](ctx context.Context, c *Client, prefixes []string, keep func(Entry) (T, bool)) (out []T, revision int64, err error) {
	at, err := c.eachUnder(ctx, newRanges(prefixes), func() { out = nil }, func(kv store.KV) {
		k, ok := model.ParsePath(kv.Path)
		if !ok {
			return
		}
		r, _ := store.Read(k, map[string][]byte{kv.Path: kv.Value}) // one that is not valid counts too
		if kept, ok := keep(Entry{Key: k, Value: r, Revision: kv.ModRevision}); ok {
			out = append(out, kept)
		}
	})
	if err != nil {
		return nil, 0, err
	}
	return out, at.revision, nil
}

// collect puts resources together from their parts.
func collect(kvs []store.KV, match func(model.Key) bool) (entries []Entry, bad []Quarantined) {
	found := map[model.Key]*object{}
	for _, kv := range kvs {
		k, ok := model.ParsePath(kv.Path)
		if !ok || !match(k) {
			continue
		}
		if found[k] == nil {
			found[k] = &object{key: k, parts: map[string]store.KV{}}
		}
		found[k].parts[kv.Path] = kv
	}
	for k, o := range found {
		r, err := store.Read(k, o.values())
		if err != nil {
			bad = append(bad, Quarantined{Key: k, Path: model.Paths(k)[0], Value: r, Err: err})
			continue
		}
		entries = append(entries, Entry{Key: k, Value: r, Revision: o.revision()})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return model.Compare(a.Key, b.Key) })
	slices.SortFunc(bad, func(a, b Quarantined) int { return strings.Compare(a.Path, b.Path) })
	return entries, bad
}

// object is a resource as it is stored.
type object struct {
	key   model.Key
	parts map[string]store.KV
}

func (o *object) values() map[string][]byte {
	values := make(map[string][]byte, len(o.parts))
	for path, kv := range o.parts {
		values[path] = kv.Value
	}
	return values
}

func (o *object) revision() (highest int64) {
	for _, kv := range o.parts {
		highest = max(highest, kv.ModRevision)
	}
	return highest
}

// fetch reads resources at one revision, each with the parts that it has.
func (c *Client) fetch(ctx context.Context, keys ...model.Key) ([]object, error) {
	var ops []clientv3.Op
	objects := make([]object, len(keys))
	for i, k := range keys {
		objects[i] = object{key: k, parts: map[string]store.KV{}}
		for _, path := range model.Paths(k) {
			ops = append(ops, clientv3.OpGet(path))
		}
	}
	if len(ops) == 0 {
		return nil, errors.New("unknown kind of key")
	}
	var resp *clientv3.TxnResponse
	err := c.do(ctx, 0, func(ctx context.Context) (err error) {
		resp, err = c.etcd.Txn(ctx).Then(ops...).Commit()
		return err
	})
	if err != nil {
		return nil, err
	}
	answers := resp.Responses
	for i, k := range keys {
		n := len(model.Paths(k))
		objects[i].take(answers[:n])
		answers = answers[n:]
	}
	return objects, nil
}

func (o *object) take(answers []*etcdserverpb.ResponseOp) {
	for _, answer := range answers {
		for _, kv := range answer.GetResponseRange().GetKvs() {
			o.parts[string(kv.Key)] = newKV(kv)
		}
	}
}

func newKV(kv *mvccpb.KeyValue) store.KV {
	return store.KV{Path: string(kv.Key), Value: kv.Value, ModRevision: kv.ModRevision}
}

// scan reads all keys in the ranges at one revision.
func (c *Client) scan(ctx context.Context, rs ranges) (kvs []store.KV, at position, err error) {
	at, err = c.eachUnder(ctx, rs, func() { kvs = nil }, func(kv store.KV) { kvs = append(kvs, kv) })
	return kvs, at, err
}

// eachUnder calls f for all keys in the ranges at one revision. When that is compacted
// meanwhile it calls start, as it does at first, and starts again.
func (c *Client) eachUnder(ctx context.Context, rs ranges, start func(), f func(store.KV)) (at position, err error) {
	for range 3 {
		start()
		if at, err = c.eachOnce(ctx, rs, f); !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	return at, err
}

func (c *Client) eachOnce(ctx context.Context, rs ranges, f func(store.KV)) (at position, err error) {
	for _, r := range rs {
		for from, more := r.from, true; more; {
			page, err := c.page(ctx, from, r.to, at.revision)
			if err != nil {
				return position{}, err
			}
			if at.revision == 0 {
				at = position{page.Header.ClusterId, page.Header.Revision}
			}
			for _, kv := range page.Kvs {
				f(newKV(kv))
				from = string(kv.Key) + "\x00"
			}
			more = page.More
		}
	}
	return at, nil
}

func (c *Client) page(ctx context.Context, from, to string, revision int64) (resp *clientv3.GetResponse, err error) {
	err = c.do(ctx, pageTimeout, func(ctx context.Context) (err error) {
		resp, err = c.etcd.Get(ctx, from, clientv3.WithRange(to), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		return err
	})
	return resp, err
}
