package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// MaxTxnOps is the number of operations that a transaction can have; each path that is
// written, deleted or compared counts. etcd allows one more, which is the condition on
// [model.MinVersionKey].
const MaxTxnOps = 127

// Write is one step of a transaction ([Client.Commit]).
type Write struct {
	key   model.Key
	verb  verb
	parts map[string][]byte
	rev   int64
	lease clientv3.LeaseID
	// still is the prefix that a verbStill is about.
	still string
	// needs is the version that whoever writes to the store must have from then on.
	needs string
}

type verb int

const (
	verbCreate verb = iota
	verbUpdate
	verbPut
	verbDelete
	verbCheck
	verbExists
	verbStill
)

// CreateWrite stores a resource that must not exist.
func CreateWrite(k model.Key, r model.Resource) (Write, error) { return newWrite(verbCreate, k, r, 0) }

// UpdateWrite replaces a resource that must exist and, unless rev is 0, must have
// that revision.
func UpdateWrite(k model.Key, r model.Resource, rev int64) (Write, error) {
	return newWrite(verbUpdate, k, r, rev)
}

// PutWrite stores a resource, whether it exists or not.
func PutWrite(k model.Key, r model.Resource) (Write, error) { return newWrite(verbPut, k, r, 0) }

// DeleteWrite deletes a resource, which must have revision rev; with rev 0 it need
// not exist.
func DeleteWrite(k model.Key, rev int64) (Write, error) { return newBare(verbDelete, k, rev) }

// CheckWrite writes nothing: the resource must have revision rev, or, with rev 0,
// must not exist.
func CheckWrite(k model.Key, rev int64) (Write, error) { return newBare(verbCheck, k, rev) }

// ExistsWrite writes nothing: the resource must exist.
func ExistsWrite(k model.Key) (Write, error) { return newBare(verbExists, k, 0) }

// StillWrite writes nothing: no path with the prefix may have been written after
// revision rev. It is for a decision that rests on a list as of rev; what was deleted
// since does not count. A conflict names k. etcd reads all that has the prefix, so it
// must not be much.
func StillWrite(k model.Key, prefix string, rev int64) Write {
	return Write{key: k, verb: verbStill, rev: rev, still: prefix}
}

func newBare(v verb, k model.Key, rev int64) (Write, error) {
	if len(model.Paths(k)) == 0 {
		return Write{}, fmt.Errorf("%v: unknown kind of key", k)
	}
	return Write{key: k, verb: v, rev: rev}, nil
}

func newWrite(v verb, k model.Key, r model.Resource, rev int64) (Write, error) {
	parts, err := encode(k, r)
	if err != nil {
		return Write{}, fmt.Errorf("%v: %w", k, err)
	}
	return Write{key: k, verb: v, parts: parts, rev: rev}, nil
}

// WithLease binds what is written to a lease.
func (w Write) WithLease(id clientv3.LeaseID) Write {
	w.lease = id
	return w
}

// Key is the resource that the step is about.
func (w Write) Key() model.Key { return w.key }

// Unconditional says that the step asks nothing of what is stored, so that it does no harm
// to do it again when nobody knows whether it was done.
func (w Write) Unconditional() bool {
	return w.rev == 0 && (w.verb == verbPut || w.verb == verbDelete)
}

// Commit does all writes in one transaction, or none: a [*ConflictError] names the
// resources whose condition failed. It returns the revision that the written
// resources now have.
func (c *Client) Commit(ctx context.Context, writes ...Write) (rev int64, err error) {
	for tries := 1; ; tries++ {
		all, raised, err := c.raise(ctx, writes)
		if err != nil {
			return 0, err
		}
		if rev, err = c.commit(ctx, all); !raised || !lostRace(err) || tries == raiseTries {
			return rev, err
		}
	}
}

func (c *Client) commit(ctx context.Context, writes []Write) (rev int64, err error) {
	plans, err := c.plan(ctx, writes)
	if err != nil {
		return 0, err
	}
	var cmps []clientv3.Cmp
	var ops, look []clientv3.Op
	for _, p := range plans {
		for _, cond := range p.conditions {
			cmps = append(cmps, cond.cmp())
			look = append(look, cond.look())
		}
		ops = append(ops, p.ops...)
	}
	if n := max(len(cmps), len(ops)); n > MaxTxnOps {
		return 0, fmt.Errorf("%w: %d operations, and the limit is %d", ErrTooLarge, n, MaxTxnOps)
	}
	resp, err := c.transact(ctx, plans, cmps, ops, look)
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		found := object{parts: map[string]store.KV{}}
		found.take(resp.Responses)
		return 0, conflicts(plans, found.parts)
	}
	return resp.Header.Revision, nil
}

// condition is what a transaction asks of one path: the revision that it must have (0:
// it must not exist), or anyRevision.
type condition struct {
	path string
	rev  int64
	// prefix makes it one about all paths that begin with path: none has a later revision.
	prefix bool
}

// anyRevision asks only for existence.
const anyRevision = -1

func (cond condition) cmp() clientv3.Cmp {
	if cond.prefix {
		return clientv3.Compare(clientv3.ModRevision(cond.path), "<", cond.rev+1).WithPrefix()
	}
	if cond.rev == anyRevision {
		return clientv3.Compare(clientv3.CreateRevision(cond.path), ">", 0)
	}
	return clientv3.Compare(clientv3.ModRevision(cond.path), "=", cond.rev)
}

// look reads what tells whether the condition holds.
func (cond condition) look() clientv3.Op {
	if cond.prefix {
		return clientv3.OpGet(cond.path, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
			clientv3.WithMinModRev(cond.rev+1), clientv3.WithLimit(1))
	}
	return clientv3.OpGet(cond.path, clientv3.WithKeysOnly())
}

func (cond condition) holds(found map[string]store.KV) bool {
	if cond.prefix {
		for path, kv := range found {
			if strings.HasPrefix(path, cond.path) && kv.ModRevision > cond.rev {
				return false
			}
		}
		return true
	}
	kv, exists := found[cond.path]
	if cond.rev == anyRevision {
		return exists
	}
	return kv.ModRevision == cond.rev
}

// plan is a write in terms of paths.
type plan struct {
	Write
	conditions []condition
	ops        []clientv3.Op
}

// plan works out what each write means. Of a resource with several parts the stored
// ones are read first, because any of them may carry its revision.
func (c *Client) plan(ctx context.Context, writes []Write) ([]plan, error) {
	if len(writes) == 0 {
		return nil, errors.New("empty transaction")
	}
	plans := make([]plan, len(writes))
	var spread []model.Key
	for i, w := range writes {
		if w.key == nil {
			return nil, fmt.Errorf("transaction: step %d is empty", i+1)
		}
		plans[i] = plan{Write: w, ops: w.ops()}
		if w.needsParts() {
			spread = append(spread, w.key)
		} else {
			plans[i].conditions = w.conditions()
		}
	}
	if len(spread) == 0 {
		return plans, nil
	}
	return plans, c.planSpread(ctx, plans, spread)
}

// needsParts says whether the write's condition is about a resource of several parts
// as a whole.
func (w Write) needsParts() bool {
	return w.verb != verbStill && len(model.Paths(w.key)) > 1 && (w.rev != 0 || w.verb == verbUpdate || w.verb == verbExists)
}

func (w Write) conditions() []condition {
	if w.verb == verbStill {
		return []condition{{path: w.still, rev: w.rev, prefix: true}}
	}
	var list []condition
	for _, path := range model.Paths(w.key) {
		switch {
		case w.rev != 0:
			list = append(list, condition{path: path, rev: w.rev})
		case w.verb == verbCreate, w.verb == verbCheck:
			list = append(list, condition{path: path})
		case w.verb == verbUpdate, w.verb == verbExists:
			list = append(list, condition{path: path, rev: anyRevision})
		}
	}
	return list
}

func (w Write) ops() []clientv3.Op {
	if w.verb == verbStill {
		return nil
	}
	var ops []clientv3.Op
	for _, path := range model.Paths(w.key) {
		value, ok := w.parts[path]
		switch {
		case ok && w.lease != 0:
			ops = append(ops, clientv3.OpPut(path, string(value), clientv3.WithLease(w.lease)))
		case ok:
			ops = append(ops, clientv3.OpPut(path, string(value)))
		case w.verb == verbDelete, w.verb == verbPut, w.verb == verbUpdate:
			ops = append(ops, clientv3.OpDelete(path))
		}
	}
	return ops
}

// planSpread makes the conditions of the writes that needsParts.
func (c *Client) planSpread(ctx context.Context, plans []plan, keys []model.Key) error {
	stored, err := c.fetch(ctx, keys...)
	if err != nil {
		return err
	}
	failed := &ConflictError{}
	for i := range plans {
		p := &plans[i]
		if !p.needsParts() {
			continue
		}
		o := stored[0]
		stored = stored[1:]
		switch {
		case len(o.parts) == 0:
			failed.add(p.key, ErrNotFound)
		case p.rev != 0 && o.revision() != p.rev:
			failed.add(p.key, ErrConflict)
		}
		for _, path := range model.Paths(p.key) {
			p.conditions = append(p.conditions, condition{path: path, rev: o.parts[path].ModRevision})
		}
	}
	if len(failed.Keys) > 0 {
		return failed
	}
	return nil
}

// conflicts names the writes whose conditions do not hold for what was found.
func conflicts(plans []plan, found map[string]store.KV) error {
	failed := &ConflictError{}
	for _, p := range plans {
		ok, exists := true, false
		for _, cond := range p.conditions {
			_, here := found[cond.path]
			exists = exists || here
			ok = ok && cond.holds(found)
		}
		switch {
		case ok:
		case p.verb == verbStill:
			failed.add(p.key, ErrConflict)
		case p.verb == verbCreate:
			failed.add(p.key, ErrExists)
		case p.verb == verbCheck && p.rev == 0:
			failed.add(p.key, ErrExists)
		case !exists:
			failed.add(p.key, ErrNotFound)
		default:
			failed.add(p.key, ErrConflict)
		}
	}
	return failed
}
