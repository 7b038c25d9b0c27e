package iptables

import (
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestWhoLooksAfterTheLockIsNotTakenForItsHolder has several goroutines of felix, as its loop and
// what removes left-overs, look whether the lock is free at the same time.
func TestWhoLooksAfterTheLockIsNotTakenForItsHolder(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	t.Setenv(lockVariable, lock)
	watch := watchLock(lock) // which makes the file
	defer watch.close()
	var wg sync.WaitGroup
	end := time.Now().Add(200 * time.Millisecond)
	for range 4 {
		wg.Go(func() {
			for time.Now().Before(end) {
				if !lockFree() {
					t.Error("the lock that nobody holds is not free")
					return
				}
			}
		})
	}
	wg.Wait()
}
