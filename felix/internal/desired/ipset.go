package desired

import (
	"cmp"
	"net/netip"
)

// SetID identifies an address set. Sets made from a selector have the selector's
// canonical id ("s:…"), so that equal selectors share one set; sets made from a port
// name begin with "n:".
type SetID string

// The sets with fixed ids. They always exist.
const (
	// SetAllPools holds the ranges of all IP pools.
	SetAllPools SetID = "all-ipam-pools"
	// SetMasqPools holds the ranges of the pools with NAT for outgoing traffic.
	SetMasqPools SetID = "masq-ipam-pools"
	// SetNodes holds the addresses of all nodes.
	SetNodes SetID = "all-hosts"
	// SetEtcd holds the addresses and ports of etcd.
	SetEtcd SetID = "etcd-endpoints"
)

// SetKind says what the members of a set are. A set never changes its kind.
type SetKind uint8

// The kinds of set.
const (
	// SetNetworks has networks, of which most are single addresses.
	SetNetworks SetKind = iota
	// SetAddresses has single addresses.
	SetAddresses
	// SetAddressPorts has an address with a protocol and a port.
	SetAddressPorts
)

// Member is one member of a set; members of both IP families stand in one set here.
type Member struct {
	// Net is the network; of a set of addresses a /32 or /128. It is masked.
	Net netip.Prefix
	// Protocol and Port are set in sets of kind SetAddressPorts only.
	Protocol Protocol
	Port     uint16
}

// Compare orders members: by network, then protocol, then port.
func (m Member) Compare(n Member) int {
	return cmp.Or(m.Net.Compare(n.Net), cmp.Compare(m.Protocol, n.Protocol), cmp.Compare(m.Port, n.Port))
}

// String is the member as "ipset list" shows it.
func (m Member) String() string {
	if m.Protocol == 0 {
		if m.Net.IsSingleIP() {
			return m.Net.Addr().String()
		}
		return m.Net.String()
	}
	return m.Net.Addr().String() + "," + m.Protocol.String() + ":" + PortRange{m.Port, m.Port}.String()
}

// IPSet is an address set with its members, sorted.
type IPSet struct {
	ID      SetID
	Kind    SetKind
	Members []Member
}

// SetDelta is a change of a set's members.
type SetDelta struct {
	ID             SetID
	Added, Removed []Member
}
