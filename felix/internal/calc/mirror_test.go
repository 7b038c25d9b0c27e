package calc

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
)

// mirror is a dataplane of plain maps: it applies changes as a dataplane would, and
// checks that they keep their promises.
type mirror struct {
	t         testing.TB
	kinds     map[desired.SetID]desired.SetKind
	sets      map[desired.SetID]map[desired.Member]bool
	policies  map[model.PolicyKey]*desired.Policy
	profiles  map[string]*desired.Profile
	endpoints map[model.Key]*desired.Endpoint
}

func newMirror(t testing.TB) *mirror {
	return &mirror{
		t: t, kinds: map[desired.SetID]desired.SetKind{}, sets: map[desired.SetID]map[desired.Member]bool{},
		policies: map[model.PolicyKey]*desired.Policy{}, profiles: map[string]*desired.Profile{},
		endpoints: map[model.Key]*desired.Endpoint{},
	}
}

func (m *mirror) apply(c desired.Changes) {
	m.t.Helper()
	for _, s := range c.SetsAdded {
		if m.sets[s.ID] != nil {
			m.t.Errorf("set %s: added, but is there", s.ID)
		}
		m.sets[s.ID], m.kinds[s.ID] = map[desired.Member]bool{}, s.Kind
		m.change(s.ID, s.Members, true)
	}
	for _, d := range c.SetsChanged {
		if m.sets[d.ID] == nil || len(d.Added)+len(d.Removed) == 0 {
			m.t.Errorf("set %s: changed, but is not there, or nothing changed", d.ID)
			continue
		}
		m.change(d.ID, d.Removed, false)
		m.change(d.ID, d.Added, true)
	}
	for _, p := range c.Policies {
		replace(m.t, m.policies, p.Key, p)
	}
	for _, p := range c.Profiles {
		replace(m.t, m.profiles, p.Name, p)
	}
	for _, e := range c.Endpoints {
		replace(m.t, m.endpoints, e.Key, e)
	}
	remove(m.t, m.endpoints, c.EndpointsDeleted)
	remove(m.t, m.profiles, c.ProfilesDeleted)
	remove(m.t, m.policies, c.PoliciesDeleted)
	for _, s := range c.SetsDeleted {
		m.change(s.ID, s.Members, false)
		if len(m.sets[s.ID]) > 0 {
			m.t.Errorf("set %s: deleted with %d members less than it has", s.ID, len(m.sets[s.ID]))
		}
		remove(m.t, m.sets, []desired.SetID{s.ID})
	}
	m.checkReferences()
}

func (m *mirror) change(id desired.SetID, members []desired.Member, add bool) {
	m.t.Helper()
	if !slices.IsSortedFunc(members, desired.Member.Compare) {
		m.t.Errorf("set %s: members are not sorted: %v", id, members)
	}
	for _, member := range members {
		if m.sets[id][member] == add {
			m.t.Errorf("set %s: member %s: add = %v changes nothing", id, member, add)
		}
		if add {
			m.sets[id][member] = true
		} else {
			delete(m.sets[id], member)
		}
	}
}

func replace[K comparable, V any](t testing.TB, in map[K]V, k K, v V) {
	t.Helper()
	if old, ok := in[k]; ok && reflect.DeepEqual(old, v) {
		t.Errorf("%v: is given again without a change", k)
	}
	in[k] = v
}

func remove[K comparable, V any](t testing.TB, in map[K]V, keys []K) {
	t.Helper()
	for _, k := range keys {
		if _, ok := in[k]; !ok {
			t.Errorf("%v: deleted, but is not there", k)
		}
		delete(in, k)
	}
}

// checkReferences checks that everything that is used is there, and that everything that
// is there is used.
func (m *mirror) checkReferences() {
	m.t.Helper()
	policies, profiles, sets := map[model.PolicyKey]bool{}, map[string]bool{}, map[desired.SetID]bool{}
	interfaces, nets := map[string]model.Key{}, map[string]model.Key{}
	for k, e := range m.endpoints {
		for _, t := range slices.Concat(e.Tiers, e.Untracked, e.PreDNAT, e.Forward) {
			for _, d := range []desired.Direction{desired.Ingress, desired.Egress} {
				for _, p := range t.Policies(d) {
					policies[p] = true
					if m.policies[p] == nil || !slices.Contains(m.policies[p].Directions, d) {
						m.t.Errorf("%s: has %s policy %s, which is not there", k, d, p)
					}
				}
			}
		}
		for _, p := range e.Profiles {
			profiles[p] = true
			if m.profiles[p] == nil {
				m.t.Errorf("%s: has profile %s, which is not there", k, p)
			}
		}
		if !e.IsWorkload() {
			continue
		}
		if other, dup := interfaces[e.Interface]; dup {
			m.t.Errorf("%s and %s: have one interface", k, other)
		}
		interfaces[e.Interface] = k
		for _, n := range e.Nets {
			if other, dup := nets[n.String()]; dup {
				m.t.Errorf("%s and %s: have one address", k, other)
			}
			nets[n.String()] = k
		}
	}
	for _, p := range m.policies {
		noteSets(sets, p.Ingress, p.Egress)
	}
	for _, p := range m.profiles {
		noteSets(sets, p.Ingress, p.Egress)
	}
	sets[desired.SetAllPools], sets[desired.SetMasqPools] = true, true
	compareKeysOf(m.t, "policies", policies, m.policies)
	compareKeysOf(m.t, "profiles", profiles, m.profiles)
	compareKeysOf(m.t, "sets", sets, m.sets)
}

func noteSets(sets map[desired.SetID]bool, lists ...[]desired.Rule) {
	for _, r := range slices.Concat(lists...) {
		for _, match := range []desired.Match{r.Source, r.Destination} {
			for _, id := range slices.Concat(match.Sets, match.NotSets, match.NamedPorts, match.NotNamedPorts) {
				sets[id] = true
			}
		}
	}
}

func compareKeysOf[K comparable, V any](t testing.TB, what string, used map[K]bool, there map[K]V) {
	t.Helper()
	if u, th := sortedText(used), sortedText(there); !slices.Equal(u, th) {
		t.Errorf("%s: used are %v, there are %v", what, u, th)
	}
}

// String is the whole state as text, one object a paragraph.
func (m *mirror) String() string {
	c := desired.Changes{
		Policies:  slices.Collect(maps.Values(m.policies)),
		Profiles:  slices.Collect(maps.Values(m.profiles)),
		Endpoints: slices.Collect(maps.Values(m.endpoints)),
	}
	for id, members := range m.sets {
		list := slices.SortedFunc(maps.Keys(members), desired.Member.Compare)
		c.SetsAdded = append(c.SetsAdded, desired.IPSet{ID: id, Kind: m.kinds[id], Members: list})
	}
	sortChanges(&c)
	return changesText(c)
}

// changesText writes changes for people.
func changesText(c desired.Changes) string {
	var b strings.Builder
	for _, s := range c.SetsAdded {
		fmt.Fprintf(&b, "set %s:%s\n", s.ID, membersText(" ", s.Members))
	}
	for _, d := range c.SetsChanged {
		fmt.Fprintf(&b, "set %s:%s%s\n", d.ID, membersText(" +", d.Added), membersText(" -", d.Removed))
	}
	for _, p := range c.Policies {
		fmt.Fprintf(&b, "policy %s/%s%s\n", p.Key.Tier, p.Key.Name, map[desired.Stage]string{desired.Untracked: " untracked", desired.PreDNAT: " preDNAT"}[p.Stage])
		for _, d := range p.Directions {
			rulesText(&b, d, p.Rules(d))
		}
	}
	for _, p := range c.Profiles {
		fmt.Fprintf(&b, "profile %s%s\n", p.Name, map[bool]string{true: " (missing)"}[p.Missing])
		rulesText(&b, desired.Ingress, p.Ingress)
		rulesText(&b, desired.Egress, p.Egress)
	}
	for _, e := range c.Endpoints {
		endpointText(&b, e)
	}
	for _, k := range c.EndpointsDeleted {
		fmt.Fprintf(&b, "no %s\n", k)
	}
	for _, name := range c.ProfilesDeleted {
		fmt.Fprintf(&b, "no profile %s\n", name)
	}
	for _, k := range c.PoliciesDeleted {
		fmt.Fprintf(&b, "no policy %s/%s\n", k.Tier, k.Name)
	}
	for _, s := range c.SetsDeleted {
		fmt.Fprintf(&b, "no set %s\n", s.ID)
	}
	return b.String()
}

func membersText(sep string, members []desired.Member) string {
	var b strings.Builder
	for _, m := range members {
		b.WriteString(sep + m.String())
	}
	return b.String()
}

func endpointText(b *strings.Builder, e *desired.Endpoint) {
	fmt.Fprintf(b, "%s interface %q", e.Key, e.Interface)
	if e.MAC != nil {
		fmt.Fprintf(b, " mac %s", e.MAC)
	}
	for _, n := range e.Nets {
		fmt.Fprintf(b, " %s", n)
	}
	for _, a := range e.ExpectedAddrs {
		fmt.Fprintf(b, " expects %s", a)
	}
	for _, n := range e.NATs {
		fmt.Fprintf(b, " floats %s to %s", n.External, n.Internal)
	}
	if !e.Up {
		b.WriteString(" down")
	}
	b.WriteString("\n")
	for _, stage := range []struct {
		name  string
		tiers []desired.Tier
	}{{"", e.Tiers}, {"untracked ", e.Untracked}, {"preDNAT ", e.PreDNAT}, {"forward ", e.Forward}} {
		for _, t := range stage.tiers {
			fmt.Fprintf(b, "  %stier %s", stage.name, t.Name)
			if t.PassByDefault {
				b.WriteString(" (passes)")
			}
			for _, d := range []desired.Direction{desired.Ingress, desired.Egress} {
				if len(t.Policies(d)) == 0 {
					continue
				}
				fmt.Fprintf(b, " %s", d)
				for _, p := range t.Policies(d) {
					fmt.Fprintf(b, " %s", p.Name)
				}
			}
			b.WriteString("\n")
		}
	}
	if len(e.WorkloadsOnly) > 0 {
		fmt.Fprintf(b, "  forwards packets of workloads only %v\n", e.WorkloadsOnly)
	}
	if len(e.Profiles) > 0 {
		fmt.Fprintf(b, "  profiles %s\n", strings.Join(e.Profiles, " "))
	}
}

func rulesText(b *strings.Builder, d desired.Direction, rules []desired.Rule) {
	for _, r := range rules {
		fmt.Fprintf(b, "  %s %s", d, r.Action)
		if r.LogPrefix != "" {
			fmt.Fprintf(b, " %q", r.LogPrefix)
		}
		if r.IPVersion != 0 {
			fmt.Fprintf(b, " IPv%d", r.IPVersion)
		}
		if r.Protocol != 0 {
			fmt.Fprintf(b, " %s", r.Protocol)
		}
		if r.NotProtocol != 0 {
			fmt.Fprintf(b, " not %s", r.NotProtocol)
		}
		icmpText(b, " icmp", r.ICMP)
		icmpText(b, " not icmp", r.NotICMP)
		matchText(b, "from", r.Source)
		matchText(b, "to", r.Destination)
		b.WriteString("\n")
	}
}

func icmpText(b *strings.Builder, what string, i *desired.ICMP) {
	if i == nil {
		return
	}
	fmt.Fprintf(b, "%s %d", what, i.Type)
	if i.Code != nil {
		fmt.Fprintf(b, "/%d", *i.Code)
	}
}

func matchText(b *strings.Builder, end string, m desired.Match) {
	lists := []struct {
		name string
		list any
	}{
		{"nets", m.Nets},
		{"not nets", m.NotNets},
		{"sets", m.Sets},
		{"not sets", m.NotSets},
		{"ports", m.Ports},
		{"not ports", m.NotPorts},
		{"named ports", m.NamedPorts},
		{"not named ports", m.NotNamedPorts},
	}
	for _, l := range lists {
		if reflect.ValueOf(l.list).Len() > 0 {
			fmt.Fprintf(b, " %s %s %v", end, l.name, l.list)
		}
	}
}

func sortedText[K comparable, V any](m map[K]V) []string {
	var list []string
	for k := range m {
		list = append(list, fmt.Sprint(k))
	}
	slices.Sort(list)
	return list
}
