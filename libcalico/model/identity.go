package model

import (
	"cmp"
	"slices"
	"strings"
)

// Kind is the kind of the resource that the key names.
func (WorkloadEndpointKey) Kind() Kind { return KindWorkloadEndpoint }

// Kind is the kind of the resource that the key names.
func (HostEndpointKey) Kind() Kind { return KindHostEndpoint }

// Kind is the kind of the resource that the key names.
func (ProfileKey) Kind() Kind { return KindProfile }

// Kind is the kind of the resource that the key names.
func (PolicyKey) Kind() Kind { return KindPolicy }

// Kind is the kind of the resource that the key names.
func (TierKey) Kind() Kind { return KindTier }

// Kind is the kind of the resource that the key names.
func (IPPoolKey) Kind() Kind { return KindIPPool }

// Kind is the kind of the resource that the key names.
func (IPReservationKey) Kind() Kind { return KindIPReservation }

// Kind is the kind of the resource that the key names.
func (NetworkSetKey) Kind() Kind { return KindNetworkSet }

// Kind is the kind of the resource that the key names.
func (NodeKey) Kind() Kind { return KindNode }

// Kind is the kind of the resource that the key names.
func (BGPPeerKey) Kind() Kind { return KindBGPPeer }

// Kind is the kind of the resource that the key names.
func (BGPFilterKey) Kind() Kind { return KindBGPFilter }

// Kind is the kind of the resource that the key names.
func (ConfigurationKey) Kind() Kind { return KindConfiguration }

// Kind is the kind of the resource that the key names.
func (BGPConfigKey) Kind() Kind { return KindBGPConfig }

// Kind is the kind of the resource that the key names.
func (FelixConfigKey) Kind() Kind { return KindFelixConfig }

// Kind is the kind of the resource that the key names.
func (ReadyKey) Kind() Kind { return KindReady }

// Kind is the kind of the resource that the key names.
func (AcceptedGUIDKey) Kind() Kind { return KindAcceptedGUID }

// Kind is the kind of the resource that the key names.
func (LockKey) Kind() Kind { return KindLock }

// Kind is the kind of the resource that the key names.
func (MinVersionKey) Kind() Kind { return KindMinVersion }

// Kind is the kind of the resource that the key names.
func (BlockKey) Kind() Kind { return KindBlock }

// Kind is the kind of the resource that the key names.
func (BlockAffinityKey) Kind() Kind { return KindBlockAffinity }

// Kind is the kind of the resource that the key names.
func (HandleKey) Kind() Kind { return KindHandle }

// Kind is the kind of the resource that the key names.
func (IPAMConfigKey) Kind() Kind { return KindIPAMConfig }

// Kind is the kind of the resource that the key names.
func (DockerNetworkKey) Kind() Kind { return KindDockerNetwork }

// Kind is the kind of the resource that the key names.
func (DockerNameKey) Kind() Kind { return KindDockerName }

// Kind is the kind of the resource that the key names.
func (HistoryKey) Kind() Kind { return KindHistory }

// Kind is the kind of the resource that the key names.
func (LivenessKey) Kind() Kind { return KindLiveness }

// Kind is the kind of the resource that the key names.
func (FelixStatusKey) Kind() Kind { return KindFelixStatus }

// Kind is the kind of the resource that the key names.
func (EndpointStatusKey) Kind() Kind { return KindEndpointStatus }

// String is the key as messages show it.
func (k WorkloadEndpointKey) String() string {
	return text(k.Kind(), "node", k.Node, "orchestrator", k.Orchestrator, "workload", k.Workload, "name", k.Name)
}

// String is the key as messages show it.
func (k HostEndpointKey) String() string { return text(k.Kind(), "node", k.Node, "name", k.Name) }

// String is the key as messages show it.
func (k ProfileKey) String() string { return text(k.Kind(), "name", k.Name) }

// String is the key as messages show it; the default tier is left out.
func (k PolicyKey) String() string {
	if k.Tier == DefaultTier || k.Tier == "" {
		return text(k.Kind(), "name", k.Name)
	}
	return text(k.Kind(), "tier", k.Tier, "name", k.Name)
}

// String is the key as messages show it.
func (k TierKey) String() string { return text(k.Kind(), "name", k.Name) }

// String is the key as messages show it.
func (k IPPoolKey) String() string { return text(k.Kind(), "cidr", k.CIDR.String()) }

// String is the key as messages show it.
func (k IPReservationKey) String() string { return text(k.Kind(), "name", k.Name) }

// String is the key as messages show it.
func (k NetworkSetKey) String() string { return text(k.Kind(), "name", k.Name) }

// String is the key as messages show it.
func (k NodeKey) String() string { return text(k.Kind(), "name", k.Name) }

// String is the key as messages show it.
func (k BGPPeerKey) String() string { return text(k.Kind(), "node", k.Node, "ip", k.IP.String()) }

// String is the key as messages show it.
func (k BGPFilterKey) String() string { return text(k.Kind(), "name", k.Name) }

// String is the key as messages show it.
func (k ConfigurationKey) String() string { return text(k.Kind(), "of", k.Of, "name", k.Name) }

// String is the key as messages show it.
func (k BGPConfigKey) String() string { return text(k.Kind(), "node", k.Node, "name", k.Name) }

// String is the key as messages show it.
func (k FelixConfigKey) String() string { return text(k.Kind(), "node", k.Node, "name", k.Name) }

// String is the key as messages show it.
func (k ReadyKey) String() string { return text(k.Kind()) }

// String is the key as messages show it.
func (k AcceptedGUIDKey) String() string { return text(k.Kind()) }

// String is the key as messages show it.
func (k LockKey) String() string { return text(k.Kind()) }

// String is the key as messages show it.
func (k MinVersionKey) String() string { return text(k.Kind()) }

// String is the key as messages show it.
func (k BlockKey) String() string { return text(k.Kind(), "cidr", k.CIDR.String()) }

// String is the key as messages show it.
func (k BlockAffinityKey) String() string {
	return text(k.Kind(), "node", k.Node, "cidr", k.CIDR.String())
}

// String is the key as messages show it.
func (k HandleKey) String() string { return text(k.Kind(), "id", k.ID) }

// String is the key as messages show it.
func (k IPAMConfigKey) String() string { return text(k.Kind()) }

// String is the key as messages show it.
func (k DockerNetworkKey) String() string { return text(k.Kind(), "name", k.Name) }

// String is the key as messages show it.
func (k DockerNameKey) String() string {
	return text(k.Kind(), "network", k.Network, "name", k.Name, "endpoint", k.Endpoint)
}

// String is the key as messages show it.
func (k HistoryKey) String() string {
	if k.WrittenBack {
		return text(k.Kind(), "node", k.Node, "of", "written_back")
	}
	return text(k.Kind(), "node", k.Node)
}

// String is the key as messages show it.
func (k LivenessKey) String() string { return text(k.Kind(), "node", k.Node, "program", k.Program) }

// String is the key as messages show it.
func (k FelixStatusKey) String() string {
	if k.Last {
		return text(k.Kind(), "node", k.Node, "copy", "last")
	}
	return text(k.Kind(), "node", k.Node)
}

// String is the key as messages show it.
func (k EndpointStatusKey) String() string {
	return text(k.Kind(), "node", k.Node, "orchestrator", k.Orchestrator, "workload", k.Workload, "name", k.Name)
}

// text writes "kind(name=value, …)"; a pair with an empty value is left out.
func text(kind Kind, pairs ...string) string {
	var b strings.Builder
	b.WriteString(string(kind))
	separator := "("
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		b.WriteString(separator + pairs[i] + "=" + pairs[i+1])
		separator = ", "
	}
	if separator == ", " {
		b.WriteString(")")
	}
	return b.String()
}

// Kind is the kind of the key that the resource belongs to.
func (*WorkloadEndpoint) Kind() Kind { return KindWorkloadEndpoint }

// Kind is the kind of the key that the resource belongs to.
func (*HostEndpoint) Kind() Kind { return KindHostEndpoint }

// Kind is the kind of the key that the resource belongs to.
func (*Profile) Kind() Kind { return KindProfile }

// Kind is the kind of the key that the resource belongs to.
func (*Policy) Kind() Kind { return KindPolicy }

// Kind is the kind of the key that the resource belongs to.
func (*Tier) Kind() Kind { return KindTier }

// Kind is the kind of the key that the resource belongs to.
func (*IPPool) Kind() Kind { return KindIPPool }

// Kind is the kind of the key that the resource belongs to.
func (*IPReservation) Kind() Kind { return KindIPReservation }

// Kind is the kind of the key that the resource belongs to.
func (*NetworkSet) Kind() Kind { return KindNetworkSet }

// Kind is the kind of the key that the resource belongs to.
func (*Node) Kind() Kind { return KindNode }

// Kind is the kind of the key that the resource belongs to.
func (*BGPPeer) Kind() Kind { return KindBGPPeer }

// Kind is the kind of the key that the resource belongs to.
func (*BGPFilter) Kind() Kind { return KindBGPFilter }

// Kind is the kind of the key that the resource belongs to.
func (*Configuration) Kind() Kind { return KindConfiguration }

// Kind is the kind of the key that the resource belongs to: KindBGPConfig,
// KindFelixConfig, KindAcceptedGUID or KindMinVersion.
func (s *Setting) Kind() Kind { return s.Of }

// Kind is the kind of the key that the resource belongs to.
func (*Ready) Kind() Kind { return KindReady }

// Kind is the kind of the key that the resource belongs to.
func (*Lock) Kind() Kind { return KindLock }

// Kind is the kind of the key that the resource belongs to.
func (*Block) Kind() Kind { return KindBlock }

// Kind is the kind of the key that the resource belongs to.
func (*BlockAffinity) Kind() Kind { return KindBlockAffinity }

// Kind is the kind of the key that the resource belongs to.
func (*Handle) Kind() Kind { return KindHandle }

// Kind is the kind of the key that the resource belongs to.
func (*IPAMConfig) Kind() Kind { return KindIPAMConfig }

// Kind is the kind of the key that the resource belongs to.
func (*DockerNetwork) Kind() Kind { return KindDockerNetwork }

// Kind is the kind of the key that the resource belongs to.
func (*DockerName) Kind() Kind { return KindDockerName }

// Kind is the kind of the key that the resource belongs to.
func (*History) Kind() Kind { return KindHistory }

// Kind is the kind of the key that the resource belongs to.
func (*Liveness) Kind() Kind { return KindLiveness }

// Kind is the kind of the key that the resource belongs to.
func (*FelixStatus) Kind() Kind { return KindFelixStatus }

// Kind is the kind of the key that the resource belongs to.
func (*EndpointStatus) Kind() Kind { return KindEndpointStatus }

// Compare orders keys by kind, in the order of [Kinds], then by path.
func Compare(a, b Key) int {
	if c := cmp.Compare(rank(a.Kind()), rank(b.Kind())); c != 0 {
		return c
	}
	return strings.Compare(firstPath(a), firstPath(b))
}

// SortByKey sorts items by their keys as [Compare] orders these. It makes the path of each
// once, which tells where there are many.
func SortByKey[T any](items []T, key func(T) Key) {
	type ranked struct {
		rank int
		path string
		item T
	}
	all := make([]ranked, len(items))
	for i, item := range items {
		k := key(item)
		all[i] = ranked{rank(k.Kind()), firstPath(k), item}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.path, b.path))
	})
	for i := range all {
		items[i] = all[i].item
	}
}

func firstPath(k Key) string {
	if l := layoutOf(k); l != nil {
		return l.first(k)
	}
	return ""
}
