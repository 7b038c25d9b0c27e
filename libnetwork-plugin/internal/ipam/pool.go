package ipam

import (
	"fmt"
	"net/netip"
	"strings"
)

// The ids of "any pool", as the original plugin gave them: networks outlive plugins.
const (
	anyIPv4 = "CalicoPoolIPv4"
	anyIPv6 = "CalicoPoolIPv6"
)

// Pool is what a network's addresses are taken from. Docker keeps it for us, as a pool
// id, and brings it back in every call: so everything about it must be in the id.
type Pool struct {
	V6 bool
	// Subnet is the user's --subnet; invalid without one, which means all pools.
	Subnet netip.Prefix
	// Range is the user's --ip-range, inside Subnet; invalid without one.
	Range netip.Prefix
}

// String is the pool's id.
func (p Pool) String() string {
	switch {
	case p.Range.IsValid():
		return p.Subnet.String() + "|" + p.Range.String()
	case p.Subnet.IsValid():
		return p.Subnet.String()
	case p.V6:
		return anyIPv6
	}
	return anyIPv4
}

// ParsePool is the inverse of [Pool.String].
func ParsePool(id string) (Pool, error) {
	switch id {
	case anyIPv4:
		return Pool{}, nil
	case anyIPv6:
		return Pool{V6: true}, nil
	}
	subnet, sub, ranged := strings.Cut(id, "|")
	p, err := parseSubnet(subnet)
	if err == nil && ranged {
		p.Range, err = parseRange(p, sub)
	}
	if err != nil {
		return Pool{}, fmt.Errorf("pool id %q is not one of calico-ipam's: %w", id, err)
	}
	return p, nil
}

// Holds reports whether an address that the user chose may be given out.
func (p Pool) Holds(a netip.Addr) bool {
	if a.Is6() != p.V6 {
		return false
	}
	return !p.Subnet.IsValid() || p.Subnet.Contains(a)
}

// Within is the range that addresses are picked from; invalid for all pools.
func (p Pool) Within() netip.Prefix {
	if p.Range.IsValid() {
		return p.Range
	}
	return p.Subnet
}

// parseSubnet reads a --subnet.
func parseSubnet(s string) (Pool, error) {
	subnet, err := netip.ParsePrefix(s)
	if err != nil {
		return Pool{}, fmt.Errorf("subnet: %w", err)
	}
	return Pool{V6: subnet.Addr().Is6(), Subnet: subnet.Masked()}, nil
}

// parseRange reads an --ip-range of a pool.
func parseRange(p Pool, s string) (netip.Prefix, error) {
	r, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("IP range: %w", err)
	}
	r = r.Masked()
	if !contains(p.Subnet, r) {
		return netip.Prefix{}, fmt.Errorf("IP range %s is not inside subnet %s", r, p.Subnet)
	}
	return r, nil
}

// contains reports whether outer has all addresses of inner.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
