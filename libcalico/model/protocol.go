package model

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// The protocols that have names.
const (
	ProtocolTCP     Protocol = "tcp"
	ProtocolUDP     Protocol = "udp"
	ProtocolICMP    Protocol = "icmp"
	ProtocolICMPv6  Protocol = "icmpv6"
	ProtocolSCTP    Protocol = "sctp"
	ProtocolUDPLite Protocol = "udplite"
)

// protocolNumbers are IANA's numbers of the named protocols.
var protocolNumbers = map[Protocol]uint8{
	ProtocolTCP: 6, ProtocolUDP: 17, ProtocolICMP: 1, ProtocolICMPv6: 58, ProtocolSCTP: 132, ProtocolUDPLite: 136,
}

// Number is the protocol's number in the IP header. ok is false when the protocol is
// empty or unknown.
func (p Protocol) Number() (number uint8, ok bool) {
	if number, ok = protocolNumbers[p]; ok {
		return number, true
	}
	n, err := strconv.ParseUint(string(p), 10, 8)
	return uint8(n), err == nil && n > 0
}

// Is says whether both stand for the same protocol, by name or number.
func (p Protocol) Is(other Protocol) bool {
	a, okA := p.Number()
	b, okB := other.Number()
	return okA && okB && a == b
}

// HasPorts says whether packets of the protocol carry ports that rules can match.
func (p Protocol) HasPorts() bool {
	return p.Is(ProtocolTCP) || p.Is(ProtocolUDP) || p.Is(ProtocolSCTP)
}

// MarshalJSON writes a number as a number and a name as a string.
func (p Protocol) MarshalJSON() ([]byte, error) {
	if _, err := strconv.ParseUint(string(p), 10, 8); err == nil {
		return []byte(canonicalNumber(string(p))), nil
	}
	return json.Marshal(string(p))
}

// UnmarshalJSON reads a number or a name; upper case becomes lower case.
func (p *Protocol) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	s, err := numberOrString(data)
	if err != nil {
		return fmt.Errorf("protocol: %w", err)
	}
	*p = Protocol(canonicalNumber(strings.ToLower(s)))
	return nil
}

// canonicalNumber takes leading zeros off a small number.
func canonicalNumber(s string) string {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return strconv.FormatUint(n, 10)
	}
	return s
}
