package resource

import (
	"errors"
	"strings"
	"testing"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

// TestTooOldForTheStore raises the version that the store asks for while an older program
// is at work: whatever it would change is refused, whatever it reads is answered.
func TestTooOldForTheStore(t *testing.T) {
	newer, ctx := newStore(t), t.Context()
	c, err := etcdstore.New(etcdstore.Config{Endpoints: etcdtest.Shared(t).Endpoints(), Version: "v0.2.0"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the test is over
	old := New(c)
	if _, err := old.Write(ctx, Apply, objects(t, profiles(1, "a"))); err != nil {
		t.Fatal(err)
	}
	raised := &model.Setting{Of: model.KindMinVersion, Value: "v0.3.0"}
	if _, err := newer.etcd.Create(ctx, model.MinVersionKey{}, raised); err != nil {
		t.Fatal(err)
	}
	const sentence = "this store is for v0.3.0 and later; this is v0.2.0: upgrade this program"
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, etcdstore.ErrTooOld) || !strings.Contains(err.Error(), sentence) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = old.Write(ctx, Apply, objects(t, profiles(2, "b")))
	refused("apply", err)
	_, err = old.WriteAtomically(ctx, Apply, objects(t, profiles(2, "b")))
	refused("apply in one transaction", err)
	_, err = old.Delete(ctx, objects(t, profiles(1, "")), Deletion{})
	refused("delete", err)
	_, err = old.Try(ctx, Apply, objects(t, profiles(2, "b")), false)
	refused("apply, dry", err)
	_, err = old.TryDelete(ctx, objects(t, profiles(1, "")), Deletion{})
	refused("delete, dry", err)
	_, err = old.Modify(ctx, objects(t, profiles(1, ""))[0], false, true, labelling("l"))
	refused("modify, dry", err)
	if _, err = old.Try(ctx, Apply, objects(t, profiles(1, "a")), true); err != nil {
		t.Errorf("apply without a change, dry: %v", err)
	}
	refused("configure IPAM", old.ChangeIPAMConfig(ctx, func(c *model.IPAMConfig) { c.StrictAffinity = true }))
	_, err = old.Lock(ctx, &model.Lock{By: "ann@host1"})
	refused("lock", err)

	entries, _, err := old.List(ctx, model.KindProfile, nil)
	if err != nil || len(entries) != 1 || entries[0].Value.(*model.Profile).Tags[0] != "a" {
		t.Errorf("stored is %v, %v", entries, err)
	}
	if done, err := newer.Write(ctx, Apply, objects(t, profiles(2, "b"))); err != nil || len(done) != 2 {
		t.Errorf("a newer program: %v, %v", done, err)
	}
}
