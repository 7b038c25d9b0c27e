package model

import (
	"fmt"
	"net/netip"
	"slices"
)

// layout is all that the package knows of one kind.
type layout struct {
	kind     Kind
	prefixes []string
	shapes   []shape
	// paths, encode, decode and check are nil-safe for keys of this kind only;
	// layoutOf makes sure of that.
	paths  func(Key) []string
	first  func(Key) string // of paths
	encode func(Key, Resource) (map[string][]byte, error)
	decode func(Key, map[string][]byte) (Resource, error)
	// readable is [Readable] for this kind; nil when it has none.
	readable func(Key, map[string][]byte) (Resource, []string)
	check    func(*faults, Key, Resource)
}

// shape is one form that a path of a kind can have.
type shape struct {
	kind    Kind
	pattern pattern
	key     func(ids []string) (Key, bool)
}

// spec describes a kind in terms of its own key and resource types.
type spec[K Key, R any, P interface {
	*R
	Resource
}] struct {
	kind     Kind
	prefixes []string
	// patterns are the forms of the kind's paths: the parts of each resource when
	// composite, else the alternatives among which split chooses.
	patterns  []string
	composite bool
	split     func(K) (alternative int, ids []string)
	join      func(alternative int, ids []string) (K, bool)
	encode    func(K, P) ([][]byte, error) // one value per path; nil = absent
	decode    func(K, [][]byte, P) error   // one value per path; nil = absent
	readable  func([][]byte) (P, []string) // nil = field by field, where decode is nil too
	check     func(*faults, K, P)          // nil = nothing to check
}

// layout hides the types. The default codec is JSON at a single path.
func (s spec[K, R, P]) layout() *layout {
	l := &layout{kind: s.kind, prefixes: s.prefixes}
	patterns := make([]pattern, len(s.patterns))
	for i, p := range s.patterns {
		patterns[i] = newPattern(p)
		l.shapes = append(l.shapes, shape{
			kind: s.kind, pattern: patterns[i],
			key: func(ids []string) (Key, bool) { return asKey(s.join(i, ids)) },
		})
	}
	l.paths = func(k Key) []string {
		alternative, ids := s.split(k.(K))
		if !s.composite {
			return []string{patterns[alternative].fill(ids)}
		}
		paths := make([]string, len(patterns))
		for i, p := range patterns {
			paths[i] = p.fill(ids)
		}
		return paths
	}
	l.first = func(k Key) string {
		alternative, ids := s.split(k.(K))
		if s.composite {
			alternative = 0
		}
		return patterns[alternative].fill(ids)
	}
	l.encode = func(k Key, r Resource) (map[string][]byte, error) {
		p, ok := r.(P)
		if !ok || p == nil {
			return nil, fmt.Errorf("a %s cannot hold a %T", s.kind, r)
		}
		encode := s.encode
		if encode == nil {
			encode = func(_ K, p P) ([][]byte, error) { return encodeJSON(p) }
		}
		values, err := encode(k.(K), p)
		if err != nil {
			return nil, err
		}
		return byPath(l.paths(k), values), nil
	}
	l.decode = func(k Key, parts map[string][]byte) (Resource, error) {
		decode := s.decode
		if decode == nil {
			decode = func(_ K, values [][]byte, p P) error { return decodeJSON(values[0], p) }
		}
		values, err := inOrder(l.paths(k), parts)
		if err != nil {
			return nil, err
		}
		p := P(new(R))
		if err := decode(k.(K), values, p); err != nil {
			return nil, err
		}
		return p, nil
	}
	readable := s.readable
	if readable == nil && s.decode == nil {
		readable = func(values [][]byte) (P, []string) {
			p, unreadable := readFields[R](values[0])
			return P(p), unreadable
		}
	}
	if readable != nil {
		l.readable = func(k Key, parts map[string][]byte) (Resource, []string) {
			values, err := inOrder(l.paths(k), parts)
			if err != nil {
				return nil, nil
			}
			p, unreadable := readable(values)
			if p == nil {
				return nil, unreadable
			}
			return p, unreadable
		}
	}
	l.check = func(f *faults, k Key, r Resource) {
		p, ok := r.(P)
		switch {
		case !ok || p == nil:
			f.add("", fmt.Sprintf("%T", r), "is not a "+string(s.kind))
		case s.check != nil:
			s.check(f, k.(K), p)
		}
	}
	return l
}

func asKey[K Key](k K, ok bool) (Key, bool) {
	if !ok {
		return nil, false
	}
	return k, true
}

func byPath(paths []string, values [][]byte) map[string][]byte {
	parts := make(map[string][]byte, len(paths))
	for i, path := range paths {
		if values[i] != nil {
			parts[path] = values[i]
		}
	}
	return parts
}

func inOrder(paths []string, parts map[string][]byte) ([][]byte, error) {
	values := make([][]byte, len(paths))
	found := 0
	for i, path := range paths {
		value, ok := parts[path]
		if !ok {
			continue
		}
		found++
		if values[i] = value; value == nil {
			values[i] = []byte{}
		}
	}
	if found == 0 {
		return nil, errNoValue
	}
	return values, nil
}

// families are the two spellings of an address family in paths, IPv4 first.
const (
	alternativeV4 = 0
	alternativeV6 = 1
)

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return alternativeV4
	}
	return alternativeV6
}

// one makes the split function of a kind with a single form.
func one[K Key](ids func(K) []string) func(K) (int, []string) {
	return func(k K) (int, []string) { return 0, ids(k) }
}

// named makes the join function of a kind whose key is one name.
func named[K Key](key func(name string) K) func(int, []string) (K, bool) {
	return func(_ int, ids []string) (K, bool) { return key(ids[0]), true }
}

const (
	hostPrefix      = PrefixV1 + "host/"
	felixHostPrefix = PrefixFelix + "host/"
)

// layouts is the one table of kinds. Its order is that of [Kinds]. Where a path has
// two shapes the earlier kind wins.
var layouts = []*layout{
	spec[ReadyKey, Ready, *Ready]{
		kind:     KindReady,
		prefixes: []string{PrefixV1 + "Ready"},
		patterns: []string{PrefixV1 + "Ready"},
		split:    one(func(ReadyKey) []string { return nil }),
		join:     func(int, []string) (ReadyKey, bool) { return ReadyKey{}, true },
		encode:   func(_ ReadyKey, r *Ready) ([][]byte, error) { return encodeReady(r) },
		decode:   func(_ ReadyKey, values [][]byte, r *Ready) error { return decodeReady(values[0], r) },
	}.layout(),
	spec[AcceptedGUIDKey, Setting, *Setting]{
		kind:     KindAcceptedGUID,
		prefixes: []string{PrefixV1 + "accepted_guid"},
		patterns: []string{PrefixV1 + "accepted_guid"},
		split:    one(func(AcceptedGUIDKey) []string { return nil }),
		join:     func(int, []string) (AcceptedGUIDKey, bool) { return AcceptedGUIDKey{}, true },
		encode:   func(k AcceptedGUIDKey, s *Setting) ([][]byte, error) { return encodeSetting(k, s) },
		decode:   func(k AcceptedGUIDKey, values [][]byte, s *Setting) error { return decodeSetting(k, values[0], s) },
	}.layout(),
	spec[LockKey, Lock, *Lock]{
		kind:     KindLock,
		prefixes: []string{PrefixV1 + "lock"},
		patterns: []string{PrefixV1 + "lock"},
		split:    one(func(LockKey) []string { return nil }),
		join:     func(int, []string) (LockKey, bool) { return LockKey{}, true },
		check:    checkLock,
	}.layout(),
	spec[MinVersionKey, Setting, *Setting]{
		kind:     KindMinVersion,
		prefixes: []string{PrefixV1 + "min_version"},
		patterns: []string{PrefixV1 + "min_version"},
		split:    one(func(MinVersionKey) []string { return nil }),
		join:     func(int, []string) (MinVersionKey, bool) { return MinVersionKey{}, true },
		encode:   func(k MinVersionKey, s *Setting) ([][]byte, error) { return encodeSetting(k, s) },
		decode:   func(k MinVersionKey, values [][]byte, s *Setting) error { return decodeSetting(k, values[0], s) },
	}.layout(),
	spec[FelixConfigKey, Setting, *Setting]{
		kind:     KindFelixConfig,
		prefixes: []string{PrefixV1 + "config/", hostPrefix},
		patterns: []string{PrefixV1 + "config/{}", hostPrefix + "{node}/config/{}"},
		split:    func(k FelixConfigKey) (int, []string) { return globalOrNode(k.Node, k.Name) },
		join: func(alternative int, ids []string) (FelixConfigKey, bool) {
			node, name := splitGlobalOrNode(alternative, ids)
			return FelixConfigKey{node, name}, true
		},
		encode: func(k FelixConfigKey, s *Setting) ([][]byte, error) { return encodeSetting(k, s) },
		decode: func(k FelixConfigKey, values [][]byte, s *Setting) error { return decodeSetting(k, values[0], s) },
		check:  checkFelixConfig,
	}.layout(),
	spec[TierKey, Tier, *Tier]{
		kind:     KindTier,
		prefixes: []string{PrefixV1 + "policy/tier/"},
		patterns: []string{PrefixV1 + "policy/tier/{tier}/metadata"},
		split:    one(func(k TierKey) []string { return []string{k.Name} }),
		join:     named(func(name string) TierKey { return TierKey{name} }),
		check:    checkTier,
	}.layout(),
	spec[PolicyKey, Policy, *Policy]{
		kind:     KindPolicy,
		prefixes: []string{PrefixV1 + "policy/tier/"},
		patterns: []string{PrefixV1 + "policy/tier/{tier}/policy/{}"},
		split: one(func(k PolicyKey) []string {
			k = NewPolicyKey(k.Tier, k.Name)
			return []string{k.Tier, k.Name}
		}),
		join:  func(_ int, ids []string) (PolicyKey, bool) { return PolicyKey{ids[0], ids[1]}, true },
		check: checkPolicy,
	}.layout(),
	spec[ProfileKey, Profile, *Profile]{
		kind:     KindProfile,
		prefixes: []string{PrefixV1 + "policy/profile/"},
		patterns: []string{
			PrefixV1 + "policy/profile/{}/rules",
			PrefixV1 + "policy/profile/{}/tags",
			PrefixV1 + "policy/profile/{}/labels",
		},
		composite: true,
		split:     one(func(k ProfileKey) []string { return []string{k.Name} }),
		join:      named(func(name string) ProfileKey { return ProfileKey{name} }),
		encode:    encodeProfile,
		decode:    decodeProfile,
		readable:  readableProfile,
		check:     checkProfile,
	}.layout(),
	spec[NetworkSetKey, NetworkSet, *NetworkSet]{
		kind:     KindNetworkSet,
		prefixes: []string{PrefixV1 + "netset/"},
		patterns: []string{PrefixV1 + "netset/{}"},
		split:    one(func(k NetworkSetKey) []string { return []string{k.Name} }),
		join:     named(func(name string) NetworkSetKey { return NetworkSetKey{name} }),
		check:    checkNetworkSet,
	}.layout(),
	spec[IPPoolKey, IPPool, *IPPool]{
		kind:     KindIPPool,
		prefixes: []string{PrefixV1 + "ipam/"},
		patterns: []string{PrefixV1 + "ipam/v4/pool/{}", PrefixV1 + "ipam/v6/pool/{}"},
		split: func(k IPPoolKey) (int, []string) {
			return familyOf(k.CIDR.Addr()), []string{cidrSegment(k.CIDR)}
		},
		join: func(alternative int, ids []string) (IPPoolKey, bool) {
			cidr, ok := parseCIDRSegment(ids[0], alternative == alternativeV6)
			return IPPoolKey{cidr}, ok
		},
		check: checkIPPool,
	}.layout(),
	spec[IPReservationKey, IPReservation, *IPReservation]{
		kind:     KindIPReservation,
		prefixes: []string{PrefixV1 + "ipreservations/"},
		patterns: []string{PrefixV1 + "ipreservations/{}"},
		split:    one(func(k IPReservationKey) []string { return []string{k.Name} }),
		join:     named(func(name string) IPReservationKey { return IPReservationKey{name} }),
		check:    checkIPReservation,
	}.layout(),
	spec[NodeKey, Node, *Node]{
		kind:      KindNode,
		prefixes:  []string{hostPrefix, bgpHostPrefix},
		patterns:  nodePatterns(),
		composite: true,
		split:     one(func(k NodeKey) []string { return []string{k.Name} }),
		join:      named(func(name string) NodeKey { return NodeKey{name} }),
		encode:    encodeNode,
		decode:    decodeNode,
		check:     checkNode,
	}.layout(),
	spec[BGPConfigKey, Setting, *Setting]{
		kind:     KindBGPConfig,
		prefixes: []string{PrefixBGP + "global/", bgpHostPrefix},
		patterns: []string{PrefixBGP + "global/{}", bgpHostPrefix + "{node}/{}"},
		split:    func(k BGPConfigKey) (int, []string) { return globalOrNode(k.Node, k.Name) },
		join: func(alternative int, ids []string) (BGPConfigKey, bool) {
			node, name := splitGlobalOrNode(alternative, ids)
			return BGPConfigKey{node, name}, true
		},
		encode: func(k BGPConfigKey, s *Setting) ([][]byte, error) { return encodeSetting(k, s) },
		decode: func(k BGPConfigKey, values [][]byte, s *Setting) error { return decodeSetting(k, values[0], s) },
		check:  checkBGPConfig,
	}.layout(),
	spec[BGPPeerKey, BGPPeer, *BGPPeer]{
		kind:     KindBGPPeer,
		prefixes: []string{PrefixBGP},
		patterns: []string{
			PrefixBGP + "global/peer_v4/{}", PrefixBGP + "global/peer_v6/{}",
			bgpHostPrefix + "{node}/peer_v4/{}", bgpHostPrefix + "{node}/peer_v6/{}",
		},
		split: func(k BGPPeerKey) (int, []string) {
			scope, ids := globalOrNode(k.Node, k.IP.String())
			return scope*2 + familyOf(k.IP), ids
		},
		join: func(alternative int, ids []string) (BGPPeerKey, bool) {
			node, address := splitGlobalOrNode(alternative/2, ids)
			ip, ok := parseAddrSegment(address, alternative%2 == alternativeV6)
			return BGPPeerKey{node, ip}, ok
		},
		check: checkBGPPeer,
	}.layout(),
	spec[BGPFilterKey, BGPFilter, *BGPFilter]{
		kind:     KindBGPFilter,
		prefixes: []string{PrefixV1 + "bgpfilters/"},
		patterns: []string{PrefixV1 + "bgpfilters/{}"},
		split:    one(func(k BGPFilterKey) []string { return []string{k.Name} }),
		join:     named(func(name string) BGPFilterKey { return BGPFilterKey{name} }),
		check:    checkBGPFilter,
	}.layout(),
	spec[ConfigurationKey, Configuration, *Configuration]{
		kind:     KindConfiguration,
		prefixes: []string{PrefixV1 + BGPConfigurations + "/", PrefixV1 + FelixConfigurations + "/"},
		patterns: []string{PrefixV1 + BGPConfigurations + "/{}", PrefixV1 + FelixConfigurations + "/{}"},
		split: func(k ConfigurationKey) (int, []string) {
			if k.Of == FelixConfigurations {
				return 1, []string{k.Name}
			}
			return 0, []string{k.Name}
		},
		join: func(alternative int, ids []string) (ConfigurationKey, bool) {
			return ConfigurationKey{[]string{BGPConfigurations, FelixConfigurations}[alternative], ids[0]}, true
		},
		check: func(f *faults, k ConfigurationKey, c *Configuration) {
			f.meta(c.Meta)
			f.name("metadata.name", k.Name)
		},
	}.layout(),
	spec[HostEndpointKey, HostEndpoint, *HostEndpoint]{
		kind:     KindHostEndpoint,
		prefixes: []string{hostPrefix},
		patterns: []string{hostPrefix + "{node}/endpoint/{}"},
		split:    one(func(k HostEndpointKey) []string { return []string{k.Node, k.Name} }),
		join:     func(_ int, ids []string) (HostEndpointKey, bool) { return HostEndpointKey{ids[0], ids[1]}, true },
		check:    checkHostEndpoint,
	}.layout(),
	spec[WorkloadEndpointKey, WorkloadEndpoint, *WorkloadEndpoint]{
		kind:     KindWorkloadEndpoint,
		prefixes: []string{hostPrefix},
		patterns: []string{hostPrefix + "{node}/workload/{orchestrator}/{workload}/endpoint/{}"},
		split: one(func(k WorkloadEndpointKey) []string {
			return []string{k.Node, k.Orchestrator, k.Workload, k.Name}
		}),
		join: func(_ int, ids []string) (WorkloadEndpointKey, bool) {
			return WorkloadEndpointKey{ids[0], ids[1], ids[2], ids[3]}, true
		},
		check: checkWorkloadEndpoint,
	}.layout(),
	spec[IPAMConfigKey, IPAMConfig, *IPAMConfig]{
		kind:     KindIPAMConfig,
		prefixes: []string{PrefixIPAM + "config"},
		patterns: []string{PrefixIPAM + "config"},
		split:    one(func(IPAMConfigKey) []string { return nil }),
		join:     func(int, []string) (IPAMConfigKey, bool) { return IPAMConfigKey{}, true },
		check:    checkIPAMConfig,
	}.layout(),
	spec[BlockAffinityKey, BlockAffinity, *BlockAffinity]{
		kind:     KindBlockAffinity,
		prefixes: []string{PrefixIPAM + "host/"},
		patterns: []string{PrefixIPAM + "host/{node}/ipv4/block/{}", PrefixIPAM + "host/{node}/ipv6/block/{}"},
		split: func(k BlockAffinityKey) (int, []string) {
			return familyOf(k.CIDR.Addr()), []string{k.Node, cidrSegment(k.CIDR)}
		},
		join: func(alternative int, ids []string) (BlockAffinityKey, bool) {
			cidr, ok := parseCIDRSegment(ids[1], alternative == alternativeV6)
			return BlockAffinityKey{ids[0], cidr}, ok
		},
		decode: decodeBlockAffinity,
		check:  checkBlockAffinity,
	}.layout(),
	spec[BlockKey, Block, *Block]{
		kind:     KindBlock,
		prefixes: []string{PrefixIPAM + "assignment/"},
		patterns: []string{PrefixIPAM + "assignment/ipv4/block/{}", PrefixIPAM + "assignment/ipv6/block/{}"},
		split: func(k BlockKey) (int, []string) {
			return familyOf(k.CIDR.Addr()), []string{cidrSegment(k.CIDR)}
		},
		join: func(alternative int, ids []string) (BlockKey, bool) {
			cidr, ok := parseCIDRSegment(ids[0], alternative == alternativeV6)
			return BlockKey{cidr}, ok
		},
		check: checkBlock,
	}.layout(),
	spec[HandleKey, Handle, *Handle]{
		kind:     KindHandle,
		prefixes: []string{PrefixIPAM + "handle/"},
		patterns: []string{PrefixIPAM + "handle/{}"},
		split:    one(func(k HandleKey) []string { return []string{k.ID} }),
		join:     named(func(id string) HandleKey { return HandleKey{id} }),
		check:    checkHandle,
	}.layout(),
	spec[DockerNetworkKey, DockerNetwork, *DockerNetwork]{
		kind:     KindDockerNetwork,
		prefixes: []string{PrefixDocker + "network/"},
		patterns: []string{PrefixDocker + "network/{}"},
		split:    one(func(k DockerNetworkKey) []string { return []string{k.Name} }),
		join:     named(func(name string) DockerNetworkKey { return DockerNetworkKey{name} }),
		check:    checkDockerNetwork,
	}.layout(),
	spec[DockerNameKey, DockerName, *DockerName]{
		kind:     KindDockerName,
		prefixes: []string{PrefixDocker + "name/"},
		patterns: []string{PrefixDocker + "name/{}/{}/{}"},
		split:    one(func(k DockerNameKey) []string { return []string{k.Network, k.Name, k.Endpoint} }),
		join:     func(_ int, ids []string) (DockerNameKey, bool) { return DockerNameKey{ids[0], ids[1], ids[2]}, true },
		check:    checkDockerName,
	}.layout(),
	spec[HistoryKey, History, *History]{
		kind:     KindHistory,
		prefixes: []string{PrefixStatus + "host/"},
		patterns: []string{PrefixStatus + "host/{node}/history", PrefixStatus + "host/{node}/written_back"},
		split: func(k HistoryKey) (int, []string) {
			if k.WrittenBack {
				return 1, []string{k.Node}
			}
			return 0, []string{k.Node}
		},
		join: func(alternative int, ids []string) (HistoryKey, bool) {
			return HistoryKey{Node: ids[0], WrittenBack: alternative == 1}, true
		},
		check: checkHistory,
	}.layout(),
	spec[LivenessKey, Liveness, *Liveness]{
		kind:     KindLiveness,
		prefixes: []string{PrefixStatus + "host/"},
		patterns: []string{PrefixStatus + "host/{node}/{}"},
		split:    one(func(k LivenessKey) []string { return []string{k.Node, k.Program} }),
		join:     func(_ int, ids []string) (LivenessKey, bool) { return LivenessKey{ids[0], ids[1]}, true },
		check:    checkLiveness,
	}.layout(),
	spec[FelixStatusKey, FelixStatus, *FelixStatus]{
		kind:     KindFelixStatus,
		prefixes: []string{felixHostPrefix},
		patterns: []string{felixHostPrefix + "{node}/status", felixHostPrefix + "{node}/last_reported_status"},
		split: func(k FelixStatusKey) (int, []string) {
			if k.Last {
				return 1, []string{k.Node}
			}
			return 0, []string{k.Node}
		},
		join: func(alternative int, ids []string) (FelixStatusKey, bool) {
			return FelixStatusKey{Node: ids[0], Last: alternative == 1}, true
		},
		check: func(f *faults, k FelixStatusKey, _ *FelixStatus) { f.name("metadata.node", k.Node) },
	}.layout(),
	spec[EndpointStatusKey, EndpointStatus, *EndpointStatus]{
		kind:     KindEndpointStatus,
		prefixes: []string{felixHostPrefix},
		patterns: []string{felixHostPrefix + "{node}/workload/{orchestrator}/{workload}/endpoint/{}"},
		split: one(func(k EndpointStatusKey) []string {
			return []string{k.Node, k.Orchestrator, k.Workload, k.Name}
		}),
		join: func(_ int, ids []string) (EndpointStatusKey, bool) {
			return EndpointStatusKey{ids[0], ids[1], ids[2], ids[3]}, true
		},
		check: checkEndpointStatus,
	}.layout(),
}

var (
	layoutByKind = indexLayouts()
	shapesBySize = indexShapes()
)

type rankedLayout struct {
	*layout
	rank int
}

func indexLayouts() map[Kind]rankedLayout {
	index := make(map[Kind]rankedLayout, len(layouts))
	for i, l := range layouts {
		index[l.kind] = rankedLayout{l, i}
	}
	return index
}

func indexShapes() map[int][]shape {
	index := map[int][]shape{}
	for _, l := range layouts {
		for _, s := range l.shapes {
			index[len(s.pattern)] = append(index[len(s.pattern)], s)
		}
	}
	return index
}

// Kinds lists all kinds in the order in which keys sort: what others refer to comes
// first.
func Kinds() []Kind {
	kinds := make([]Kind, len(layouts))
	for i, l := range layouts {
		kinds[i] = l.kind
	}
	return kinds
}

func layoutOfKind(kind Kind) *layout { return layoutByKind[kind].layout }

func layoutOf(k Key) *layout {
	if k == nil {
		return nil
	}
	return layoutByKind[k.Kind()].layout
}

func rank(kind Kind) int {
	l, ok := layoutByKind[kind]
	if !ok {
		return len(layouts)
	}
	return l.rank
}

// globalOrNode chooses between a global path (alternative 0) and a node's (1).
func globalOrNode(node, id string) (int, []string) {
	if node == "" {
		return 0, []string{id}
	}
	return 1, []string{node, id}
}

func splitGlobalOrNode(alternative int, ids []string) (node, id string) {
	if alternative == 0 {
		return "", ids[0]
	}
	return ids[0], ids[1]
}

func nodePatterns() []string { return slices.Concat(nodeV1Patterns, nodeBGPPatterns) }
