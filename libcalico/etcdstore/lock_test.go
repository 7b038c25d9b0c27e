package etcdstore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

func emptyStore(t *testing.T) *etcdstore.Client {
	t.Helper()
	server := etcdtest.Shared(t)
	server.Wipe(t)
	return newClient(t, server)
}

func setFlag(t *testing.T, c *etcdstore.Client, open bool) {
	t.Helper()
	flag := model.Ready(open)
	w, err := etcdstore.PutWrite(model.ReadyKey{}, &flag)
	if err == nil {
		_, err = c.Commit(t.Context(), w)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestALockThatComesBetweenStopsAWrite locks the store after the write has looked.
func TestALockThatComesBetweenStopsAWrite(t *testing.T) {
	c := emptyStore(t)
	setFlag(t, c, true)
	tier, err := etcdstore.PutWrite(model.TierKey{Name: "t"}, &model.Tier{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.WhileUnlocked(t.Context(), func(open etcdstore.Write) (int64, error) {
		setFlag(t, c, false)
		return c.Commit(t.Context(), tier, open)
	})
	if !errors.Is(err, etcdstore.ErrLocked) {
		t.Errorf("error %v, want %v", err, etcdstore.ErrLocked)
	}
	if _, err := c.Get(t.Context(), model.TierKey{Name: "t"}); !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("it is stored: %v", err)
	}
}

// TestAFlagThatComesBetweenStopsNothing has the first node of a cluster start meanwhile, and
// somebody lock the store and open it again.
func TestAFlagThatComesBetweenStopsNothing(t *testing.T) {
	c := emptyStore(t)
	tier, err := etcdstore.PutWrite(model.TierKey{Name: "t"}, &model.Tier{})
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	_, err = c.WhileUnlocked(t.Context(), func(open etcdstore.Write) (int64, error) {
		if tries++; tries < 3 {
			setFlag(t, c, true)
		}
		return c.Commit(t.Context(), tier, open)
	})
	if err != nil || tries != 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	// What fails for another reason is not tried again.
	create, err := etcdstore.CreateWrite(model.TierKey{Name: "t"}, &model.Tier{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CommitUnlocked(t.Context(), create); !errors.Is(err, etcdstore.ErrExists) {
		t.Errorf("error %v, want %v", err, etcdstore.ErrExists)
	}
}

func TestALockedStoreSaysByWhom(t *testing.T) {
	c := emptyStore(t)
	lock := &model.Lock{By: "ann@host1", Command: "calicoctl datastore lock", PID: 42, Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	if _, _, err := c.Apply(t.Context(), model.LockKey{}, lock); err != nil {
		t.Fatal(err)
	}
	state, err := c.LockState(t.Context())
	if err != nil || state.Locked || state.Err() != nil {
		t.Errorf("a lock without a flag: %+v, %v", state, err)
	}
	for _, tc := range []struct {
		name, flag string
		change     func()
		want       []string
	}{
		{"a lock", "false", func() {}, []string{
			"by ann@host1 (calicoctl datastore lock, process 42) since 2026-01-02T03:04:05Z", "calicoctl datastore unlock",
		}},
		{"a flag that cannot be read", "True", func() {}, []string{"by ann@host1"}},
		{"an import", "false", func() { lock.Import = true }, []string{"the import opens it when it ends"}},
		{"no lock", "false", func() { lock = nil }, []string{"its Ready flag is false", "calicoctl datastore unlock"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.change(); lock != nil {
				if _, _, err := c.Apply(t.Context(), model.LockKey{}, lock); err != nil {
					t.Fatal(err)
				}
			} else if _, err := c.Delete(t.Context(), model.LockKey{}, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Raw().Put(t.Context(), "/calico/v1/Ready", tc.flag); err != nil {
				t.Fatal(err)
			}
			_, err := c.Unlocked(t.Context())
			if !errors.Is(err, etcdstore.ErrLocked) {
				t.Fatalf("error %v, want %v", err, etcdstore.ErrLocked)
			}
			for _, want := range append(tc.want, "the datastore is locked against changes") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}
