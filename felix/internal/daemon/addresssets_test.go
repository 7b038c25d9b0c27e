package daemon

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/ipsets"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

// setPlane is a dataplane of which only the sets and their members work.
func setPlane(families ...rules.Family) (d *dataplane, sets *targettest.Memory[string, ipsets.Spec], members *targettest.Memory[ipsets.Member, struct{}]) {
	sets, members = targettest.NewMemory[string, ipsets.Spec](), targettest.NewMemory[ipsets.Member, struct{}]()
	return &dataplane{
		cfg: &config.Config{}, families: families, addressSets: map[desired.SetID]*addressSet{}, setIDs: map[string]desired.SetID{}, setUses: setUses{},
		sets:    reconcile.NewTable(sets, options[string, ipsets.Spec](setsTable, compareStrings)),
		members: reconcile.NewTable(members, options[ipsets.Member, struct{}]("members", ipsets.Member.Compare)),
	}, sets, members
}

func nets(list ...string) []desired.Member {
	var out []desired.Member
	for _, n := range list {
		out = append(out, desired.Member{Net: netip.MustParsePrefix(n)})
	}
	return out
}

// TestAMemberThatTakesAccessAwayWaitsForNothing has members leave sets while a chain cannot be
// written.
func TestAMemberThatTakesAccessAwayWaitsForNothing(t *testing.T) {
	in, out := desired.Match{Sets: []desired.SetID{"s:x"}}, desired.Match{NotSets: []desired.SetID{"s:x"}}
	for name, c := range map[string]struct {
		rules []desired.Rule
		early bool
	}{
		"no rule":             {nil, true},
		"allowed":             {[]desired.Rule{{Action: desired.Allow, Source: in}}, true},
		"all others denied":   {[]desired.Rule{{Action: desired.Deny, Destination: out}}, true},
		"denied":              {[]desired.Rule{{Action: desired.Deny, Source: in}}, false},
		"all others allowed":  {[]desired.Rule{{Action: desired.Allow, Destination: out}}, false},
		"allowed and denied":  {[]desired.Rule{{Action: desired.Allow, Source: in}, {Action: desired.Deny, Source: in}}, true},
		"passed":              {[]desired.Rule{{Action: desired.Pass, Source: in}}, true},
		"denied and logged":   {[]desired.Rule{{Action: desired.Log, Source: in}, {Action: desired.Deny, Source: in}}, false},
		"another set allowed": {[]desired.Rule{{Action: desired.Allow, Source: desired.Match{Sets: []desired.SetID{"s:y"}}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			d, _, members := setPlane(rules.V4)
			d.policies = map[model.PolicyKey]*desired.Policy{}
			d.members = reconcile.NewTable(members, d.memberOptions())
			k := policyNumber(1)
			d.setPolicy(k, &desired.Policy{Key: k, Ingress: []desired.Rule{{Action: desired.Deny, Source: in}, {Action: desired.Allow, Source: in}}})
			d.setPolicy(k, &desired.Policy{Key: k, Ingress: c.rules})
			d.addSet(desired.IPSet{ID: "s:x", Members: nets("10.0.0.1/32", "10.0.0.2/32")})
			chain := targettest.NewMemory[string, ipsets.Spec]()
			chain.Fail(nil, errors.New("no"))
			chains := reconcile.NewTable(chain, options[string, ipsets.Spec]("chains", compareStrings))
			chains.Set("chain", ipsets.Spec{})
			order := reconcile.Ordered{d.sets, d.members, chains}
			_ = order.Apply(t.Context())
			d.changeSet(desired.SetDelta{ID: "s:x", Removed: nets("10.0.0.1/32")})
			_ = order.Apply(t.Context())
			if early := len(members.Objects()) == 1; early != c.early {
				t.Errorf("members are %v", members.Objects())
			}
			chain.Fail(nil, nil)
			if err := order.Apply(t.Context()); err != nil || len(members.Objects()) != 1 {
				t.Errorf("members are %v in the end, %v", members.Objects(), err)
			}
			d.setPolicy(k, nil)
			if len(d.setUses) > 0 {
				t.Errorf("without policies sets are used: %v", d.setUses)
			}
		})
	}
}

func TestMembersOfASetFollowItsChanges(t *testing.T) {
	for _, c := range []struct {
		name     string
		families []rules.Family
		add      []string
		remove   []string
		want     []string
	}{
		{"both families", rules.Families[:], []string{"10.0.0.1/32", "fd00::1/128"}, nil, []string{"10.0.0.1/32", "fd00::1/128"}},
		{"IPv4 alone", []rules.Family{rules.V4}, []string{"10.0.0.1/32", "fd00::1/128"}, []string{"fd00::1/128"}, []string{"10.0.0.1/32"}},
		{"all addresses become halves", rules.Families[:], []string{"0.0.0.0/0", "::/0"}, nil, []string{"0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"}},
		{"a half stays when all addresses go", rules.Families[:], []string{"0.0.0.0/0", "0.0.0.0/1"}, []string{"0.0.0.0/0"}, []string{"0.0.0.0/1"}},
		{"all addresses stay when a half goes", rules.Families[:], []string{"0.0.0.0/0", "128.0.0.0/1"}, []string{"128.0.0.0/1"}, []string{"0.0.0.0/1", "128.0.0.0/1"}},
		{"both go", rules.Families[:], []string{"::/0", "8000::/1", "10.0.0.0/8"}, []string{"::/0", "8000::/1"}, []string{"10.0.0.0/8"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const id = desired.SetID("s:x")
			d, sets, members := setPlane(c.families...)
			look := func() (have []string) {
				t.Helper()
				for _, table := range []reconcile.Reconciler{d.sets, d.members} {
					if err := table.Apply(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				for m := range members.Objects() {
					have = append(have, m.Net.String())
				}
				slices.Sort(have)
				return have
			}
			d.addSet(desired.IPSet{ID: id, Members: nets(c.add...)})
			d.changeSet(desired.SetDelta{ID: id, Removed: nets(c.remove...)})
			slices.Sort(c.want)
			if got := look(); !slices.Equal(got, c.want) {
				t.Errorf("the kernel has %v, want %v", got, c.want)
			}
			left := slices.DeleteFunc(slices.Clone(c.add), func(n string) bool { return slices.Contains(c.remove, n) })
			d.deleteSet(desired.IPSet{ID: id, Members: nets(left...)})
			if got := look(); len(got) > 0 || len(sets.Objects()) > 0 || len(d.addressSets) > 0 {
				t.Errorf("after the set was deleted, %v of it and %v are left", got, sets.Objects())
			}
		})
	}
}
