package calc

import (
	"cmp"
	"net/netip"
	"slices"
)

// candidate is a path that may be used, with what decides between it and others.
type candidate struct {
	Path
	// owner says that etcd knows the next hop's node as the owner of the block. It comes
	// first, so that two nodes which advertise one block while it changes hands cannot
	// attract its traffic to the wrong one.
	owner bool
	// held says that the session is down and the path kept for the restart time.
	held bool
	// inForce says that the kernel's route leads to this node already.
	inForce bool
}

// compare ranks two candidates as RFC 4271 section 9.1.2.2 and RFC 4456 section 9 do,
// the better first, but for MED, which is no order among different neighbours. Equal
// ones share the traffic.
func compare(a, b candidate) int {
	return cmp.Or(
		cmp.Compare(rank(a.owner), rank(b.owner)),
		cmp.Compare(rank(!a.held), rank(!b.held)),
		cmp.Compare(rank(a.inForce), rank(b.inForce)),
		-cmp.Compare(a.LocalPref, b.LocalPref),
		cmp.Compare(a.ASPathLen, b.ASPathLen),
		cmp.Compare(a.Origin, b.Origin),
	)
}

// compareLate holds the steps after MED.
func compareLate(a, b candidate) int {
	return cmp.Or(
		cmp.Compare(rank(a.External), rank(b.External)),
		cmp.Compare(a.ClusterLen, b.ClusterLen),
	)
}

// rank puts true first.
func rank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// best chooses the candidates that share the traffic and returns their next hops,
// sorted, each once.
func best(cs []candidate) []netip.Addr {
	cs = keepBest(cs, compare)
	rivals := slices.Clone(cs)
	cs = slices.DeleteFunc(cs, func(c candidate) bool { return losesOnMED(c, rivals) })
	cs = keepBest(cs, compareLate)
	hops := make([]netip.Addr, len(cs))
	for i, c := range cs {
		hops[i] = c.NextHop
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return slices.Compact(hops)
}

func keepBest(cs []candidate, order func(a, b candidate) int) []candidate {
	if len(cs) < 2 {
		return cs
	}
	first := slices.MinFunc(cs, order)
	return slices.DeleteFunc(slices.Clone(cs), func(c candidate) bool { return order(c, first) != 0 })
}

// losesOnMED compares MED among paths of the same neighbouring AS only.
func losesOnMED(c candidate, cs []candidate) bool {
	return slices.ContainsFunc(cs, func(o candidate) bool { return o.NeighborAS == c.NeighborAS && o.MED < c.MED })
}
