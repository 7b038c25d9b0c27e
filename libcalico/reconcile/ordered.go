package reconcile

import (
	"context"
	"errors"
	"time"
)

// Reconciler is a [Table] of whatever types.
type Reconciler interface {
	Name() string
	ApplySets(ctx context.Context) error
	ApplyDeletes(ctx context.Context) error
	Apply(ctx context.Context) error
	Resync()
	Status() Status
	Outstanding() bool
	NextRetry() (at time.Time, ok bool)
}

// Ordered is a list of tables in which objects refer only to objects of earlier
// tables: IP sets, then the chains that name them, then the routes that make them
// matter.
type Ordered []Reconciler

// Apply makes one pass: it sets from the first table to the last, then deletes from
// the last to the first. The last table's two steps are one call of its target.
//
//   - A table that fails as a whole keeps later tables from being set: no route
//     before its rules.
//   - Objects that fail one by one ([IsPartial]) hold up nothing that is set.
//   - What a table wants deleted waits while anything in a later table is not set,
//     because the old state there may still refer to it.
//
// The errors of all tables are joined.
func (o Ordered) Apply(ctx context.Context) error {
	return o.pass(ctx, true)
}

// ApplySets makes only the first half of a pass, for the time before it is known
// what may be deleted.
func (o Ordered) ApplySets(ctx context.Context) error {
	return o.pass(ctx, false)
}

func (o Ordered) pass(ctx context.Context, deletes bool) error {
	errs := make([]error, len(o))
	last := len(o) - 1
	stopped := -1 // the table that failed as a whole
	for i, table := range o {
		if deletes && i == last {
			errs[i] = table.Apply(ctx)
		} else {
			errs[i] = table.ApplySets(ctx)
		}
		if errs[i] != nil && !IsPartial(errs[i]) {
			stopped = i
			break
		}
	}
	for i := last; deletes && i >= 0 && ctx.Err() == nil; i-- {
		if i != stopped && (i != last || stopped >= 0) {
			errs[i] = errors.Join(errs[i], o[i].ApplyDeletes(ctx))
		}
		if o[i].Outstanding() {
			break
		}
	}
	return errors.Join(errs...)
}

// Resync makes every table list again in the next pass.
func (o Ordered) Resync() {
	for _, table := range o {
		table.Resync()
	}
}

// Status returns the states of all tables.
func (o Ordered) Status() []Status {
	out := make([]Status, len(o))
	for i, table := range o {
		out[i] = table.Status()
	}
	return out
}

// NextRetry is when the first failed object of any table is due again.
func (o Ordered) NextRetry() (at time.Time, ok bool) {
	for _, table := range o {
		if t, has := table.NextRetry(); has && (!ok || t.Before(at)) {
			at, ok = t, true
		}
	}
	return at, ok
}
