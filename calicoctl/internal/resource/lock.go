package resource

import (
	"context"
	"errors"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// Locked says whether the datastore is locked: its Ready flag is there and not true, be it
// false or nothing that can be read. One that was never initialised has none and is open.
func (s *Store) Locked(ctx context.Context) (bool, error) {
	locked, _, err := s.lock(ctx)
	return locked, err
}

func (s *Store) lock(ctx context.Context) (locked bool, revision int64, err error) {
	e, err := s.etcd.Get(ctx, model.ReadyKey{})
	switch {
	case errors.Is(err, etcdstore.ErrNotFound):
		return false, 0, nil
	case errors.Is(err, etcdstore.ErrUnreadable):
		return true, e.Revision, nil
	case err != nil:
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

// Lock locks the datastore, and says whether that changed anything.
func (s *Store) Lock(ctx context.Context) (changed bool, err error) {
	ready := model.Ready(false)
	changed, _, err = s.etcd.Apply(ctx, model.ReadyKey{}, &ready)
	return changed, err
}

// Unlocked is what opening the datastore came to.
type Unlocked struct {
	Changed bool
	// GUID is the id of the cluster whose data the datastore holds.
	GUID string
	// Accepted says that hosts that were part of another cluster follow it from now on.
	Accepted bool
}

// Unlocking says how the datastore is opened.
type Unlocking struct {
	// HostGUID is the id of the cluster that this host belongs to; empty when it belongs to
	// none. NewGUID is for a cluster that has lost its id.
	HostGUID, NewGUID string
	// Accept accepts the datastore's id for all hosts in any case.
	Accept bool
}

// Unlock says that the datastore is right, in one transaction: it opens it, gives the
// cluster an id if it has none, and accepts that id on behalf of all hosts. A datastore of
// which nothing is lost is only opened, so that hosts of other clusters go on keeping off
// it: where the flag and an id are there, and the host, if it belongs to any cluster,
// belongs to that.
func (s *Store) Unlock(ctx context.Context, how Unlocking) (Unlocked, error) {
	for {
		out, err := s.unlock(ctx, how)
		if !errors.Is(err, etcdstore.ErrConflict) && !errors.Is(err, etcdstore.ErrExists) {
			return out, err
		}
	}
}

var guidKey = model.FelixConfigKey{Name: model.ClusterGUID}

func (s *Store) unlock(ctx context.Context, how Unlocking) (out Unlocked, err error) {
	locked, readyRevision, err := s.lock(ctx)
	if err != nil {
		return out, err
	}
	guid, guidRevision, err := s.text(ctx, guidKey)
	if err != nil {
		return out, err
	}
	accepted, acceptedRevision, err := s.text(ctx, model.AcceptedGUIDKey{})
	if err != nil {
		return out, err
	}
	whole := readyRevision != 0 && guid != "" && (how.HostGUID == "" || how.HostGUID == guid)
	var ready, id, accept model.Resource
	if locked || readyRevision == 0 {
		yes := model.Ready(true)
		ready = &yes
	}
	if out.GUID = guid; guid == "" {
		out.GUID = how.NewGUID
		id = &model.Setting{Of: model.KindFelixConfig, Value: out.GUID}
	}
	if (how.Accept || !whole) && accepted != out.GUID {
		out.Accepted = true
		accept = &model.Setting{Of: model.KindAcceptedGUID, Value: out.GUID}
	}
	if out.Changed = ready != nil || id != nil || out.Accepted; !out.Changed {
		return out, nil
	}
	var writes []etcdstore.Write
	for _, step := range []struct {
		key      model.Key
		revision int64
		value    model.Resource
	}{
		{model.ReadyKey{}, readyRevision, ready},
		{guidKey, guidRevision, id},
		{model.AcceptedGUIDKey{}, acceptedRevision, accept},
	} {
		w, err := writeAt(step.key, step.value, step.revision)
		if err != nil {
			return out, err
		}
		writes = append(writes, w)
	}
	_, err = s.etcd.Commit(ctx, writes...)
	return out, err
}

// writeAt writes a value, or only checks (nil), a key that has a revision, 0 being none.
func writeAt(k model.Key, value model.Resource, revision int64) (etcdstore.Write, error) {
	switch {
	case value == nil:
		return etcdstore.CheckWrite(k, revision)
	case revision == 0:
		return etcdstore.CreateWrite(k, value)
	}
	return etcdstore.UpdateWrite(k, value, revision)
}

// text reads a setting; a missing one is empty, at revision 0.
func (s *Store) text(ctx context.Context, k model.Key) (value string, revision int64, err error) {
	e, err := s.etcd.Get(ctx, k)
	if errors.Is(err, etcdstore.ErrNotFound) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	setting, _ := e.Value.(*model.Setting)
	return setting.Value, e.Revision, nil
}

// write does writes in one transaction, unless the datastore is locked or becomes so
// in the meantime.
func (s *Store) write(ctx context.Context, writes ...etcdstore.Write) error {
	return s.writeBy(ctx, s.etcd.Commit, writes...)
}

// writeBy is write with a transaction that may have more in it.
func (s *Store) writeBy(ctx context.Context, commit func(context.Context, ...etcdstore.Write) (int64, error), writes ...etcdstore.Write) error {
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
	_, err = commit(ctx, append(writes, guard)...)
	return err
}
