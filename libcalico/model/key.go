package model

import (
	"net/netip"
	"strings"
)

// Kind names the type of a resource, spelled as in a v1 manifest where that has the
// kind.
type Kind string

// The kinds of resource in the store.
const (
	KindWorkloadEndpoint Kind = "workloadEndpoint"
	KindHostEndpoint     Kind = "hostEndpoint"
	KindProfile          Kind = "profile"
	KindPolicy           Kind = "policy"
	KindTier             Kind = "tier"
	KindIPPool           Kind = "ipPool"
	KindIPReservation    Kind = "ipReservation"
	KindNetworkSet       Kind = "networkSet"
	KindNode             Kind = "node"
	KindBGPPeer          Kind = "bgpPeer"
	KindBGPFilter        Kind = "bgpFilter"
	KindBGPConfig        Kind = "bgpConfig"
	KindFelixConfig      Kind = "felixConfig"
	KindConfiguration    Kind = "configuration"
	KindReady            Kind = "ready"
	KindAcceptedGUID     Kind = "acceptedGUID"
	KindLock             Kind = "lock"
	KindMinVersion       Kind = "minVersion"
	KindBlock            Kind = "ipamBlock"
	KindBlockAffinity    Kind = "ipamBlockAffinity"
	KindHandle           Kind = "ipamHandle"
	KindIPAMConfig       Kind = "ipamConfig"
	KindDockerNetwork    Kind = "dockerNetwork"
	KindDockerName       Kind = "dockerName"
	KindHistory          Kind = "history"
	KindLiveness         Kind = "liveness"
	KindFelixStatus      Kind = "felixStatus"
	KindEndpointStatus   Kind = "endpointStatus"
)

// Key identifies one resource. Every key type is a comparable struct of the
// resource's identifiers, so that a Key can index a map.
type Key interface {
	// Kind is the kind of the resource that the key names.
	Kind() Kind
	// String is the key as messages show it, such as "policy(name=frontend)".
	String() string
}

// WorkloadEndpointKey names a container's interface.
// Path: /calico/v1/host/<node>/workload/<orchestrator>/<workload>/endpoint/<name>.
type WorkloadEndpointKey struct {
	Node, Orchestrator, Workload, Name string
}

// HostEndpointKey names an interface of a host.
// Path: /calico/v1/host/<node>/endpoint/<name>.
type HostEndpointKey struct {
	Node, Name string
}

// ProfileKey names a profile.
// Paths: /calico/v1/policy/profile/<name>/{rules,tags,labels}.
type ProfileKey struct {
	Name string
}

// DefaultTier is the tier of a policy that names none.
const DefaultTier = "default"

// DefaultTierOrder is the rank of the tier [DefaultTier] if none is stored, as Calico has it.
const DefaultTierOrder = 1_000_000

// PolicyKey names a policy; an empty Tier stands for [DefaultTier] and is written
// so by [NewPolicyKey].
// Path: /calico/v1/policy/tier/<tier>/policy/<name>.
type PolicyKey struct {
	Tier, Name string
}

// DefaultNamespace is the namespace of the v3 API in which all of Docker's endpoints are.
const DefaultNamespace = "default"

// Namespaced reports whether the policy belongs to a namespace (a NetworkPolicy of the v3
// API): it selects workload endpoints only, not host endpoints.
func (k PolicyKey) Namespaced() bool { return strings.HasPrefix(k.Name, DefaultNamespace+"/") }

// TierKey names a tier. Path: /calico/v1/policy/tier/<name>/metadata.
type TierKey struct {
	Name string
}

// IPPoolKey names a pool by its range.
// Path: /calico/v1/ipam/<v4|v6>/pool/<address>-<bits>.
type IPPoolKey struct {
	CIDR netip.Prefix
}

// IPReservationKey names a reservation. Path: /calico/v1/ipreservations/<name>.
type IPReservationKey struct {
	Name string
}

// NetworkSetKey names a set of networks. Path: /calico/v1/netset/<name>.
type NetworkSetKey struct {
	Name string
}

// NodeKey names a host. Paths: /calico/v1/host/<node>/{metadata,bird_ip} and
// /calico/bgp/v1/host/<node>/{ip_addr_v4,ip_addr_v6,network_v4,network_v6,as_num,rr_cluster_id}.
type NodeKey struct {
	Name string
}

// BGPPeerKey names a BGP peer: of every node when Node is empty, else of that node.
// Paths: /calico/bgp/v1/global/peer_<v4|v6>/<ip> and
// /calico/bgp/v1/host/<node>/peer_<v4|v6>/<ip>.
type BGPPeerKey struct {
	Node string
	IP   netip.Addr
}

// BGPConfigKey names one raw BGP setting: global when Node is empty, else of that
// node. Names are "as_num", "node_mesh" and "loglevel"; a node's as_num belongs to
// its [NodeKey].
// Paths: /calico/bgp/v1/global/<name> and /calico/bgp/v1/host/<node>/<name>.
type BGPConfigKey struct {
	Node, Name string
}

// FelixConfigKey names one raw felix parameter: global when Node is empty, else of
// that node. Paths: /calico/v1/config/<name> and /calico/v1/host/<node>/config/<name>.
type FelixConfigKey struct {
	Node, Name string
}

// BGPFilterKey names a list of filter rules for BGP peers.
// Path: /calico/v1/bgpfilters/<name>.
type BGPFilterKey struct {
	Name string
}

// The values of [ConfigurationKey.Of].
const (
	BGPConfigurations   = "bgpconfigurations"
	FelixConfigurations = "felixconfigurations"
)

// ConfigurationKey names what the v3 dialect knows of a group of raw settings besides
// the settings: Name is "default" for the global ones, "node.<node>" for a node's.
// Paths: /calico/v1/bgpconfigurations/<name> and /calico/v1/felixconfigurations/<name>.
type ConfigurationKey struct {
	Of, Name string
}

// ReadyKey is the flag that says that the store has been initialised.
// Path: /calico/v1/Ready.
type ReadyKey struct{}

// ClusterGUID is the [FelixConfigKey] name of the id of the cluster that a store is of.
const ClusterGUID = "ClusterGUID"

// AcceptedGUIDKey holds the id of a cluster of which somebody has said that hosts may follow
// it that were part of another, and the id of that; without it every host may. Path: /calico/v1/accepted_guid.
type AcceptedGUIDKey struct{}

// LockKey says who has locked the store. It means something only while the Ready flag is
// false. Path: /calico/v1/lock.
type LockKey struct{}

// MinVersionKey holds the version that a program must have to write to the store; see
// etcdstore. Path: /calico/v1/min_version.
type MinVersionKey struct{}

// BlockKey names a block of addresses.
// Path: /calico/ipam/v2/assignment/<ipv4|ipv6>/block/<address>-<bits>.
type BlockKey struct {
	CIDR netip.Prefix
}

// BlockAffinityKey says that a block belongs to a node.
// Path: /calico/ipam/v2/host/<node>/<ipv4|ipv6>/block/<address>-<bits>.
type BlockAffinityKey struct {
	Node string
	CIDR netip.Prefix
}

// HandleKey names the owner of a group of addresses.
// Path: /calico/ipam/v2/handle/<id>.
type HandleKey struct {
	ID string
}

// IPAMConfigKey names the one IPAM configuration. Path: /calico/ipam/v2/config.
type IPAMConfigKey struct{}

// DockerNetworkKey names a Docker network that uses the calico driver.
// Path: /calico/docker/v1/network/<name>. Engines take any name that is not blank; one that
// cannot be a key is mapped to one that can, as it must be to name a profile.
type DockerNetworkKey struct {
	Name string
}

// DockerNameKey is one name of a container's endpoint in a Docker network, by which the
// containers of that network ask for it. Path: /calico/docker/v1/name/<network>/<name>/<endpoint>.
type DockerNameKey struct {
	// Network is that of the network's record, Name in small letters, Endpoint the engine's id.
	Network, Name, Endpoint string
}

// HistoryKey is a host's account of the store's history: how far it has counted or, for
// WrittenBack, the count up to which it has written back what a store that was restored to
// an older state had lost of it. It has no lease.
// Paths: /calico/status/v1/host/<node>/{history,written_back}.
type HistoryKey struct {
	Node        string
	WrittenBack bool
}

// LivenessKey is the leased key by which a program on a node shows that it lives.
// Path: /calico/status/v1/host/<node>/<program>.
type LivenessKey struct {
	Node, Program string
}

// FelixStatusKey is felix's report about a node. Last selects the copy without a
// lease. Paths: /calico/felix/v1/host/<node>/{status,last_reported_status}.
type FelixStatusKey struct {
	Node string
	Last bool
}

// EndpointStatusKey is felix's report about one workload endpoint.
// Path: /calico/felix/v1/host/<node>/workload/<orchestrator>/<workload>/endpoint/<name>.
type EndpointStatusKey struct {
	Node, Orchestrator, Workload, Name string
}

// NewPolicyKey is the key of a policy; an empty tier means [DefaultTier].
func NewPolicyKey(tier, name string) PolicyKey {
	if tier == "" {
		tier = DefaultTier
	}
	return PolicyKey{Tier: tier, Name: name}
}
