package v3

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/scalar"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// IPPoolSpec is the specification of a pool.
type IPPoolSpec struct {
	CIDR             scalar.IPNet      `json:"cidr"`
	IPIPMode         Encapsulation     `json:"ipipMode,omitempty"`
	VXLANMode        Encapsulation     `json:"vxlanMode,omitempty"`
	NATOutgoing      bool              `json:"natOutgoing,omitempty"`
	Disabled         bool              `json:"disabled,omitempty"`
	DisableBGPExport bool              `json:"disableBGPExport,omitempty"`
	BlockSize        *int              `json:"blockSize,omitempty"`
	NodeSelector     string            `json:"nodeSelector,omitempty"`
	AllowedUses      []AllowedUse      `json:"allowedUses,omitempty"`
	AssignmentMode   Assignment        `json:"assignmentMode,omitempty"`
	NamespaceSel     scalar.Kubernetes `json:"namespaceSelector,omitzero"`
}

// IPPool is the document of a pool.
type IPPool = Resource[IPPoolSpec]

const (
	tunnelDevice = "tunl0"
	all          = "all()"
)

func ipPoolKind() dialect.Kind {
	return conversion[IPPoolSpec, *model.IPPool]{
		kind: model.KindIPPool, name: "IPPool",
		aliases: []string{"ippool", "ippools", "ipp", "ipps", "pool", "pools"},
		decode:  decodePool, encode: encodePool,
		nameOf: func(k model.Key, _ *model.IPPool) string { return cidrName(k.(model.IPPoolKey).CIDR) },
		places: map[string]string{"metadata.cidr": "spec.cidr", "spec.ipip": "spec.ipipMode", "spec.ipip.mode": "spec.ipipMode"},
		settle: func(p *model.IPPool) {
			if p.IPIPDevice == "" {
				p.IPIPMode = "" // it would turn on what is off for who looks at it alone
			}
		},
		deleting: func(p *model.IPPool) time.Time { return p.Deleting },
		columns:  poolColumns(),
		short:    []string{"NAME", "CIDR", "SELECTOR"},
		wide:     []string{"NAME", "CIDR", "NAT", "IPIPMODE", "VXLANMODE", "DISABLED", "DISABLEBGPEXPORT", "SELECTOR", "ASSIGNMENTMODE"},
	}.dialectKind()
}

func poolColumns() []dialect.Column {
	flag := func(heading string, of func(*IPPool) bool) dialect.Column {
		return column(heading, func(p *IPPool) string { return strconv.FormatBool(of(p)) })
	}
	return []dialect.Column{
		nameColumn[IPPoolSpec](),
		column("CIDR", func(p *IPPool) string { return p.Spec.CIDR.String() }),
		flag("NAT", func(p *IPPool) bool { return p.Spec.NATOutgoing }),
		column("IPIPMODE", func(p *IPPool) string { return string(p.Spec.IPIPMode) }),
		column("VXLANMODE", func(p *IPPool) string { return string(p.Spec.VXLANMode) }),
		flag("DISABLED", func(p *IPPool) bool { return p.Spec.Disabled }),
		flag("DISABLEBGPEXPORT", func(p *IPPool) bool { return p.Spec.DisableBGPExport }),
		column("SELECTOR", func(p *IPPool) string { return p.Spec.NodeSelector }),
		column("ASSIGNMENTMODE", func(p *IPPool) string { return string(p.Spec.AssignmentMode) }),
		column("DELETING", func(p *IPPool) string { return strconv.FormatBool(!p.Metadata.Deletion.IsZero()) }),
		column("BLOCKSIZE", func(p *IPPool) string { return strconv.Itoa(deref(p.Spec.BlockSize, 0)) }),
	}
}

// DefaultBlockSize is the size of the blocks of a pool that does not say.
func DefaultBlockSize(cidr netip.Prefix) int {
	if cidr.Addr().Is4() {
		return model.DefaultBlockSizeV4
	}
	return model.DefaultBlockSizeV6
}

// cidrName is the name of what the store knows by a network alone.
func cidrName(cidr netip.Prefix) string {
	return strings.Trim(strings.NewReplacer(".", "-", ":", "-", "/", "-").Replace(cidr.String()), "-")
}

func decodePool(r *tree.Report, m ObjectMeta, s IPPoolSpec) (model.Key, *model.IPPool) {
	if !s.CIDR.IsValid() {
		need(r, "cidr", "")
	}
	p := &model.IPPool{
		Meta: model.Meta{V3Name: m.Name},
		CIDR: s.CIDR.Prefix, Masquerade: s.NATOutgoing, Disabled: s.Disabled, IPAM: true,
		DisableBGPExport: s.DisableBGPExport, BlockSize: deref(s.BlockSize, 0), NodeSelector: s.NodeSelector,
		Manual: s.AssignmentMode == Manual,
	}
	if p.NodeSelector == all {
		p.NodeSelector = ""
	}
	if s.BlockSize != nil && p.BlockSize == 0 {
		r.Add("spec.blockSize", "must be 20 to 32 for IPv4, 116 to 128 for IPv6")
	}
	if p.CIDR.IsValid() && p.BlockSize == DefaultBlockSize(p.CIDR) {
		p.BlockSize = 0
	}
	switch s.IPIPMode {
	case Always:
		p.IPIPDevice, p.IPIPMode = tunnelDevice, model.IPIPAlways
	case CrossSubnet:
		p.IPIPDevice, p.IPIPMode = tunnelDevice, model.IPIPCrossSubnet
	default:
	}
	p.VXLANMode = vxlanModes[s.VXLANMode]
	if len(s.AllowedUses) > 0 && !slices.Contains(s.AllowedUses, "Workload") && !r.Doubts("spec.allowedUses[0]") {
		r.Add("spec.allowedUses", "must hold Workload: nothing here takes addresses for tunnels alone")
	}
	return model.IPPoolKey{CIDR: p.CIDR}, p
}

func encodePool(_ model.Key, p *model.IPPool) (s IPPoolSpec, lost []string) {
	size := p.BlockSize
	if size == 0 {
		size = DefaultBlockSize(p.CIDR)
	}
	s = IPPoolSpec{
		CIDR: scalar.IPNet{Prefix: p.CIDR}, IPIPMode: Never, VXLANMode: Never,
		NATOutgoing: p.Masquerade, Disabled: p.Disabled, DisableBGPExport: p.DisableBGPExport,
		BlockSize: &size, NodeSelector: p.NodeSelector,
		AllowedUses: []AllowedUse{"Workload", "Tunnel"}, AssignmentMode: Automatic,
	}
	if s.NodeSelector == "" {
		s.NodeSelector = all
	}
	if p.Manual {
		s.AssignmentMode = Manual
	}
	switch {
	case p.IPIPDevice == "": // whatever the mode is
	case p.IPIPMode == model.IPIPCrossSubnet:
		s.IPIPMode = CrossSubnet
	default:
		s.IPIPMode = Always
	}
	for mode, stored := range vxlanModes {
		if p.VXLANMode == stored {
			s.VXLANMode = mode
		}
	}
	return s, lost
}

// vxlanModes is what the store has for the modes of VXLAN.
var vxlanModes = map[Encapsulation]string{Always: "always", CrossSubnet: "cross-subnet"}

// IPReservationSpec is the specification of a reservation.
type IPReservationSpec struct {
	ReservedCIDRs []scalar.IPNet `json:"reservedCIDRs,omitempty"`
}

func ipReservationKind() dialect.Kind {
	return conversion[IPReservationSpec, *model.IPReservation]{
		kind: model.KindIPReservation, name: "IPReservation",
		aliases: []string{"ipreservation", "ipreservations", "reservation", "reservations"},
		decode: func(_ *tree.Report, m ObjectMeta, s IPReservationSpec) (model.Key, *model.IPReservation) {
			return model.IPReservationKey{Name: m.Name}, &model.IPReservation{ReservedCIDRs: decodeNets(s.ReservedCIDRs)}
		},
		encode: func(_ model.Key, v *model.IPReservation) (IPReservationSpec, []string) {
			return IPReservationSpec{encodeNets(v.ReservedCIDRs)}, nil
		},
		nameOf: func(k model.Key, _ *model.IPReservation) string { return k.(model.IPReservationKey).Name },
		keyOf:  func(name string) model.Key { return model.IPReservationKey{Name: name} },
		columns: []dialect.Column{
			nameColumn[IPReservationSpec](),
			column("CIDRS", func(d *Resource[IPReservationSpec]) string { return joined(d.Spec.ReservedCIDRs) }),
		},
		short: []string{"NAME"}, wide: []string{"NAME", "CIDRS"},
	}.dialectKind()
}

// IPAMConfigurationSpec is the specification of the IPAM configuration.
type IPAMConfigurationSpec struct {
	StrictAffinity     bool  `json:"strictAffinity"`
	AutoAllocateBlocks *bool `json:"autoAllocateBlocks"`
	MaxBlocksPerHost   int   `json:"maxBlocksPerHost,omitempty"`

	IPCooldownSeconds scalar.Elsewhere  `json:"ipCooldownSeconds,omitzero"`
	KubeVirt          scalar.Kubernetes `json:"kubeVirtVMAddressPersistence,omitzero"`
}

func ipamConfigurationKind() dialect.Kind {
	type document = Resource[IPAMConfigurationSpec]
	return conversion[IPAMConfigurationSpec, *model.IPAMConfig]{
		kind: model.KindIPAMConfig, name: "IPAMConfiguration", only: "default",
		aliases: []string{"ipamconfiguration", "ipamconfigurations", "ipamconfig", "ipamconfigs"},
		decode: func(_ *tree.Report, _ ObjectMeta, s IPAMConfigurationSpec) (model.Key, *model.IPAMConfig) {
			return model.IPAMConfigKey{}, &model.IPAMConfig{
				StrictAffinity: s.StrictAffinity, AutoAllocateBlocks: deref(s.AutoAllocateBlocks, true), MaxBlocksPerHost: s.MaxBlocksPerHost,
			}
		},
		encode: func(_ model.Key, c *model.IPAMConfig) (IPAMConfigurationSpec, []string) {
			return IPAMConfigurationSpec{
				StrictAffinity: c.StrictAffinity, AutoAllocateBlocks: &c.AutoAllocateBlocks, MaxBlocksPerHost: c.MaxBlocksPerHost,
			}, nil
		},
		nameOf: func(model.Key, *model.IPAMConfig) string { return "default" },
		columns: []dialect.Column{
			nameColumn[IPAMConfigurationSpec](),
			column("STRICTAFFINITY", func(d *document) string { return strconv.FormatBool(d.Spec.StrictAffinity) }),
			column("AUTOALLOCATEBLOCKS", func(d *document) string { return strconv.FormatBool(deref(d.Spec.AutoAllocateBlocks, true)) }),
			column("MAXBLOCKSPERHOST", func(d *document) string { return strconv.Itoa(d.Spec.MaxBlocksPerHost) }),
		},
		short: []string{"NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"},
		wide:  []string{"NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"},
	}.dialectKind()
}

// BlockAffinitySpec is the specification of a block affinity.
type BlockAffinitySpec struct {
	State   string       `json:"state"`
	Node    string       `json:"node"`
	Type    string       `json:"type"`
	CIDR    scalar.IPNet `json:"cidr"`
	Deleted bool         `json:"deleted"`
}

func blockAffinityKind() dialect.Kind {
	type document = Resource[BlockAffinitySpec]
	return conversion[BlockAffinitySpec, *model.BlockAffinity]{
		kind: model.KindBlockAffinity, name: "BlockAffinity",
		aliases:  []string{"blockaffinity", "blockaffinities", "affinity", "affinities"},
		readOnly: "a BlockAffinity is written by the nodes themselves and can only be read",
		decode: func(*tree.Report, ObjectMeta, BlockAffinitySpec) (model.Key, *model.BlockAffinity) {
			return model.BlockAffinityKey{}, &model.BlockAffinity{}
		},
		encode: func(k model.Key, a *model.BlockAffinity) (BlockAffinitySpec, []string) {
			key, _ := k.(model.BlockAffinityKey)
			s := BlockAffinitySpec{State: a.State, Node: key.Node, Type: "host", CIDR: scalar.IPNet{Prefix: key.CIDR}}
			if s.State == "" {
				s.State = model.AffinityConfirmed
			}
			return s, nil
		},
		nameOf: func(k model.Key, _ *model.BlockAffinity) string {
			key, _ := k.(model.BlockAffinityKey)
			return fmt.Sprintf("%s-%s", key.Node, cidrName(key.CIDR))
		},
		columns: []dialect.Column{
			nameColumn[BlockAffinitySpec](),
			column("NODE", func(d *document) string { return d.Spec.Node }),
			column("CIDR", func(d *document) string { return d.Spec.CIDR.String() }),
			column("STATE", func(d *document) string { return d.Spec.State }),
		},
		short: []string{"NAME", "NODE", "CIDR"}, wide: []string{"NAME", "NODE", "CIDR", "STATE"},
	}.dialectKind()
}
