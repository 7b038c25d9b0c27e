package daemon

import (
	"slices"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/ipsets"
	"calico.internal/felix/internal/rules"
)

// addressSet is a set as the calculation wants it; in the kernel it is one set per
// family. Its members are in the table of members.
type addressSet struct {
	kind desired.SetKind
	// names are the kernel's names.
	names map[rules.Family]string
	// wide are the members that can share a form in the kernel: 0.0.0.0/0 and its halves.
	wide map[desired.Member]struct{}
}

func (d *dataplane) addSet(s desired.IPSet) {
	set := &addressSet{kind: s.Kind, names: map[rules.Family]string{}, wide: map[desired.Member]struct{}{}}
	for _, f := range d.families {
		set.names[f] = rules.SetName(f, s.ID)
		d.setIDs[set.names[f]] = s.ID
	}
	d.addressSets[s.ID] = set
	d.declareSet(set)
	for _, m := range s.Members {
		d.addMember(set, m)
	}
}

func (d *dataplane) declareSet(set *addressSet) {
	for f, name := range set.names {
		d.sets.Set(name, ipsets.Spec{Type: ipsets.TypeOf(set.kind), Family: f, MaxMembers: uint32(d.cfg.MaxIpsetSize)})
	}
}

func (d *dataplane) changeSet(delta desired.SetDelta) {
	set := d.addressSets[delta.ID]
	if set == nil {
		return
	}
	for _, m := range delta.Added {
		d.addMember(set, m)
	}
	for _, m := range delta.Removed {
		d.removeMember(set, m)
	}
}

func (d *dataplane) deleteSet(s desired.IPSet) {
	set := d.addressSets[s.ID]
	if set == nil {
		return
	}
	for _, m := range s.Members {
		d.removeMember(set, m)
	}
	for _, name := range set.names {
		d.sets.Delete(name)
		delete(d.setIDs, name)
	}
	delete(d.addressSets, s.ID)
}

func isWide(m desired.Member) bool { return m.Net.Bits() <= 1 }

func (d *dataplane) addMember(set *addressSet, m desired.Member) {
	if isWide(m) {
		set.wide[m] = struct{}{}
	}
	for _, k := range set.kernelMembers(m) {
		d.members.Set(k, struct{}{})
	}
}

// removeMember takes a member out, unless the kernel's form of it is also that of
// another member.
func (d *dataplane) removeMember(set *addressSet, m desired.Member) {
	delete(set.wide, m)
	for _, k := range set.kernelMembers(m) {
		if !isWide(m) || !set.covers(k) {
			d.members.Delete(k)
		}
	}
}

func (s *addressSet) covers(k ipsets.Member) bool {
	for m := range s.wide {
		if slices.Contains(ipsets.MembersOf(k.Set, m), k) {
			return true
		}
	}
	return false
}

// kernelMembers are the members of the kernel's sets that a member of a set is; there
// are none when its family is not handled.
func (s *addressSet) kernelMembers(m desired.Member) []ipsets.Member {
	for f, name := range s.names {
		if f.Of(m.Net) {
			return ipsets.MembersOf(name, m)
		}
	}
	return nil
}

// setFaults says of each set that is not as wanted why.
func (d *dataplane) setFaults() map[string]string {
	out := map[string]string{}
	for _, failed := range d.members.Status().Failed {
		set, member, _ := strings.Cut(failed.Key, " ")
		out[set] = member + ": " + failed.Err.Error()
	}
	for _, failed := range d.sets.Status().Failed {
		out[failed.Key] = failed.Err.Error()
	}
	return out
}

// closeBrokenSets is the step between members and chains: where a set could not be
// filled as wanted, the chains that name it are closed, because a rule over too few or too
// many addresses can allow what it should deny. It reports whether any chain changed.
func (d *dataplane) closeBrokenSets() (changed bool) { return d.filters.closeBySets(d.setFaults()) }
