package ipam

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// maxSteps bounds the steps of a batch's transaction; the rest of etcd's limit is for the
// callers' own writes.
const maxSteps = 96

// alsoSteps is what the caller's own writes count for: a resource of several parts has a
// step for each.
func (c *call) alsoSteps() int {
	n := 0
	for _, w := range c.also {
		n += len(model.Paths(w.Key()))
	}
	return n
}

// commit writes what the calls did, in one transaction.
func (q *queue) commit(ctx context.Context, w *work, calls []*call) (conflict bool, err error) {
	writes, err := q.transaction(w)
	for _, c := range calls {
		writes = append(writes, c.also...)
	}
	if err != nil {
		q.failed(w, calls, err)
		return false, nil
	}
	var rev int64
	start := time.Now()
	if len(writes) > 0 {
		q.tellBorrowed(w, calls)
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		rev, err = q.backend.commit(ctx, writes)
	}
	var lost *etcdstore.ConflictError
	switch {
	case err == nil:
		q.committed(w, rev)
		q.waiting.expect(len(calls), time.Since(start))
		for _, c := range calls {
			c.tried.rev = rev
			q.answer(c, c.tried, nil)
		}
	case errors.As(err, &lost):
		return q.lost(ctx, w, calls, lost)
	case etcdstore.IsRefusal(err):
		q.failed(w, calls, err)
	default:
		q.forget(w)
		for _, c := range calls {
			q.doubt(c, err) //nolint:contextcheck // what is owed outlives the batch
		}
	}
	return false, nil
}

// tellBorrowed tells of which others' blocks addresses are about to be given out.
func (q *queue) tellBorrowed(w *work, calls []*call) {
	if q.borrowing == nil {
		return
	}
	for _, value := range w.writes {
		b, isBlock := value.(*model.Block)
		gives := func(c *call) bool { return slices.ContainsFunc(c.tried.addrs, b.CIDR.Contains) }
		if isBlock && !w.owns(b) && slices.ContainsFunc(calls, gives) {
			q.borrowing(b.CIDR)
		}
	}
}

// failed answers the calls of a transaction that cannot be done; if they are several, one of
// them may be to blame, and each is tried alone.
func (q *queue) failed(w *work, calls []*call, err error) {
	q.forget(w)
	if len(calls) > 1 {
		separate(calls)
		return
	}
	q.answerAll(calls, err)
}

func separate(calls []*call) {
	for _, c := range calls {
		c.solo = true
	}
}

// transaction turns changes into writes, each on the condition that what it replaces
// is what is known, and what they rest on into checks.
func (q *queue) transaction(w *work) ([]etcdstore.Write, error) {
	var out []etcdstore.Write
	var errs []error
	add := func(step etcdstore.Write, err error) {
		out = append(out, step)
		errs = append(errs, err)
	}
	keys := slices.SortedFunc(maps.Keys(w.writes), model.Compare)
	for _, k := range keys {
		value, rev := w.writes[k], q.known[k].rev
		_, affinity := k.(model.BlockAffinityKey)
		switch {
		case affinity && value != nil:
			add(etcdstore.PutWrite(k, value)) // the block decides, not an affinity left over
		case affinity:
			add(etcdstore.DeleteWrite(k, 0))
		case value == nil && rev == 0:
		case value == nil:
			add(etcdstore.DeleteWrite(k, rev))
		case rev == 0:
			add(etcdstore.CreateWrite(k, value))
		default:
			add(etcdstore.UpdateWrite(k, value, rev))
		}
	}
	for k, rev := range w.checks { // even if nothing is written: the answer rests on it
		add(etcdstore.CheckWrite(k, rev))
	}
	return out, errors.Join(errs...)
}

// lost reads again what another writer has changed. A conflict that is not about
// addresses is that of a caller's own write.
func (q *queue) lost(ctx context.Context, w *work, calls []*call, lost *etcdstore.ConflictError) (conflict bool, err error) {
	var keys []model.Key
	callers, environment := false, false
	for _, k := range lost.Keys {
		_, written := w.writes[k]
		_, checked := w.checks[k]
		block, isBlock := k.(model.BlockKey)
		switch {
		case written || checked && isBlock:
			keys = append(keys, k)
			if isBlock {
				q.dropVacant(block.CIDR)
			}
		case checked:
			environment = true
		default:
			callers = true
		}
	}
	if callers && len(calls) == 1 && len(keys) == 0 && !environment {
		q.answer(calls[0], result{}, lost)
		return false, nil
	}
	if callers {
		separate(calls)
	}
	for _, c := range calls {
		c.search.again()
	}
	q.lose(calls, lost.Keys)
	if environment {
		if err := q.readEnvironment(ctx); err != nil {
			return true, err
		}
	}
	return true, q.read(ctx, keys)
}
