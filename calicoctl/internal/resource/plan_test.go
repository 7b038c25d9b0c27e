package resource

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// addTag is a modification that adds a tag to a profile.
func addTag(tag string) func(manifest.Object, model.Resource) (manifest.Object, error) {
	return func(o manifest.Object, old model.Resource) (manifest.Object, error) {
		p := *old.(*model.Profile)
		p.Tags = append(append([]string{}, p.Tags...), tag)
		o.Value = &p
		return o, nil
	}
}

// TestModifyConcurrently checks that no modification is lost when several are made of
// one resource at once.
func TestModifyConcurrently(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	objs := objects(t, profiles(1, "first"))
	if _, err := s.Write(ctx, Create, objs); err != nil {
		t.Fatal(err)
	}
	const n = 4
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, errs[i] = s.Modify(ctx, objs[0], true, false, addTag(string(rune('a'+i))))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(ctx, objs)
	if err != nil || len(got[0].Value.(*model.Profile).Tags) != n+1 {
		t.Errorf("tags %v, error %v: want %d of them", got, err, n+1)
	}
}

func TestModifyWhatIsNotThere(t *testing.T) {
	s := newStore(t)
	_, err := s.Modify(t.Context(), objects(t, profiles(1, "x"))[0], true, false, addTag("a"))
	if !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("error %v, want not found", err)
	}
}

// TestLockedMeanwhile checks that a write that was planned before the datastore was
// locked is not carried out after.
func TestLockedMeanwhile(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	objs := objects(t, profiles(1, "x"))
	if _, err := s.Write(ctx, Create, objs); err != nil {
		t.Fatal(err)
	}
	_, err := s.Modify(ctx, objs[0], true, false, func(o manifest.Object, old model.Resource) (manifest.Object, error) {
		if done, err := s.Lock(ctx, &model.Lock{By: "ann@host1"}); err != nil || !done.Changed {
			return o, errors.Join(err, errors.New("the lock was there"))
		}
		return addTag("a")(o, old)
	})
	if !errors.Is(err, etcdstore.ErrLocked) {
		t.Errorf("error %v, want %v", err, etcdstore.ErrLocked)
	}
	for _, write := range []func() error{
		func() error { _, err := s.Write(ctx, Apply, objects(t, profiles(2, "y"))); return err },
		func() error { _, err := s.WriteAtomically(ctx, Apply, objects(t, profiles(2, "y"))); return err },
		func() error { _, err := s.Delete(ctx, objs, Deletion{}); return err },
		func() error { return s.SetRaw(ctx, BGP, "", "as_num", "1") },
	} {
		if err := write(); !errors.Is(err, etcdstore.ErrLocked) {
			t.Errorf("error %v, want %v", err, etcdstore.ErrLocked)
		}
	}
	if _, err := s.Plan(ctx, Apply, objs); err != nil {
		t.Errorf("a plan is refused: %v", err)
	}
	if done, err := s.Lock(ctx, &model.Lock{By: "bob@host2"}); err != nil || done.Changed || done.By == nil || done.By.By != "ann@host1" {
		t.Errorf("locked twice: %+v, %v", done, err)
	}
	if done, err := s.Unlock(ctx, Unlocking{NewGUID: "new"}); err != nil || done.By == nil || done.By.By != "ann@host1" {
		t.Fatalf("unlocked: %+v, %v", done, err)
	}
	if _, err := s.Delete(ctx, objs, Deletion{}); err != nil {
		t.Errorf("after unlocking: %v", err)
	}
}

// TestTheFirstNodeStartsMeanwhile has a write that finds no Ready flag, which then comes.
func TestTheFirstNodeStartsMeanwhile(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := s.Etcd().Raw().Delete(ctx, model.Paths(model.ReadyKey{})[0]); err != nil {
		t.Fatal(err)
	}
	w, err := etcdstore.CreateWrite(model.TierKey{Name: "t"}, &model.Tier{})
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	err = s.writeBy(ctx, func(ctx context.Context, writes ...etcdstore.Write) (int64, error) {
		if tries++; tries == 1 {
			yes := model.Ready(true)
			if _, err := s.etcd.Create(ctx, model.ReadyKey{}, &yes); err != nil {
				t.Fatal(err)
			}
		}
		return s.etcd.Commit(ctx, writes...)
	}, w)
	if err != nil || tries != 2 {
		t.Errorf("after %d tries: %v", tries, err)
	}
}

// TestAtomic checks that one object that cannot be written keeps all others from it,
// and that what is too much is refused before anything is.
func TestAtomic(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := s.Write(ctx, Create, objects(t, profiles(1, "x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteAtomically(ctx, Create, objects(t, profiles(3, "x"))); !errors.Is(err, etcdstore.ErrExists) {
		t.Errorf("error %v, want %v", err, etcdstore.ErrExists)
	}
	if _, err := s.WriteAtomically(ctx, Apply, objects(t, profiles(100, "x"))); err == nil {
		t.Error("100 profiles of 3 keys fit into one transaction")
	}
	entries, _, err := s.List(ctx, model.KindProfile, nil)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d profiles, error %v: want the first alone", len(entries), err)
	}
	done, err := s.WriteAtomically(ctx, Apply, objects(t, profiles(40, "y")))
	if err != nil || len(done) != 40 || done[0].Did != Configured || done[1].Did != Created {
		t.Errorf("outcomes %s, error %v", did(done), err)
	}
	revisions := map[int64]bool{}
	entries, _, err = s.List(ctx, model.KindProfile, nil)
	for _, e := range entries {
		revisions[e.Revision] = true
	}
	if err != nil || len(revisions) != 1 {
		t.Errorf("revisions %v, error %v: want one", revisions, err)
	}
}

func TestWatch(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	objs := objects(t, profiles(2, "x"))
	if _, err := s.Write(ctx, Create, objs[:1]); err != nil {
		t.Fatal(err)
	}
	steps := []func() error{
		func() error { _, err := s.Write(ctx, Apply, objects(t, profiles(1, "y"))); return err },
		func() error { _, err := s.Delete(ctx, objs[:1], Deletion{}); return err },
		func() error { _, err := s.Write(ctx, Create, objs[:1]); return err },
		func() error { cancel(); return nil },
	}
	var got []string
	err := s.Watch(ctx, Watched{Kind: model.KindProfile}, func(k model.Key) bool { return k == objs[0].Key }, func(events []Event, lost error) error {
		for _, e := range events {
			got = append(got, e.Type)
		}
		step := steps[0]
		steps = steps[1:]
		return errors.Join(lost, step())
	})
	want := []string{EventAdded, EventModified, EventDeleted, EventAdded}
	if err != nil || len(got) != len(want) {
		t.Fatalf("events %v, error %v: want %v", got, err, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("events %v, want %v", got, want)
		}
	}
}
