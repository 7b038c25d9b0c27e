package daemon

import (
	"maps"
	"slices"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
	"calico.internal/libcalico/model"
)

// filterFaults are the chains that are not as wanted, with the reason, for the question
// which endpoints that concerns. To collect them takes as long as there are faults.
type filterFaults struct {
	chains map[chainKey]string
	// frame is, by family, what is wrong with a chain that packets of all workloads pass.
	frame map[rules.Family]string
}

func (f filterFaults) equal(g filterFaults) bool { return maps.Equal(f.chains, g.chains) }

// filterFaults collects what is wrong with chains, because of themselves or of a set that
// they name. What is missing in nat opens nothing.
func (d *dataplane) filterFaults() filterFaults {
	f := filterFaults{chains: map[chainKey]string{}, frame: map[rules.Family]string{}}
	for family, byTable := range d.chains.tables {
		for t, table := range byTable {
			for _, failed := range table.Status().Failed {
				// A chain that another program keeps from being deleted decides about nothing.
				if _, wanted := table.Desired(failed.Key); wanted {
					f.add(chainKey{family, rules.ChainID{Table: t, Name: failed.Key}}, failed.Err.Error())
				}
			}
		}
	}
	for k, err := range d.filters.unprintable {
		f.add(k, err.Error())
	}
	for k, set := range d.filters.closed {
		f.add(k, "set "+set+": "+d.filters.broken[set])
	}
	return f
}

func (f filterFaults) add(k chainKey, why string) {
	if k.Table == rules.NAT {
		return
	}
	f.chains[k] = why
	text := ofChain(k.ChainID, why)
	if first, more := f.frame[k.family]; k.OfWorkloads() && (!more || text < first) {
		f.frame[k.family] = text
	}
}

func ofChain(id rules.ChainID, why string) string { return "chain " + id.Name + ": " + why }

// concerning says what is wrong with the chains that packets of an endpoint have to pass:
// its own, those of its policies and profiles, and those of the frame.
func (f filterFaults) concerning(d *dataplane, e *desired.Endpoint) string {
	if len(f.chains) == 0 {
		return ""
	}
	for _, family := range d.familiesOf(e) {
		if d.chains.without(family) {
			continue // which [dataplane.unfiltered] tells where it matters
		}
		if why := f.inFamily(family, d, e); why != "" {
			return why
		}
	}
	return ""
}

func (f filterFaults) inFamily(family rules.Family, d *dataplane, e *desired.Endpoint) string {
	if why := f.among(family, rules.EndpointChains(e)); why != "" {
		return why
	}
	for _, t := range e.Tiers {
		for _, list := range [][]model.PolicyKey{t.Ingress, t.Egress} {
			for _, k := range list {
				if p := d.policies[k]; p != nil {
					if why := f.among(family, rules.PolicyChains(p)); why != "" {
						return why
					}
				}
			}
		}
	}
	for _, name := range e.Profiles {
		if why := f.among(family, rules.ProfileChains(name)); why != "" {
			return why
		}
	}
	return f.frame[family]
}

// among is what is wrong with the first of some chains that is not as wanted.
func (f filterFaults) among(family rules.Family, chains []rules.ChainID) string {
	for _, id := range chains {
		if why, bad := f.chains[chainKey{family, id}]; bad {
			return ofChain(id, why)
		}
	}
	return ""
}

// familiesOf are the handled families of an endpoint's addresses; all where it has none.
func (d *dataplane) familiesOf(e *desired.Endpoint) []rules.Family {
	if len(e.Nets) == 0 {
		return d.families
	}
	var list []rules.Family
	for _, f := range d.families {
		if slices.ContainsFunc(e.Nets, f.Of) {
			list = append(list, f)
		}
	}
	return list
}
