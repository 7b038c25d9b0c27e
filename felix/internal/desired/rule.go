package desired

import (
	"fmt"
	"net/netip"
	"strconv"

	"calico.internal/libcalico/model"
)

// Policy is a policy that applies to at least one endpoint of this host.
type Policy struct {
	Key   model.PolicyKey
	Stage Stage
	// Directions are those in which the policy applies. In the others it has no rules.
	Directions []Direction
	Ingress    []Rule
	Egress     []Rule
}

// Rules returns the policy's rules of a direction.
func (p *Policy) Rules(d Direction) []Rule {
	if d == Ingress {
		return p.Ingress
	}
	return p.Egress
}

// Stage says where in a packet's way a policy is asked.
type Stage uint8

// The stages of policy.
const (
	// Normal policy is asked after connection tracking and DNAT.
	Normal Stage = iota
	// Untracked policy is asked first of all, without connection tracking; host endpoints only.
	Untracked
	// PreDNAT policy is asked before DNAT; host endpoints only.
	PreDNAT
)

// Profile is a profile that at least one endpoint of this host names. One that the
// store does not hold has rules that deny everything, and Missing set.
type Profile struct {
	Name    string
	Ingress []Rule
	Egress  []Rule
	Missing bool
}

// Action is what a rule does with the packets that it matches.
type Action uint8

// The actions of policy rules.
const (
	// Deny drops the packet. It is the zero value, so that a forgotten action fails closed.
	Deny Action = iota
	// Allow lets the packet pass this endpoint.
	Allow
	// Pass skips the rest of the tier.
	Pass
	// Log writes the packet to the kernel's log and goes on.
	Log
)

// String is the action as manifests name it.
func (a Action) String() string {
	switch a {
	case Allow:
		return "allow"
	case Pass:
		return "pass"
	case Log:
		return "log"
	case Deny:
	}
	return "deny"
}

// Origin says which rule of which policy or profile something was made from.
type Origin struct {
	// Owner is a [model.PolicyKey] or a [model.ProfileKey].
	Owner     model.Key
	Direction Direction
	// Index counts the rules of that direction from 0.
	Index int
}

// String is the origin as comments show it, such as "policy default/web ingress 0".
func (o Origin) String() string {
	return fmt.Sprintf("%s %s %d", OwnerName(o.Owner), o.Direction, o.Index)
}

// OwnerName is the short name of a policy ("policy default/web") or a profile
// ("profile net1") as comments and status show it.
func OwnerName(k model.Key) string {
	switch k := k.(type) {
	case model.PolicyKey:
		return "policy " + k.Tier + "/" + k.Name
	case model.ProfileKey:
		return "profile " + k.Name
	}
	return k.String()
}

// Rule is a rule whose selectors, tags and port names have become address sets. All
// fields are ANDed.
type Rule struct {
	Origin    Origin
	Action    Action
	LogPrefix string
	// IPVersion is 4, 6, or 0 for both.
	IPVersion             int
	Protocol, NotProtocol Protocol
	ICMP, NotICMP         *ICMP
	Source, Destination   Match
}

// Match is what a rule asks of one end of a packet: the address is in one of Nets (if
// any), in none of NotNets, in every one of Sets, in none of NotSets; the port is in one
// of Ports or named by one of NamedPorts (if there are any of the two), and in none of
// NotPorts and NotNamedPorts.
type Match struct {
	Nets, NotNets             []netip.Prefix
	Sets, NotSets             []SetID
	Ports, NotPorts           []PortRange
	NamedPorts, NotNamedPorts []SetID
}

// PortRange is a range of ports; First = Last for one.
type PortRange struct{ First, Last uint16 }

// String is the port, or the first and last one with a colon between.
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return strconv.Itoa(int(p.First)) + ":" + strconv.Itoa(int(p.Last))
}

// ICMP is a type, and a code unless Code is nil, of ICMP or ICMPv6.
type ICMP struct {
	Type uint8
	Code *uint8
}

// Protocol is an IP protocol number; 0 means any.
type Protocol uint8

// The protocols that have a name in rules.
const (
	ICMPv4  Protocol = 1
	IPIP    Protocol = 4
	TCP     Protocol = 6
	UDP     Protocol = 17
	ICMPv6  Protocol = 58
	SCTP    Protocol = 132
	UDPLite Protocol = 136
)

// ParseProtocol turns a protocol of the model into its number; "" is 0.
func ParseProtocol(p model.Protocol) (Protocol, error) {
	if p == "" {
		return 0, nil
	}
	n, ok := p.Number()
	if !ok {
		return 0, fmt.Errorf("protocol %q: not a known name or a number from 1 to 255", string(p))
	}
	return Protocol(n), nil
}

// String is the protocol's name in rules, or its number.
func (p Protocol) String() string {
	switch p {
	case ICMPv4:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	case UDPLite:
		return "udplite"
	default:
		return strconv.Itoa(int(p))
	}
}

// HasPorts reports whether packets of the protocol have ports.
func (p Protocol) HasPorts() bool {
	switch p {
	case TCP, UDP, SCTP, UDPLite:
		return true
	case ICMPv4, ICMPv6, IPIP:
	}
	return false
}
