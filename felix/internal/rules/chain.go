package rules

import (
	"net/netip"

	"calico.internal/felix/internal/desired"
)

// Family is an IP version.
type Family uint8

// The IP families.
const (
	V4 Family = 4
	V6 Family = 6
)

// Families lists both.
var Families = [...]Family{V4, V6}

// Of reports whether an address or network belongs to the family.
func (f Family) Of(p netip.Prefix) bool { return p.Addr().Is4() == (f == V4) }

// Table names the stage of the packet's way that a chain stands in.
type Table string

// The tables.
const (
	Raw    Table = "raw"
	Mangle Table = "mangle"
	NAT    Table = "nat"
	Filter Table = "filter"
)

// Tables lists all tables, in the order in which a packet meets them.
var Tables = [...]Table{Raw, Mangle, NAT, Filter}

// ChainID identifies a chain within a family.
type ChainID struct {
	Table Table
	Name  string
}

// Chain is a list of rules with a name. Names are at most 28 characters long.
type Chain struct {
	ChainID

	Rules []Rule
}

// Hook is a rule that has to stand in a chain that is not ours.
type Hook struct {
	// Table and Chain say where: a chain of the kernel's (INPUT, FORWARD, …) or, with
	// IfExists, of another program.
	ChainID

	Rule     Rule
	Position Position
	// IfExists is set for a hook in another program's chain: no fault when it is absent.
	IfExists bool
}

// Position is where a hook stands among the other rules of its chain.
type Position uint8

// The positions of hooks.
const (
	// First puts the rule before all others.
	First Position = iota
	// Last puts it behind all others.
	Last
)

// Rule is one rule: what it matches, and what happens then.
type Rule struct {
	Match  Match
	Action Action
	// Origin is the policy rule that this was made from; nil for rules of the frame.
	Origin *desired.Origin
	// Comment says to a human why the rule is there; may be empty.
	Comment string
}

// Match is what a rule asks of a packet. All conditions are ANDed; the zero value
// matches every packet.
type Match struct {
	In, Out               Interface
	Protocol, NotProtocol desired.Protocol
	Source, Destination   Net
	// Ports are all required; each needs Protocol to be one that has ports.
	Ports []Ports
	Sets  []Set
	ICMP  []ICMP
	// Conn is a set of connection states of which one is required; 0 for any.
	Conn ConnState
	// DNAT asks whether the packet's destination was rewritten.
	DNAT Tristate
	// Mark is required when Mark.Mask is not 0.
	Mark Mark
	// RPFilterFails requires that the route back to the source does not go over the
	// interface on which the packet came.
	RPFilterFails bool
	// SourceLocal and DestinationLocal ask for an address of this host.
	SourceLocal, DestinationLocal Tristate
	// Socket requires that a program of this host waits for the packet: a socket that is
	// connected to its sender, or listens where it goes.
	Socket bool
}

// Interface matches an interface's name; the zero value matches any.
type Interface struct {
	// Name is the whole name, or the beginning of it when Prefix is set.
	Name   string
	Prefix bool
	Not    bool
}

// Net matches an address; with an invalid Prefix (the zero value) any.
type Net struct {
	netip.Prefix

	Not bool
}

// Side is an end of a packet.
type Side uint8

// The two ends of a packet.
const (
	Src Side = iota
	Dst
)

// String is the side in short.
func (s Side) String() string {
	if s == Src {
		return "src"
	}
	return "dst"
}

// MaxPorts is the number of slots of a [Ports] list: a port takes one, a range two.
const MaxPorts = 15

// Ports matches a port: one of a list of at most [MaxPorts] slots.
type Ports struct {
	Side   Side
	Ranges []desired.PortRange
	Not    bool
}

// Set matches an address set: the address of a side, or address, protocol and port of
// it with WithPort.
type Set struct {
	// Name is the kernel's name of the set, as [SetName] makes it.
	Name     string
	Side     Side
	WithPort bool
	Not      bool
}

// ICMP matches an ICMP (in V6: ICMPv6) message; Code nil for any.
type ICMP struct {
	Type uint8
	Code *uint8
	Not  bool
}

// ConnState is a set of connection-tracking states.
type ConnState uint8

// The states of connection tracking.
const (
	Established ConnState = 1 << iota
	Related
	Invalid
	New
	UntrackedState
)

// Mark is a value of some bits of the packet's mark: mark & Mask == Value.
type Mark struct{ Value, Mask uint32 }

// Tristate is yes, no, or not asked (the zero value).
type Tristate uint8

// The values of a Tristate.
const (
	DontCare Tristate = iota
	Yes
	No
)

// Verb is the kind of an action.
type Verb uint8

// The verbs of rules. Drop is the zero value, so that a forgotten one fails closed.
const (
	Drop Verb = iota
	// Accept ends the table for the packet.
	Accept
	// Reject drops and tells the sender.
	Reject
	// Return goes back to the calling chain.
	Return
	// Jump calls Chain; a return from it goes on behind this rule.
	Jump
	// Goto goes to Chain; a return from it goes to this chain's caller.
	Goto
	// SetMark sets the bits of Mark, ClearMark clears them; the packet goes on.
	SetMark
	ClearMark
	// Log writes the packet to the kernel's log with Prefix; the packet goes on.
	Log
	// NoTrack keeps the packet from connection tracking; the packet goes on.
	NoTrack
	// Masquerade rewrites the source to the outgoing interface's address.
	Masquerade
	// DNAT rewrites the destination to the address To, SNAT the source.
	DNAT
	SNAT
)

// Action is what a rule does.
type Action struct {
	Verb   Verb
	Chain  string
	Mark   uint32
	Prefix string
	To     netip.Addr
}
