package resource

import (
	"errors"
	"strings"
	"testing"
	"time"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// TestUnlockOpensOnlyTheLockThatItSaw lets others write the lock between the look and the
// transaction.
func TestUnlockOpensOnlyTheLockThatItSaw(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ann := &model.Lock{ID: "1", By: "ann@h1", Command: "calicoctl datastore lock", PID: 7, Since: since}
	bobs := &model.Lock{By: "bob@h2", Command: "calicoctl datastore import", PID: 8, Import: true, Since: since, Under: ann}
	again := *ann
	again.Command = "calicoctl"
	twin := *ann // a process of the same number in a container of the same name
	twin.ID = "2"
	for _, tc := range []struct {
		name          string
		before, came  *model.Lock
		nobodyKnown   bool // what was there before does not say who has locked it
		opened, locks bool // came opens the datastore, or locks it that was open
		stays         bool
		wantErr       string
	}{
		{name: "an import takes over", before: ann, came: bobs, stays: true, wantErr: "locked against changes by bob@h2"},
		{name: "of somebody unknown", before: ann, nobodyKnown: true, came: bobs, stays: true, wantErr: "locked against changes by bob@h2"},
		{name: "somebody locks it only then", came: bobs, locks: true, stays: true, wantErr: "locked against changes by bob@h2"},
		{name: "its holder writes it again", before: ann, came: &again},
		{name: "a twin takes over", before: ann, came: &twin, stays: true, wantErr: "locked against changes by ann@h1"},
		{name: "somebody opens it", before: ann, opened: true},
		{name: "nothing", before: ann},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, ctx := newStore(t), t.Context()
			other := another(t, s)
			if tc.before != nil {
				if _, err := s.Lock(ctx, tc.before); err != nil {
					t.Fatal(err)
				}
			}
			if tc.nobodyKnown {
				if _, err := s.etcd.Delete(ctx, model.LockKey{}, 0); err != nil {
					t.Fatal(err)
				}
			}
			hook(s, func(n int) error {
				switch {
				case n > 1:
				case tc.opened:
					_, err := other.Unlock(ctx, Unlocking{NewGUID: "theirs"})
					return err
				case tc.locks:
					_, err := other.Lock(ctx, tc.came)
					return err
				case tc.came != nil:
					_, _, err := other.etcd.Apply(ctx, model.LockKey{}, tc.came)
					return err
				}
				return nil
			})
			_, err := s.Unlock(ctx, Unlocking{NewGUID: "new", Accept: true})
			if tc.wantErr == "" && err != nil || tc.wantErr != "" && (!errors.Is(err, etcdstore.ErrLocked) || !strings.Contains(err.Error(), tc.wantErr)) {
				t.Errorf("error %v, want %q", err, tc.wantErr)
			}
			state, err := other.etcd.LockState(ctx)
			if err != nil || state.Locked != tc.stays || (state.LockRevision != 0) != tc.stays {
				t.Errorf("the lock after it: %+v, %v", state, err)
			}
		})
	}
}
