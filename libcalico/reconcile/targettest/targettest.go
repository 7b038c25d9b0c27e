// Package targettest is the contract that every [reconcile.Target] keeps, as a test
// that each implementation, fake or real, runs.
package targettest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"calico.internal/libcalico/reconcile"
)

// Subject is a target under test, in a world of its own that has no objects of ours,
// with what the test needs to know about it.
type Subject[K comparable, V any] struct {
	Target reconcile.Target[K, V]
	// Compare orders keys; Equal tells whether a listed value is the one that was set.
	Compare func(a, b K) int
	Equal   func(a, b V) bool
	// Items are at least three objects that the target accepts, with different keys.
	Items []reconcile.Item[K, V]
	// Changed is another value for the key of Items[0].
	Changed V
	// Remove removes an object behind the target's back.
	Remove func(t *testing.T, k K)
	// Alter, when not nil, changes an object behind the target's back.
	Alter func(t *testing.T, k K)
	// AddForeign adds objects that are not ours and returns a function that fails the
	// test when they are not as they were.
	AddForeign func(t *testing.T) (check func(t *testing.T))
	// Bad, when not nil, is an object that the target cannot set, with a key unlike
	// those of Items. Nil says that every value of the type can be set.
	Bad *reconcile.Item[K, V]
}

// Run tests that a target keeps the contract. newSubject is called for each part.
func Run[K comparable, V any](t *testing.T, newSubject func(t *testing.T) Subject[K, V]) {
	t.Helper()
	for _, part := range []struct {
		name string
		test func(*testing.T, Subject[K, V])
	}{
		{"create", testCreate[K, V]},
		{"update", testUpdate[K, V]},
		{"delete", testDelete[K, V]},
		{"set and delete in one call", testMixed[K, V]},
		{"idempotence", testIdempotence[K, V]},
		{"drift", testDrift[K, V]},
		{"foreign objects untouched", testForeign[K, V]},
		{"partial failure", testPartialFailure[K, V]},
		{"by table", testTable[K, V]},
		{"ended context", testContext[K, V]},
	} {
		t.Run(part.name, func(t *testing.T) {
			s := newSubject(t)
			if len(s.Items) < 3 || s.Target == nil || s.Remove == nil || s.AddForeign == nil {
				t.Fatal("the subject is incomplete")
			}
			part.test(t, s)
		})
	}
}

func testCreate[K comparable, V any](t *testing.T, s Subject[K, V]) {
	s.expect(t, "before")
	s.apply(t, s.Items)
	s.expect(t, "after", s.Items...)
	s.apply(t, nil)
	s.expect(t, "after no changes", s.Items...)
}

func testUpdate[K comparable, V any](t *testing.T, s Subject[K, V]) {
	s.apply(t, s.Items)
	items := s.changed()
	s.apply(t, items[:1])
	s.expect(t, "after the update", items...)
	s.apply(t, s.Items[:1])
	s.expect(t, "after the update back", s.Items...)
}

func testDelete[K comparable, V any](t *testing.T, s Subject[K, V]) {
	s.apply(t, s.Items)
	s.apply(t, nil, s.Items[1].Key)
	s.expect(t, "after one is deleted", append([]reconcile.Item[K, V]{s.Items[0]}, s.Items[2:]...)...)
	s.apply(t, nil, keys(s.Items)...)
	s.expect(t, "after all are deleted, one for the second time")
}

func testMixed[K comparable, V any](t *testing.T, s Subject[K, V]) {
	s.apply(t, s.Items[:2])
	s.apply(t, []reconcile.Item[K, V]{{Key: s.Items[0].Key, Value: s.Changed}, s.Items[2]}, s.Items[1].Key)
	s.expect(t, "after", reconcile.Item[K, V]{Key: s.Items[0].Key, Value: s.Changed}, s.Items[2])
}

func testIdempotence[K comparable, V any](t *testing.T, s Subject[K, V]) {
	for range 2 {
		s.apply(t, s.Items)
		s.expect(t, "after a set", s.Items...)
	}
	for range 2 {
		s.apply(t, nil, keys(s.Items)...)
		s.expect(t, "after a delete")
	}
}

func testDrift[K comparable, V any](t *testing.T, s Subject[K, V]) {
	s.apply(t, s.Items)
	s.Remove(t, s.Items[1].Key)
	s.expect(t, "after one was removed", append([]reconcile.Item[K, V]{s.Items[0]}, s.Items[2:]...)...)
	s.apply(t, s.Items[1:2])
	s.expect(t, "after the repair", s.Items...)
	s.Remove(t, s.Items[0].Key)
	s.apply(t, nil, s.Items[0].Key)
	s.expect(t, "after a delete of what was removed", s.Items[1:]...)
	if s.Alter == nil {
		return
	}
	s.Alter(t, s.Items[1].Key)
	if have, ok := s.list(t)[s.Items[1].Key]; ok && s.Equal(s.Items[1].Value, have) {
		t.Errorf("List does not show that %v was altered", s.Items[1].Key)
	}
	s.apply(t, s.Items[1:2])
	s.expect(t, "after the second repair", s.Items[1:]...)
}

func testForeign[K comparable, V any](t *testing.T, s Subject[K, V]) {
	check := s.AddForeign(t)
	s.expect(t, "with only foreign objects there")
	check(t)
	s.apply(t, s.Items)
	s.expect(t, "after a set", s.Items...)
	check(t)
	s.apply(t, s.changed()[:1])
	check(t)
	s.apply(t, nil, keys(s.Items)...)
	s.expect(t, "after a delete")
	check(t)
}

func testPartialFailure[K comparable, V any](t *testing.T, s Subject[K, V]) {
	if s.Bad == nil {
		return
	}
	s.apply(t, s.Items[:1])
	c := reconcile.Changes[K, V]{Set: append([]reconcile.Item[K, V]{*s.Bad}, s.Items[1:]...)}
	s.sort(&c)
	err := s.Target.Apply(t.Context(), c)
	failed, ok := err.(*reconcile.KeyErrors[K]) //nolint:errorlint // the contract is about this very type
	if !ok {
		t.Fatalf("got error %v of type %T, want *KeyErrors", err, err)
	}
	if len(failed.Errs) != 1 || failed.Errs[s.Bad.Key] == nil {
		t.Errorf("errors are %v, want one for %v", failed, s.Bad.Key)
	}
	s.expect(t, "after the failure", s.Items...)
}

// testTable drives the target as the programs do, from one state to another.
func testTable[K comparable, V any](t *testing.T, s Subject[K, V]) {
	check := s.AddForeign(t)
	s.apply(t, s.Items[:1]) // left by an earlier run
	table := reconcile.NewTable(s.Target, reconcile.Options[K, V]{Name: "test", Compare: s.Compare, Equal: s.Equal})
	table.Set(s.Items[1].Key, s.Items[1].Value)
	table.Set(s.Items[2].Key, s.Items[2].Value)
	s.converge(t, table)
	s.expect(t, "after the first pass", s.Items[1:]...)
	table.Set(s.Items[0].Key, s.Changed)
	table.Delete(s.Items[1].Key)
	s.converge(t, table)
	want := append([]reconcile.Item[K, V]{{Key: s.Items[0].Key, Value: s.Changed}}, s.Items[2:]...)
	s.expect(t, "after the second pass", want...)
	s.Remove(t, s.Items[2].Key)
	table.Resync()
	s.converge(t, table)
	s.expect(t, "after the resync", want...)
	check(t)
}

func testContext[K comparable, V any](t *testing.T, s Subject[K, V]) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := reconcile.Changes[K, V]{Set: s.Items}
	s.sort(&c)
	// A target may be too quick to notice; what it must not do is claim success for
	// something that it did not do.
	if err := s.Target.Apply(ctx, c); err == nil {
		s.expect(t, "after a success", s.Items...)
	}
}

func (s Subject[K, V]) converge(t *testing.T, table *reconcile.Table[K, V]) {
	t.Helper()
	if err := table.ApplySets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := table.ApplyDeletes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := table.Status(); st.Pending != 0 || st.Actual != st.Desired {
		t.Errorf("status after the pass is %v", st)
	}
}

func (s Subject[K, V]) apply(t *testing.T, set []reconcile.Item[K, V], del ...K) {
	t.Helper()
	c := reconcile.Changes[K, V]{Set: slices.Clone(set), Delete: del}
	s.sort(&c)
	if err := s.Target.Apply(t.Context(), c); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func (s Subject[K, V]) sort(c *reconcile.Changes[K, V]) {
	slices.SortFunc(c.Set, func(a, b reconcile.Item[K, V]) int { return s.Compare(a.Key, b.Key) })
	slices.SortFunc(c.Delete, s.Compare)
}

func (s Subject[K, V]) list(t *testing.T) map[K]V {
	t.Helper()
	have, err := s.Target.List(t.Context())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return have
}

// expect compares what the target lists with what should be there.
func (s Subject[K, V]) expect(t *testing.T, when string, want ...reconcile.Item[K, V]) {
	t.Helper()
	have := s.list(t)
	for _, item := range want {
		v, ok := have[item.Key]
		switch {
		case !ok:
			t.Errorf("%s: %v is missing", when, item.Key)
		case !s.Equal(item.Value, v):
			t.Errorf("%s: %v is %s, want %s", when, item.Key, show(v), show(item.Value))
		}
		delete(have, item.Key)
	}
	for k, v := range have {
		t.Errorf("%s: there is also %v = %s", when, k, show(v))
	}
}

func show(v any) string { return fmt.Sprintf("%+v", v) }

func (s Subject[K, V]) changed() []reconcile.Item[K, V] {
	items := slices.Clone(s.Items)
	items[0].Value = s.Changed
	return items
}

func keys[K comparable, V any](items []reconcile.Item[K, V]) []K {
	out := make([]K, len(items))
	for i, item := range items {
		out[i] = item.Key
	}
	return out
}
