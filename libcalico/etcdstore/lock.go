package etcdstore

import (
	"context"
	"errors"
	"fmt"

	"calico.internal/libcalico/model"
)

// LockState is what a store says about its lock, as of one moment.
type LockState struct {
	// Locked says that the Ready flag is there and not true, be it false or nothing that can
	// be read. A store that was never set up has none and is open.
	Locked bool
	// By says who has locked it; nil when nobody has, or has said so.
	By *model.Lock
	// ReadyRevision and LockRevision are those of the flag and of [model.LockKey], 0 where
	// there is none.
	ReadyRevision, LockRevision int64
}

// Err is nil, or an error that Is [ErrLocked] and says who has locked the store.
func (s LockState) Err() error {
	if !s.Locked {
		return nil
	}
	return Locked(s.By)
}

// Locked is the error of a store that somebody, who may be unknown (nil), has locked. It Is
// [ErrLocked].
func Locked(by *model.Lock) error {
	switch {
	case by == nil:
		return ErrLocked
	case by.Import:
		return fmt.Errorf("%w by %s; the import opens it when it ends; if it is no more, repeat it, which goes on where it broke off", errLockedBy, by)
	}
	return fmt.Errorf("%w by %s; when whoever locked it is done, \"calicoctl datastore unlock\" opens it", errLockedBy, by)
}

// errLockedBy is [ErrLocked] for a sentence that says by whom.
var errLockedBy error = lockedBy{}

type lockedBy struct{}

func (lockedBy) Error() string        { return "the datastore is locked against changes" }
func (lockedBy) Is(target error) bool { return target == ErrLocked }

// LockState reads whether the store is locked, and by whom.
func (c *Client) LockState(ctx context.Context) (s LockState, err error) {
	objects, err := c.fetch(ctx, model.ReadyKey{}, model.LockKey{})
	if err != nil {
		return s, fmt.Errorf("read the datastore's lock: %w", err)
	}
	ready, lock := objects[0], objects[1]
	s.ReadyRevision, s.LockRevision = ready.revision(), lock.revision()
	if len(ready.parts) > 0 {
		r, err := model.Decode(model.ReadyKey{}, ready.values())
		flag, ok := r.(*model.Ready)
		s.Locked = err != nil || !ok || !bool(*flag)
	}
	if s.Locked && len(lock.parts) > 0 {
		if r, err := model.Decode(model.LockKey{}, lock.values()); err == nil {
			s.By, _ = r.(*model.Lock)
		}
	}
	return s, nil
}

// Unlocked is the condition for a transaction that the store is still not locked when it is
// done. It fails with [ErrLocked] when the store is locked already.
func (c *Client) Unlocked(ctx context.Context) (Write, error) {
	s, err := c.LockState(ctx)
	if err == nil {
		err = s.Err()
	}
	if err != nil {
		return Write{}, err
	}
	return CheckWrite(model.ReadyKey{}, s.ReadyRevision)
}

// maxFlagChanges is how often the Ready flag may change under a transaction: it does when
// the first node of a cluster starts, and when somebody locks the store and opens it again.
const maxFlagChanges = 10

// CommitUnlocked is [Client.Commit] on the condition that the store is not locked, and is
// not locked before it is done ([ErrLocked]).
func (c *Client) CommitUnlocked(ctx context.Context, writes ...Write) (int64, error) {
	return c.WhileUnlocked(ctx, func(open Write) (int64, error) {
		return c.Commit(ctx, append(writes[:len(writes):len(writes)], open)...)
	})
}

// WhileUnlocked calls commit with the condition that the store is not locked, which it must
// make part of its transaction; again when nothing but the flag has changed.
func (c *Client) WhileUnlocked(ctx context.Context, commit func(open Write) (int64, error)) (int64, error) {
	for range maxFlagChanges {
		open, err := c.Unlocked(ctx)
		if err != nil {
			return 0, err
		}
		rev, err := commit(open)
		if !onlyAbout(err, model.ReadyKey{}) {
			return rev, err
		}
	}
	return 0, fmt.Errorf("the datastore was locked and opened %d times meanwhile: %w", maxFlagChanges, ErrConflict)
}

// onlyAbout says whether a transaction failed on nothing but one key.
func onlyAbout(err error, k model.Key) bool {
	conflict, ok := errors.AsType[*ConflictError](err)
	if !ok || len(conflict.Keys) == 0 {
		return false
	}
	for _, key := range conflict.Keys {
		if key != k {
			return false
		}
	}
	return true
}
