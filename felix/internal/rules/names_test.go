package rules

import (
	"slices"
	"strings"
	"testing"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

func TestNames(t *testing.T) {
	tests := []struct {
		name, got, want string
	}{
		{"set with a fixed id", SetName(V4, desired.SetAllPools), "cali4-all-ipam-pools"},
		{"set of the other family", SetName(V6, desired.SetMasqPools), "cali6-masq-ipam-pools"},
		{"set of a selector, cut", SetName(V4, "s:ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ab"), "cali4-s:ABCDEFGHIJKLMNOPQRSTUVW"},
		{"set of a named port", SetName(V4, "n:tcp:http"), "cali4-n:tcp:http"},
		{"chains of an endpoint, in", endpointChain(desired.Ingress, "cali01234567890"), "cali-tw-cali01234567890"},
		{"chains of an endpoint, out", endpointChain(desired.Egress, "cali01234567890"), "cali-fw-cali01234567890"},
		{"policy", policyChain(desired.Ingress, model.PolicyKey{Tier: "default", Name: "web"}), "cali-pi-default/web"},
		{"profile", profileChain(desired.Egress, "net1"), "cali-pro-net1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.got != tt.want {
				t.Errorf("got %q, want %q", tt.got, tt.want)
			}
		})
	}
}

func TestNamesOfDifferentThingsDiffer(t *testing.T) {
	long := strings.Repeat("x", 40)
	ids := []string{
		"web", long, long + "y", "a b", "a\nb", "a\"b", "_abc", "", "-j ACCEPT", "ä",
		strings.TrimPrefix(profileChain(desired.Ingress, long), "cali-pri-"),
	}
	seen := map[string]string{}
	for _, id := range ids {
		name := profileChain(desired.Ingress, id)
		if len(name) > MaxChainName || strings.ContainsAny(name, " \n\"'\\") || !strings.HasPrefix(name, "cali-pri-") {
			t.Errorf("id %q: name %q", id, name)
		}
		if other, dup := seen[name]; dup {
			t.Errorf("ids %q and %q: both have the name %q", id, other, name)
		}
		seen[name] = id
	}
}

// TestChainsOfTheFrameAreToldFromThoseOfObjects renders one of everything.
func TestChainsOfTheFrameAreToldFromThoseOfObjects(t *testing.T) {
	tk := newTestTracker(t)
	long := "a-name-that-is-too-long-for-a-chain"
	k := model.PolicyKey{Tier: "default", Name: long}
	p := &desired.Policy{Key: k, Directions: []desired.Direction{desired.Ingress, desired.Egress}, Stage: desired.Untracked}
	e := testEndpoint("a", "cali1", long)
	h := hostEndpoint("h", "eth0")
	h.Untracked = []desired.Tier{tier("default", k)}
	c := tk.Apply(desired.Changes{
		Endpoints: []*desired.Endpoint{e, h}, Policies: []*desired.Policy{p}, Profiles: []*desired.Profile{{Name: long}},
	})
	objects := slices.Concat(EndpointChains(e), PolicyChains(p), ProfileChains(long))
	for _, chain := range c.Set {
		ofHost := strings.HasPrefix(chain.Name, "cali-fh-") || strings.HasPrefix(chain.Name, "cali-th-")
		if of := ofHost || slices.Contains(objects, chain.ChainID); of == chain.OfFrame() {
			t.Errorf("chain %s in table %s: of one object: %v, of the frame: %v", chain.Name, chain.Table, of, chain.OfFrame())
		}
	}
	for _, id := range objects {
		if !slices.ContainsFunc(c.Set, func(c Chain) bool { return c.ChainID == id }) {
			t.Errorf("chain %v is not rendered", id)
		}
	}
}
