package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The default back-off of an object that failed.
const (
	defaultMinBackoff = 500 * time.Millisecond
	defaultMaxBackoff = 30 * time.Second
)

// Options says how a [Table] handles its objects.
type Options[K comparable, V any] struct {
	// Name is what errors and status call the table.
	Name string
	// Compare orders keys.
	Compare func(a, b K) int
	// Equal says whether a value outside needs no change to be the desired one.
	Equal func(desired, actual V) bool
	// FailClosed, when not nil, gives the value that stands in for one that the target
	// refused, until that is tried again: a chain that drops everything in place of one
	// whose rules are not understood. ok is false where there is none.
	FailClosed func(K, V) (v V, ok bool)
	// DeleteEarly, when not nil, says of an object that is not desired any more that nothing
	// in a later table can refer to it. [Ordered] then deletes it together with what is
	// set, and it waits for nothing in any later table.
	DeleteEarly func(K) bool
	// RefersToNothing says that no object of this table refers to one of an earlier table:
	// what is not set here keeps nothing there from being deleted.
	RefersToNothing bool
	// Hold, when not nil, says of an object that it must not be set for now. That is no
	// failure: it is set by the first pass that may.
	Hold func(K) bool
	// Displaces, when not nil, says of a desired object that what is, or may be, there in its
	// place is worse than nothing: that goes also while the object may not be set, because of
	// Hold or of an earlier table ([Ordered]).
	Displaces func(K, V) bool
	// MinBackoff and MaxBackoff bound the wait before an object that failed is tried
	// again (0 means 500 ms and 30 s). A new value is tried at once.
	MinBackoff, MaxBackoff time.Duration
}

// Table brings the objects of one target to their desired state. A pass over a
// table in which little changed costs little, whatever its size, and what is as desired
// is held once. A Table belongs to one goroutine.
type Table[K comparable, V any] struct {
	opts    Options[K, V]
	target  Target[K, V]
	desired map[K]V
	listed  bool
	lists   int
	// differs tells, once listed, what is there of each object that is not as desired, or not
	// known to be. All other objects are as desired.
	differs map[K]outside[V]
	// room is the most that differs has held.
	room   int
	failed map[K]*failure
	last   PassStatus // since the latest sets
	edits  int
}

// outside is what is there of one object. It is unknown after a failure.
type outside[V any] struct {
	value          V
	there, unknown bool
}

// failure is what is known of an object that the target refused.
type failure struct {
	err     error
	tries   int
	since   time.Time
	retryAt time.Time
}

// NewTable makes a table with nothing desired. Its first pass lists the target.
func NewTable[K comparable, V any](target Target[K, V], opts Options[K, V]) *Table[K, V] {
	if opts.MinBackoff <= 0 {
		opts.MinBackoff = defaultMinBackoff
	}
	if opts.MaxBackoff <= 0 {
		opts.MaxBackoff = max(defaultMaxBackoff, opts.MinBackoff)
	}
	return &Table[K, V]{
		opts:    opts,
		target:  target,
		desired: map[K]V{},
		differs: map[K]outside[V]{},
		failed:  map[K]*failure{},
	}
}

// Name is the table's name from its [Options].
func (t *Table[K, V]) Name() string { return t.opts.Name }

// Set makes the object desired. A value other than before is tried at once, even
// when the old one failed.
func (t *Table[K, V]) Set(k K, v V) {
	if old, ok := t.desired[k]; ok && t.opts.Equal(v, old) {
		return
	}
	before := t.outside(k)
	t.edits++
	t.desired[k] = v
	t.changed(k, before)
}

// Delete makes the object not desired.
func (t *Table[K, V]) Delete(k K) {
	if _, ok := t.desired[k]; !ok {
		return
	}
	before := t.outside(k)
	t.edits++
	delete(t.desired, k)
	t.changed(k, before)
}

func (t *Table[K, V]) changed(k K, there outside[V]) {
	if f := t.failed[k]; f != nil {
		f.retryAt, f.tries = time.Time{}, 0
	}
	t.note(k, there)
}

// outside tells what is there, as far as it is listed.
func (t *Table[K, V]) outside(k K) outside[V] {
	if o, ok := t.differs[k]; ok {
		return o
	}
	v, ok := t.desired[k]
	return outside[V]{value: v, there: ok}
}

// note compares what is there with what is desired, after a change of either.
func (t *Table[K, V]) note(k K, o outside[V]) {
	if !t.listed {
		return
	}
	want, wanted := t.desired[k]
	if !o.unknown && wanted == o.there && (!wanted || t.opts.Equal(want, o.value)) {
		delete(t.differs, k)
		delete(t.failed, k)
		return
	}
	t.differs[k] = o
	t.room = max(t.room, len(t.differs))
}

// Desired returns the desired value of an object.
func (t *Table[K, V]) Desired(k K) (V, bool) {
	v, ok := t.desired[k]
	return v, ok
}

// Edits counts the changes of what is desired.
func (t *Table[K, V]) Edits() int { return t.edits }

// Resync forgets what is there, so that the next pass lists it and repairs what
// others changed.
func (t *Table[K, V]) Resync() {
	t.listed = false
	t.differs, t.room = map[K]outside[V]{}, 0
}

// Forget forgets what is there of single objects, when something is known to have changed
// them. The next pass applies them again, without a list and without waiting for the next
// try of one that failed; what is neither desired nor known to be there stays so.
func (t *Table[K, V]) Forget(keys ...K) {
	for _, k := range keys {
		if _, wanted := t.desired[k]; wanted || !t.InForce(k) {
			t.changed(k, outside[V]{unknown: true})
		}
	}
}

// Lost says of single objects that they are not there any more. What of them is desired is
// set by the next pass.
func (t *Table[K, V]) Lost(keys ...K) {
	for _, k := range keys {
		t.changed(k, outside[V]{})
	}
}

// ApplySets creates and replaces what is desired and not there. An error that is
// [ErrPartial] concerns single objects; after any other the next pass lists again.
func (t *Table[K, V]) ApplySets(ctx context.Context) error {
	return t.pass(ctx, true, none[K])
}

// applyEarly does the same, and deletes what waits for nothing ([Options].DeleteEarly).
func (t *Table[K, V]) applyEarly(ctx context.Context) error {
	if t.opts.DeleteEarly == nil {
		return t.ApplySets(ctx)
	}
	return t.pass(ctx, true, t.opts.DeleteEarly)
}

// ApplyDeletes removes what is there and not desired.
func (t *Table[K, V]) ApplyDeletes(ctx context.Context) error {
	return t.pass(ctx, false, all[K])
}

// Apply does both in one call of the target.
func (t *Table[K, V]) Apply(ctx context.Context) error {
	return t.pass(ctx, true, all[K])
}

// none and all choose what a pass deletes.
func none[K any](K) bool { return false }
func all[K any](K) bool  { return true }

func (t *Table[K, V]) pass(ctx context.Context, sets bool, deletes func(K) bool) error {
	start := time.Now()
	if sets {
		t.last = PassStatus{At: start}
	}
	if t.listed && len(t.differs) == 0 { // as in almost all tables of almost all passes
		t.giveBackRoom()
		return nil
	}
	set, deleted, err := t.reconcile(ctx, sets, deletes)
	if err != nil {
		err = fmt.Errorf("%s: %w", t.opts.Name, err)
	}
	t.last.Took += time.Since(start)
	t.last.Set += set
	t.last.Deleted += deleted
	t.last.Err = errors.Join(t.last.Err, err)
	return err
}

func (t *Table[K, V]) reconcile(ctx context.Context, sets bool, deletes func(K) bool) (set, deleted int, err error) {
	defer t.giveBackRoom()
	if err := t.list(ctx); err != nil {
		return 0, 0, err
	}
	c := t.changes(time.Now(), sets, deletes)
	if c.Empty() {
		return 0, 0, nil
	}
	set, deleted, err = t.apply(ctx, c)
	if !sets || t.opts.FailClosed == nil || !errors.Is(err, ErrPartial) {
		return set, deleted, err
	}
	standIns := t.changes(time.Now(), true, none[K])
	if standIns.Empty() {
		return set, deleted, err
	}
	_, _, err2 := t.apply(ctx, standIns)
	return set, deleted, errors.Join(err, err2)
}

// apply hands changes to the target and notes what became of them.
func (t *Table[K, V]) apply(ctx context.Context, c Changes[K, V]) (set, deleted int, err error) {
	err = t.target.Apply(ctx, c)
	if err != nil && !IsPartial(err) {
		t.Resync()
		return 0, 0, fmt.Errorf("apply: %w", err)
	}
	failed := map[K]error{}
	collect(err, failed)
	set, deleted = t.applied(c, failed)
	if len(failed) == 0 {
		return set, deleted, nil
	}
	return set, deleted, fmt.Errorf("apply: %w", err)
}

// manyObjects is the number of differences after which their room is given back.
const manyObjects = 1000

// giveBackRoom replaces the map of differences when there are none any more but were many:
// a map that was emptied keeps its room.
func (t *Table[K, V]) giveBackRoom() {
	if len(t.differs) == 0 && t.room >= manyObjects {
		t.differs, t.room = map[K]outside[V]{}, 0
	}
}

// list fills the cache of what is there, if it is not known.
func (t *Table[K, V]) list(ctx context.Context) error {
	if t.listed {
		return nil
	}
	t.lists++
	actual, err := t.target.List(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	t.Resync()
	t.listed = true
	for k, v := range actual {
		t.note(k, outside[V]{value: v, there: true})
	}
	for k := range t.desired {
		if _, there := actual[k]; !there {
			t.note(k, outside[V]{})
		}
	}
	for k := range t.failed {
		if t.InForce(k) {
			delete(t.failed, k)
		}
	}
	return nil
}

// changes collects what is due, from the objects that may differ.
func (t *Table[K, V]) changes(now time.Time, sets bool, deletes func(K) bool) Changes[K, V] {
	var c Changes[K, V]
	for k, o := range t.differs {
		want, wanted := t.desired[k]
		if wanted && (!sets || t.opts.Hold != nil && t.opts.Hold(k)) {
			if deletes(k) && (o.there || o.unknown) && t.opts.Displaces != nil && t.opts.Displaces(k, want) {
				c.Delete = append(c.Delete, k)
			}
			continue
		}
		if !wanted && !deletes(k) {
			continue
		}
		if f := t.failed[k]; f != nil && now.Before(f.retryAt) {
			if want, wanted = t.standIn(k, want, wanted); !wanted {
				continue
			}
		}
		if wanted {
			c.Set = append(c.Set, Item[K, V]{k, want})
		} else {
			c.Delete = append(c.Delete, k)
		}
	}
	c.sort(t.opts.Compare)
	return c
}

// standIn is the fail-closed value of an object that waits to be tried again, if
// there is one and it is not in place already.
func (t *Table[K, V]) standIn(k K, want V, wanted bool) (V, bool) {
	if !wanted || t.opts.FailClosed == nil || t.closed(k) {
		return want, false
	}
	return t.opts.FailClosed(k, want)
}

// applied notes the outcome of a call of the target.
func (t *Table[K, V]) applied(c Changes[K, V], failed map[K]error) (set, deleted int) {
	for _, item := range c.Set {
		if failed[item.Key] == nil {
			t.note(item.Key, outside[V]{value: item.Value, there: true})
			set++
		}
	}
	for _, k := range c.Delete {
		if failed[k] == nil {
			t.note(k, outside[V]{})
			deleted++
		}
	}
	for k, err := range failed {
		t.quarantine(k, err)
	}
	return set, deleted
}

// quarantine forgets the actual state of an object that failed and puts its next
// try off, twice as long each time.
func (t *Table[K, V]) quarantine(k K, err error) {
	now := time.Now()
	f := t.failed[k]
	if f == nil {
		f = &failure{since: now}
		t.failed[k] = f
	}
	wait := t.opts.MaxBackoff
	if f.tries < 16 {
		wait = min(wait, t.opts.MinBackoff<<f.tries)
	}
	f.err, f.retryAt = err, now.Add(wait)
	f.tries++
	t.note(k, outside[V]{unknown: true})
}

// InForce says that an object is known to be as desired, be that present or absent.
func (t *Table[K, V]) InForce(k K) bool {
	_, differs := t.differs[k]
	return t.listed && !differs
}

// Outstanding says that some object's actual state is not known, or that something
// desired is not set, so that there may still be references to what an earlier table
// is about to delete. An object whose stand-in is in place ([Options].FailClosed) does
// not count, and nothing does where there are no references.
func (t *Table[K, V]) Outstanding() bool {
	if t.opts.RefersToNothing {
		return false
	}
	if !t.listed {
		return true
	}
	for k, o := range t.differs {
		if _, wanted := t.desired[k]; o.unknown || wanted && !t.closed(k) {
			return true
		}
	}
	return false
}

// closed says that the stand-in of a failed object is in place.
func (t *Table[K, V]) closed(k K) bool {
	want, wanted := t.desired[k]
	if t.failed[k] == nil || !wanted || !t.listed || t.opts.FailClosed == nil {
		return false
	}
	v, ok := t.opts.FailClosed(k, want)
	if !ok {
		return false
	}
	o := t.outside(k)
	return !o.unknown && o.there && t.opts.Equal(v, o.value)
}

// NextRetry is when the first of the failed objects is due again; ok is false when
// none waits.
func (t *Table[K, V]) NextRetry() (at time.Time, ok bool) {
	for _, f := range t.failed {
		if !ok || f.retryAt.Before(at) {
			at, ok = f.retryAt, true
		}
	}
	return at, ok
}
