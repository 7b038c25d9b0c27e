package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

func newTestTracker(t testing.TB) *Tracker {
	t.Helper()
	r, err := NewRenderer(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return NewTracker(r, V4)
}

func testEndpoint(name, iface string, profiles ...string) *desired.Endpoint {
	return &desired.Endpoint{
		Key:       model.WorkloadEndpointKey{Node: "here", Orchestrator: "o", Workload: "w", Name: name},
		Interface: iface, Up: true, Profiles: profiles,
	}
}

func chainNames(chains []Chain) []string {
	var list []string
	for _, c := range chains {
		list = append(list, c.Name)
	}
	return list
}

func TestNewEndpointTouchesOnlyItsBranch(t *testing.T) {
	tk := newTestTracker(t)
	tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{testEndpoint("a", "cali1a"), testEndpoint("b", "cali2b")}})

	got := tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{testEndpoint("c", "cali1c")}})
	want := []string{"cali-from-wl-dispatch-1", "cali-fw-cali1c", "cali-to-wl-dispatch-1", "cali-tw-cali1c"}
	if names := chainNames(got.Set); !slices.Equal(names, want) || len(got.Delete) != 0 {
		t.Errorf("got %v and deletes %v, want %v", names, got.Delete, want)
	}
}

// TestNewEndpointOnlyAddsRules checks for random names that the chains from before are
// still there, and still whole: a rule may have come between others, none went away or
// changed its place.
func TestNewEndpointOnlyAddsRules(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	tk := newTestTracker(t)
	chains := map[ChainID]Chain{}
	for i := range 300 {
		name := fmt.Sprintf("cali%011x", rnd.Uint64()>>20)
		c := tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{testEndpoint(fmt.Sprint(i), name)}})
		if len(c.Delete) > 0 {
			t.Fatalf("endpoint %d deletes %v", i, c.Delete)
		}
		for _, chain := range c.Set {
			if old := chains[chain.ChainID]; !isSubsequence(old.Rules, chain.Rules) {
				t.Fatalf("endpoint %d moves or removes a rule of %s", i, chain.Name)
			}
			chains[chain.ChainID] = chain
		}
	}
}

func isSubsequence(short, long []Rule) bool {
	for _, r := range long {
		if len(short) > 0 && reflect.DeepEqual(short[0], r) {
			short = short[1:]
		}
	}
	return len(short) == 0
}

// TestStepsGiveTheSameChainsAsOneStep applies random changes one by one, and compares
// what stands then with what a fresh start would render.
func TestStepsGiveTheSameChainsAsOneStep(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		tk := newTestTracker(t)
		chains := map[ChainID]Chain{}
		apply := func(c ChainChanges) {
			for _, chain := range c.Set {
				chains[chain.ChainID] = chain
			}
			for _, id := range c.Delete {
				delete(chains, id)
			}
		}
		for range 60 {
			apply(tk.Apply(randomChange(rnd, tk)))
			if rnd.IntN(5) == 0 {
				addrs := map[string][]netip.Addr{"eth0": {netip.MustParseAddr("172.16.0.1")}}
				if rnd.IntN(2) == 0 {
					addrs["eth1"] = []netip.Addr{netip.MustParseAddr("172.16.0.2")}
				}
				apply(tk.SetInterfaces(addrs))
			}
		}
		if want := tk.all(); !reflect.DeepEqual(chains, want) {
			t.Fatalf("seed %d: %d chains stand, a fresh start makes %d, or they differ", seed, len(chains), len(want))
		}
	}
}

// randomChange makes a change that the calculation could give in the tracker's state.
func randomChange(rnd *rand.Rand, tk *Tracker) desired.Changes {
	var c desired.Changes
	used := map[string]bool{}
	touched := map[model.Key]bool{}
	for k, e := range tk.endpoints {
		switch rnd.IntN(4) {
		case 0:
			c.EndpointsDeleted = append(c.EndpointsDeleted, k)
			touched[k] = true
		default:
			used[e.Interface] = true
		}
	}
	for range rnd.IntN(5) {
		e := testEndpoint(fmt.Sprint(rnd.IntN(8)), fmt.Sprintf("cali%x", rnd.IntN(40)), "p")
		if used[e.Interface] || touched[e.Key] {
			continue
		}
		used[e.Interface], touched[e.Key] = true, true
		e.Up = rnd.IntN(3) > 0
		c.Endpoints = append(c.Endpoints, e)
	}
	if h := randomHost(rnd); !touched[h.Key] {
		c.Endpoints = append(c.Endpoints, h)
	}
	name := fmt.Sprint(rnd.IntN(4))
	k := model.PolicyKey{Tier: "default", Name: name}
	if tk.policies[k] != nil && rnd.IntN(2) == 0 {
		c.PoliciesDeleted = append(c.PoliciesDeleted, k)
	} else {
		p := &desired.Policy{Key: k, Directions: []desired.Direction{desired.Ingress}, Ingress: denyAll()}
		p.Stage = desired.Stage(rnd.IntN(3))
		if p.Stage != desired.PreDNAT && rnd.IntN(2) == 0 { // which knows ingress only
			p.Directions = append(p.Directions, desired.Egress)
		}
		c.Policies = append(c.Policies, p)
	}
	if tk.profiles[name] != nil && rnd.IntN(2) == 0 {
		c.ProfilesDeleted = append(c.ProfilesDeleted, name)
	} else {
		c.Profiles = append(c.Profiles, &desired.Profile{Name: name, Ingress: allowAll()})
	}
	return c
}

func randomHost(rnd *rand.Rand) *desired.Endpoint {
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	h := hostEndpoint(pick("h0", "h1", "h2"), pick("eth0", "eth1", "*", ""))
	h.ExpectedAddrs = []netip.Addr{netip.MustParseAddr(pick("172.16.0.1", "172.16.0.2"))}
	k := model.PolicyKey{Tier: "default", Name: "0"}
	if rnd.IntN(2) == 0 {
		h.Untracked = []desired.Tier{tier("default", k)}
	}
	if rnd.IntN(2) == 0 {
		h.Forward = []desired.Tier{tier("default", k)}
	}
	return h
}

func hostEndpoint(name, iface string) *desired.Endpoint {
	return &desired.Endpoint{Key: model.HostEndpointKey{Node: "here", Name: name}, Interface: iface, Up: true}
}

func TestAnInterfaceCanGoFromOneEndpointToAnother(t *testing.T) {
	tk := newTestTracker(t)
	tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{testEndpoint("a", "cali1", "old"), testEndpoint("b", "cali2", "new")}})
	c := tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{testEndpoint("a", "cali2", "old"), testEndpoint("b", "cali1", "new")}})
	if len(c.Delete) != 0 {
		t.Errorf("deletes %v", c.Delete)
	}
	for _, chain := range c.Set {
		if chain.Name == "cali-tw-cali2" && !slices.ContainsFunc(chain.Rules, func(r Rule) bool { return r.Action.Chain == "cali-pri-old" }) {
			t.Errorf("cali-tw-cali2 does not have the profile of its new endpoint: %v", chain.Rules)
		}
	}
}

func TestTheLastEndpointOfABranchTakesItAway(t *testing.T) {
	tk := newTestTracker(t)
	e := testEndpoint("a", "cali1")
	tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{e}})
	c := tk.Apply(desired.Changes{EndpointsDeleted: []model.Key{e.Key}})
	want := []ChainID{
		{Filter, "cali-from-wl-dispatch-1"},
		{Filter, "cali-fw-cali1"},
		{Filter, "cali-to-wl-dispatch-1"},
		{Filter, "cali-tw-cali1"},
	}
	if !slices.Equal(c.Delete, want) {
		t.Errorf("deletes %v, want %v", c.Delete, want)
	}
}

func TestWorkloadsWithAnotherInterfaceAreNotRendered(t *testing.T) {
	tk := newTestTracker(t)
	tk.Apply(desired.Changes{})
	c := tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{testEndpoint("a", "eth1")}})
	if len(c.Set)+len(c.Delete) > 0 {
		t.Errorf("got %+v", c)
	}
}

func TestReconfigureGivesWhatDiffers(t *testing.T) {
	tk := newTestTracker(t)
	tk.Apply(desired.Changes{
		Endpoints: []*desired.Endpoint{testEndpoint("a", "cali1", "p"), testEndpoint("b", "tap1", "p")},
		Profiles:  []*desired.Profile{{Name: "p", Ingress: allowAll()}},
	})
	cfg := DefaultConfig()
	cfg.EndpointToHost = Accept
	r, err := NewRenderer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := tk.Reconfigure(r)
	if names := chainNames(c.Set); !slices.Equal(names, []string{chainWorkloadToHost}) || len(c.Delete) > 0 {
		t.Errorf("another endpoint-to-host action changes %v and deletes %v", names, c.Delete)
	}
	if c := tk.Reconfigure(r); len(c.Set)+len(c.Delete) > 0 {
		t.Errorf("the same settings again change %+v", c)
	}

	cfg.WorkloadPrefixes = []string{"tap"}
	if r, err = NewRenderer(cfg); err != nil {
		t.Fatal(err)
	}
	c = tk.Reconfigure(r)
	if names := chainNames(c.Set); !slices.Contains(names, "cali-fw-tap1") {
		t.Errorf("another workload prefix changes %v", names)
	}
	if !slices.Contains(c.Delete, ChainID{Filter, "cali-fw-cali1"}) {
		t.Errorf("another workload prefix deletes %v", c.Delete)
	}
}

func TestNewRendererNamesEveryFault(t *testing.T) {
	_, err := NewRenderer(Config{MarkMask: 0x7, EndpointToHost: Masquerade, FilterAllow: Drop, MangleAllow: Accept, FilterDeny: Drop})
	want := "workload interface prefix: is empty\nmark mask 0x7: has 3 bits, at least 4 are needed\n" +
		"endpoint to host action: not one of those possible\nfilter allow action: not one of those possible"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAHostEndpointsEgressPolicyIsKeptAfterDNATToo(t *testing.T) {
	tk := newTestTracker(t)
	k := model.PolicyKey{Tier: "default", Name: "p"}
	policy := func(rules []desired.Rule) *desired.Policy {
		return &desired.Policy{Key: k, Directions: []desired.Direction{desired.Egress}, Egress: rules}
	}
	host := hostEndpoint("h", "eth0")
	host.Tiers = []desired.Tier{{Name: "default", Egress: []model.PolicyKey{k}}}
	tk.Apply(desired.Changes{Endpoints: []*desired.Endpoint{host}, Policies: []*desired.Policy{policy(denyAll())}})
	name := policyChain(desired.Egress, k)
	got := map[Table]int{}
	for _, c := range tk.Apply(desired.Changes{Policies: []*desired.Policy{policy(nil)}}).Set {
		if c.Name == name && len(c.Rules) == 0 {
			got[c.Table]++
		}
	}
	if got[Filter] != 1 || got[Mangle] != 1 {
		t.Errorf("a changed policy changes chain %s in tables %v", name, got)
	}
	c := tk.Apply(desired.Changes{EndpointsDeleted: []model.Key{host.Key}, PoliciesDeleted: []model.PolicyKey{k}})
	for _, table := range []Table{Mangle, Filter} {
		if !slices.Contains(c.Delete, ChainID{table, name}) {
			t.Errorf("chain %s stays in table %s: deleted are %v", name, table, c.Delete)
		}
	}
}
