package model_test

import (
	"slices"
	"strings"
	"testing"

	"calico.internal/libcalico/model"
)

// TestScopedPrefixes checks where resources are looked for by what is known of them.
func TestScopedPrefixes(t *testing.T) {
	for _, tt := range []struct {
		kind  model.Kind
		scope model.Scope
		want  string
	}{
		{model.KindWorkloadEndpoint, model.Scope{Node: "n/1"}, "/calico/v1/host/n%2F1/workload/"},
		{model.KindWorkloadEndpoint, model.Scope{Node: "n", Orchestrator: "o"}, "/calico/v1/host/n/workload/o/"},
		{model.KindWorkloadEndpoint, model.Scope{Node: "n", Orchestrator: "o", Workload: "w"}, "/calico/v1/host/n/workload/o/w/endpoint/"},
		{model.KindWorkloadEndpoint, model.Scope{Orchestrator: "o"}, "/calico/v1/host/"},
		{model.KindHostEndpoint, model.Scope{Node: "n"}, "/calico/v1/host/n/endpoint/"},
		{model.KindFelixConfig, model.Scope{Node: "n"}, "/calico/v1/host/n/config/"},
		{model.KindBGPPeer, model.Scope{Node: "n"}, "/calico/bgp/v1/host/n/peer_v4/ /calico/bgp/v1/host/n/peer_v6/"},
		{model.KindPolicy, model.Scope{Tier: "t"}, "/calico/v1/policy/tier/t/policy/"},
		{model.KindPolicy, model.Scope{Node: "n"}, ""},
	} {
		if got := strings.Join(model.ScopedPrefixes(tt.kind, tt.scope), " "); got != tt.want {
			t.Errorf("%s of %+v: under %s, want %s", tt.kind, tt.scope, got, tt.want)
		}
	}
	// Whatever is known, a resource stands where it is looked for.
	for _, p := range pathsOf {
		kind := p.key.Kind()
		var scope model.Scope
		switch k := p.key.(type) {
		case model.WorkloadEndpointKey:
			scope = model.Scope{Node: k.Node, Orchestrator: k.Orchestrator, Workload: k.Workload}
		case model.EndpointStatusKey:
			scope = model.Scope{Node: k.Node, Orchestrator: k.Orchestrator}
		case model.HostEndpointKey:
			scope.Node = k.Node
		case model.FelixConfigKey:
			scope.Node = k.Node
		case model.NodeKey:
			scope.Node = k.Name
		case model.BGPPeerKey:
			scope.Node = k.Node
		case model.LivenessKey:
			scope.Node = k.Node
		case model.TierKey:
			scope.Tier = k.Name
		case model.PolicyKey:
			scope.Tier = k.Tier
		}
		prefixes := model.ScopedPrefixes(kind, scope)
		for _, path := range p.paths {
			if !slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(path, prefix) }) {
				t.Errorf("%s is not under %v", path, prefixes)
			}
		}
	}
}

// TestBesideWorkloads checks that only what stands in nodes' subtrees of workload endpoints
// is said to stand there.
func TestBesideWorkloads(t *testing.T) {
	inside := map[model.Kind]bool{}
	for _, p := range pathsOf {
		for _, path := range p.paths {
			for _, tree := range []string{"/calico/v1/host/", "/calico/felix/v1/host/"} {
				if !model.IsHostTree(tree) {
					t.Errorf("%s is no host tree", tree)
				}
				if !strings.HasPrefix(path, tree) {
					continue
				}
				if subtree, ok := model.WorkloadSubtreeOf(tree, path); ok {
					inside[p.key.Kind()] = true
					if !strings.HasPrefix(path, subtree) || !strings.HasSuffix(subtree, "/workload/") {
						t.Errorf("%s is not in %s", path, subtree)
					}
				}
			}
		}
	}
	for _, kind := range model.Kinds() {
		if model.BesideWorkloads(kind) == inside[kind] {
			t.Errorf("%s: beside workload endpoints: %t", kind, model.BesideWorkloads(kind))
		}
	}
}

// TestSortByKey checks that sorting by keys is sorting by Compare.
func TestSortByKey(t *testing.T) {
	var keys []model.Key
	for _, p := range pathsOf {
		keys = append(keys, p.key)
	}
	want := slices.SortedFunc(slices.Values(keys), model.Compare)
	slices.Reverse(keys)
	model.SortByKey(keys, func(k model.Key) model.Key { return k })
	if !slices.Equal(keys, want) {
		t.Errorf("%v, want %v", keys, want)
	}
}
