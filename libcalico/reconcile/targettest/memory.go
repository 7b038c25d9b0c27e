package targettest

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"calico.internal/libcalico/reconcile"
)

// Memory is a [reconcile.Target] over a map, for tests of what stands above targets.
// It keeps count of calls and can be told to fail. It may be used by several
// goroutines.
type Memory[K comparable, V any] struct {
	mu      sync.Mutex
	objects map[K]V
	foreign map[K]V
	calls   []reconcile.Changes[K, V]
	lists   int

	listErr, applyErr error
	refuse            func(K, V) error
	refuseDelete      func(K) error
}

// NewMemory makes an empty target.
func NewMemory[K comparable, V any]() *Memory[K, V] {
	return &Memory[K, V]{objects: map[K]V{}, foreign: map[K]V{}}
}

// List returns all objects that were not added as foreign.
func (m *Memory[K, V]) List(ctx context.Context) (map[K]V, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lists++
	if err := firstError(ctx.Err(), m.listErr); err != nil {
		return nil, err
	}
	return maps.Clone(m.objects), nil
}

// Apply makes the changes but for those that are refused.
func (m *Memory[K, V]) Apply(ctx context.Context, c reconcile.Changes[K, V]) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, c)
	if err := firstError(ctx.Err(), m.applyErr); err != nil {
		return err
	}
	var failed reconcile.KeyErrors[K]
	for _, item := range c.Set {
		if err := m.set(item.Key, item.Value); err != nil {
			failed.Add(item.Key, err)
		}
	}
	for _, k := range c.Delete {
		if m.refuseDelete != nil {
			if err := m.refuseDelete(k); err != nil {
				failed.Add(k, err)
				continue
			}
		}
		delete(m.objects, k)
	}
	return failed.Err()
}

func (m *Memory[K, V]) set(k K, v V) error {
	if _, ok := m.foreign[k]; ok {
		return fmt.Errorf("%v is not ours", k)
	}
	if m.refuse != nil {
		if err := m.refuse(k, v); err != nil {
			return err
		}
	}
	m.objects[k] = v
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Fail makes List and Apply fail as a whole; nil makes them work again.
func (m *Memory[K, V]) Fail(list, apply error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listErr, m.applyErr = list, apply
}

// Refuse makes Apply fail for single objects: those for which set or del return an
// error. Either may be nil.
func (m *Memory[K, V]) Refuse(set func(K, V) error, del func(K) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse, m.refuseDelete = set, del
}

// Put changes an object behind the caller's back.
func (m *Memory[K, V]) Put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[k] = v
}

// Remove removes an object behind the caller's back.
func (m *Memory[K, V]) Remove(k K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, k)
}

// AddForeign adds an object that is not ours.
func (m *Memory[K, V]) AddForeign(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.foreign[k] = v
}

// Objects returns a copy of all objects that are ours.
func (m *Memory[K, V]) Objects() map[K]V {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.objects)
}

// Foreign returns a copy of all objects that are not ours.
func (m *Memory[K, V]) Foreign() map[K]V {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.foreign)
}

// Calls returns the changes of all calls of Apply so far and forgets them.
func (m *Memory[K, V]) Calls() []reconcile.Changes[K, V] {
	m.mu.Lock()
	defer m.mu.Unlock()
	calls := m.calls
	m.calls = nil
	return calls
}

// Lists returns the number of calls of List.
func (m *Memory[K, V]) Lists() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lists
}
