package daemon

import (
	"slices"

	"calico.internal/felix/internal/desired"
)

// setUses tells of address sets what it means that a member leaves them.
type setUses map[desired.SetID]uses

// uses counts the places in rules where a member that leaves takes access away, and those
// where it gives access.
type uses struct{ takes, gives int }

// count adds the rules of an object n times.
func (u setUses) count(list []desired.Rule, n int) {
	for _, r := range list {
		for _, end := range []*desired.Match{&r.Source, &r.Destination} {
			in := slices.Concat(end.Sets, end.NamedPorts)
			out := slices.Concat(end.NotSets, end.NotNamedPorts)
			switch r.Action {
			case desired.Allow:
				u.add(in, uses{takes: n})
				u.add(out, uses{gives: n})
			case desired.Deny:
				u.add(in, uses{gives: n})
				u.add(out, uses{takes: n})
			case desired.Pass: // to whatever comes next
				u.add(in, uses{n, n})
				u.add(out, uses{n, n})
			case desired.Log:
			}
		}
	}
}

func (u setUses) add(ids []desired.SetID, n uses) {
	for _, id := range ids {
		sum := uses{u[id].takes + n.takes, u[id].gives + n.gives}
		if sum == (uses{}) {
			delete(u, id)
			continue
		}
		u[id] = sum
	}
}

// onlyGives reports whether a member that leaves the set lets more pass, and nowhere less:
// then the rules that were changed together with it come first.
func (u setUses) onlyGives(id desired.SetID) bool { return u[id].gives > 0 && u[id].takes == 0 }
