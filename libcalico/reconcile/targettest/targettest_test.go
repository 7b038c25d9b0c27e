package targettest_test

import (
	"cmp"
	"errors"
	"maps"
	"testing"

	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	t.Parallel()
	targettest.Run(t, func(*testing.T) targettest.Subject[string, int] {
		m := targettest.NewMemory[string, int]()
		m.Refuse(func(k string, v int) error {
			if v < 0 {
				return errors.New("negative")
			}
			return nil
		}, nil)
		return targettest.Subject[string, int]{
			Target:  m,
			Compare: cmp.Compare[string],
			Equal:   func(a, b int) bool { return a == b },
			Items:   []reconcile.Item[string, int]{{Key: "b", Value: 1}, {Key: "a", Value: 2}, {Key: "c", Value: 3}},
			Changed: 9,
			Remove:  func(_ *testing.T, k string) { m.Remove(k) },
			Alter:   func(_ *testing.T, k string) { m.Put(k, 77) },
			AddForeign: func(*testing.T) func(*testing.T) {
				m.AddForeign("foreign", 5)
				before := m.Foreign()
				return func(t *testing.T) {
					t.Helper()
					if !maps.Equal(before, m.Foreign()) {
						t.Errorf("foreign objects changed: %v", m.Foreign())
					}
				}
			},
			Bad: &reconcile.Item[string, int]{Key: "bad", Value: -1},
		}
	})
}
