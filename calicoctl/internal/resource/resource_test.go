package resource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/etcdtest"
	"calico.internal/libcalico/model"
)

func TestMain(m *testing.M) { os.Exit(etcdtest.Main(m)) }

// newStore is a store with an empty etcd behind it.
func newStore(t *testing.T) *Store {
	t.Helper()
	server := etcdtest.Shared(t)
	server.Wipe(t)
	c, err := etcdstore.New(etcdstore.Config{Endpoints: server.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return New(c)
}

func objects(t *testing.T, text string) []manifest.Object {
	t.Helper()
	set := manifest.NewSet(manifest.NewRegistry(), false)
	set.Read("f.yaml", []byte(text))
	if len(set.Faults) > 0 {
		t.Fatal(set.Faults)
	}
	return set.Objects
}

func did(outcomes []Outcome) string {
	var words []string
	for _, o := range outcomes {
		words = append(words, string(o.Did))
	}
	return strings.Join(words, " ")
}

// profiles is n manifests of profiles, which take three keys each.
func profiles(n int, tag string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "- {apiVersion: v1, kind: profile, metadata: {name: p%d, tags: [%s]}}\n", i, tag)
	}
	return b.String()
}

// TestManyObjects checks that more objects than a transaction takes are written, in
// order, and not again when nothing changed.
func TestManyObjects(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	const n = 120
	for _, step := range []struct {
		tag  string
		mode Mode
		want Did
	}{{"a", Create, Created}, {"a", Apply, Unchanged}, {"b", Apply, Configured}, {"b", CreateMissing, Skipped}, {"c", Replace, Configured}} {
		done, err := s.Write(ctx, step.mode, objects(t, profiles(n, step.tag)))
		if err != nil || len(done) != n {
			t.Fatalf("%d of %d done, error %v", len(done), n, err)
		}
		for i, o := range done {
			if o.Did != step.want || o.Key != (model.ProfileKey{Name: fmt.Sprintf("p%d", i)}) {
				t.Fatalf("outcome %d: %s %s, want %s", i, o.Key, o.Did, step.want)
			}
		}
	}
	done, err := s.Delete(ctx, objects(t, profiles(n, "")), Deletion{})
	if err != nil || len(done) != n {
		t.Fatalf("delete: %d of %d done, error %v", len(done), n, err)
	}
}

// TestUnchangedWritesNothing checks that the store's revision stays.
func TestUnchangedWritesNothing(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	text := profiles(3, "a")
	if _, err := s.Write(ctx, Apply, objects(t, text)); err != nil {
		t.Fatal(err)
	}
	_, before, _, err := s.etcd.List(ctx, model.KindProfile, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(ctx, Apply, objects(t, text)); err != nil {
		t.Fatal(err)
	}
	if _, after, _, _ := s.etcd.List(ctx, model.KindProfile, nil); after != before {
		t.Errorf("revision %d became %d", before, after)
	}
}

// TestIdentityStays checks that a resource keeps its UID when it is replaced.
func TestIdentityStays(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	key := model.ProfileKey{Name: "p0"}
	var metas []model.Meta
	for _, tag := range []string{"a", "b"} {
		if _, err := s.Write(ctx, Apply, objects(t, profiles(1, tag))); err != nil {
			t.Fatal(err)
		}
		e, err := s.etcd.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		metas = append(metas, e.Value.(*model.Profile).Meta)
	}
	if metas[0].UID == "" || time.Since(metas[0].CreationTimestamp) > time.Hour {
		t.Errorf("created with %+v", metas[0])
	}
	if diff := cmp.Diff(metas[0], metas[1]); diff != "" {
		t.Errorf("identity (-created +replaced):\n%s", diff)
	}
}

// TestAllOrNothing checks that all reasons are named and nothing is written.
func TestAllOrNothing(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := s.Write(ctx, Create, objects(t, profiles(2, "a"))); err != nil {
		t.Fatal(err)
	}
	done, err := s.Write(ctx, Create, objects(t, profiles(4, "b")))
	if len(done) > 0 || !errors.Is(err, etcdstore.ErrExists) {
		t.Errorf("create: %q done, error %v", did(done), err)
	}
	want := "resource already exists: profile(name=p0)\nresource already exists: profile(name=p1)"
	if err == nil || err.Error() != want {
		t.Errorf("create: error %v, want %s", err, want)
	}
	done, err = s.Write(ctx, Replace, objects(t, profiles(3, "b")))
	if len(done) > 0 || !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("replace: %q done, error %v", did(done), err)
	}
	done, err = s.Delete(ctx, objects(t, profiles(3, "b")), Deletion{})
	if len(done) > 0 || !errors.Is(err, etcdstore.ErrNotFound) {
		t.Errorf("delete: %q done, error %v", did(done), err)
	}
	entries, _, err := s.List(ctx, model.KindProfile, nil)
	if err != nil || len(entries) != 2 || entries[0].Value.(*model.Profile).Tags[0] != "a" {
		t.Errorf("stored %v, error %v", entries, err)
	}
}

// TestInvalidStoredValue checks that what cannot be read can be replaced and deleted.
func TestInvalidStoredValue(t *testing.T) {
	for _, n := range []int{1, etcdstore.MaxTxnOps} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s, ctx := newStore(t), t.Context()
			path := model.Paths(model.ProfileKey{Name: "p0"})[0]
			put := func() {
				if _, err := s.etcd.Raw().Put(ctx, path, "{"); err != nil {
					t.Fatal(err)
				}
			}
			put()
			if _, err := s.Write(ctx, Create, objects(t, profiles(n, "a"))); !errors.Is(err, etcdstore.ErrExists) {
				t.Errorf("create: error %v", err)
			}
			done, err := s.Write(ctx, Apply, objects(t, profiles(n, "a")))
			if err != nil || done[0].Did != Configured {
				t.Errorf("apply: %q, error %v", did(done), err)
			}
			put()
			if _, err := s.Delete(ctx, objects(t, profiles(n, "a")), Deletion{}); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
}

// TestConcurrentWriters checks that writers who meet all succeed, since apply means
// the whole resource.
func TestConcurrentWriters(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	const writers = 4
	errs := make(chan error, writers)
	for w := range writers {
		work := objects(t, profiles(30, fmt.Sprintf("w%d", w)))
		go func() {
			_, err := s.Write(ctx, Apply, work)
			errs <- err
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestConflictIsPlannedAnew checks one write that finds another's in its way.
func TestConflictIsPlannedAnew(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := s.Write(ctx, Create, objects(t, profiles(1, "a"))); err != nil {
		t.Fatal(err)
	}
	steps, err := s.plan(ctx, Apply, objects(t, profiles(1, "b")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(ctx, Apply, objects(t, profiles(1, "c"))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.commit(ctx, steps); !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("a plan that is out of date: error %v", err)
	}
}

// TestConflictsAmongResources checks pools and nodes against each other and against
// what is stored.
func TestConflictsAmongResources(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	pool := func(cidr string) string {
		return fmt.Sprintf("- {apiVersion: v1, kind: ipPool, metadata: {cidr: %s}}\n", cidr)
	}
	node := func(name, ip string) string {
		return fmt.Sprintf("- {apiVersion: v1, kind: node, metadata: {name: %s}, spec: {bgp: {ipv4Address: %s}}}\n", name, ip)
	}
	if _, err := s.Write(ctx, Create, objects(t, pool("10.0.0.0/16")+node("a", "192.0.2.1"))); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, text, want string }{
		{"a pool within a stored one", pool("10.0.1.0/24"), "ipPool(cidr=10.0.1.0/24) overlaps ipPool(cidr=10.0.0.0/16)"},
		{"two new pools", pool("10.2.0.0/16") + pool("10.2.0.0/20"), "ipPool(cidr=10.2.0.0/16) overlaps ipPool(cidr=10.2.0.0/20)"},
		{"a node with a stored one's address", node("b", "192.0.2.1/24"), "node(name=b) has the address 192.0.2.1 of node(name=a)"},
		{"pools side by side", pool("10.1.0.0/16") + pool("10.3.0.0/16"), ""},
		{"the same again", pool("10.0.0.0/16") + node("a", "192.0.2.1"), ""},
		{"an address that moves within one write", node("a", "192.0.2.9") + node("c", "192.0.2.1"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := s.Write(ctx, Apply, objects(t, tc.text))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("error %q, want %q", got, tc.want)
			}
		})
	}
}

// TestPartialSuccess checks that a failure half-way leaves the first objects done.
func TestPartialSuccess(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	todo, err := s.plan(ctx, Create, objects(t, profiles(60, "a")))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.commit(ctx, plan{steps: batch(todo.steps)}); err != nil || n != 33 {
		t.Fatalf("first transaction: %d done, error %v", n, err)
	}
	cancel()
	if n, err := s.commit(ctx, plan{steps: todo.steps[33:]}); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %d done, error %v", n, err)
	}
}

// TestSettingsInBetween checks that a setting that someone else changes between the plan
// and the write is not overwritten unseen.
func TestSettingsInBetween(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	work := func(prefix string) []manifest.Object {
		return objects(t, fmt.Sprintf("{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {logPrefix: %s}}", prefix))
	}
	if _, err := s.Write(ctx, Create, work("a")); err != nil {
		t.Fatal(err)
	}
	steps, err := s.plan(ctx, Apply, work("b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetRaw(ctx, Felix, "", "LogPrefix", "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.commit(ctx, steps); !errors.Is(err, etcdstore.ErrConflict) {
		t.Errorf("a plan that is out of date: error %v", err)
	}
	if done, err := s.Write(ctx, Apply, work("b")); err != nil || did(done) != "configured" {
		t.Errorf("planned anew: %q, error %v", did(done), err)
	}
}
