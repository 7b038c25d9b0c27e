package v3

import (
	"testing"

	"calico.internal/libcalico/model"
)

// TestKeysFollowFromNames checks that a key leads to a name and back where the kind says so.
func TestKeysFollowFromNames(t *testing.T) {
	follow := 0
	for _, kind := range Kinds() {
		if kind.KeyOf == nil || kind.ReadOnly != "" {
			continue
		}
		follow++
		want := full[kind.Name].key
		if p, ok := want.(model.PolicyKey); ok {
			want = model.NewPolicyKey("", p.Name)
		}
		namespace, name := kind.NameOf(want, nil)
		if got, ok := kind.KeyOf(namespace, name); !ok || got != want {
			t.Errorf("%s: %s has the key %v (%t), want %v", kind.Name, name, got, ok, want)
		}
		if got, ok := kind.KeyOf("other", name); ok {
			t.Errorf("%s: in another namespace it has the key %v", kind.Name, got)
		}
	}
	if follow < 10 {
		t.Errorf("only %d kinds have keys that follow from names", follow)
	}
}

// TestKeyOfAnEndpointsName has names that say which endpoint they are, and some that do not.
func TestKeyOfAnEndpointsName(t *testing.T) {
	for _, k := range []model.WorkloadEndpointKey{
		{Node: "n", Orchestrator: "o", Workload: "w", Name: "e"},
		{Node: "node-1.example", Orchestrator: "o", Workload: "a--b", Name: "0-1"},
	} {
		if got := endpointKey(endpointName(k)); got != k {
			t.Errorf("%s is %v, want %v", endpointName(k), got, k)
		}
	}
	for _, name := range []string{
		"", "n", "n-o-w", "n-o-w-", "-o-w-e", "n-o-w-e-f",
		endpointName(model.WorkloadEndpointKey{Node: "n-", Orchestrator: "o", Workload: "w", Name: "e"}),
	} {
		if got := endpointKey(name); got != nil {
			t.Errorf("%s is %v", name, got)
		}
	}
}
