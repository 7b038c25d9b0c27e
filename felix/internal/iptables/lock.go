package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

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

// lockPoll is how often [AwaitLock] looks.
const lockPoll = 5 * time.Millisecond

// errLocked is part of the error of a write that was not tried, because of the lock.
var errLocked = errors.New("another program holds the xtables lock")

// IsLocked reports whether something was not written because another program held the
// lock; [AwaitLock] tells when to try again.
func IsLocked(err error) bool { return errors.Is(err, errLocked) }

// AwaitLock returns when no program holds the lock, or the context ends.
func AwaitLock(ctx context.Context) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for !lockFree() && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// lockFree reports whether no program holds the lock. Where the file cannot be opened,
// iptables-restore says why.
func lockFree() bool {
	path := os.Getenv(lockVariable)
	if path == "" {
		path = lockFile
	}
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close() //nolint:errcheck // nothing was written; it gives the lock back
	return !errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
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
