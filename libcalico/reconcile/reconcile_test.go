package reconcile_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

type (
	item    = reconcile.Item[string, int]
	changes = reconcile.Changes[string, int]
	memory  = targettest.Memory[string, int]
	table   = reconcile.Table[string, int]
)

var errBroken = errors.New("broken")

func equal(a, b int) bool { return a == b }

func newTable(name string) (*table, *memory) {
	m := targettest.NewMemory[string, int]()
	return newTableOn(name, m, nil), m
}

func newTableOn(name string, target reconcile.Target[string, int], failClosed func(string, int) (int, bool)) *table {
	return reconcile.NewTable(target, reconcile.Options[string, int]{
		Name: name, Compare: cmp.Compare[string], Equal: equal, FailClosed: failClosed,
		MinBackoff: time.Second, MaxBackoff: 8 * time.Second,
	})
}

func apply(t *testing.T, r interface{ Apply(context.Context) error }) {
	t.Helper()
	if err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func expectCalls(t *testing.T, m *memory, want ...changes) {
	t.Helper()
	if diff := gocmp.Diff(want, m.Calls()); diff != "" {
		t.Errorf("calls of the target (-want +got):\n%s", diff)
	}
}

func refuseNegative(_ string, v int) error {
	if v < 0 {
		return errBroken
	}
	return nil
}

func TestDiffIsSortedAndMinimal(t *testing.T) {
	t.Parallel()
	desired := map[string]int{"d": 4, "a": 1, "b": 2, "c": 3}
	actual := map[string]int{"b": 2, "c": 33, "z": 0, "x": 0}
	want := changes{Set: []item{{Key: "a", Value: 1}, {Key: "c", Value: 3}, {Key: "d", Value: 4}}, Delete: []string{"x", "z"}}
	if diff := gocmp.Diff(want, reconcile.Diff(desired, actual, cmp.Compare[string], equal)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c := reconcile.Diff(desired, desired, cmp.Compare[string], equal); !c.Empty() {
		t.Errorf("equal maps differ by %v", c)
	}
}

func TestTableListsOnceAndAppliesDifferences(t *testing.T) {
	t.Parallel()
	tab, m := newTable("t")
	m.Put("old", 1)
	m.Put("same", 2)
	tab.Set("same", 2)
	tab.Set("new", 3)
	apply(t, tab)
	expectCalls(t, m, changes{Set: []item{{Key: "new", Value: 3}}, Delete: []string{"old"}})
	apply(t, tab)
	tab.Set("new", 3)
	tab.Delete("unheard-of")
	tab.Set("brief", 1)
	tab.Delete("brief")
	apply(t, tab)
	expectCalls(t, m)
	if m.Lists() != 1 {
		t.Errorf("listed %d times", m.Lists())
	}
	s := tab.Status()
	if s.Desired != 2 || s.Actual != 2 || s.Pending != 0 || !s.Listed || s.Pass.Err != nil {
		t.Errorf("status is %+v", s)
	}
}

func TestPhasesOfATable(t *testing.T) {
	t.Parallel()
	tab, m := newTable("t")
	m.Put("old", 1)
	tab.Set("new", 3)
	if err := tab.ApplySets(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectCalls(t, m, changes{Set: []item{{Key: "new", Value: 3}}})
	if tab.Status().Pending != 1 {
		t.Errorf("status is %v", tab.Status())
	}
	if err := tab.ApplyDeletes(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectCalls(t, m, changes{Delete: []string{"old"}})
	if p := tab.Status().Pass; p.Set != 1 || p.Deleted != 1 {
		t.Errorf("the pass is shown as %+v", p)
	}
}

func TestResyncRepairsDrift(t *testing.T) {
	t.Parallel()
	tab, m := newTable("t")
	tab.Set("a", 1)
	tab.Set("b", 2)
	apply(t, tab)
	m.Calls()
	m.Remove("a")
	m.Put("b", 99)
	m.Put("c", 3)
	apply(t, tab)
	expectCalls(t, m) // nobody knows yet
	tab.Resync()
	apply(t, tab)
	expectCalls(t, m, changes{Set: []item{{Key: "a", Value: 1}, {Key: "b", Value: 2}}, Delete: []string{"c"}})
}

func TestWholeFailureListsAgain(t *testing.T) {
	t.Parallel()
	tab, m := newTable("t")
	tab.Set("a", 1)
	m.Fail(errBroken, nil)
	err := tab.Apply(t.Context())
	if !errors.Is(err, errBroken) || reconcile.IsPartial(err) || !strings.HasPrefix(err.Error(), "t: list: ") {
		t.Errorf("got %v", err)
	}
	expectCalls(t, m) // nothing is done when the list fails
	m.Fail(nil, errBroken)
	if err := tab.Apply(t.Context()); !errors.Is(err, errBroken) || tab.Status().Listed {
		t.Errorf("got %v, status %v", err, tab.Status())
	}
	m.Calls()
	m.Fail(nil, nil)
	m.Put("a", 1) // the failed call had worked after all
	lists := m.Lists()
	apply(t, tab)
	expectCalls(t, m)
	if m.Lists() != lists+1 {
		t.Error("not listed again")
	}
}

func TestFailedObjectIsQuarantinedAndOthersGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tab, m := newTable("t")
		m.Refuse(refuseNegative, nil)
		tab.Set("bad", -1)
		tab.Set("good", 1)
		err := tab.Apply(t.Context())
		if !reconcile.IsPartial(err) || !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "bad: broken") {
			t.Fatalf("got %v", err)
		}
		if !tab.InForce("good") || tab.InForce("bad") || m.Objects()["good"] != 1 {
			t.Error("the good object is not in force, or the bad one is")
		}
		s := tab.Status()
		if len(s.Failed) != 1 || s.Failed[0].Key != "bad" || s.Failed[0].Tries != 1 || s.Pending != 1 {
			t.Errorf("status is %+v", s)
		}
		if e := tab.Explain("bad"); e.Err == nil || e.Known || e.InForce || *e.Desired != -1 || e.Actual != nil {
			t.Errorf("explained as %+v", e)
		}
		m.Calls()

		apply(t, tab) // still waiting: no error, no call
		expectCalls(t, m)
		tab.Set("other", 2)
		apply(t, tab)
		expectCalls(t, m, changes{Set: []item{{Key: "other", Value: 2}}})

		for _, wait := range []time.Duration{1, 2, 4, 8, 8} {
			at, ok := tab.NextRetry()
			if got := time.Until(at); !ok || got != wait*time.Second {
				t.Fatalf("waits %v, want %v s", got, int(wait))
			}
			<-time.After(time.Until(at))
			if err := tab.Apply(t.Context()); !reconcile.IsPartial(err) {
				t.Fatalf("got %v", err)
			}
			expectCalls(t, m, changes{Set: []item{{Key: "bad", Value: -1}}})
		}
		if m.Lists() != 1 {
			t.Errorf("listed %d times", m.Lists())
		}

		tab.Set("bad", 5) // a new value is tried at once
		apply(t, tab)
		expectCalls(t, m, changes{Set: []item{{Key: "bad", Value: 5}}})
		if _, ok := tab.NextRetry(); ok || len(tab.Status().Failed) > 0 || !tab.InForce("bad") {
			t.Errorf("status is %+v", tab.Status())
		}
	})
}

func TestFailedObjectIsAppliedAgainWhateverItWas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tab, m := newTable("t")
		tab.Set("a", 1)
		apply(t, tab)
		m.Refuse(refuseNegative, func(string) error { return errBroken })
		tab.Set("a", -1)
		if err := tab.Apply(t.Context()); err == nil {
			t.Fatal("no error")
		}
		m.Calls()
		tab.Set("a", 1) // as before the failure, but who knows what is there
		apply(t, tab)
		expectCalls(t, m, changes{Set: []item{{Key: "a", Value: 1}}})
		tab.Delete("a")
		if err := tab.Apply(t.Context()); !reconcile.IsPartial(err) {
			t.Fatalf("got %v", err)
		}
		m.Refuse(nil, nil)
		<-time.After(time.Second)
		apply(t, tab)
		if len(m.Objects()) > 0 || len(tab.Status().Failed) > 0 {
			t.Errorf("left are %v, status %+v", m.Objects(), tab.Status())
		}
	})
}

func TestFailClosedStandsInForARefusedObject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := targettest.NewMemory[string, int]()
		m.Refuse(refuseNegative, nil)
		tab := newTableOn("t", m, func(string, int) (int, bool) { return 0, true })
		tab.Set("a", 1)
		apply(t, tab)
		tab.Set("a", -1)
		if err := tab.Apply(t.Context()); !reconcile.IsPartial(err) {
			t.Fatalf("got %v", err)
		}
		if m.Objects()["a"] != 0 {
			t.Errorf("objects are %v", m.Objects())
		}
		if s := tab.Status(); tab.InForce("a") || tab.Outstanding() || !s.Failed[0].Closed || s.Pending != 1 {
			t.Errorf("status is %+v", s)
		}
		m.Calls()
		apply(t, tab)
		expectCalls(t, m)
		tab.Resync()
		m.Put("a", 7)
		apply(t, tab) // drift of the stand-in
		expectCalls(t, m, changes{Set: []item{{Key: "a", Value: 0}}})
		<-time.After(time.Second)
		if err := tab.Apply(t.Context()); !reconcile.IsPartial(err) || m.Objects()["a"] != 0 {
			t.Errorf("got %v, objects %v", err, m.Objects())
		}
		m.Refuse(nil, nil)
		<-time.After(2 * time.Second)
		apply(t, tab)
		if m.Objects()["a"] != -1 || !tab.InForce("a") {
			t.Errorf("objects are %v", m.Objects())
		}
	})
}

func TestKeyErrors(t *testing.T) {
	t.Parallel()
	var e reconcile.KeyErrors[string]
	e.Add("a", nil)
	if e.Err() != nil {
		t.Error("an error without failures")
	}
	for i := range 5 {
		e.Add(fmt.Sprint(i), errBroken)
	}
	if got, want := e.Error(), "0: broken; 1: broken; 2: broken; and 2 more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	other := errors.New("other")
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{other, false},
		{e.Err(), true},
		{fmt.Errorf("apply: %w", e.Err()), true},
		{errors.Join(e.Err(), e.Err()), true},
		{errors.Join(e.Err(), other), false},
		{fmt.Errorf("x: %w", errors.Join(other, e.Err())), false},
	} {
		if got := reconcile.IsPartial(tc.err); got != tc.want {
			t.Errorf("IsPartial(%v) = %v", tc.err, got)
		}
	}
}

// recorder writes down the order of calls over several tables.
type recorder struct {
	*memory
	name string
	log  *[]string
}

func (r recorder) Apply(ctx context.Context, c changes) error {
	var s, d []string
	for _, i := range c.Set {
		s = append(s, i.Key)
	}
	d = append(d, c.Delete...)
	*r.log = append(*r.log, fmt.Sprintf("%s +%s -%s", r.name, strings.Join(s, ","), strings.Join(d, ",")))
	return r.memory.Apply(ctx, c)
}

type world struct {
	log     []string
	targets [3]*memory
	tables  [3]*table
	ordered reconcile.Ordered
}

// newWorld has tables 0, 1 and 2, in each of which "old" goes and "new" comes.
func newWorld() *world {
	w := &world{}
	for i := range w.tables {
		w.targets[i] = targettest.NewMemory[string, int]()
		w.targets[i].Put("old", 1)
		w.tables[i] = newTableOn(fmt.Sprint(i), recorder{w.targets[i], fmt.Sprint(i), &w.log}, nil)
		w.tables[i].Set("new", 1)
		w.ordered = append(w.ordered, w.tables[i])
	}
	return w
}

func (w *world) expect(t *testing.T, want ...string) {
	t.Helper()
	if diff := gocmp.Diff(want, w.log); diff != "" {
		t.Errorf("order of calls (-want +got):\n%s", diff)
	}
	w.log = nil
}

func TestOrderedSetsForwardAndDeletesBackward(t *testing.T) {
	t.Parallel()
	w := newWorld()
	apply(t, w.ordered)
	w.expect(t, "0 +new -", "1 +new -", "2 +new -old", "1 + -old", "0 + -old")
	apply(t, w.ordered)
	w.expect(t)
}

func TestOrderedSetsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld()
	if err := w.ordered.ApplySets(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "0 +new -", "1 +new -", "2 +new -")
}

func TestOrderedAfterFailures(t *testing.T) {
	t.Parallel()
	refuse := func(k string, _ int) error { return errBroken }
	for _, tc := range []struct {
		name   string
		damage func(*world)
		want   []string
	}{
		{"a table that fails whole stops what comes after", func(w *world) { w.targets[1].Fail(nil, errBroken) }, []string{
			"0 +new -", "1 +new -", "2 + -old",
		}},
		{"the last table fails whole", func(w *world) { w.targets[2].Fail(nil, errBroken) }, []string{
			"0 +new -", "1 +new -", "2 +new -old",
		}},
		{"an object of the first table fails", func(w *world) { w.targets[0].Refuse(refuse, nil) }, []string{
			"0 +new -", "1 +new -", "2 +new -old", "1 + -old", "0 + -old",
		}},
		{"an object of the middle table fails", func(w *world) { w.targets[1].Refuse(refuse, nil) }, []string{
			"0 +new -", "1 +new -", "2 +new -old", "1 + -old",
		}},
		{"an object of the last table fails", func(w *world) { w.targets[2].Refuse(refuse, nil) }, []string{
			"0 +new -", "1 +new -", "2 +new -old",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			tc.damage(w)
			if err := w.ordered.Apply(t.Context()); !errors.Is(err, errBroken) {
				t.Errorf("got %v", err)
			}
			w.expect(t, tc.want...)
			for _, m := range w.targets {
				m.Fail(nil, nil)
				m.Refuse(nil, nil)
			}
			for _, tab := range w.tables { // as if the back-off were over
				tab.Set("new", 2)
			}
			apply(t, w.ordered)
			for i, m := range w.targets {
				if !maps.Equal(m.Objects(), map[string]int{"new": 2}) {
					t.Errorf("table %d has %v in the end", i, m.Objects())
				}
			}
		})
	}
}

func TestWhatIsLostIsSetAgainAndNotDeleted(t *testing.T) {
	t.Parallel()
	tab, m := newTable("t")
	tab.Set("a", 1)
	tab.Set("b", 2)
	tab.Lost("a") // nobody has listed yet
	apply(t, tab)
	m.Calls()
	m.Remove("a")
	m.Remove("b")
	tab.Delete("b")
	tab.Lost("a", "b", "unheard-of")
	if tab.InForce("a") || !tab.InForce("b") {
		t.Error("what is lost counts as in force, or what is not desired does not")
	}
	apply(t, tab)
	expectCalls(t, m, changes{Set: []item{{Key: "a", Value: 1}}})
}

// tableWith is a table with options besides the usual.
func tableWith(m *memory, set func(*reconcile.Options[string, int])) *table {
	opts := reconcile.Options[string, int]{
		Name: "t", Compare: cmp.Compare[string], Equal: equal, MinBackoff: time.Second, MaxBackoff: 8 * time.Second,
	}
	set(&opts)
	return reconcile.NewTable(m, opts)
}

// TestWhatIsDeletedEarlyWaitsForNothing has a later table that fails in every way there is:
// what may go early goes, and no more.
func TestWhatIsDeletedEarlyWaitsForNothing(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*memory){
		"one object fails": func(m *memory) { m.Refuse(func(string, int) error { return errBroken }, nil) },
		"it fails whole":   func(m *memory) { m.Fail(nil, errBroken) },
		"it cannot list":   func(m *memory) { m.Fail(errBroken, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, later := targettest.NewMemory[string, int](), targettest.NewMemory[string, int]()
			first.Put("early", 1)
			first.Put("late", 1)
			damage(later)
			tab := tableWith(first, func(o *reconcile.Options[string, int]) {
				o.DeleteEarly = func(k string) bool { return k == "early" }
			})
			after := tableWith(later, func(*reconcile.Options[string, int]) {})
			tab.Set("new", 1)
			after.Set("new", 1)
			if err := (reconcile.Ordered{tab, after}).Apply(t.Context()); !errors.Is(err, errBroken) {
				t.Fatalf("got %v", err)
			}
			expectCalls(t, first, changes{Set: []item{{Key: "new", Value: 1}}, Delete: []string{"early"}})
			later.Refuse(nil, nil)
			later.Fail(nil, nil)
			after.Forget("new")
			apply(t, reconcile.Ordered{tab, after})
			expectCalls(t, first, changes{Delete: []string{"late"}})
		})
	}
}

func TestNothingIsDeletedEarlyWhileOnlySetsAreAllowed(t *testing.T) {
	t.Parallel()
	m := targettest.NewMemory[string, int]()
	m.Put("early", 1)
	tab := tableWith(m, func(o *reconcile.Options[string, int]) { o.DeleteEarly = func(string) bool { return true } })
	last, _ := newTable("last")
	tab.Set("new", 1)
	if err := (reconcile.Ordered{tab, last}).ApplySets(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectCalls(t, m, changes{Set: []item{{Key: "new", Value: 1}}})
}

func TestNothingWaitsForATableThatRefersToNothing(t *testing.T) {
	t.Parallel()
	first, later := targettest.NewMemory[string, int](), targettest.NewMemory[string, int]()
	first.Put("old", 1)
	later.Refuse(func(string, int) error { return errBroken }, nil)
	tab := tableWith(first, func(*reconcile.Options[string, int]) {})
	after := tableWith(later, func(o *reconcile.Options[string, int]) { o.RefersToNothing = true })
	after.Set("bad", 1)
	if err := (reconcile.Ordered{tab, after}).Apply(t.Context()); !reconcile.IsPartial(err) {
		t.Fatalf("got %v", err)
	}
	expectCalls(t, first, changes{Delete: []string{"old"}})
}

func TestAStepStandsBetweenTables(t *testing.T) {
	t.Parallel()
	w := newWorld()
	var fault error
	step := reconcile.Step(func(context.Context) error {
		w.log = append(w.log, "step")
		return fault
	})
	order := reconcile.Ordered{w.tables[0], step, w.tables[1], w.tables[2]}
	fault = errBroken
	if err := order.Apply(t.Context()); !errors.Is(err, errBroken) || reconcile.IsPartial(err) {
		t.Errorf("got %v", err)
	}
	w.expect(t, "0 +new -", "step", "2 + -old")
	fault = nil
	apply(t, order)
	w.expect(t, "step", "1 +new -", "2 +new -", "1 + -old", "0 + -old")
	if n := len(order.Status()); n != 3 {
		t.Errorf("%d tables are shown", n)
	}
}

func TestForgottenObjectsAreAppliedAgainWithoutAList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tab, m := newTable("t")
		tab.Set("a", 1)
		tab.Set("b", 2)
		tab.Set("bad", -1)
		m.Refuse(refuseNegative, nil)
		if err := tab.Apply(t.Context()); !reconcile.IsPartial(err) {
			t.Fatalf("got %v", err)
		}
		m.Calls()
		m.Refuse(nil, nil)
		m.Remove("a")
		tab.Forget("a", "bad", "unheard-of")
		if tab.InForce("a") || !tab.InForce("b") || !tab.InForce("unheard-of") {
			t.Error("what was forgotten counts as in force, or what was not does not")
		}
		apply(t, tab)
		expectCalls(t, m, changes{Set: []item{{Key: "a", Value: 1}, {Key: "bad", Value: -1}}})
		tab.Delete("b")
		tab.Forget("b")
		apply(t, tab)
		expectCalls(t, m, changes{Delete: []string{"b"}})
		if m.Lists() != 1 {
			t.Errorf("listed %d times", m.Lists())
		}
	})
}

func TestCostFollowsTheChange(t *testing.T) {
	t.Parallel()
	compared := 0
	m := targettest.NewMemory[string, int]()
	tab := reconcile.NewTable(m, reconcile.Options[string, int]{
		Name: "t", Compare: cmp.Compare[string],
		Equal: func(a, b int) bool { compared++; return a == b },
	})
	for i := range 10_000 {
		tab.Set(fmt.Sprint(i), i)
	}
	apply(t, tab)
	compared = 0
	tab.Set("77", -1)
	tab.Delete("78")
	apply(t, tab)
	if compared > 10 {
		t.Errorf("one change compared %d values", compared)
	}
}

func BenchmarkOneChangeOf10000(b *testing.B) {
	tab := newTableOn("t", nothing{}, nil)
	for i := range 10_000 {
		tab.Set(fmt.Sprint(i), i)
	}
	if err := tab.Apply(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		tab.Set("77", -i)
		if err := tab.Apply(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// nothing accepts all changes.
type nothing struct{}

func (nothing) List(context.Context) (map[string]int, error) { return map[string]int{}, nil }
func (nothing) Apply(context.Context, changes) error         { return nil }

// TestAHeldObjectWaitsWithoutFailing holds objects, one of which is to take the place of what
// must not stay.
func TestAHeldObjectWaitsWithoutFailing(t *testing.T) {
	m := targettest.NewMemory[string, int]()
	for _, k := range []string{"moves", "stays", "unwanted", "same"} {
		m.Put(k, 1)
	}
	held := true
	tab := reconcile.NewTable(m, reconcile.Options[string, int]{
		Name: "t", Compare: cmp.Compare[string], Equal: equal,
		Hold:      func(k string) bool { return held && k != "free" },
		Displaces: func(_ string, v int) bool { return v == 9 },
	})
	want := map[string]int{"moves": 9, "stays": 2, "same": 1, "new": 9, "free": 1}
	for k, v := range want {
		tab.Set(k, v)
	}
	for range 2 {
		apply(t, tab)
		expectObjects(t, m, map[string]int{"stays": 1, "same": 1, "free": 1})
	}
	if s := tab.Status(); len(s.Failed) > 0 || s.Pending != 3 || tab.InForce("new") {
		t.Errorf("%v", s)
	}
	if _, ok := tab.NextRetry(); ok {
		t.Error("what is held is tried again by time")
	}
	held = false
	apply(t, tab)
	expectObjects(t, m, want)
}

// TestWhatMustNotStayGoesThoughAnEarlierTableFails moves an object while the table before fails
// as a whole.
func TestWhatMustNotStayGoesThoughAnEarlierTableFails(t *testing.T) {
	first, broken := newTable("first")
	m := targettest.NewMemory[string, int]()
	second := reconcile.NewTable(m, reconcile.Options[string, int]{
		Name: "second", Compare: cmp.Compare[string], Equal: equal, RefersToNothing: true,
		Displaces: func(_ string, v int) bool { return v == 9 },
	})
	order := reconcile.Ordered{first, second}
	second.Set("moves", 1)
	second.Set("changes", 1)
	apply(t, order)
	broken.Fail(errBroken, errBroken)
	first.Set("x", 1)
	second.Set("moves", 9)
	second.Set("changes", 2)
	for range 2 {
		if err := order.Apply(t.Context()); !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		expectObjects(t, m, map[string]int{"changes": 1})
	}
	broken.Fail(nil, nil)
	apply(t, order)
	expectObjects(t, m, map[string]int{"moves": 9, "changes": 2})
}

func expectObjects(t *testing.T, m *memory, want map[string]int) {
	t.Helper()
	if diff := gocmp.Diff(want, m.Objects()); diff != "" {
		t.Errorf("there is (-want +got):\n%s", diff)
	}
}
