package ipam

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"calico.internal/libcalico/etcdstore"
)

// Force says whether to do what cannot be proven to be right.
type Force bool

// What the caller of [Client.Mend] and [Client.ReleaseUnused] decides.
const (
	OnlyProven Force = false
	Forced     Force = true
)

// Mend applies the remedy of a problem, in one transaction, on the condition that what
// the remedy is about is still as it was found. It returns false when it is not, or
// when there is no remedy, or none that is proven and force does not ask for it: another
// check tells what is the matter then. A problem that somebody may be causing at this
// moment is none: mend only what two looks, some time apart, have found ([Both]). While
// the store is locked by others nothing is mended ([etcdstore.ErrLocked]).
func (c *Client) Mend(ctx context.Context, p Problem, force Force) (done bool, err error) {
	kind, ok := problemKinds[p.Kind]
	if !ok || !p.proven && force != Forced {
		return false, nil
	}
	done, err = kind.mend(ctx, c, p)
	switch {
	case errors.Is(err, etcdstore.ErrLocked):
		return false, err
	case c.lostLock(err):
		return false, fmt.Errorf("mend %s: %w", p.Kind, err)
	case errors.Is(err, etcdstore.ErrConflict):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("mend %s: %w", p.Kind, err)
	}
	return done, nil
}

// As is a client that acts for another node.
func (c *Client) As(node string) *Client {
	other := newClient(c.backend, node)
	other.now, other.under = c.now, c.under
	return other
}

// whileOpen runs an operation of an operator's, which the lock stops also when it comes in
// between. What else takes addresses back goes on under the lock: that a container is gone
// is a fact.
func (c *Client) whileOpen(ctx context.Context, o op, also ...etcdstore.Write) (r result, err error) {
	_, err = c.whileAllowed(ctx, func(open []etcdstore.Write) (int64, error) {
		r, err = c.queue.do(ctx, &call{op: o, also: append(slices.Clone(also), open...)})
		return r.rev, err
	})
	return r, err
}

// whileAllowed calls commit with the condition that the store is open, or those that the
// caller's lock is still theirs.
func (c *Client) whileAllowed(ctx context.Context, commit func(allowed []etcdstore.Write) (int64, error)) (int64, error) {
	if len(c.under) > 0 {
		return commit(c.under)
	}
	return c.backend.WhileUnlocked(ctx, func(open etcdstore.Write) (int64, error) {
		return commit([]etcdstore.Write{open})
	})
}

// lostLock tells an error that says that the lock is not the caller's any more.
func (c *Client) lostLock(err error) bool {
	conflict, ok := errors.AsType[*etcdstore.ConflictError](err)
	return ok && slices.ContainsFunc(c.under, func(w etcdstore.Write) bool { return slices.Contains(conflict.Keys, w.Key()) })
}

// mendBy returns whether the operation found things as it needs them.
func (c *Client) mendBy(ctx context.Context, o op, also ...etcdstore.Write) (done bool, err error) {
	r, err := c.whileOpen(ctx, o, also...)
	return r.done, err
}
