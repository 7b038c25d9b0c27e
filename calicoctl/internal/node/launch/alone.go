package launch

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile is locked by whoever changes the container of this host.
const lockFile = "/run/calicoctl-node.lock"

// begin is [alone] for root, who alone may change the container.
func begin() (done func(), err error) {
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	return alone(lockFile)
}

// alone makes sure that nobody else changes the container of this host until done is called,
// or this process ends.
func alone(path string) (done func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errors.New("another calicoctl is at work on this host's calico-node: wait for its end, and run this again")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w (%s)", err, path), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
