package resource

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/trust"
)

// CheckUnlocked is [etcdstore.ErrLocked] while the datastore is locked. It is for refusing
// early; that it stays open is up to each write.
func (s *Store) CheckUnlocked(ctx context.Context) error {
	state, err := s.etcd.LockState(ctx)
	if err != nil {
		return err
	}
	return state.Err()
}

// mayWrite fails as any write would now: while the datastore is locked, or for newer
// programs.
func (s *Store) mayWrite(ctx context.Context) error {
	if err := s.CheckUnlocked(ctx); err != nil {
		return err
	}
	return s.etcd.MayWrite(ctx)
}

// Locking is what locking the datastore came to.
type Locking struct {
	// Changed is false where it was locked already, by By, which is nil when nobody has said
	// that it was them.
	Changed bool
	By      *model.Lock
}

// lockTries is how often is tried to lock the datastore while answers of etcd are missing.
const lockTries = 3

// Lock locks the datastore for somebody; a lock without an id gets one, by which it is told
// when it was taken and the answer got lost.
func (s *Store) Lock(ctx context.Context, by *model.Lock) (Locking, error) {
	own := *by
	own.ID = cmp.Or(by.ID, rand.Text())
	for unanswered := 0; ; {
		state, err := s.etcd.LockState(ctx)
		switch {
		case err != nil:
			return Locking{}, err
		case state.Locked && state.By.Is(&own): // by a try whose answer was lost
			return Locking{Changed: true, By: state.By}, nil
		case state.Locked:
			return Locking{Changed: unanswered > 0 && state.By.Is(&own), By: state.By}, nil
		}
		closed := model.Ready(false)
		ready, err := writeAt(model.ReadyKey{}, &closed, state.ReadyRevision)
		if err != nil {
			return Locking{}, err
		}
		lock, err := etcdstore.PutWrite(model.LockKey{}, &own) // one that is there was left by somebody who opened the flag alone
		if err != nil {
			return Locking{}, err
		}
		_, err = s.etcd.Commit(ctx, ready, lock)
		switch {
		case errors.Is(err, etcdstore.ErrConflict):
		case errors.Is(err, etcdstore.ErrUnavailable) && unanswered < lockTries:
			unanswered++
		default:
			return Locking{Changed: err == nil, By: &own}, err
		}
	}
}

// Unlocked is what opening the datastore came to.
type Unlocked struct {
	Changed bool
	// WasLocked says that it was locked, and By who had locked it, if that is known.
	WasLocked bool
	By        *model.Lock
	// GUID is the id of the cluster whose data the datastore holds.
	GUID string
	// Accepted says that hosts that were part of the same other cluster as this one follow it
	// from now on, or all hosts, if this one was part of none.
	Accepted bool
}

// Unlocking says how the datastore is opened.
type Unlocking struct {
	// HostGUID is the id of the cluster that this host belongs to; empty when it belongs to
	// none. NewGUID is for a cluster that has lost its id.
	HostGUID, NewGUID string
	// Accept accepts the datastore's id in any case.
	Accept bool
}

// Unlock says that the datastore is right, in one transaction: it opens it, gives the
// cluster an id if it has none, and accepts that id on behalf of its hosts. A datastore of
// which nothing is lost is only opened, so that hosts of other clusters go on keeping off
// it: where the flag and an id are there, and the host, if it belongs to any cluster,
// belongs to that. It opens only the lock that it finds at first: one that another takes
// over meanwhile, or only then takes, stays.
func (s *Store) Unlock(ctx context.Context, how Unlocking) (Unlocked, error) {
	first, err := s.etcd.LockState(ctx)
	for state := first; ; state, err = s.etcd.LockState(ctx) {
		if err != nil {
			return Unlocked{}, err
		}
		if state.Locked && !sameLock(first, state) {
			return Unlocked{}, fmt.Errorf("the lock changed hands meanwhile, and nothing was opened; \"calicoctl datastore status\" says who has it: %w", state.Err())
		}
		out, err := s.unlock(ctx, how, state)
		if !errors.Is(err, etcdstore.ErrConflict) && !errors.Is(err, etcdstore.ErrExists) {
			return out, err
		}
	}
}

// sameLock says whether two states are of one lock, which its holder may have written again.
func sameLock(a, b etcdstore.LockState) bool {
	switch {
	case !a.Locked || !b.Locked:
		return false
	case a.By == nil || b.By == nil:
		return a.LockRevision == b.LockRevision
	}
	return a.By.Is(b.By)
}

var guidKey = model.FelixConfigKey{Name: model.ClusterGUID}

func (s *Store) unlock(ctx context.Context, how Unlocking, state etcdstore.LockState) (out Unlocked, err error) {
	readyRevision := state.ReadyRevision
	out.WasLocked, out.By = state.Locked, state.By
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
	if state.Locked || readyRevision == 0 {
		yes := model.Ready(true)
		ready = &yes
	}
	if out.GUID = guid; guid == "" {
		out.GUID = how.NewGUID
		id = &model.Setting{Of: model.KindFelixConfig, Value: out.GUID}
	}
	if acceptance := trust.Acceptance(out.GUID, how.HostGUID); (how.Accept || !whole) && accepted != acceptance {
		out.Accepted = true
		accept = &model.Setting{Of: model.KindAcceptedGUID, Value: acceptance}
	}
	if out.Changed = ready != nil || id != nil || out.Accepted; !out.Changed {
		return out, nil
	}
	free, err := removeAt(model.LockKey{}, state.LockRevision)
	if err != nil {
		return out, err
	}
	writes := []etcdstore.Write{free}
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

// removeAt deletes a key that has a revision; with 0 it must not be there.
func removeAt(k model.Key, revision int64) (etcdstore.Write, error) {
	if revision == 0 {
		return etcdstore.CheckWrite(k, 0)
	}
	return etcdstore.DeleteWrite(k, revision)
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
	_, err := s.etcd.WhileUnlocked(ctx, func(open etcdstore.Write) (int64, error) {
		return commit(ctx, append(writes[:len(writes):len(writes)], open)...)
	})
	return err
}
