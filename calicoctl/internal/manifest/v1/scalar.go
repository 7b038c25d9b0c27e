package v1

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// choice reads one word of a fixed set.
func choice(what, text string, words ...string) (string, error) {
	for _, w := range words {
		if text == w {
			return w, nil
		}
	}
	return "", fmt.Errorf("%q is not %s: expected %s%s", text, what, tree.OneOf(words), tree.DidYouMean(text, words))
}

// Action is what a rule does with a packet.
type Action string

// UnmarshalText reads an action.
func (a *Action) UnmarshalText(text []byte) error {
	w, err := choice("an action", string(text), "allow", "deny", "log", "pass")
	*a = Action(w)
	return err
}

// Direction is a direction in which a policy applies.
type Direction string

// UnmarshalText reads a direction.
func (d *Direction) UnmarshalText(text []byte) error {
	w, err := choice("a policy type", string(text), model.PolicyTypeIngress, model.PolicyTypeEgress)
	*d = Direction(w)
	return err
}

// Mode is the condition on which a pool's packets are put into IP-in-IP.
type Mode string

// UnmarshalText reads a mode.
func (m *Mode) UnmarshalText(text []byte) error {
	w, err := choice("an IP-in-IP mode", string(text), model.IPIPAlways, model.IPIPCrossSubnet)
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
	w, err := choice("a scope", string(text), string(ScopeGlobal), string(ScopeNode))
	*s = Scope(w)
	return err
}

// IP is an IP address.
type IP struct{ netip.Addr }

// UnmarshalText reads an address.
func (ip *IP) UnmarshalText(text []byte) error {
	a, err := netip.ParseAddr(string(text))
	if err != nil || a.Zone() != "" {
		return fmt.Errorf("%q is not an IP address", text)
	}
	ip.Addr = a
	return nil
}

// IPNet is a network in CIDR notation; an address alone stands for itself.
type IPNet struct{ netip.Prefix }

// UnmarshalText reads a network.
func (n *IPNet) UnmarshalText(text []byte) error {
	s := string(text)
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		n.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("%q is not an IP address or a network such as 10.0.0.0/8 or fd00::/8", s)
	}
	n.Prefix = p
	return nil
}

// ASNumber is a BGP autonomous system number.
type ASNumber model.ASNumber

// UnmarshalText reads "64512" or "0.64512".
func (n *ASNumber) UnmarshalText(text []byte) error {
	as, err := model.ParseASNumber(string(text))
	if err != nil {
		return fmt.Errorf("%q is not an AS number: expected 1 to 4294967295, or two halves such as 64512.1", text)
	}
	*n = ASNumber(as)
	return nil
}

// MarshalJSON writes the number.
func (n ASNumber) MarshalJSON() ([]byte, error) { return json.Marshal(uint32(n)) }

// String is the number in decimal.
func (n ASNumber) String() string { return strconv.FormatUint(uint64(n), 10) }

// parseDigits is ParseUint without its signs and underscores.
func parseDigits(s string, bits int) (uint64, error) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 10, bits)
}

// Protocol is an IP protocol by name or number.
type Protocol model.Protocol

var protocolNames = []string{"tcp", "udp", "icmp", "icmpv6", "sctp", "udplite"}

// UnmarshalText reads a protocol.
func (p *Protocol) UnmarshalText(text []byte) error {
	s := string(text)
	if n, err := parseDigits(s, 8); err == nil && n > 0 {
		*p = Protocol(strconv.FormatUint(n, 10))
		return nil
	}
	w, err := choice("a protocol", s, protocolNames...)
	if err != nil {
		return fmt.Errorf("%q is not a protocol: expected %s, or a number from 1 to 255%s",
			s, strings.Join(protocolNames, ", "), tree.DidYouMean(s, protocolNames))
	}
	*p = Protocol(w)
	return nil
}

// MarshalJSON writes a number as a number.
func (p Protocol) MarshalJSON() ([]byte, error) {
	if n, err := parseDigits(string(p), 8); err == nil {
		return json.Marshal(n)
	}
	return json.Marshal(string(p))
}

// Port is a port, a range of ports such as "8000:8010", or the name of an
// endpoint's port.
type Port model.Port

// UnmarshalText reads a port.
func (p *Port) UnmarshalText(text []byte) error {
	s := string(text)
	first, last, isRange := strings.Cut(s, ":")
	if !isRange {
		last = first
	}
	f, err1 := parseDigits(first, 16)
	l, err2 := parseDigits(last, 16)
	if errors.Join(err1, err2) != nil || f == 0 || f > l {
		return fmt.Errorf("%q is not a port: expected 1 to 65535, or a range such as 8000:8010", s)
	}
	p.First, p.Last = uint16(f), uint16(l)
	return nil
}

// String is the port as manifests have it.
func (p Port) String() string {
	switch {
	case p.Name != "":
		return p.Name
	case p.First == p.Last:
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d:%d", p.First, p.Last)
}

// MarshalJSON writes a single port as a number.
func (p Port) MarshalJSON() ([]byte, error) {
	if p.Name == "" && p.First == p.Last {
		return json.Marshal(p.First)
	}
	return json.Marshal(p.String())
}

// MAC is a hardware address.
type MAC string

// UnmarshalText reads six pairs of hexadecimal digits with colons.
func (m *MAC) UnmarshalText(text []byte) error {
	s := strings.ToLower(string(text))
	ok := len(s) == 17
	for i := 0; ok && i < len(s); i++ {
		if i%3 == 2 {
			ok = s[i] == ':'
		} else {
			ok = strings.IndexByte("0123456789abcdef", s[i]) >= 0
		}
	}
	if !ok {
		return fmt.Errorf("%q is not a MAC address such as ee:ee:ee:ee:ee:ee", text)
	}
	*m = MAC(s)
	return nil
}
