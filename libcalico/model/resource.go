package model

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Resource is the value of a [Key]. Each is a pointer to one of the structs of this
// package; its JSON form is what stands in etcd, with v2.6's field names.
type Resource interface {
	// Kind is the kind of the key that the resource belongs to.
	Kind() Kind
}

// Meta holds what only the projectcalico.org/v3 dialect knows of a resource. It is
// stored inside the same JSON value, and the v1 dialect does not show it.
type Meta struct {
	// V3Name is the name by which the v3 dialect knows a resource whose v1 key has
	// none, such as a pool.
	V3Name            string            `json:"v3_name,omitempty"`
	UID               string            `json:"uid,omitempty"`
	CreationTimestamp time.Time         `json:"creation_timestamp,omitzero"`
	Annotations       map[string]string `json:"annotations,omitempty"`
	// V3Labels are metadata labels of kinds whose v1 form has no labels.
	V3Labels map[string]string `json:"v3_labels,omitempty"`
	// V3Inert is fields of the v3 document, by their paths, that are shown and have no
	// effect.
	V3Inert map[string]json.RawMessage `json:"v3_inert,omitempty"`
	Unknown Unknown                    `json:"-"`
}

// Metadata is the resource's [Meta]; every resource that embeds one has the method.
func (m *Meta) Metadata() *Meta { return m }

// MetadataOf is the [Meta] of a resource, or nil when it has none.
func MetadataOf(r Resource) *Meta {
	if m, ok := r.(interface{ Metadata() *Meta }); ok {
		return m.Metadata()
	}
	return nil
}

// WorkloadEndpoint is one interface of a container.
type WorkloadEndpoint struct {
	Meta

	// State is "active" or "inactive"; an inactive endpoint gets no traffic.
	State string `json:"state"`
	// Interface is the name of the host's end of the pair, such as cali01234567890.
	Interface        string            `json:"name"`
	ActiveInstanceID string            `json:"active_instance_id"`
	MAC              string            `json:"mac,omitempty"`
	Profiles         []string          `json:"profile_ids"`
	IPv4Nets         []netip.Prefix    `json:"ipv4_nets"`
	IPv6Nets         []netip.Prefix    `json:"ipv6_nets"`
	IPv4NAT          []NAT             `json:"ipv4_nat,omitempty"`
	IPv6NAT          []NAT             `json:"ipv6_nat,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`
	IPv4Gateway      netip.Addr        `json:"ipv4_gateway,omitzero"`
	IPv6Gateway      netip.Addr        `json:"ipv6_gateway,omitzero"`
	Ports            []EndpointPort    `json:"ports,omitempty"`
}

// NAT is a floating address: traffic to External reaches Internal.
type NAT struct {
	Internal netip.Addr `json:"int_ip"`
	External netip.Addr `json:"ext_ip"`
	Unknown  Unknown    `json:"-"`
}

// EndpointPort gives a port of an endpoint a name that rules can use.
type EndpointPort struct {
	Name     string   `json:"name"`
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
	Unknown  Unknown  `json:"-"`
}

// HostEndpoint is an interface of a host that policies guard.
type HostEndpoint struct {
	Meta

	// Interface is the interface's name, "*" for all, or empty to find it by address.
	Interface         string            `json:"name,omitempty"`
	ExpectedIPv4Addrs []netip.Addr      `json:"expected_ipv4_addrs,omitempty"`
	ExpectedIPv6Addrs []netip.Addr      `json:"expected_ipv6_addrs,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	Profiles          []string          `json:"profile_ids,omitempty"`
	Ports             []EndpointPort    `json:"ports,omitempty"`
}

// Profile is a set of rules that endpoints name, with tags and labels that they
// inherit.
type Profile struct {
	Meta

	InboundRules  []Rule
	OutboundRules []Rule
	Tags          []string
	Labels        map[string]string
}

// The directions in which a policy can apply, as [Policy.Types] spells them.
const (
	PolicyTypeIngress = "ingress"
	PolicyTypeEgress  = "egress"
)

// Policy is an ordered set of rules for the endpoints that Selector chooses.
type Policy struct {
	Meta

	// Order ranks the policy in its tier; nil comes last, ties go by name.
	Order          *float64 `json:"order,omitempty"`
	InboundRules   []Rule   `json:"inbound_rules"`
	OutboundRules  []Rule   `json:"outbound_rules"`
	Selector       string   `json:"selector"`
	DoNotTrack     bool     `json:"untracked,omitempty"`
	PreDNAT        bool     `json:"pre_dnat,omitempty"`
	ApplyOnForward bool     `json:"apply_on_forward,omitempty"`
	// Types holds PolicyTypeIngress, PolicyTypeEgress or both. An empty list means
	// both (old clients wrote none), but ingress alone for a preDNAT policy.
	Types []string `json:"types,omitempty"`
}

// The fates that a tier can have for a packet on which no policy decided.
const (
	TierDeny = "Deny"
	TierPass = "Pass"
)

// Tier is a group of policies that is asked before the next one.
type Tier struct {
	Meta

	// Order ranks the tier; nil stands for [DefaultTierOrder] in the tier [DefaultTier] and
	// comes last in any other, ties go by name.
	Order *float64 `json:"order,omitempty"`
	// DefaultAction is TierDeny (also when empty) or TierPass.
	DefaultAction string `json:"default_action,omitempty"`
}

// The modes in which a pool's packets are put into IP-in-IP.
const (
	IPIPOff         = ""
	IPIPAlways      = "always"
	IPIPCrossSubnet = "cross-subnet"
)

// IPPool is a range from which containers get addresses.
type IPPool struct {
	Meta

	CIDR netip.Prefix `json:"cidr"`
	// IPIPDevice is "tunl0" when IP-in-IP is on, else empty.
	IPIPDevice string `json:"ipip"`
	IPIPMode   string `json:"ipip_mode"`
	// Masquerade hides the pool's addresses behind the host's for targets outside all
	// pools ("nat-outgoing").
	Masquerade bool `json:"masquerade"`
	// IPAM is true when addresses are given out from the pool; always true in v1.
	IPAM             bool   `json:"ipam"`
	Disabled         bool   `json:"disabled"`
	BlockSize        int    `json:"block_size,omitempty"`
	NodeSelector     string `json:"node_selector,omitempty"`
	VXLANMode        string `json:"vxlan_mode,omitempty"`
	DisableBGPExport bool   `json:"disable_bgp_export,omitempty"`
	// Manual keeps the pool for requests that name it or an address of it.
	Manual bool `json:"manual,omitempty"`
	// Deleting is since when the pool is being deleted; zero when it is not.
	Deleting time.Time `json:"deleting,omitzero"`
}

// Closed says that the pool gives out no new addresses: it is disabled, or being deleted.
func (p *IPPool) Closed() bool { return p.Disabled || !p.Deleting.IsZero() }

// IPReservation keeps addresses from being given out.
type IPReservation struct {
	Meta

	ReservedCIDRs []netip.Prefix `json:"reserved_cidrs"`
}

// NetworkSet gives labels to networks, so that selectors of rules can choose them.
type NetworkSet struct {
	Meta

	Nets   []netip.Prefix    `json:"nets"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Node is a host as BGP knows it.
type Node struct {
	Meta

	// IPv4 and IPv6 are the addresses that other hosts reach this one at; an invalid
	// Addr means that the node has none of that family.
	IPv4 netip.Addr
	IPv6 netip.Addr
	// IPv4Net and IPv6Net are the subnets of these addresses, masked.
	IPv4Net netip.Prefix
	IPv6Net netip.Prefix
	// ASNumber is nil when the node uses the global one.
	ASNumber *ASNumber
	// RouteReflectorClusterID makes the node a route reflector (dotted quad) when set.
	RouteReflectorClusterID string
	Labels                  map[string]string
	// Host is the host that has the name; zero when no start-up has said so yet.
	Host Identity
	// Programs are those that must run on the host, by their names in [LivenessKey]; empty
	// when no start-up has said so yet.
	Programs []string
}

// Identity is a host, and one start of it. Two hosts that were given the same name differ in
// it: two different machines in the id, a machine and its clone at least in the start.
type Identity struct {
	// ID is random, made once and kept on the host's disk: 32 hexadecimal digits.
	ID string `json:"id,omitempty"`
	// Boot is the kernel's id of this start.
	Boot    string  `json:"boot,omitempty"`
	Unknown Unknown `json:"-"`
}

// IsZero says that nothing is known of the host.
func (i Identity) IsZero() bool { return i == Identity{} }

// Known says whether hosts can be told apart by it. What older programs wrote has none.
func (i Identity) Known() bool { return i.ID != "" }

// Same says whether both are known, and of the same start of the same host.
func (i Identity) Same(other Identity) bool { return i.SameHost(other) && i.Boot == other.Boot }

// SameHost says whether both are known, and have the same id: they are two starts of a host,
// or a host and its clone.
func (i Identity) SameHost(other Identity) bool { return i.Known() && i.ID == other.ID }

// Other says whether both are known, and differ: one of them is another host, or was before
// it started again.
func (i Identity) Other(than Identity) bool { return i.Known() && than.Known() && !i.Same(than) }

// BGPPeer is a BGP speaker that nodes talk to besides the mesh.
type BGPPeer struct {
	Meta

	IP       netip.Addr `json:"ip"`
	ASNumber ASNumber   `json:"as_num"`
	// Password is the TCP MD5 secret (RFC 2385).
	Password string `json:"password,omitempty"`
	// Port is the peer's TCP port; 0 means 179.
	Port uint16 `json:"port,omitempty"`
	// Filters names the [BGPFilter] resources for the peer, in order.
	Filters []string `json:"filters,omitempty"`
}

// The actions of a BGP filter's rule, as the v3 dialect spells them.
const (
	FilterAccept = "Accept"
	FilterReject = "Reject"
)

// BGPFilter says which routes are exchanged with the peers that name it. The first
// rule that matches a route decides.
type BGPFilter struct {
	Meta

	ExportV4 []BGPFilterRule `json:"export_v4,omitempty"`
	ImportV4 []BGPFilterRule `json:"import_v4,omitempty"`
	ExportV6 []BGPFilterRule `json:"export_v6,omitempty"`
	ImportV6 []BGPFilterRule `json:"import_v6,omitempty"`
}

// BGPFilterRule matches routes; all of its conditions must hold.
type BGPFilterRule struct {
	// CIDR is compared with a route's prefix as Operator says: Equal, NotEqual, In or
	// NotIn. Both are set or neither.
	CIDR     netip.Prefix `json:"cidr,omitzero"`
	Operator string       `json:"operator,omitempty"`
	// MinLength and MaxLength bound the length of a route's prefix; nil is no bound.
	MinLength *int `json:"min_length,omitempty"`
	MaxLength *int `json:"max_length,omitempty"`
	// Source is "RemotePeers" for routes learned by BGP, empty for all.
	Source    string  `json:"source,omitempty"`
	Interface string  `json:"interface,omitempty"`
	Action    string  `json:"action"`
	Unknown   Unknown `json:"-"`
}

// Configuration is the value of [ConfigurationKey].
type Configuration struct {
	Meta
}

// Setting is a raw value of one configuration key (BGP or felix), or another text.
type Setting struct {
	Of    Kind `json:"-"`
	Value string
}

// Ready is the value of [ReadyKey].
type Ready bool

// IPAMConfig says how blocks are used.
type IPAMConfig struct {
	Meta

	StrictAffinity     bool `json:"strict_affinity"`
	AutoAllocateBlocks bool `json:"auto_allocate_blocks"`
	// MaxBlocksPerHost limits the blocks of one node, of each family; 0 means no limit.
	MaxBlocksPerHost int `json:"max_blocks_per_host,omitempty"`
}

// The states of a block affinity; an empty or missing one means confirmed, as v2.6
// wrote it.
const (
	AffinityConfirmed       = "confirmed"
	AffinityPending         = "pending"
	AffinityPendingDeletion = "pendingDeletion"
)

// BlockAffinity is the value of [BlockAffinityKey].
type BlockAffinity struct {
	State   string  `json:"state,omitempty"`
	Unknown Unknown `json:"-"`
}

// Handle counts the addresses that one owner has, by block.
type Handle struct {
	HandleID string         `json:"id,omitempty"`
	Block    map[string]int `json:"block"`
	Unknown  Unknown        `json:"-"`
}

// Block is a range of addresses that is given out one by one.
type Block struct {
	CIDR netip.Prefix `json:"cidr"`
	// Affinity is "host:<node>", or nil when no node owns the block.
	Affinity       *string `json:"affinity"`
	StrictAffinity bool    `json:"strictAffinity"`
	// Allocations has an entry per address: nil when it is free, else an index into
	// Attributes.
	Allocations []*int `json:"allocations"`
	// Unallocated lists the free ordinals, the longest free first.
	Unallocated []int             `json:"unallocated"`
	Attributes  []BlockAttributes `json:"attributes"`
	Unknown     Unknown           `json:"-"`
}

// BlockAttributes says who has an address.
type BlockAttributes struct {
	HandleID  *string           `json:"handle_id"`
	Secondary map[string]string `json:"secondary"`
	Unknown   Unknown           `json:"-"`
}

// DockerNetwork is what all hosts know of a Docker network. Its UID, which is made anew
// with each network of the name, says that the network is meant for all hosts; without one
// it is a network of those hosts alone that have it.
type DockerNetwork struct {
	Meta

	// Name is Docker's name of the network where the key cannot be it; see [DockerNetworkKey].
	Name string `json:"name,omitempty"`
	// IDs holds the engine's id of the network, by node. In cluster-store mode every
	// node has the same.
	IDs map[string]string `json:"ids"`
	// Removed says that a user removed the network on one host. It stays until it is gone
	// from all hosts that have it.
	Removed bool `json:"removed,omitempty"`
	// RemovedAt is when it was marked so.
	RemovedAt time.Time `json:"removed_at,omitzero"`
	// Problems says, by node, why the network of this name is not this one there.
	Problems map[string]string `json:"problems,omitempty"`

	// IPv4Pool and IPv6Pool are the first subnet of each family, as older programs know them.
	IPv4Pool   string            `json:"ipv4_pool,omitempty"`
	IPv6Pool   string            `json:"ipv6_pool,omitempty"`
	Options    map[string]string `json:"options,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Internal   bool              `json:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty"`
	IPv6       bool              `json:"ipv6,omitempty"`
	// NoIPv4 is of engines from 28 on, where a network can be without IPv4.
	NoIPv4 bool        `json:"no_ipv4,omitempty"`
	IPAM   *DockerIPAM `json:"ipam,omitempty"`
	Scope  string      `json:"scope,omitempty"`
}

// DockerIPAM is where the addresses of a Docker network come from, as its creator chose.
type DockerIPAM struct {
	Driver  string            `json:"driver,omitempty"`
	Options map[string]string `json:"options,omitempty"`
	Subnets []DockerSubnet    `json:"subnets,omitempty"`
	Unknown Unknown           `json:"-"`
}

// DockerSubnet is a subnet of a Docker network that its creator named, in the engine's
// texts.
type DockerSubnet struct {
	Subnet  string  `json:"subnet"`
	Range   string  `json:"range,omitempty"`
	Unknown Unknown `json:"-"`
	// Reserved are its auxiliary addresses, by name.
	Reserved map[string]string `json:"reserved,omitempty"`
}

// DockerName is the value of [DockerNameKey].
type DockerName struct {
	// Node is where the endpoint is.
	Node string `json:"node"`
	// Addresses are the endpoint's.
	Addresses []netip.Addr `json:"addresses"`
	// Own says that it is the container's name, which its addresses are known by.
	Own     bool    `json:"own,omitempty"`
	Unknown Unknown `json:"-"`
}

// History is the value of [HistoryKey].
type History struct {
	// Count only ever grows: whoever reads a lower one than before has another history.
	Count int64 `json:"count"`
	// Restored counts how often the host has found that.
	Restored int64   `json:"restored,omitempty"`
	Unknown  Unknown `json:"-"`
}

// Liveness is the value of [LivenessKey].
type Liveness struct {
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"`
	// Host is where the program runs; zero when an older one does not tell.
	Host    Identity `json:"host,omitzero"`
	Unknown Unknown  `json:"-"`
}

// FelixStatus is felix's report about its host.
type FelixStatus struct {
	Time        time.Time `json:"time"`
	UptimeSecs  float64   `json:"uptime"`
	FirstUpdate bool      `json:"first_update"`
	Unknown     Unknown   `json:"-"`
}

// The values of [EndpointStatus.Status].
const (
	EndpointUp    = "up"
	EndpointDown  = "down"
	EndpointError = "error"
)

// EndpointStatus is felix's report about one endpoint.
type EndpointStatus struct {
	Status  string  `json:"status"`
	Unknown Unknown `json:"-"`
}
