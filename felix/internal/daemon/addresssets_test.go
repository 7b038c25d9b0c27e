package daemon

import (
	"net/netip"
	"slices"
	"testing"

	"calico.internal/felix/internal/config"
	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/ipsets"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

// setPlane is a dataplane of which only the sets and their members work.
func setPlane(families ...rules.Family) (d *dataplane, sets *targettest.Memory[string, ipsets.Spec], members *targettest.Memory[ipsets.Member, struct{}]) {
	sets, members = targettest.NewMemory[string, ipsets.Spec](), targettest.NewMemory[ipsets.Member, struct{}]()
	return &dataplane{
		cfg: &config.Config{}, families: families, addressSets: map[desired.SetID]*addressSet{},
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
