package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// All programs that write legacy tables share a lock, which one may hold for long.
// iptables-restore waits for it; felix's loop does not, since what needs no lock, such as
// the removal of a member of a set, would wait with it.

// lockFile is where the lock is, unless the environment variable lockVariable names
// another place.
const (
	lockFile     = "/run/xtables.lock"
	lockVariable = "XTABLES_LOCKFILE"
)

// [AwaitLock] looks each lockPoll at first, and rarer with the time that the lock was held, as
// each look costs a tenth of a millisecond: every maxLockPoll in the end.
const (
	lockPoll    = 5 * time.Millisecond
	maxLockPoll = 50 * time.Millisecond
	// lockShare is which share of the wait so far the next look may come late.
	lockShare = 16
)

// errLocked is part of the error of a write that was not tried, because of the lock.
var errLocked = errors.New("another program holds the xtables lock")

// IsLocked reports whether something was not written because another program held the
// lock; [AwaitLock] tells when to try again.
func IsLocked(err error) bool { return errors.Is(err, errLocked) }

// AwaitLock returns when no program holds the lock, or the context ends.
func AwaitLock(ctx context.Context) {
	start := time.Now()
	timer := time.NewTimer(lockPoll)
	defer timer.Stop()
	for !lockFree() && ctx.Err() == nil {
		select {
		case <-timer.C:
			timer.Reset(min(max(lockPoll, time.Since(start)/lockShare), maxLockPoll))
		case <-ctx.Done():
		}
	}
}

// lockFree reports whether no program holds the lock. It asks for a shared one, so that two
// which ask do not take each other for a holder. Where the file cannot be opened,
// iptables-restore says why.
func lockFree() bool {
	f, err := os.Open(lockPath())
	if err != nil {
		return true
	}
	defer f.Close() //nolint:errcheck // nothing was written; it gives the lock back
	return !errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func lockPath() string { return cmp.Or(os.Getenv(lockVariable), lockFile) }

// lockWatch counts how often a program gave the lock back, which all do that write legacy
// tables.
type lockWatch struct {
	mu   sync.Mutex
	path string
	// fd is an inotify instance, or -1.
	fd    int
	count uint64
}

// watchLock begins to watch. Where that is not possible, there may be a turn at any time.
func watchLock(path string) *lockWatch {
	w := &lockWatch{path: path}
	var err error
	if w.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		w.fd = -1
		return w
	}
	w.add()
	return w
}

// add watches the file, which it makes as iptables does.
func (w *lockWatch) add() {
	f, err := os.OpenFile(w.path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err == nil {
		defer f.Close() //nolint:errcheck // nothing was written
		_, err = unix.InotifyAddWatch(w.fd, w.path, unix.IN_CLOSE|unix.IN_ATTRIB|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF)
	}
	if err != nil {
		w.close()
	}
}

func (w *lockWatch) close() {
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
	}
	w.fd = -1
}

// turns is how often the lock was given back.
func (w *lockWatch) turns() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		w.count++
		return w.count
	}
	var events [4096]byte
	for {
		n, err := unix.Read(w.fd, events[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return w.count
		}
		w.count++
		// A new file is another one to watch.
		for b := events[:n]; len(b) >= unix.SizeofInotifyEvent; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			if event.Mask&(unix.IN_ATTRIB|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0 {
				w.add()
			}
			b = b[unix.SizeofInotifyEvent+int(event.Len):]
		}
		if w.fd < 0 {
			return w.count
		}
	}
}

// impatient are the programs of the legacy variant, of which none is started that would
// have to wait for the lock.
type impatient struct{ commands }

func (i impatient) restore(ctx context.Context, input []byte) error {
	if !lockFree() {
		return fmt.Errorf("%w: %w", errBusy, errLocked)
	}
	return i.commands.restore(ctx, input)
}
