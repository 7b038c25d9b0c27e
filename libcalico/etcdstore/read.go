package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

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

// GetAll reads those of some resources that exist, sorted by key, in as few transactions as
// etcd's limits allow. Values that cannot be used are listed apart.
func (c *Client) GetAll(ctx context.Context, keys []model.Key) ([]Entry, []Quarantined, error) {
	var all []store.KV
	for some := range transactions(keys) {
		objects, err := c.fetch(ctx, some...)
		if err != nil {
			return nil, nil, fmt.Errorf("get %d resources, %v first: %w", len(some), some[0], err)
		}
		for _, o := range objects {
			all = slices.AppendSeq(all, maps.Values(o.parts))
		}
	}
	entries, bad := collect(all, func(model.Key) bool { return true })
	return entries, bad, nil
}

// transactions are parts of keys, each as many as one transaction can read.
func transactions(keys []model.Key) iter.Seq[[]model.Key] {
	return func(yield func([]model.Key) bool) {
		for len(keys) > 0 {
			n, paths := 0, 0
			for n < len(keys) {
				if paths += len(model.Paths(keys[n])); paths > MaxTxnOps && n > 0 {
					break
				}
				n++
			}
			if !yield(keys[:n]) {
				return
			}
			keys = keys[n:]
		}
	}
}

// List reads all resources of a kind that match (nil: all) at one revision, which it
// returns, sorted by key. Values that cannot be used are listed apart.
func (c *Client) List(ctx context.Context, kind model.Kind, match func(model.Key) bool) ([]Entry, int64, []Quarantined, error) {
	return c.ListIn(ctx, kind, model.Scope{}, match)
}

// ListIn is [Client.List] of the resources in a scope.
func (c *Client) ListIn(ctx context.Context, kind model.Kind, scope model.Scope, match func(model.Key) bool) ([]Entry, int64, []Quarantined, error) {
	rs, err := rangesIn(kind, scope)
	if err != nil {
		return nil, 0, nil, err
	}
	kvs, at, err := c.scan(ctx, rs)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("list %s: %w", kind, err)
	}
	entries, bad := collect(kvs, func(k model.Key) bool { return k.Kind() == kind && (match == nil || match(k)) })
	return entries, at.revision, bad, nil
}

func rangesIn(kind model.Kind, scope model.Scope) (ranges, error) {
	if model.ListPrefixes(kind) == nil {
		return nil, fmt.Errorf("list %q: unknown kind", kind)
	}
	return rangesOf(kind, scope), nil
}

// Keys lists the keys of the resources of a kind in a scope, sorted, at one revision. It
// reads no values. ok is false, and nothing is read, when there are more than most keys in
// etcd where they stand.
func (c *Client) Keys(ctx context.Context, kind model.Kind, scope model.Scope, most int) (keys []model.Key, ok bool, err error) {
	rs, err := rangesIn(kind, scope)
	if err != nil {
		return nil, false, err
	}
	r := reading{keysOnly: true, most: most, start: func() { keys = nil }, f: func(kv store.KV) {
		k, ok := model.ParsePath(kv.Path)
		// The parts of a resource are side by side in each of its ranges.
		if ok && k.Kind() == kind && (len(keys) == 0 || keys[len(keys)-1] != k) {
			keys = append(keys, k)
		}
	}}
	switch _, err := c.eachUnder(ctx, rs, r); {
	case errors.Is(err, errTooMany):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("list the keys of %s: %w", kind, err)
	}
	model.SortByKey(keys, func(k model.Key) model.Key { return k })
	return slices.Compact(keys), true, nil
}

// Branches lists what follows a prefix up to the next slash, in order, without reading what
// stands below: for few branches with much in each.
func (c *Client) Branches(ctx context.Context, prefix string) ([]string, error) {
	r := under(prefix)
	var branches []string
	for {
		var resp *clientv3.GetResponse
		err := c.do(ctx, 0, func(ctx context.Context) (err error) {
			resp, err = c.etcd.Get(ctx, r.from, clientv3.WithRange(r.to), clientv3.WithLimit(1), clientv3.WithKeysOnly())
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list what is under %s: %w", prefix, err)
		}
		if len(resp.Kvs) == 0 {
			return branches, nil
		}
		path := string(resp.Kvs[0].Key)
		branch, _, inner := strings.Cut(path[len(prefix):], "/")
		if r.from = path + "\x00"; inner {
			r.from = under(prefix + branch + "/").to
			branches = append(branches, branch)
		}
	}
}

// ListUnder is [Client.List] of whatever kinds under some prefixes: for a part of what is
// stored of a kind that may be large. Without a prefix it fails, as Gather does.
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
	return gather(ctx, c, prefixes, func(k model.Key, kv store.KV) (T, bool) {
		r, _ := store.Read(k, map[string][]byte{kv.Path: kv.Value}) // one that is not valid counts too
		return keep(Entry{Key: k, Value: r, Revision: kv.ModRevision})
	})
}

// GatherValues is [Gather] for who needs so little of each value that it is not worth while to
// decode all of it.
func GatherValues[T any](ctx context.Context, c *Client, prefixes []string, keep func(k model.Key, value []byte) (T, bool)) (out []T, revision int64, err error) {
	return gather(ctx, c, prefixes, func(k model.Key, kv store.KV) (T, bool) { return keep(k, kv.Value) })
}

func gather[T any](ctx context.Context, c *Client, prefixes []string, keep func(model.Key, store.KV) (T, bool)) (out []T, revision int64, err error) {
	at, err := c.eachUnder(ctx, newRanges(prefixes), reading{start: func() { out = nil }, f: func(kv store.KV) {
		k, ok := model.ParsePath(kv.Path)
		if !ok {
			return
		}
		if kept, ok := keep(k, kv); ok {
			out = append(out, kept)
		}
	}})
	if err != nil {
		return nil, 0, err
	}
	return out, at.revision, nil
}

// Count is how many paths have a prefix, and the revision at which that is so; their values
// are not read.
func (c *Client) Count(ctx context.Context, prefix string) (n, revision int64, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) error {
		resp, err := c.etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil {
			n, revision = resp.Count, resp.Header.Revision
		}
		return err
	})
	return n, revision, err
}

// collect puts resources together from their parts.
func collect(kvs []store.KV, match func(model.Key) bool) (entries []Entry, bad []Quarantined) {
	type parts struct {
		key      model.Key
		values   map[string][]byte
		revision int64
	}
	var found []parts
	at := map[model.Key]int{}
	for _, kv := range kvs {
		k, ok := model.ParsePath(kv.Path)
		if !ok || !match(k) {
			continue
		}
		n, ok := at[k]
		if !ok {
			n, at[k] = len(found), len(found)
			found = append(found, parts{key: k, values: map[string][]byte{}})
		}
		found[n].values[kv.Path], found[n].revision = kv.Value, max(found[n].revision, kv.ModRevision)
	}
	entries = slices.Grow(entries, len(found))
	for _, p := range found {
		r, err := store.Read(p.key, p.values)
		if err != nil {
			bad = append(bad, Quarantined{Key: p.key, Path: model.Paths(p.key)[0], Value: r, Err: err, Revision: p.revision})
			continue
		}
		entries = append(entries, Entry{Key: p.key, Value: r, Revision: p.revision})
	}
	model.SortByKey(entries, func(e Entry) model.Key { return e.Key })
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
	return c.scanNoting(ctx, rs, nil)
}

// scanNoting is scan that also says, unless nodes is nil, between which nodes' workload
// endpoints it has read.
func (c *Client) scanNoting(ctx context.Context, rs ranges, nodes nodeNames) (kvs []store.KV, at position, err error) {
	at, err = c.eachUnder(ctx, rs, reading{nodes: nodes, start: func() { kvs = nil }, f: func(kv store.KV) { kvs = append(kvs, kv) }})
	return kvs, at, err
}

// reading says what becomes of the keys of ranges.
type reading struct {
	// start, when not nil, is called before the first key, and again when all keys come
	// again; f is called for each.
	start func()
	f     func(store.KV)
	// keysOnly says that the values are not needed.
	keysOnly bool
	// nodes, when not nil, takes the nodes that were found on the way to what stands beside
	// workload endpoints.
	nodes nodeNames
	// most is with how many keys in a range nothing of it is read ([errTooMany]); 0 means
	// any number.
	most int
}

// errTooMany says that there is more than was to be read.
var errTooMany = errors.New("too many keys")

// eachUnder reads all keys in the ranges at one revision. When that is compacted meanwhile
// it starts again.
func (c *Client) eachUnder(ctx context.Context, rs ranges, r reading) (at position, err error) {
	if len(rs) == 0 {
		return position{}, errNoPrefixes
	}
	for range 3 {
		if r.start != nil {
			r.start()
		}
		if at, err = c.eachOnce(ctx, rs, r); !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	return at, err
}

func (c *Client) eachOnce(ctx context.Context, rs ranges, r reading) (at position, err error) {
	var nodes nodeNames
	for _, within := range rs {
		switch {
		case within.beside:
			if nodes == nil {
				nodes, err = c.knownNodes(ctx, &at)
			}
			if r.nodes != nil {
				maps.Copy(r.nodes, nodes)
			}
			if err == nil {
				err = c.eachBeside(ctx, within, nodes, r, &at)
			}
		case within.from == model.NodesPrefix: // of a kind that is beside workload endpoints, this range comes first
			nodes = nodeNames{}
			err = c.eachPage(ctx, within, nodes.noting(r), &at)
		default:
			err = c.eachPage(ctx, within, r, &at)
		}
		if err != nil {
			return position{}, err
		}
	}
	return at, nil
}

// eachPage reads a range at a position, or at the present one, which it sets. A page of small
// values is taken up while etcd makes the next; a large one is not held beside another.
func (c *Client) eachPage(ctx context.Context, within keyRange, r reading, at *position) error {
	page, err := c.page(ctx, within, r.keysOnly, at.revision)
	for err == nil {
		if r.most > 0 && page.Count > int64(r.most) {
			return errTooMany
		}
		at.begin(page.Header)
		var next *clientv3.GetResponse
		var failed error
		var reading sync.WaitGroup
		more := page.More && len(page.Kvs) > 0
		if more {
			within.from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		}
		ahead := more && isSmall(page)
		if ahead {
			reading.Go(func() { next, failed = c.page(ctx, within, r.keysOnly, at.revision) })
		}
		for _, kv := range page.Kvs {
			r.f(newKV(kv))
		}
		reading.Wait()
		switch {
		case ahead:
			page, err = next, failed
		case more:
			page, err = c.page(ctx, within, r.keysOnly, at.revision)
		default:
			return nil
		}
	}
	return err
}

// smallPage is the size of the values of a page beside which the next may be held, in bytes.
const smallPage = 1 << 20

func isSmall(page *clientv3.GetResponse) bool {
	size := 0
	for _, kv := range page.Kvs {
		size += len(kv.Value)
	}
	return size <= smallPage
}

// begin makes a position that is not known yet that of an answer.
func (p *position) begin(h *etcdserverpb.ResponseHeader) {
	if p.revision == 0 {
		*p = position{h.GetClusterId(), h.GetRevision()}
	}
}

func (c *Client) page(ctx context.Context, within keyRange, keysOnly bool, revision int64) (resp *clientv3.GetResponse, err error) {
	opts := []clientv3.OpOption{clientv3.WithRange(within.to), clientv3.WithLimit(pageSize), clientv3.WithRev(revision)}
	if keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	err = c.do(ctx, pageTimeout, func(ctx context.Context) (err error) {
		resp, err = c.etcd.Get(ctx, within.from, opts...)
		return err
	})
	return resp, err
}
