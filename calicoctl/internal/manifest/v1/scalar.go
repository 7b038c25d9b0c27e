package v1

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// Action is what a rule does with a packet.
type Action string

// UnmarshalText reads an action.
func (a *Action) UnmarshalText(text []byte) error {
	w, err := scalar.Choice("an action", string(text), "allow", "deny", "log", "pass")
	*a = Action(w)
	return err
}

// Direction is a direction in which a policy applies.
type Direction string

// UnmarshalText reads a direction.
func (d *Direction) UnmarshalText(text []byte) error {
	w, err := scalar.Choice("a policy type", string(text), model.PolicyTypeIngress, model.PolicyTypeEgress)
	*d = Direction(w)
	return err
}

// Mode is the condition on which a pool's packets are put into IP-in-IP.
type Mode string

// UnmarshalText reads a mode.
func (m *Mode) UnmarshalText(text []byte) error {
	w, err := scalar.Choice("an IP-in-IP mode", string(text), model.IPIPAlways, model.IPIPCrossSubnet)
	*m = Mode(w)
	return err
}

// The scopes of a BGP peer.
const (
	ScopeGlobal Scope = "global"
	ScopeNode   Scope = "node"
)

// Scope says which nodes a BGP peer is for.
type Scope string

// UnmarshalText reads a scope.
func (s *Scope) UnmarshalText(text []byte) error {
	w, err := scalar.Choice("a scope", string(text), string(ScopeGlobal), string(ScopeNode))
	*s = Scope(w)
	return err
}

// The values that all dialects have.
type (
	// IP is an IP address.
	IP = scalar.IP
	// IPNet is a network in CIDR notation.
	IPNet = scalar.IPNet
	// ASNumber is a BGP autonomous system number.
	ASNumber = scalar.ASNumber
	// MAC is a hardware address.
	MAC = scalar.MAC
)

// Protocol is an IP protocol by name or number.
type Protocol model.Protocol

var protocolNames = []string{"tcp", "udp", "icmp", "icmpv6", "sctp", "udplite"}

// UnmarshalText reads a protocol.
func (p *Protocol) UnmarshalText(text []byte) error {
	s := string(text)
	if n, err := scalar.ParseDigits(s, 8); err == nil && n > 0 {
		*p = Protocol(strconv.FormatUint(n, 10))
		return nil
	}
	w, err := scalar.Choice("a protocol", s, protocolNames...)
	if err != nil {
		return fmt.Errorf("%q is not a protocol: expected %s, or a number from 1 to 255%s",
			s, strings.Join(protocolNames, ", "), tree.DidYouMean(s, protocolNames))
	}
	*p = Protocol(w)
	return nil
}

// MarshalJSON writes a number as a number.
func (p Protocol) MarshalJSON() ([]byte, error) {
	if n, err := scalar.ParseDigits(string(p), 8); err == nil {
		return json.Marshal(n)
	}
	return json.Marshal(string(p))
}

// Port is a port, a range of ports such as "8000:8010", or the name of an
// endpoint's port.
type Port model.Port

// UnmarshalText reads a port.
func (p *Port) UnmarshalText(text []byte) error {
	port, err := scalar.ParsePort(string(text))
	*p = Port(port)
	return err
}

// String is the port as manifests have it.
func (p Port) String() string {
	return model.Port(p).String()
}

// MarshalJSON writes a single port as a number.
func (p Port) MarshalJSON() ([]byte, error) {
	return model.Port(p).MarshalJSON()
}
