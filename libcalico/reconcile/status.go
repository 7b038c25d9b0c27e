package reconcile

import (
	"fmt"
	"slices"
	"time"
)

// Status is the state of one [Table] in figures, for metrics, gRPC and tests.
type Status struct {
	Name string
	// Listed says that Actual is known.
	Listed bool
	// Lists is how often the target was listed.
	Lists int
	// Desired and Actual count objects; Pending counts those that are not as desired.
	Desired, Actual, Pending int
	// Failed lists the objects that the target refused, by key.
	Failed []KeyStatus
	// Pass tells what the latest pass did.
	Pass PassStatus
}

// KeyStatus says why an object is not as desired.
type KeyStatus struct {
	Key     string
	Err     error
	Tries   int
	Since   time.Time
	RetryAt time.Time
	// Closed says that a stand-in is in place ([Options].FailClosed).
	Closed bool
}

// PassStatus tells what a pass did.
type PassStatus struct {
	At           time.Time
	Took         time.Duration
	Set, Deleted int
	Err          error
}

// String is the status on one line.
func (s Status) String() string {
	actual := "?"
	if s.Listed {
		actual = fmt.Sprint(s.Actual)
	}
	return fmt.Sprintf("%s: desired=%d actual=%s pending=%d failed=%d", s.Name, s.Desired, actual, s.Pending, len(s.Failed))
}

// Status returns the table's state.
func (t *Table[K, V]) Status() Status {
	s := Status{
		Name:    t.opts.Name,
		Listed:  t.listed,
		Lists:   t.lists,
		Desired: len(t.desired),
		Actual:  t.actual(),
		Pending: t.pending(),
		Pass:    t.last,
	}
	for _, k := range t.failedKeys() {
		f := t.failed[k]
		s.Failed = append(s.Failed, KeyStatus{
			Key: fmt.Sprint(k), Err: f.err, Tries: f.tries, Since: f.since, RetryAt: f.retryAt,
			Closed: t.closed(k),
		})
	}
	return s
}

// actual counts the objects that are there; before the first list, none.
func (t *Table[K, V]) actual() int {
	if !t.listed {
		return 0
	}
	n := len(t.desired)
	for k, o := range t.differs {
		if _, wanted := t.desired[k]; wanted {
			n--
		}
		if o.there {
			n++
		}
	}
	return n
}

// pending counts the objects that are not as desired; before the first list, all.
func (t *Table[K, V]) pending() int {
	if !t.listed {
		return len(t.desired)
	}
	return len(t.differs)
}

func (t *Table[K, V]) failedKeys() []K {
	keys := make([]K, 0, len(t.failed))
	for k := range t.failed {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, t.opts.Compare)
	return keys
}

// KeyState is all that a table knows about one object.
type KeyState[V any] struct {
	// Desired is nil when the object is not desired.
	Desired *V
	// Actual is nil when the object is not there, or not known to be.
	Actual *V
	// Known says that Actual tells what is there.
	Known bool
	// InForce says that the object is as desired.
	InForce bool
	// Err is why it is not, if the target refused it.
	Err error
}

// Explain returns all that the table knows about one object.
func (t *Table[K, V]) Explain(k K) KeyState[V] {
	o := t.outside(k)
	s := KeyState[V]{Known: t.listed && !o.unknown, InForce: t.InForce(k)}
	if v, ok := t.desired[k]; ok {
		s.Desired = &v
	}
	if t.listed && o.there {
		s.Actual = &o.value
	}
	if f := t.failed[k]; f != nil {
		s.Err = f.err
	}
	return s
}
