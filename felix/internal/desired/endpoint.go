package desired

import (
	"cmp"
	"net"
	"net/netip"

	"calico.internal/libcalico/model"
)

// Endpoint is an interface of this host that policy guards: the host's end of a
// container's pair, or an interface of the host itself.
type Endpoint struct {
	// Key is a [model.WorkloadEndpointKey] or a [model.HostEndpointKey].
	Key model.Key
	// Interface is the interface's name. A host endpoint may have "*" (all interfaces of
	// the host that are no workload's), or "" when only ExpectedAddrs tell which
	// interface is meant.
	Interface string
	// MAC is the container's address for the neighbour entry; nil when there is none.
	MAC net.HardwareAddr
	// Nets are the endpoint's addresses, floating ones included, almost always one /32 or
	// /128 each, sorted.
	// A workload gets a route for each.
	Nets []netip.Prefix
	// NATs are the workload's floating addresses, sorted. Each External is also in Nets.
	NATs []NAT
	// ExpectedAddrs are a host endpoint's addresses, sorted.
	ExpectedAddrs []netip.Addr
	// Up is false for an endpoint that is administratively down: it gets no traffic.
	Up bool
	// Profiles are asked in this order after the tiers.
	Profiles []string
	// Tiers are the tiers that have a policy for the endpoint, in the order in which
	// they are asked.
	Tiers []Tier
	// Untracked, PreDNAT and Forward are the host endpoint's other policy stages;
	// workloads have none.
	Untracked, PreDNAT, Forward []Tier
	// WorkloadsOnly are the directions in which a host endpoint forwards nothing but what
	// workloads send and get, because nobody knows which policies select it. Forward holds
	// then all that may: they are asked about packets of workloads, of which those pass that
	// none decides about.
	WorkloadsOnly []Direction
}

// NAT is a floating address: what is sent to External reaches Internal.
type NAT struct{ External, Internal netip.Addr }

// Compare orders floating addresses.
func (n NAT) Compare(o NAT) int {
	return cmp.Or(n.External.Compare(o.External), n.Internal.Compare(o.Internal))
}

// IsWorkload reports whether the endpoint is a container's.
func (e *Endpoint) IsWorkload() bool { return e.Key.Kind() == model.KindWorkloadEndpoint }

// Tier is one tier as an endpoint sees it: the policies that apply to it.
type Tier struct {
	Name string
	// PassByDefault lets a packet on which no policy decided go on to the next tier;
	// otherwise it is dropped.
	PassByDefault bool
	// Ingress and Egress are the policies that apply to traffic to, and from, the
	// endpoint, in the order in which they are asked.
	Ingress, Egress []model.PolicyKey
}

// Policies returns the tier's policies in a direction.
func (t Tier) Policies(d Direction) []model.PolicyKey {
	if d == Ingress {
		return t.Ingress
	}
	return t.Egress
}

// Direction is the way of a packet as its endpoint sees it.
type Direction uint8

// The two directions.
const (
	// Ingress is traffic to the endpoint.
	Ingress Direction = iota
	// Egress is traffic from the endpoint.
	Egress
)

// String is the direction as policies name it.
func (d Direction) String() string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}
