package rules

import (
	"slices"
	"strings"

	"calico.internal/felix/internal/desired"
)

// EndpointChains are the chains of a workload endpoint.
func EndpointChains(e *desired.Endpoint) []ChainID {
	return []ChainID{
		{Filter, endpointChain(desired.Ingress, e.Interface)},
		{Filter, endpointChain(desired.Egress, e.Interface)},
	}
}

// PolicyChains are the chains of a policy: one for each of its directions, in the table of
// its stage.
func PolicyChains(p *desired.Policy) []ChainID {
	list := make([]ChainID, len(p.Directions))
	for i, d := range p.Directions {
		list[i] = ChainID{tableOf(p.Stage), policyChain(d, p.Key)}
	}
	return list
}

// ProfileChains are the chains of a profile.
func ProfileChains(name string) []ChainID {
	return []ChainID{{Filter, profileChain(desired.Ingress, name)}, {Filter, profileChain(desired.Egress, name)}}
}

// objectPrefixes begin the names of chains that belong to one endpoint, policy or profile.
var objectPrefixes = []string{"cali-tw-", "cali-fw-", "cali-th", "cali-fh", "cali-pi-", "cali-po-", "cali-pri-", "cali-pro-"}

// OfFrame reports whether packets of any endpoint may have to pass a chain: it does not
// belong to one endpoint, policy or profile.
func (c ChainID) OfFrame() bool {
	return !slices.ContainsFunc(objectPrefixes, func(p string) bool { return strings.HasPrefix(c.Name, p) })
}

// OfWorkloads reports whether packets of any workload may have to pass a chain of the frame, and
// its rules decide about them: those that only the host's own packets meet are not among these.
func (c ChainID) OfWorkloads() bool {
	switch c.Name {
	case chainFailsafeIn, chainFailsafeOut, chainEtcdIn, chainEtcdOut, chainUntrackedIn, chainUntrackedOut, chainDNSOut:
		return false
	case chainFromHost, chainToHost:
		return c.Table == Raw
	}
	return c.OfFrame() && (c.Table == Raw || c.Table == Filter)
}
