package daemon

import (
	"maps"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/model"
)

// filterFaults are the chains that are not as wanted, with the reason, for the question
// which endpoints that concerns. To collect them takes as long as there are faults.
type filterFaults map[rules.ChainID]string

func (f filterFaults) equal(g filterFaults) bool { return maps.Equal(f, g) }

// filterFaults collects what is wrong with chains, because of themselves or of a set that
// they name.
func (d *dataplane) filterFaults() filterFaults {
	f := filterFaults{}
	for _, byTable := range d.chains.tables {
		for t, table := range byTable {
			for _, failed := range table.Status().Failed {
				// What is missing in nat opens nothing, and a chain that another program keeps
				// from being deleted decides about nothing.
				if _, wanted := table.Desired(failed.Key); wanted && t != rules.NAT {
					f[rules.ChainID{Table: t, Name: failed.Key}] = failed.Err.Error()
				}
			}
		}
	}
	for k, err := range d.filters.unprintable {
		f[k.ChainID] = err.Error()
	}
	for k, set := range d.filters.closed {
		f[k.ChainID] = "set " + set + ": " + d.filters.broken[set]
	}
	return f
}

// concerning says what is wrong with the chains that packets of an endpoint have to pass:
// its own, those of its policies and profiles, and those of the frame.
func (f filterFaults) concerning(d *dataplane, e *desired.Endpoint) string {
	if len(f) == 0 {
		return ""
	}
	if why := f.among(rules.EndpointChains(e)); why != "" {
		return why
	}
	for _, t := range e.Tiers {
		for _, list := range [][]model.PolicyKey{t.Ingress, t.Egress} {
			for _, k := range list {
				if p := d.policies[k]; p != nil {
					if why := f.among(rules.PolicyChains(p)); why != "" {
						return why
					}
				}
			}
		}
	}
	for _, name := range e.Profiles {
		if why := f.among(rules.ProfileChains(name)); why != "" {
			return why
		}
	}
	for id, why := range f {
		if id.OfFrame() && id.Table != rules.Mangle { // where the frame decides nothing about them
			return "chain " + id.Name + ": " + why
		}
	}
	return ""
}

// among is what is wrong with the first of some chains that is not as wanted.
func (f filterFaults) among(chains []rules.ChainID) string {
	for _, id := range chains {
		if why, bad := f[id]; bad {
			return "chain " + id.Name + ": " + why
		}
	}
	return ""
}
