package resource

import (
	"context"
	"errors"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Locked says whether the datastore is locked: its Ready flag is there and false. One
// that was never initialised has none and is open.
func (s *Store) Locked(ctx context.Context) (bool, error) {
	locked, _, err := s.lock(ctx)
	return locked, err
}

func (s *Store) lock(ctx context.Context) (locked bool, revision int64, err error) {
	e, err := s.etcd.Get(ctx, model.ReadyKey{})
	if errors.Is(err, etcdstore.ErrNotFound) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	ready, ok := e.Value.(*model.Ready)
	return ok && !bool(*ready), e.Revision, nil
}

// CheckUnlocked is [etcdstore.ErrLocked] while the datastore is locked.
func (s *Store) CheckUnlocked(ctx context.Context) error {
	locked, err := s.Locked(ctx)
	if err == nil && locked {
		err = etcdstore.ErrLocked
	}
	return err
}

// SetLock locks the datastore or opens it, and says whether that changed anything.
func (s *Store) SetLock(ctx context.Context, locked bool) (changed bool, err error) {
	was, _, err := s.lock(ctx)
	if err != nil || was == locked {
		return false, err
	}
	ready := model.Ready(!locked)
	changed, _, err = s.etcd.Apply(ctx, model.ReadyKey{}, &ready)
	return changed, err
}

// write does writes in one transaction, unless the datastore is locked or becomes so
// in the meantime.
func (s *Store) write(ctx context.Context, writes ...etcdstore.Write) error {
	if len(writes) == 0 {
		return nil
	}
	locked, revision, err := s.lock(ctx)
	switch {
	case err != nil:
		return err
	case locked:
		return etcdstore.ErrLocked
	}
	guard, err := etcdstore.CheckWrite(model.ReadyKey{}, revision)
	if err != nil {
		return err
	}
	_, err = s.etcd.Commit(ctx, append(writes, guard)...)
	return err
}
