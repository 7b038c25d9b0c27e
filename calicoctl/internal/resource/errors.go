package resource

import (
	"fmt"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Exists is the error about a resource that must not be there yet.
func Exists(k model.Key) error {
	return fmt.Errorf("resource already exists: %s%w", k, silent{etcdstore.ErrExists})
}

// Missing is the error about a resource that must be there.
func Missing(k model.Key) error {
	return fmt.Errorf("resource does not exist: %s%w", k, silent{etcdstore.ErrNotFound})
}

// MissingName is the error about a name that no resource of a kind has.
func MissingName(kind, name string) error {
	return fmt.Errorf("resource does not exist: %s(name=%s)%w", kind, name, silent{etcdstore.ErrNotFound})
}

// Unreadable is the error about a stored value that cannot be shown. It Is
// [etcdstore.ErrNotFound].
func Unreadable(k model.Key, why error) error {
	return fmt.Errorf("%s is stored with a value that cannot be read: %w%w", k, why, silent{etcdstore.ErrNotFound})
}

// silent is an error that a message does not show and [errors.Is] finds.
type silent struct{ err error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.err }
