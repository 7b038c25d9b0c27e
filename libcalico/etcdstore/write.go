package etcdstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
	"calico.internal/libcalico/store"
)

// Create stores a resource that must not exist ([ErrExists]) and returns its revision.
func (c *Client) Create(ctx context.Context, k model.Key, r model.Resource) (rev int64, err error) {
	w, err := CreateWrite(k, r)
	if err == nil {
		rev, err = c.Commit(ctx, w)
	}
	return rev, single("create", k, err)
}

// Update replaces a resource that must exist ([ErrNotFound]) and, unless ifRevision
// is 0, must still have that revision ([ErrConflict]). Nothing is written when the
// stored resource is the same already.
func (c *Client) Update(ctx context.Context, k model.Key, r model.Resource, ifRevision int64) (rev int64, err error) {
	parts, err := encode(k, r)
	if err == nil {
		rev, err = c.replace(ctx, k, parts, ifRevision)
	}
	return rev, single("update", k, err)
}

// Delete removes a resource that must exist ([ErrNotFound]) and, unless ifRevision is
// 0, must still have that revision ([ErrConflict]).
func (c *Client) Delete(ctx context.Context, k model.Key, ifRevision int64) (rev int64, err error) {
	rev, err = c.replace(ctx, k, nil, ifRevision)
	return rev, single("delete", k, err)
}

// Apply creates or replaces a resource. Nothing is written when the stored resource
// is the same already; changed is false then, and rev the one that it has.
func (c *Client) Apply(ctx context.Context, k model.Key, r model.Resource) (changed bool, rev int64, err error) {
	parts, err := encode(k, r)
	if err != nil {
		return false, 0, single("apply", k, err)
	}
	var same []clientv3.Cmp
	var revisions, ops []clientv3.Op
	for _, path := range model.Paths(k) {
		revisions = append(revisions, clientv3.OpGet(path, clientv3.WithKeysOnly()))
		if value, ok := parts[path]; ok {
			same = append(same, clientv3.Compare(clientv3.Value(path), "=", string(value)))
			ops = append(ops, clientv3.OpPut(path, string(value)))
		} else {
			same = append(same, clientv3.Compare(clientv3.CreateRevision(path), "=", 0))
			ops = append(ops, clientv3.OpDelete(path))
		}
	}
	// It is a transaction within one, because its conditions do not forbid to write.
	resp, err := c.txn(ctx, nil, []clientv3.Op{clientv3.OpTxn(same, revisions, ops)}, nil)
	if err != nil {
		return false, 0, single("apply", k, err)
	}
	inner := resp.Responses[0].GetResponseTxn()
	if !inner.GetSucceeded() {
		return true, resp.Header.Revision, nil
	}
	o := object{parts: map[string]store.KV{}}
	o.take(inner.GetResponses())
	return false, o.revision(), nil
}

// replace makes parts the stored ones of a resource; none means to delete it.
func (c *Client) replace(ctx context.Context, k model.Key, parts map[string][]byte, ifRevision int64) (int64, error) {
	for {
		objects, err := c.fetch(ctx, k)
		if err != nil {
			return 0, err
		}
		old := objects[0]
		if len(old.parts) == 0 {
			return 0, ErrNotFound
		}
		if ifRevision != 0 && old.revision() != ifRevision {
			return 0, ErrConflict
		}
		ops := old.change(parts)
		if len(ops) == 0 {
			return old.revision(), nil
		}
		resp, err := c.txn(ctx, old.unchanged(), ops, nil)
		if err != nil {
			return 0, err
		}
		if resp.Succeeded {
			return resp.Header.Revision, nil
		}
		// Somebody was faster. With a revision to keep to, the next round says so.
	}
}

// change lists the operations that turn the stored parts into others.
func (o *object) change(parts map[string][]byte) []clientv3.Op {
	var ops []clientv3.Op
	put := false
	paths := model.Paths(o.key)
	for _, path := range paths {
		old, had := o.parts[path]
		value, has := parts[path]
		switch {
		case has && (!had || !bytes.Equal(old.Value, value)):
			ops = append(ops, clientv3.OpPut(path, string(value)))
			put = true
		case had && !has:
			ops = append(ops, clientv3.OpDelete(path))
		}
	}
	// A deleted part leaves no trace in the resource's revision; its first part is
	// written again to raise it.
	if value, ok := parts[paths[0]]; ok && len(ops) > 0 && !put {
		ops = append(ops, clientv3.OpPut(paths[0], string(value)))
	}
	return ops
}

// unchanged is the condition that all parts are as they were read.
func (o *object) unchanged() []clientv3.Cmp {
	var cmps []clientv3.Cmp
	for _, path := range model.Paths(o.key) {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(path), "=", o.parts[path].ModRevision))
	}
	return cmps
}

// encode checks a resource and writes its parts.
func encode(k model.Key, r model.Resource) (map[string][]byte, error) {
	if err := model.Validate(k, r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return model.Encode(k, r)
}

// single wraps the error of an operation on one resource; a conflict loses the key
// that the operation names anyway.
func single(op string, k model.Key, err error) error {
	if err == nil {
		return nil
	}
	if conflict, ok := errors.AsType[*ConflictError](err); ok && len(conflict.Errs) == 1 {
		err = conflict.Errs[0]
	}
	return fmt.Errorf("%s %v: %w", op, k, err)
}
