// Package reconcile makes the outside world (a kernel table, a daemon's peers, a
// directory of files) look as desired, and keeps it so. It is pure but for the
// clock: all I/O is in the [Target] that the caller brings.
//
//	desired ──Set, Delete──► Table ──Changes──► Target.Apply ──► outside
//	                           ▲                                   │
//	                           └───────actual─── Target.List ◄─────┘
//
// A [Table] holds what is desired, and what is there where it differs from that. A pass
// applies the difference; after a failure what is believed to be there is dropped and listed
// again, so that no driver needs a retry logic of its own. [Ordered] runs several tables
// whose objects refer to each other, and [Run] repeats passes for as long as a
// program lives.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Item is one object under its key.
type Item[K comparable, V any] struct {
	Key   K
	Value V
}

// Changes is what has to happen outside. Both lists are sorted by key, and no key
// is in both.
type Changes[K comparable, V any] struct {
	// Set lists objects to create or to replace.
	Set []Item[K, V]
	// Delete lists keys of objects to remove.
	Delete []K
}

// Empty says that nothing has to happen.
func (c Changes[K, V]) Empty() bool { return len(c.Set) == 0 && len(c.Delete) == 0 }

// Target is a set of outside objects of one kind.
type Target[K comparable, V any] interface {
	// List returns the objects that are there and ours; others must not appear in it.
	// The map becomes the caller's.
	List(ctx context.Context) (map[K]V, error)
	// Apply makes the changes. It is idempotent: what is set may already be so, and
	// what is deleted may be gone already. When single objects failed and all others
	// were applied, the error is a [*KeyErrors]; any other error means that nothing is
	// known of the outcome.
	Apply(ctx context.Context, c Changes[K, V]) error
}

// Diff returns what makes actual equal to desired. compare orders keys; equal says
// whether two values need no change.
func Diff[K comparable, V any](desired, actual map[K]V, compare func(a, b K) int, equal func(a, b V) bool) Changes[K, V] {
	var c Changes[K, V]
	for k, v := range desired {
		if have, ok := actual[k]; !ok || !equal(v, have) {
			c.Set = append(c.Set, Item[K, V]{k, v})
		}
	}
	for k := range actual {
		if _, ok := desired[k]; !ok {
			c.Delete = append(c.Delete, k)
		}
	}
	c.sort(compare)
	return c
}

func (c *Changes[K, V]) sort(compare func(a, b K) int) {
	slices.SortFunc(c.Set, func(a, b Item[K, V]) int { return compare(a.Key, b.Key) })
	slices.SortFunc(c.Delete, compare)
}

// ErrPartial matches (by [errors.Is]) an error that concerns single objects, while
// all others are as desired. Of joined errors it matches if one of them is such; ask
// [IsPartial] whether all are.
var ErrPartial = errors.New("some objects failed")

// IsPartial says that an error, or each of the errors joined in it, concerns single
// objects only.
func IsPartial(err error) bool {
	if err == nil {
		return false
	}
	// Each level of the tree is looked at by itself.
	if e, ok := err.(interface{ Is(error) bool }); ok && e.Is(ErrPartial) {
		return true
	}
	switch e := err.(type) { //nolint:errorlint // likewise
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !IsPartial(err) })
	case interface{ Unwrap() error }:
		return IsPartial(e.Unwrap())
	}
	return false
}

// KeyErrors is the error of an [Target.Apply] that worked but for some objects.
type KeyErrors[K comparable] struct {
	Errs map[K]error
}

// Add notes the failure of one object; a nil err is ignored.
func (e *KeyErrors[K]) Add(key K, err error) {
	if err == nil {
		return
	}
	if e.Errs == nil {
		e.Errs = map[K]error{}
	}
	e.Errs[key] = err
}

// Err is nil when no failure was noted, else e.
func (e *KeyErrors[K]) Err() error {
	if len(e.Errs) == 0 {
		return nil
	}
	return e
}

// shownErrors is how many of several errors a message spells out.
const shownErrors = 3

// Error tells how many objects failed and why the first ones did.
func (e *KeyErrors[K]) Error() string {
	lines := make([]string, 0, len(e.Errs))
	for k, err := range e.Errs {
		lines = append(lines, fmt.Sprintf("%v: %v", k, err))
	}
	slices.Sort(lines)
	if n := len(lines) - shownErrors; n > 0 {
		lines = append(lines[:shownErrors], fmt.Sprintf("and %d more", n))
	}
	return strings.Join(lines, "; ")
}

// Is makes the error match [ErrPartial].
func (e *KeyErrors[K]) Is(target error) bool { return target == ErrPartial }

// Unwrap gives the objects' own errors.
func (e *KeyErrors[K]) Unwrap() []error {
	errs := make([]error, 0, len(e.Errs))
	for _, err := range e.Errs {
		errs = append(errs, err)
	}
	return errs
}

// collect gathers the failures from all [KeyErrors] in an error.
func collect[K comparable](err error, into map[K]error) {
	switch e := err.(type) { //nolint:errorlint // each level of the tree is looked at by itself
	case *KeyErrors[K]:
		maps.Copy(into, e.Errs)
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			collect(err, into)
		}
	case interface{ Unwrap() error }:
		collect(e.Unwrap(), into)
	}
}
