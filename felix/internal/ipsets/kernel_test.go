package ipsets

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/nettest"
	"calico.internal/libcalico/reconcile"
	"calico.internal/libcalico/reconcile/targettest"
)

const testSize = 1000

func netSpec(f rules.Family) Spec { return Spec{Type: HashNet, Family: f, MaxMembers: testSize} }

func open(t *testing.T) *Kernel {
	t.Helper()
	nettest.Isolate(t)
	k, err := Open(rules.Families[:]...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func ipset(t *testing.T, args ...string) string {
	t.Helper()
	return nettest.Run(t, "ipset", args...)
}

func foreign(t *testing.T) func(t *testing.T) {
	t.Helper()
	ipset(t, "create", "cali", "hash:ip")
	ipset(t, "create", "others", "hash:net")
	ipset(t, "add", "others", "10.0.0.0/8")
	before := ipset(t, "save", "others") + ipset(t, "save", "cali")
	return func(t *testing.T) {
		t.Helper()
		if after := ipset(t, "save", "others") + ipset(t, "save", "cali"); after != before {
			t.Errorf("sets of others were %q and are %q", before, after)
		}
	}
}

func TestSetsKeepTheContract(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject[string, Spec] {
		k := open(t)
		return targettest.Subject[string, Spec]{
			Target:  k.Sets(),
			Compare: strings.Compare,
			Equal:   func(a, b Spec) bool { return a == b },
			Items: []reconcile.Item[string, Spec]{
				{Key: "cali4-all-ipam-pools", Value: netSpec(rules.V4)},
				{Key: "cali4-s:abcdefghijklmnopqrstuvw", Value: netSpec(rules.V4)},
				{Key: "cali6-n:web", Value: Spec{Type: HashIPPort, Family: rules.V6, MaxMembers: testSize}},
			},
			Changed: Spec{Type: HashNet, Family: rules.V4, MaxMembers: 2 * testSize},
			Remove:  func(t *testing.T, name string) { ipset(t, "destroy", name) },
			Alter: func(t *testing.T, name string) {
				ipset(t, "destroy", name)
				ipset(t, "create", name, "hash:ip")
			},
			AddForeign: foreign,
			Bad:        &reconcile.Item[string, Spec]{Key: "cali4-bad", Value: Spec{Type: "hash:nothing", Family: rules.V4, MaxMembers: 1}},
		}
	})
}

func member(set, network string) Member { return Member{Set: set, Net: netip.MustParsePrefix(network)} }

func TestMembersKeepTheContract(t *testing.T) {
	targettest.Run(t, func(t *testing.T) targettest.Subject[Member, struct{}] {
		k := open(t)
		sets := k.Sets()
		var c reconcile.Changes[string, Spec]
		for name, spec := range map[string]Spec{
			"cali4-a": netSpec(rules.V4), "cali6-a": netSpec(rules.V6),
			"cali4-p": {Type: HashIPPort, Family: rules.V4, MaxMembers: testSize},
		} {
			c.Set = append(c.Set, reconcile.Item[string, Spec]{Key: name, Value: spec})
		}
		if err := sets.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		item := func(m Member) reconcile.Item[Member, struct{}] {
			return reconcile.Item[Member, struct{}]{Key: m}
		}
		return targettest.Subject[Member, struct{}]{
			Target:  k.Members(),
			Compare: Member.Compare,
			Equal:   func(_, _ struct{}) bool { return true },
			Items: []reconcile.Item[Member, struct{}]{
				item(member("cali4-a", "10.1.0.0/16")),
				item(Member{Set: "cali4-p", Net: netip.MustParsePrefix("10.0.0.1/32"), Protocol: desired.SCTP, Port: 80}),
				item(member("cali6-a", "fd00:1::/32")),
			},
			Remove: func(t *testing.T, m Member) {
				entry := strings.TrimPrefix(m.String(), m.Set+" ")
				ipset(t, "del", m.Set, entry)
			},
			AddForeign: foreign,
			Bad:        &reconcile.Item[Member, struct{}]{Key: member("cali4-absent", "10.0.0.1/32")},
		}
	})
}

func TestManyMembersInAFewMessages(t *testing.T) {
	k := open(t)
	// More than fits into one send.
	const sets, each, count = 8, 5000, 8 * 5000
	var c reconcile.Changes[Member, struct{}]
	for s := range sets {
		name := fmt.Sprintf("cali4-many%d", s)
		create(t, k, name, Spec{Type: HashNet, Family: rules.V4, MaxMembers: each})
		for i := range each {
			c.Set = append(c.Set, reconcile.Item[Member, struct{}]{Key: member(name, fmt.Sprintf("10.%d.%d.1/32", i/256, i%256))})
		}
	}
	if err := k.Members().Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	have, err := k.Members().List(t.Context())
	if err != nil || len(have) != count {
		t.Fatalf("%d members, %v; want %d", len(have), err, count)
	}
	if drifted, err := k.Drifted(); drifted || err != nil {
		t.Errorf("drifted = %v, %v after felix's own writes", drifted, err)
	}
}

func TestAFullSetIsReportedAndTheRestIsIn(t *testing.T) {
	k := open(t)
	create(t, k, "cali4-full", Spec{Type: HashNet, Family: rules.V4, MaxMembers: 2})
	create(t, k, "cali4-other", netSpec(rules.V4))
	c := reconcile.Changes[Member, struct{}]{Set: []reconcile.Item[Member, struct{}]{
		{Key: member("cali4-full", "10.0.0.1/32")},
		{Key: member("cali4-full", "10.0.0.2/32")},
		{Key: member("cali4-full", "10.0.0.3/32")},
		{Key: member("cali4-other", "10.0.0.1/32")},
	}}
	err := k.Members().Apply(t.Context(), c)
	var faults *reconcile.KeyErrors[Member]
	if !errors.As(err, &faults) || len(faults.Errs) != 1 || !errors.Is(err, errFull) {
		t.Fatalf("got %v, want one full set", err)
	}
	have, err := k.Members().List(t.Context())
	if err != nil || len(have) != 3 {
		t.Errorf("%d members, %v; want 3", len(have), err)
	}
	if drifted, err := k.Drifted(); drifted || err != nil {
		t.Errorf("drifted = %v, %v after felix's own writes", drifted, err)
	}
}

func TestDriftIsSeen(t *testing.T) {
	for name, change := range map[string]func(*testing.T){
		"a member is added":                 func(t *testing.T) { ipset(t, "add", "cali4-a", "10.0.0.9") },
		"a member is deleted":               func(t *testing.T) { ipset(t, "del", "cali4-a", "10.0.0.1") },
		"the set is flushed":                func(t *testing.T) { ipset(t, "flush", "cali4-a") },
		"the set is destroyed":              func(t *testing.T) { ipset(t, "destroy", "cali4-a") },
		"a set with felix's prefix is made": func(t *testing.T) { ipset(t, "create", "cali4-x", "hash:ip") },
	} {
		t.Run(name, func(t *testing.T) {
			k := open(t)
			create(t, k, "cali4-a", netSpec(rules.V4))
			c := reconcile.Changes[Member, struct{}]{Set: []reconcile.Item[Member, struct{}]{{Key: member("cali4-a", "10.0.0.1/32")}}}
			if err := k.Members().Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if drifted, err := k.Drifted(); drifted || err != nil {
				t.Fatalf("drifted = %v, %v before the change", drifted, err)
			}
			change(t)
			if drifted, err := k.Drifted(); !drifted || err != nil {
				t.Errorf("drifted = %v, %v after the change", drifted, err)
			}
		})
	}
}

func TestASetIsRebuiltWithItsMembersWhileARuleNamesIt(t *testing.T) {
	k := open(t)
	create(t, k, "cali4-a", netSpec(rules.V4))
	ipset(t, "add", "cali4-a", "10.0.0.0/24")
	nettest.Run(t, "iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", "cali4-a", "src")
	create(t, k, "cali4-a", Spec{Type: HashNet, Family: rules.V4, MaxMembers: 5000})
	if out := ipset(t, "save", "cali4-a"); !strings.Contains(out, "maxelem 5000") || !strings.Contains(out, "add cali4-a 10.0.0.0/24") {
		t.Errorf("the set is now %q", out)
	}
	if out := ipset(t, "list", "-n"); out != "cali4-a\n" {
		t.Errorf("sets are %q, want no temporary one", out)
	}
	err := k.Sets().Apply(t.Context(), reconcile.Changes[string, Spec]{
		Set:    []reconcile.Item[string, Spec]{{Key: "cali4-a", Value: Spec{Type: HashIP, Family: rules.V4, MaxMembers: 10}}},
		Delete: []string{},
	})
	if !errors.Is(err, errWrongType) {
		t.Errorf("another type for a set in use: got %v", err)
	}
	err = k.Sets().Apply(t.Context(), reconcile.Changes[string, Spec]{Delete: []string{"cali4-a"}})
	if !errors.Is(err, errInUse) {
		t.Errorf("destroy of a set in use: got %v", err)
	}
}

func TestMembersOf(t *testing.T) {
	for _, c := range []struct {
		net  string
		want []string
	}{
		{"10.0.0.0/8", []string{"10.0.0.0/8"}},
		{"0.0.0.0/0", []string{"0.0.0.0/1", "128.0.0.0/1"}},
		{"::/0", []string{"::/1", "8000::/1"}},
	} {
		var got []string
		for _, m := range MembersOf("x", desired.Member{Net: netip.MustParsePrefix(c.net)}) {
			got = append(got, m.Net.String())
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.net, d)
		}
	}
}

func TestTemporaryNamesAreOwnedAndFit(t *testing.T) {
	for _, name := range []string{"cali4-a", "cali6-" + strings.Repeat("x", 25)} {
		temp := temporary(name)
		if !Owned(temp) || !isTemporary(temp) || len(temp) > MaxName || isTemporary(name) {
			t.Errorf("temporary name of %s is %s", name, temp)
		}
	}
	if names := []string{"cali", "docker", "cali40s", "f2b"}; slices.ContainsFunc(names, Owned) {
		t.Errorf("one of %q counts as felix's", names)
	}
}

func create(t *testing.T, k *Kernel, name string, s Spec) {
	t.Helper()
	err := k.Sets().Apply(t.Context(), reconcile.Changes[string, Spec]{Set: []reconcile.Item[string, Spec]{{Key: name, Value: s}}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSetsOfAFamilyThatIsNotHandledAreNotListed has sets of both families and lists one's: only
// what is listed can be deleted.
func TestSetsOfAFamilyThatIsNotHandledAreNotListed(t *testing.T) {
	open(t)
	ipset(t, "create", "cali4-a", "hash:net", "maxelem", fmt.Sprint(testSize))
	ipset(t, "create", "cali6-a", "hash:net", "family", "inet6", "maxelem", fmt.Sprint(testSize))
	ipset(t, "add", "cali4-a", "10.0.0.0/8")
	ipset(t, "add", "cali6-a", "fd00::/64")
	for _, f := range rules.Families {
		k, err := Open(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		name := fmt.Sprintf("cali%d-a", f)
		if sets, err := k.Sets().List(t.Context()); err != nil || len(sets) != 1 || sets[name] != netSpec(f) {
			t.Errorf("sets of IPv%d are %v, %v", f, sets, err)
		}
		members, err := k.Members().List(t.Context())
		for m := range members {
			if m.Set != name {
				t.Errorf("members of IPv%d are %v", f, members)
			}
		}
		if err != nil || len(members) != 1 {
			t.Errorf("members of IPv%d are %v, %v", f, members, err)
		}
		if drifted, err := k.Drifted(); err != nil || drifted {
			t.Errorf("IPv%d drifted: %t, %v", f, drifted, err)
		}
	}
}
