package resource

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"calico.internal/calicoctl/internal/manifest"
	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// TestANamedPolicyIsWatchedByItsKeys: of all other policies nothing is heard, whichever way one
// is named.
func TestANamedPolicyIsWatchedByItsKeys(t *testing.T) {
	web, inOps := model.NewPolicyKey("", "web"), model.NewPolicyKey("ops", "web")
	tiers := []string{model.DefaultTier, "ops"}
	same := func(what string, got []etcdstore.Place, err error, want ...model.Key) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, []etcdstore.Place{etcdstore.At(want...)}) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	of, err := Watched{Kind: model.KindPolicy, Keys: []model.Key{web}}.places(tiers)
	same("get", of, err, web, inOps)
	_, places := placesFor([]manifest.Object{{Key: web}}, nil)
	of, err = places(tiers)
	same("wait", of, err, web)
	named := objects(t, "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: web}, spec: {}}")[0]
	named.Key = named.Shown()
	onTiers, places := placesFor([]manifest.Object{named}, nil)
	if of, err = places(tiers); !onTiers {
		t.Error("a name of v3 is looked for in one tier")
	}
	same("wait in v3", of, err, web, inOps)
}

// TestANamedPolicyIsHeardOfInATierThatComes: the tier need not exist when the watch begins.
func TestANamedPolicyIsHeardOfInATierThatComes(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	put := func(k model.Key, r model.Resource) {
		t.Helper()
		if _, _, err := s.etcd.Apply(ctx, k, r); err != nil {
			t.Fatal(err)
		}
	}
	policy := func(tier, name string) {
		t.Helper()
		put(model.NewPolicyKey(tier, name), &model.Policy{Selector: "all()"})
	}
	policy("", "web")
	policy("", "other")
	enough := errors.New("enough")
	var heard []string
	what := Watched{Kind: model.KindPolicy, Keys: []model.Key{model.NewPolicyKey("", "web")}}
	err := s.Watch(ctx, what, func(k model.Key) bool { return k.(model.PolicyKey).Name == "web" }, func(events []Event, lost error) error {
		for _, e := range events {
			heard = append(heard, e.Type+" "+e.Key.(model.PolicyKey).Tier)
		}
		switch {
		case lost != nil:
			return lost
		case len(heard) == 1:
			policy("ops", "web")
		case len(heard) == 2:
			if _, err := s.etcd.Delete(ctx, model.NewPolicyKey("ops", "web"), 0); err != nil {
				return err
			}
		case len(heard) >= 3:
			return enough
		}
		return nil
	})
	if want := []string{"added default", "added ops", "deleted ops"}; !errors.Is(err, enough) || !slices.Equal(heard, want) {
		t.Errorf("heard %q, %v, want %q", heard, err, want)
	}
}
