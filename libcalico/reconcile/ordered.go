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
//     because the old state there may still refer to it. Exceptions stand in the
//     [Options] of the tables: what waits for nothing (DeleteEarly) is deleted together
//     with what its table sets, and nothing waits for a table that RefersToNothing.
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
		errs[i] = firstHalf(table, deletes, i == last)(ctx)
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

// early is a table of which some deletes do not wait for the second half of a pass.
type early interface {
	applyEarly(ctx context.Context) error
}

// firstHalf is what the first half of a pass does to a table.
func firstHalf(table Reconciler, deletes, last bool) func(context.Context) error {
	if t, ok := table.(early); deletes && ok && !last {
		return t.applyEarly
	}
	if deletes && last {
		return table.Apply
	}
	return table.ApplySets
}

// Resync makes every table list again in the next pass.
func (o Ordered) Resync() {
	for _, table := range o {
		table.Resync()
	}
}

// Status returns the states of all tables; a [Step] has none.
func (o Ordered) Status() []Status {
	out := make([]Status, 0, len(o))
	for _, table := range o {
		if _, step := table.(Step); !step {
			out = append(out, table.Status())
		}
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

// Step is something to do between two tables in the first half of a pass of [Ordered]. Its
// error stops the pass as that of a table that fails as a whole.
type Step func(context.Context) error

// Name is empty: what a step does is no table of objects.
func (s Step) Name() string { return "" }

// ApplySets takes the step.
func (s Step) ApplySets(ctx context.Context) error { return s(ctx) }

// ApplyDeletes does nothing.
func (s Step) ApplyDeletes(context.Context) error { return nil }

// Apply takes the step.
func (s Step) Apply(ctx context.Context) error { return s(ctx) }

// Resync does nothing.
func (s Step) Resync() {}

// Status is empty.
func (s Step) Status() Status { return Status{Listed: true} }

// Outstanding is never true.
func (s Step) Outstanding() bool { return false }

// NextRetry has none.
func (s Step) NextRetry() (time.Time, bool) { return time.Time{}, false }
