package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// lock is the lock of the datastore while an import holds it.
type lock struct {
	etcd     *etcdstore.Client
	value    *model.Lock
	revision int64
	// ready is the revision of the Ready flag, which says that the datastore is closed.
	ready int64
	// needs is the version that what is written needs.
	needs string
}

// errLockLost says that the lock is not the import's any more.
var errLockLost = errors.New("the datastore's lock was opened or taken over by somebody else, so that the import has stopped; \"calicoctl datastore status\" says who has it")

// takeLock locks the datastore for an import of somebody, for whom steal takes a lock that
// somebody else has. An import that broke off is taken over; what it found is remembered, to
// go back to.
func takeLock(ctx context.Context, c *etcdstore.Client, by *model.Lock, steal bool) (*lock, error) {
	for {
		state, err := c.LockState(ctx)
		if err != nil {
			return nil, err
		}
		next, err := succeed(state, by, steal)
		if err != nil {
			return nil, err
		}
		writes, err := takeWrites(state, next)
		if err != nil {
			return nil, err
		}
		revision, err := c.Commit(ctx, writes...)
		switch {
		case errors.Is(err, etcdstore.ErrConflict):
		case err != nil:
			return nil, errors.Join(fmt.Errorf("lock the datastore: %w", err), abandon(ctx, c, next, err))
		default:
			l := &lock{etcd: c, value: next, revision: revision, ready: revision}
			if state.Locked {
				l.ready = state.ReadyRevision // it stayed as it was
			}
			return l, nil
		}
	}
}

// MayLock says why the import could not lock the datastore as it is now; it changes nothing.
func (im Import) MayLock(ctx context.Context) error {
	state, err := im.Store.LockState(ctx)
	if err == nil {
		_, err = succeed(state, im.By, im.TakeLock)
	}
	return err
}

// abandon gives back a lock of which it is not known whether it was taken, since the answer
// is missing, or the caller gave up waiting for it.
func abandon(ctx context.Context, c *etcdstore.Client, next *model.Lock, why error) error {
	if etcdstore.IsRefusal(why) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateness+returnTimeout)
	defer cancel()
	for since := time.Now(); ; pause(ctx) {
		state, err := lockStateSurely(ctx, c)
		switch {
		case err != nil:
		case state.By.Is(next):
			_, err = (&lock{etcd: c, value: state.By, revision: state.LockRevision}).giveBack(ctx, leaveAsBefore)
			return err
		case state.ReadyRevision == 0: // there is nothing that could be written anew
			if time.Since(since) > lateness {
				return nil
			}
			continue
		default:
			err = outdate(ctx, c, state)
		}
		switch {
		case errors.Is(err, etcdstore.ErrConflict), errors.Is(err, etcdstore.ErrUnavailable) && ctx.Err() == nil:
		case err != nil:
			return fmt.Errorf("it is not known whether the datastore is locked by this import; see to it (calicoctl datastore status), and if it is, repeat the import: %w", err)
		default:
			return nil
		}
	}
}

// lateness is how long after its time a transaction may still be done.
const lateness = 10 * time.Second

// outdate writes the Ready flag anew as it is, so that a taking of the lock that is still on
// its way, and compares the flag, must fail.
func outdate(ctx context.Context, c *etcdstore.Client, state etcdstore.LockState) error {
	flag := model.Ready(!state.Locked)
	ready, err := etcdstore.UpdateWrite(model.ReadyKey{}, &flag, state.ReadyRevision)
	if err != nil {
		return err
	}
	same, err := etcdstore.CheckWrite(model.LockKey{}, state.LockRevision)
	if err == nil {
		_, err = c.Commit(ctx, ready, same)
	}
	return err
}

// lockStateSurely reads the state of the lock, again and again while etcd is away.
func lockStateSurely(ctx context.Context, c *etcdstore.Client) (etcdstore.LockState, error) {
	for {
		state, err := c.LockState(ctx)
		if !errors.Is(err, etcdstore.ErrUnavailable) || !pause(ctx) {
			return state, err
		}
	}
}

// takeWrites are what makes next the lock, if the state is still that.
func takeWrites(state etcdstore.LockState, next *model.Lock) ([]etcdstore.Write, error) {
	closed := model.Ready(false)
	var ready, own etcdstore.Write
	var err, err2 error
	switch {
	case state.Locked:
		ready, err = etcdstore.CheckWrite(model.ReadyKey{}, state.ReadyRevision)
	case state.ReadyRevision == 0:
		ready, err = etcdstore.CreateWrite(model.ReadyKey{}, &closed)
	default:
		ready, err = etcdstore.UpdateWrite(model.ReadyKey{}, &closed, state.ReadyRevision)
	}
	if state.LockRevision == 0 {
		own, err2 = etcdstore.CreateWrite(model.LockKey{}, next)
	} else {
		own, err2 = etcdstore.UpdateWrite(model.LockKey{}, next, state.LockRevision)
	}
	return []etcdstore.Write{ready, own}, errors.Join(err, err2)
}

// succeed is the lock of an import in a datastore whose lock is in some state, or says why
// there is none.
func succeed(state etcdstore.LockState, by *model.Lock, steal bool) (*model.Lock, error) {
	next := *by
	next.ID, next.Import = rand.Text(), true
	old := state.By
	switch {
	case !state.Locked:
		next.Founding = state.ReadyRevision == 0
	case old == nil:
		if !steal {
			return nil, errors.New("the datastore is locked (its Ready flag is false), and nobody has said by whom: " +
				"open it first (calicoctl datastore unlock), or import under that lock, which then stays (--take-lock)")
		}
		next.Under = &model.Lock{By: "somebody unknown"}
	case old.Import:
		if err := ended(old, by); err != nil && !steal {
			return nil, err
		}
		next.Founding, next.Under = old.Founding, old.Under
	default:
		if !steal && old.By != by.By {
			return nil, fmt.Errorf("the datastore is locked by %s; when whoever locked it is done, import again, or import under that lock, which then stays (--take-lock)", old)
		}
		next.Under = old
	}
	return &next, nil
}

// ended says why the import that has a lock cannot be taken to be over, and by the operator
// who wants to go on with it.
func ended(old, by *model.Lock) error {
	life := lifeOf(old)
	switch {
	case life == runs:
		return fmt.Errorf("another import is running: %s; wait for its end", old)
	case life == unknown:
		return fmt.Errorf("another import has locked the datastore: %s; whether it still runs can be told only where that process was started; "+
			"when it is sure to be no more, --take-lock goes on where it broke off", old)
	case old.By != by.By:
		return fmt.Errorf("another import has locked the datastore: %s; the process that held the lock has died: --take-lock goes on where it broke off", old)
	}
	return nil
}

// held are the conditions that the import still has the lock: also whoever opens the flag
// alone, with no regard to the lock, ends it.
func (l *lock) held() ([]etcdstore.Write, error) {
	own, err := etcdstore.CheckWrite(model.LockKey{}, l.revision)
	if err != nil {
		return nil, err
	}
	closed, err := etcdstore.CheckWrite(model.ReadyKey{}, l.ready)
	return []etcdstore.Write{own, closed}, err
}

// commit does writes while the import holds the lock.
func (l *lock) commit(ctx context.Context, writes ...etcdstore.Write) error {
	_, err := l.commitAt(ctx, writes...)
	return err
}

// commitAt is commit with the revision of the transaction.
func (l *lock) commitAt(ctx context.Context, writes ...etcdstore.Write) (int64, error) {
	held, err := l.held()
	if err != nil {
		return 0, err
	}
	writes = append(writes[:len(writes):len(writes)], held...)
	if l.needs != "" {
		writes[0] = writes[0].Needs(l.needs)
	}
	revision, err := l.etcd.Commit(ctx, writes...)
	return revision, l.lost(err)
}

// lost tells an error that says that the lock is lost.
func (l *lock) lost(err error) error {
	if conflict, ok := errors.AsType[*etcdstore.ConflictError](err); ok {
		for _, k := range conflict.Keys {
			if k == (model.LockKey{}) || k == (model.ReadyKey{}) {
				return errLockLost
			}
		}
	}
	return err
}

// returnTimeout bounds the giving back of the lock, which is done also for who gives up.
const returnTimeout = 10 * time.Second

// after is what becomes of a lock.
type after int

const (
	// leaveAsBefore leaves the datastore as the import found it: open, locked, or without a
	// flag.
	leaveAsBefore after = iota
	// leaveOpen is the same, but for a datastore that had no flag, which gets one.
	leaveOpen
	// leaveLocked leaves it locked in any case.
	leaveLocked
)

// giveBack ends the import's lock, and says how the datastore is then.
func (l *lock) giveBack(ctx context.Context, how after) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), returnTimeout)
	defer cancel()
	writes, then, err := l.returning(how)
	if err == nil {
		err = l.commitSurely(ctx, writes)
	}
	switch {
	case errors.Is(err, errLockLost):
		return "", err
	case err != nil:
		return "", fmt.Errorf("the datastore stays locked by this import; repeat it, or open it (calicoctl datastore unlock): %w", err)
	}
	return then, nil
}

// returnPause is the time between two attempts to give the lock back.
const returnPause = 200 * time.Millisecond

// commitSurely does writes that end the lock, again and again while etcd is away. One whose
// answer got lost was done if the lock is gone at the next.
func (l *lock) commitSurely(ctx context.Context, writes []etcdstore.Write) error {
	for maybe := false; ; maybe = true {
		_, err := l.etcd.Commit(ctx, writes...)
		err = l.lost(err)
		switch {
		case maybe && errors.Is(err, errLockLost):
			return nil
		case !errors.Is(err, etcdstore.ErrUnavailable):
			return err
		}
		if !pause(ctx) {
			return err
		}
	}
}

// pause waits between two attempts, and says whether there is time for another.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(returnPause):
		return true
	case <-ctx.Done():
		return false
	}
}

// returning is the transaction that gives the lock back.
func (l *lock) returning(how after) (writes []etcdstore.Write, then string, err error) {
	own := func(value *model.Lock) {
		var w etcdstore.Write
		w, err = etcdstore.UpdateWrite(model.LockKey{}, value, l.revision)
		writes = append(writes, w)
	}
	switch under := l.value.Under; {
	case under != nil:
		own(under)
		return writes, "the datastore is locked as it was, by " + under.String(), err
	case how == leaveLocked:
		kept := *l.value
		kept.Import, kept.Founding = false, false
		own(&kept)
		return writes, "the datastore stays locked", err
	}
	w, err := etcdstore.DeleteWrite(model.LockKey{}, l.revision)
	if err != nil {
		return nil, "", err
	}
	writes = append(writes, w)
	if l.value.Founding && how == leaveAsBefore {
		w, err = etcdstore.DeleteWrite(model.ReadyKey{}, 0)
		return append(writes, w), "the datastore has no Ready flag, as before: nodes keep off it until \"calicoctl datastore unlock\" says that it is right", err
	}
	opened := model.Ready(true)
	w, err = etcdstore.PutWrite(model.ReadyKey{}, &opened)
	return append(writes, w), "the datastore is open", err
}
