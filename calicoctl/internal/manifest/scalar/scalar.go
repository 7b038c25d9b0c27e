// Package scalar is single values that the dialects of manifests have in common. Each
// says in its error what was expected. It is pure.
package scalar

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// Choice reads one word of a fixed set.
func Choice(what, text string, words ...string) (string, error) {
	for _, w := range words {
		if text == w {
			return w, nil
		}
	}
	return "", fmt.Errorf("%q is not %s: expected %s%s", text, what, tree.OneOf(words), tree.DidYouMean(text, words))
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

// ParseDigits is ParseUint without its signs and underscores.
func ParseDigits(s string, bits int) (uint64, error) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 10, bits)
}

// ParsePort reads a port of a rule.
func ParsePort(text string) (model.Port, error) {
	port, err := model.ParsePort(text)
	if err != nil || port.Name == "" && (port.First == 0 || port.First > port.Last) {
		return model.Port{}, fmt.Errorf("%q is not a port: expected 1 to 65535, a range such as 8000:8010, or the name of an endpoint's port", text)
	}
	return port, nil
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

// Hidden is what documents have in the place of a secret, and what in a document that
// comes back leaves the stored one as it is.
const Hidden = "<hidden>"

// Kubernetes is a field that has a meaning only with Kubernetes.
type Kubernetes struct{}

// Refuse says why the field cannot be set.
func (Kubernetes) Refuse() string { return "is for Kubernetes, which this Calico does not serve" }

// ServerKept is a field that the server of an original keeps, not who writes the document.
// It says nothing about traffic.
type ServerKept struct{}

// Drop says why the field is not taken.
func (ServerKept) Drop() string { return "is kept by the server and not taken from documents" }

// Idle is what is said of a field that acts on nothing.
const Idle = "is stored and shown, and has no effect here"

// Inert is a field that has no effect here and says nothing about traffic: it is kept for
// those who read it, as it stands in the document. What restricts traffic is never inert.
type Inert struct{ json string }

// Idle says that it has no effect.
func (Inert) Idle() string { return Idle }

// TakeNode takes the value.
func (i *Inert) TakeNode(n *tree.Node) { i.json = string(n.JSON()) }

// MarshalJSON writes the value.
func (i Inert) MarshalJSON() ([]byte, error) {
	if i.json == "" {
		return []byte("null"), nil
	}
	return []byte(i.json), nil
}

// UnmarshalJSON reads the value.
func (i *Inert) UnmarshalJSON(data []byte) error {
	i.json = string(data)
	return nil
}

// Elsewhere is a field of the original that nothing here acts on. To store it would be
// to drop it in silence.
type Elsewhere struct{}

// Refuse says why the field cannot be set.
func (Elsewhere) Refuse() string { return "nothing acts on this field in this Calico; leave it out" }
