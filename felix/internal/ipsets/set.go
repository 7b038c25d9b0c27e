package ipsets

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"calico.internal/felix/internal/desired"
	"calico.internal/felix/internal/rules"
)

// The types of set, as the kernel names them.
const (
	HashNet    = "hash:net"
	HashIP     = "hash:ip"
	HashIPPort = "hash:ip,port"
)

// MaxName is the longest name that the kernel takes.
const MaxName = rules.MaxSetName

// Spec is what a set is, besides its members.
type Spec struct {
	Type       string
	Family     rules.Family
	MaxMembers uint32
}

// TypeOf is the kernel's type for a kind of set.
func TypeOf(k desired.SetKind) string {
	switch k {
	case desired.SetAddresses:
		return HashIP
	case desired.SetAddressPorts:
		return HashIPPort
	case desired.SetNetworks:
	}
	return HashNet
}

// Member is one member of one set.
type Member struct {
	// Set is the kernel's name of the set.
	Set      string
	Net      netip.Prefix
	Protocol desired.Protocol
	Port     uint16
}

// Compare orders members by set, network, protocol and port.
func (m Member) Compare(n Member) int {
	return cmp.Or(strings.Compare(m.Set, n.Set), m.Net.Compare(n.Net), cmp.Compare(m.Protocol, n.Protocol), cmp.Compare(m.Port, n.Port))
}

func (m Member) String() string {
	return m.Set + " " + desired.Member{Net: m.Net, Protocol: m.Protocol, Port: m.Port}.String()
}

// MembersOf turns a member of a set into what the kernel takes: a network of all
// addresses, which no set can hold, becomes its two halves.
func MembersOf(set string, m desired.Member) []Member {
	if m.Net.Bits() != 0 {
		return []Member{{Set: set, Net: m.Net, Protocol: m.Protocol, Port: m.Port}}
	}
	low := netip.PrefixFrom(m.Net.Addr(), 1).Masked()
	var high netip.Prefix
	if low.Addr().Is4() {
		high = netip.PrefixFrom(netip.AddrFrom4([4]byte{0x80}), 1)
	} else {
		high = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x80}), 1)
	}
	return []Member{{Set: set, Net: low}, {Set: set, Net: high}}
}

// Owned reports whether a set is felix's.
func Owned(name string) bool {
	for _, prefix := range []string{"cali4-", "cali6-", "cali4t", "cali6t"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// temporary is the name of the set in which a set is rebuilt.
func temporary(name string) string {
	if len(name) < len("cali4-") {
		return name
	}
	t := name[:len("cali4")] + "t" + name[len("cali4-"):]
	return t[:min(len(t), MaxName)]
}

func checkName(name string) error {
	if len(name) == 0 || len(name) > MaxName || !Owned(name) {
		return fmt.Errorf("set %q: not a name of felix's sets", name)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f {
			return fmt.Errorf("set %q: not a name of felix's sets", name)
		}
	}
	return nil
}

func isTemporary(name string) bool {
	return len(name) >= len("cali4-") && name[len("cali4")] == 't'
}
