package etcdstore_test

import (
	"errors"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// A transaction that rests on a list is refused when the list has become longer or an
// item of it another, and not when something was deleted or is elsewhere.
func TestStillWrite(t *testing.T) {
	s := etcdtest.Shared(t)
	c, ctx := newClient(t, s), ctxOf(t)
	const within = "/calico/v1/policy/profile/a"
	profile := func(name string) model.ProfileKey { return model.ProfileKey{Name: name} }
	node := model.NodeKey{Name: "n"}
	must[int64](t)(c.Create(ctx, profile("a1"), &model.Profile{}))
	must[int64](t)(c.Create(ctx, profile("a2"), &model.Profile{}))
	since := must[int64](t)(c.Create(ctx, node, &model.Node{}))

	attempt := func(since int64) error {
		w, err := etcdstore.PutWrite(node, &model.Node{Labels: map[string]string{"k": "v"}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Commit(ctx, w, etcdstore.StillWrite(profile("x"), within, since))
		return err
	}
	must[int64](t)(c.Delete(ctx, profile("a2"), 0))
	elsewhere := must[int64](t)(c.Create(ctx, profile("b"), &model.Profile{}))
	if err := attempt(since); err != nil {
		t.Errorf("with a deletion and a change elsewhere: %v", err)
	}
	added := must[int64](t)(c.Create(ctx, profile("a3"), &model.Profile{}))
	lost := (*etcdstore.ConflictError)(nil)
	if err := attempt(elsewhere); !errors.As(err, &lost) || len(lost.Keys) != 1 || lost.Keys[0] != profile("x") || !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("with an addition: %v, want a conflict of %v", err, profile("x"))
	}
	if err := attempt(added); err != nil {
		t.Errorf("as of the addition: %v", err)
	}
	changed := must[int64](t)(c.Update(ctx, profile("a1"), &model.Profile{Tags: []string{"t"}}, 0))
	if err := attempt(changed - 1); !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("with a change: %v, want a conflict", err)
	}
	must[int64](t)(c.Delete(ctx, profile("a1"), 0))
	must[int64](t)(c.Delete(ctx, profile("a3"), 0))
	if err := attempt(since); err != nil {
		t.Errorf("with nothing left: %v", err)
	}
}
