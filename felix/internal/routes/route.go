package routes

import (
	"cmp"
	"net"
	"net/netip"
	"strconv"
)

// MainTable is the kernel's main routing table.
const MainTable = 254

// Key identifies a route.
type Key struct {
	Table  int
	Prefix netip.Prefix
}

// Compare orders routes by table and prefix.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Table, o.Table), k.Prefix.Compare(o.Prefix))
}

func (k Key) String() string {
	if k.Table == MainTable {
		return k.Prefix.String()
	}
	return k.Prefix.String() + " table " + strconv.Itoa(k.Table)
}

// Route says where packets go.
type Route struct {
	// Interface is the name of the device.
	Interface string
	// Gateway is the next hop; the zero value means that the target is on the link.
	Gateway netip.Addr
	// Protocol is what marks the route (ip route's "proto"); 3 is boot.
	Protocol int
	// Encap is how packets are wrapped on their way to Gateway.
	Encap Encap
}

// Encap is a way to wrap packets. Endpoint routes have none.
type Encap string

// NoEncap leaves packets as they are.
const NoEncap Encap = ""

// NeighKey identifies a neighbour entry.
type NeighKey struct {
	Interface string
	Addr      netip.Addr
}

// Compare orders entries by interface and address.
func (k NeighKey) Compare(o NeighKey) int {
	return cmp.Or(cmp.Compare(k.Interface, o.Interface), k.Addr.Compare(o.Addr))
}

func (k NeighKey) String() string { return k.Addr.String() + " on " + k.Interface }

// MAC is a link-layer address in a form that can be compared.
type MAC [6]byte

// MACOf converts an address of six bytes; ok is false for any other length.
func MACOf(hw net.HardwareAddr) (m MAC, ok bool) {
	if len(hw) != len(m) {
		return MAC{}, false
	}
	copy(m[:], hw)
	return m, true
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// AddrKey identifies an address of an interface.
type AddrKey struct {
	Interface string
	Prefix    netip.Prefix
}

// Compare orders addresses by interface and prefix.
func (k AddrKey) Compare(o AddrKey) int {
	return cmp.Or(cmp.Compare(k.Interface, o.Interface), k.Prefix.Compare(o.Prefix))
}

func (k AddrKey) String() string { return k.Prefix.String() + " on " + k.Interface }
