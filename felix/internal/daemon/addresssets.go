package daemon

import (
	"slices"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/ipsets"
	"calico.internal/felix/internal/rules"
)

// addressSet is a set as the calculation wants it; in the kernel it is one set per
// family.
type addressSet struct {
	kind    desired.SetKind
	members map[desired.Member]struct{}
}

func (d *dataplane) addSet(s desired.IPSet) {
	set := &addressSet{kind: s.Kind, members: make(map[desired.Member]struct{}, len(s.Members))}
	d.addressSets[s.ID] = set
	d.declareSet(s.ID, s.Kind)
	for _, m := range s.Members {
		d.addMember(s.ID, set, m)
	}
}

func (d *dataplane) declareSet(id desired.SetID, kind desired.SetKind) {
	for _, f := range d.families {
		d.sets.Set(rules.SetName(f, id), ipsets.Spec{Type: ipsets.TypeOf(kind), Family: f, MaxMembers: uint32(d.cfg.MaxIpsetSize)})
	}
}

func (d *dataplane) changeSet(delta desired.SetDelta) {
	set := d.addressSets[delta.ID]
	if set == nil {
		return
	}
	for _, m := range delta.Added {
		d.addMember(delta.ID, set, m)
	}
	for _, m := range delta.Removed {
		d.removeMember(delta.ID, set, m)
	}
}

func (d *dataplane) deleteSet(id desired.SetID) {
	set := d.addressSets[id]
	if set == nil {
		return
	}
	for m := range set.members {
		d.removeMember(id, set, m)
	}
	for _, f := range d.families {
		d.sets.Delete(rules.SetName(f, id))
	}
	delete(d.addressSets, id)
}

func (d *dataplane) addMember(id desired.SetID, set *addressSet, m desired.Member) {
	set.members[m] = struct{}{}
	for _, k := range d.kernelMembers(id, m) {
		d.members.Set(k, struct{}{})
	}
}

// removeMember takes a member out, unless the kernel's form of it is also that of
// another member: the halves of 0.0.0.0/0.
func (d *dataplane) removeMember(id desired.SetID, set *addressSet, m desired.Member) {
	delete(set.members, m)
	for _, k := range d.kernelMembers(id, m) {
		if m.Net.Bits() <= 1 && set.covers(k) {
			continue
		}
		d.members.Delete(k)
	}
}

func (s *addressSet) covers(k ipsets.Member) bool {
	for m := range s.members {
		if m.Net.Bits() > 1 {
			continue
		}
		if slices.Contains(ipsets.MembersOf(k.Set, m), k) {
			return true
		}
	}
	return false
}

// kernelMembers are the members of the kernel's sets that a member of a set is; there
// are none when its family is not handled.
func (d *dataplane) kernelMembers(id desired.SetID, m desired.Member) []ipsets.Member {
	for _, f := range d.families {
		if f.Of(m.Net) {
			return ipsets.MembersOf(rules.SetName(f, id), m)
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
