package daemon

import (
	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/model"
)

// filterFaults are the chains and sets that are not in force, for the question which
// endpoints that concerns.
type filterFaults struct {
	d *dataplane
	// chains and sets say why, by name.
	chains map[string]string
	sets   map[string]string
	// owned are the names of all chains that belong to one endpoint, policy or profile.
	owned map[string]bool
}

// filterFaults collects what is wrong with chains and sets; nil when nothing is.
func (d *dataplane) filterFaults() *filterFaults {
	f := &filterFaults{d: d, chains: map[string]string{}, sets: map[string]string{}}
	for t := range d.chains.all() {
		for _, failed := range t.Status().Failed {
			f.chains[failed.Key] = failed.Err.Error()
		}
	}
	for k, err := range d.filters.unprintable {
		f.chains[k.Name] = err.Error()
	}
	f.sets = d.setFaults()
	for k, set := range d.filters.closedBySet() {
		f.chains[k.Name] = "set " + set + ": " + f.sets[set]
	}
	if len(f.chains)+len(f.sets) == 0 {
		return nil
	}
	f.owned = map[string]bool{}
	for _, one := range d.workloads.byKey {
		f.own(d.renderer.Endpoint(one.endpoint))
	}
	for _, family := range d.families {
		for _, p := range d.policies {
			f.own(d.renderer.Policy(family, p))
		}
		for _, p := range d.profiles {
			f.own(d.renderer.Profile(family, p))
		}
	}
	return f
}

func (f *filterFaults) own(chains []rules.Chain) {
	for _, c := range chains {
		f.owned[c.Name] = true
	}
}

// of says what is wrong with the chains that an endpoint needs: its own, those of its
// policies and profiles, and those of the frame.
func (f *filterFaults) of(e *desired.Endpoint) string {
	if f == nil {
		return ""
	}
	relevant := f.d.renderer.Endpoint(e)
	for _, family := range f.d.families {
		for _, t := range e.Tiers {
			for _, k := range append(append([]model.PolicyKey{}, t.Ingress...), t.Egress...) {
				if p := f.d.policies[k]; p != nil {
					relevant = append(relevant, f.d.renderer.Policy(family, p)...)
				}
			}
		}
		for _, name := range e.Profiles {
			if p := f.d.profiles[name]; p != nil {
				relevant = append(relevant, f.d.renderer.Profile(family, p)...)
			}
		}
	}
	for _, c := range relevant {
		if why, bad := f.chains[c.Name]; bad {
			return "chain " + c.Name + ": " + why
		}
		for _, set := range setsOf(c) {
			if why, bad := f.sets[set]; bad {
				return "set " + set + ": " + why
			}
		}
	}
	for name, why := range f.chains {
		if !f.owned[name] {
			return "chain " + name + ": " + why
		}
	}
	return ""
}
