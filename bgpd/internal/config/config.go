// Package config reads bgpd.toml, the document that confd renders from etcd: who
// this speaker is, whom it talks to, and which pools it may advertise. It is pure:
// bytes in, a validated [Config] or all faults with their lines out.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"time"

	"calico.internal/libcalico/model"
)

// Config is one valid document. Two documents that ask for the same have equal
// Configs but for Hash.
type Config struct {
	// Node is the name under which this host's resources stand in etcd.
	Node string
	// RouterID is the BGP identifier (RFC 6286): an IPv4 address by form only.
	RouterID netip.Addr
	ASNumber model.ASNumber
	// Listen holds the host's BGP addresses, at most one of each family. Without any,
	// the host takes no part in BGP.
	Listen     []netip.Addr
	ListenPort uint16
	LogLevel   LogLevel
	// Networks are the subnets of the Listen addresses; they would decide which next hops a
	// cross-subnet pool reaches without a tunnel.
	Networks []netip.Prefix
	Mesh     bool
	// Peers is sorted by address and has each address once.
	Peers []Peer
	// Pools is sorted by CIDR.
	Pools  []Pool
	Timers Timers
	Import Import
	// Protocol is the number that marks our routes in the kernel.
	Protocol uint8
	// Hash is the SHA-256 of the document, in hexadecimal.
	Hash string
}

// LogLevel says how much of BGP's own doings is logged.
type LogLevel string

// The log levels, spelled as "calicoctl config set logLevel" spells them.
const (
	LogNone  LogLevel = "none"
	LogInfo  LogLevel = "info"
	LogDebug LogLevel = "debug"
)

// PeerType says where a session comes from.
type PeerType string

// The peer types, from the least to the most specific.
const (
	PeerMesh   PeerType = "mesh"
	PeerGlobal PeerType = "global"
	PeerNode   PeerType = "node"
)

// Secret is text that no log and no message shows.
type Secret string

// String tells only whether there is a secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(set)"
}

// GoString is what %#v prints.
func (s Secret) GoString() string { return s.String() }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Peer is one speaker that this one talks to.
type Peer struct {
	Name     string
	Type     PeerType
	Address  netip.Addr
	ASNumber model.ASNumber
	// Password is the TCP MD5 secret (RFC 2385).
	Password Secret
	Port     uint16
	// ReflectorClient makes this speaker reflect routes to the peer (RFC 4456), with
	// ClusterID as its cluster.
	ReflectorClient bool
	ClusterID       netip.Addr
}

// IPIPMode says which packets of a pool travel inside IP-in-IP.
type IPIPMode string

// The modes of a pool, as the store spells them.
const (
	IPIPOff         IPIPMode = model.IPIPOff
	IPIPAlways      IPIPMode = model.IPIPAlways
	IPIPCrossSubnet IPIPMode = model.IPIPCrossSubnet
)

// Pool is a range of container addresses.
type Pool struct {
	CIDR netip.Prefix
	IPIP IPIPMode
	// Disabled pools give no new addresses, which changes no route.
	Disabled bool
	// Export lets blocks of the pool be advertised.
	Export bool
}

// Timers are BGP's times.
type Timers struct {
	// Hold is the hold time (RFC 4271 section 4.2); keepalives go out at a third of it.
	Hold time.Duration
	// ConnectRetry is the least time between two attempts to reach a peer.
	ConnectRetry time.Duration
	// Restart is how long routes of a peer that dropped stay in the kernel, and what we
	// ask of peers when we restart (RFC 4724).
	Restart time.Duration
}

// Import says which routes of peers are taken although they could cut the host off.
type Import struct {
	// DefaultRoute accepts 0.0.0.0/0 and ::/0.
	DefaultRoute bool
	// CoveringNodes accepts prefixes that hold addresses of nodes or peers.
	CoveringNodes bool
}

// ListenOf is the host's BGP address of the family of a, invalid when it has none.
func (c Config) ListenOf(a netip.Addr) netip.Addr {
	for _, l := range c.Listen {
		if l.Is4() == a.Is4() {
			return l
		}
	}
	return netip.Addr{}
}

// HashOf is the hash by which confd and bgpd compare documents.
func HashOf(doc []byte) string {
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:])
}

// routerIDOf makes a BGP identifier for a host without an IPv4 address: 32 bits of
// the name's hash, never zero.
func routerIDOf(node string) netip.Addr {
	h := fnv.New32a()
	h.Write([]byte(node))
	v := h.Sum32() | 1
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}
