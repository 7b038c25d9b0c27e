package resource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// TestManyModifyOne checks that of many who change one object at the same time each gets
// its turn.
func TestManyModifyOne(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := s.Write(ctx, Create, objects(t, profiles(1, "a"))); err != nil {
		t.Fatal(err)
	}
	const callers = 32
	results := make(chan error, callers)
	for i := range callers {
		go func() {
			o := objects(t, profiles(1, "a"))[0]
			_, err := New(s.etcd).Modify(ctx, o, false, false, labelling(fmt.Sprint("l", i)))
			results <- err
		}()
	}
	for range callers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	e, err := s.etcd.Get(ctx, model.ProfileKey{Name: "p0"})
	if err != nil || len(e.Value.(*model.Profile).Labels) != callers {
		t.Errorf("stored is %v, %v", e.Value, err)
	}
}

// labelling gives a profile a label.
func labelling(label string) func(manifest.Object, model.Resource) (manifest.Object, error) {
	return func(o manifest.Object, old model.Resource) (manifest.Object, error) {
		p := *old.(*model.Profile)
		p.Labels = maps.Clone(p.Labels)
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[label] = "x"
		o.Value = &p
		return o, nil
	}
}

// TestContest checks when it is tried again, and what is said when it is not.
func TestContest(t *testing.T) {
	ctx := t.Context()
	var c contest
	other := errors.New("other")
	if err := c.lost(ctx, other); !errors.Is(err, other) {
		t.Errorf("an error that is no conflict became %v", err)
	}
	if err := c.lost(ctx, nil); err != nil {
		t.Error(err)
	}
	if err := c.lost(ctx, etcdstore.ErrConflict); err != nil {
		t.Errorf("the first conflict: %v", err)
	}
	c.since = time.Now().Add(-patience - time.Second)
	err := c.lost(ctx, etcdstore.ErrConflict)
	if !errors.Is(err, etcdstore.ErrConflict) || !strings.Contains(fmt.Sprint(err), "(2 times in 11s); try again") {
		t.Errorf("the last conflict: %v", err)
	}
	c.progress()
	if err := c.lost(ctx, etcdstore.ErrConflict); err != nil {
		t.Errorf("a conflict after a success: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	c.pause = time.Second
	if err := c.lost(gone, etcdstore.ErrConflict); !errors.Is(err, context.Canceled) || !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("who gave up: %v", err)
	}
}

// TestRevisionIsNotContested checks that what was written for one revision is not written
// over another, however patient the writer is.
func TestRevisionIsNotContested(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := s.Write(ctx, Create, objects(t, profiles(1, "a"))); err != nil {
		t.Fatal(err)
	}
	e, err := s.etcd.Get(ctx, model.ProfileKey{Name: "p0"})
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	_, err = s.Modify(ctx, objects(t, profiles(1, "a"))[0], false, false, func(o manifest.Object, old model.Resource) (manifest.Object, error) {
		if tries++; tries == 1 {
			if _, err := New(s.etcd).Modify(ctx, o, false, false, labelling("other")); err != nil {
				return o, err
			}
		}
		o.Revision = e.Revision
		return labelling("mine")(o, old)
	})
	if err == nil || tries != 2 || !strings.Contains(err.Error(), "get it anew, or leave out resourceVersion") {
		t.Errorf("after %d tries: %v", tries, err)
	}
}
