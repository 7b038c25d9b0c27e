package v3

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// word reads one word of a fixed set, in whatever case.
func word[T ~string](into *T, what string, text []byte, words ...string) error {
	for _, w := range words {
		if strings.EqualFold(string(text), w) {
			*into = T(w)
			return nil
		}
	}
	_, err := scalar.Choice(what, string(text), words...)
	return err
}

// Action is what a rule does with a packet.
type Action string

// UnmarshalText reads an action.
func (a *Action) UnmarshalText(text []byte) error {
	return word(a, "an action", text, "Allow", "Deny", "Log", "Pass")
}

// Direction is a direction in which a policy applies.
type Direction string

// UnmarshalText reads a direction.
func (d *Direction) UnmarshalText(text []byte) error {
	return word(d, "a policy type", text, "Ingress", "Egress")
}

// TierAction is the fate of a packet on which no policy of a tier decided.
type TierAction string

// UnmarshalText reads the action.
func (a *TierAction) UnmarshalText(text []byte) error {
	return word(a, "a default action", text, model.TierDeny, model.TierPass)
}

// The conditions on which a pool's packets are put into others.
const (
	Never       Encapsulation = "Never"
	Always      Encapsulation = "Always"
	CrossSubnet Encapsulation = "CrossSubnet"
)

// Encapsulation is a condition on which a pool's packets are put into others.
type Encapsulation string

// UnmarshalText reads the condition.
func (e *Encapsulation) UnmarshalText(text []byte) error {
	return word(e, "an encapsulation mode", text, string(Never), string(Always), string(CrossSubnet))
}

// The ways in which addresses are taken from a pool.
const (
	Automatic Assignment = "Automatic"
	Manual    Assignment = "Manual"
)

// Assignment is the way in which addresses are taken from a pool.
type Assignment string

// UnmarshalText reads the way.
func (a *Assignment) UnmarshalText(text []byte) error {
	return word(a, "an assignment mode", text, string(Automatic), string(Manual))
}

// AllowedUse is what the addresses of a pool are for.
type AllowedUse string

// UnmarshalText reads the use.
func (u *AllowedUse) UnmarshalText(text []byte) error {
	if strings.EqualFold(string(text), "LoadBalancer") {
		return errors.New("LoadBalancer is for Kubernetes, which this Calico does not serve")
	}
	return word(u, "a use of addresses", text, "Workload", "Tunnel")
}

// FilterAction is what a BGP filter does with a route.
type FilterAction string

// UnmarshalText reads the action.
func (a *FilterAction) UnmarshalText(text []byte) error {
	return word(a, "an action of a filter", text, model.FilterAccept, model.FilterReject)
}

// MatchOperator is how a BGP filter compares prefixes.
type MatchOperator string

// UnmarshalText reads the operator.
func (o *MatchOperator) UnmarshalText(text []byte) error {
	return word(o, "a match operator", text, "Equal", "NotEqual", "In", "NotIn")
}

// Protocol is an IP protocol by name or number, as the model has it.
type Protocol model.Protocol

var protocolNames = []string{"TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"}

// UnmarshalText reads a protocol.
func (p *Protocol) UnmarshalText(text []byte) error {
	s := string(text)
	if n, err := scalar.ParseDigits(s, 8); err == nil && n > 0 {
		*p = Protocol(strconv.FormatUint(n, 10))
		return nil
	}
	var name string
	if err := word(&name, "a protocol", text, protocolNames...); err != nil {
		return fmt.Errorf("%q is not a protocol: expected %s, or a number from 1 to 255%s",
			s, strings.Join(protocolNames, ", "), tree.DidYouMean(s, protocolNames))
	}
	*p = Protocol(strings.ToLower(name))
	return nil
}

// String is the protocol as manifests have it.
func (p Protocol) String() string {
	for _, name := range protocolNames {
		if strings.EqualFold(name, string(p)) {
			return name
		}
	}
	return string(p)
}

// MarshalJSON writes a number as a number.
func (p Protocol) MarshalJSON() ([]byte, error) {
	if n, err := scalar.ParseDigits(string(p), 8); err == nil {
		return json.Marshal(n)
	}
	return json.Marshal(p.String())
}

// Port is a port, a range of ports such as "8000:8010", or the name of an endpoint's
// port.
type Port model.Port

// UnmarshalText reads a port.
func (p *Port) UnmarshalText(text []byte) error {
	port, err := scalar.ParsePort(string(text))
	*p = Port(port)
	return err
}

// MarshalJSON writes a single port as a number.
func (p Port) MarshalJSON() ([]byte, error) { return model.Port(p).MarshalJSON() }

// PeerAddress is the address of a BGP speaker, with or without its port.
type PeerAddress struct {
	IP   scalar.IP
	Port uint16
}

// UnmarshalText reads "192.0.2.1", "192.0.2.1:1790", "fd00::1" or "[fd00::1]:1790".
func (a *PeerAddress) UnmarshalText(text []byte) error {
	host := string(text)
	if i := strings.LastIndexByte(host, ':'); i >= 0 && (strings.Count(host, ":") == 1 || host[0] == '[') {
		port, err := scalar.ParseDigits(host[i+1:], 16)
		if err != nil || port == 0 {
			return fmt.Errorf("%q: %q is not a port: expected 1 to 65535", text, host[i+1:])
		}
		a.Port, host = uint16(port), strings.TrimSuffix(strings.TrimPrefix(host[:i], "["), "]")
	}
	if err := a.IP.UnmarshalText([]byte(host)); err != nil {
		return fmt.Errorf("%q is not an IP address, with or without a port as in 192.0.2.1:179 or [fd00::1]:179", text)
	}
	return nil
}

// String is the address as manifests have it.
func (a PeerAddress) String() string {
	switch {
	case !a.IP.IsValid():
		return ""
	case a.Port == 0:
		return a.IP.String()
	case a.IP.Is4():
		return a.IP.String() + ":" + strconv.Itoa(int(a.Port))
	}
	return "[" + a.IP.String() + "]:" + strconv.Itoa(int(a.Port))
}

// MarshalText writes the address.
func (a PeerAddress) MarshalText() ([]byte, error) { return []byte(a.String()), nil }
