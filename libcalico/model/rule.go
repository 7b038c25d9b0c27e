package model

import "net/netip"

// The actions of a rule as the store spells them. The v1 and v3 dialects call
// ActionPass "pass".
const (
	ActionAllow = "allow"
	ActionDeny  = "deny"
	ActionLog   = "log"
	ActionPass  = "next-tier"
)

// Rule matches packets and says what becomes of them. All fields are ANDed, the
// items of one list are ORed, and a negated list means "none of these".
// In JSON it has v2.6's flat names: src_nets, !src_nets, dst_ports, icmp_type, ….
type Rule struct {
	Action string
	// IPVersion is 4, 6, or 0 for both.
	IPVersion   int
	Protocol    Protocol
	NotProtocol Protocol
	ICMP        *ICMP
	NotICMP     *ICMP
	Source      Match
	Destination Match
	LogPrefix   string
	Annotations map[string]string
	Unknown     Unknown
}

// Match is what a rule asks of one end of a packet.
type Match struct {
	// Tag chooses the endpoints whose profiles carry the tag (v1 only).
	Tag      string
	Nets     []netip.Prefix
	Selector string
	Ports    []Port

	NotTag      string
	NotNets     []netip.Prefix
	NotSelector string
	NotPorts    []Port
}

// IsZero reports whether the match asks for nothing.
func (m Match) IsZero() bool {
	return m.Tag == "" && m.NotTag == "" && m.Selector == "" && m.NotSelector == "" &&
		len(m.Nets) == 0 && len(m.NotNets) == 0 && len(m.Ports) == 0 && len(m.NotPorts) == 0
}

// ICMP matches an ICMP or ICMPv6 message. Code is nil for any.
type ICMP struct {
	Type int
	Code *int
}

// Protocol is an IP protocol: a lower-case name (tcp, udp, icmp, icmpv6, sctp,
// udplite) or a number from 1 to 255 in decimal; empty means any. It is written in
// JSON as a string or a number accordingly.
type Protocol string

// Port is a range of ports (First = Last for one), or the name of an endpoint's port.
type Port struct {
	First, Last uint16
	Name        string
}

// ASNumber is a BGP autonomous system number (RFC 6793). In JSON and YAML it is
// read from a number, a decimal string, or "high.low" (RFC 5396 asdot+), and written
// as a decimal string in the store.
type ASNumber uint32

// DefaultASNumber is the AS of a cluster that sets none.
const DefaultASNumber ASNumber = 64512
