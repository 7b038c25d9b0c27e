package v1

import (
	"strconv"

	"calico.internal/calicoctl/internal/manifest/dialect"
	"calico.internal/calicoctl/internal/manifest/tree"
	"calico.internal/libcalico/model"
)

// IPPoolMetadata is the metadata of a pool.
type IPPoolMetadata struct {
	CIDR IPNet `json:"cidr"`
}

// IPPoolSpec is the specification of a pool.
type IPPoolSpec struct {
	IPIP        *IPIPConfiguration `json:"ipip,omitempty"`
	NATOutgoing bool               `json:"nat-outgoing,omitempty"`
	Disabled    bool               `json:"disabled,omitempty"`
}

// IPIPConfiguration says whether a pool's packets are put into IP-in-IP.
type IPIPConfiguration struct {
	Enabled bool `json:"enabled,omitempty"`
	Mode    Mode `json:"mode,omitempty"`
}

// IPPool is the document of a pool.
type IPPool = Resource[IPPoolMetadata, IPPoolSpec]

// tunnelDevice is the interface of IP-in-IP.
const tunnelDevice = "tunl0"

func ipPoolKind() dialect.Kind {
	return conversion[IPPoolMetadata, IPPoolSpec, *model.IPPool]{
		kind:    model.KindIPPool,
		aliases: []string{"ippool", "ippools", "ipp", "ipps", "pool", "pools"},
		key: func(r *tree.Report, m IPPoolMetadata) model.Key {
			if !m.CIDR.IsValid() {
				need(r, "cidr", "")
			}
			return model.IPPoolKey{CIDR: m.CIDR.Prefix}
		},
		decode: decodePool,
		encode: encodePool,
		settle: func(p *model.IPPool) {
			if p.IPIPDevice != "" {
				p.VXLANMode = ""
			} else {
				p.IPIPMode = "" // it would turn on what is off for who looks at it alone
			}
		},
		columns: []dialect.Column{
			column("CIDR", func(p *IPPool, _ dialect.Cluster) string { return p.Metadata.CIDR.String() }),
			column("NAT", func(p *IPPool, _ dialect.Cluster) string { return strconv.FormatBool(p.Spec.NATOutgoing) }),
			column("IPIP", func(p *IPPool, _ dialect.Cluster) string { return strconv.FormatBool(deref(p.Spec.IPIP).Enabled) }),
		},
		short: []string{"CIDR"},
		wide:  []string{"CIDR", "NAT", "IPIP"},
	}.dialectKind()
}

func decodePool(_ *tree.Report, m IPPoolMetadata, s IPPoolSpec) *model.IPPool {
	p := &model.IPPool{CIDR: m.CIDR.Prefix, Masquerade: s.NATOutgoing, Disabled: s.Disabled, IPAM: true}
	if s.IPIP != nil && s.IPIP.Enabled { // the mode of what is off would turn it on for who looks at that alone
		p.IPIPDevice, p.IPIPMode = tunnelDevice, string(s.IPIP.Mode)
		if p.IPIPMode == "" {
			p.IPIPMode = model.IPIPAlways
		}
	}
	return p
}

func encodePool(_ model.Key, p *model.IPPool) (m IPPoolMetadata, s IPPoolSpec, lost []string) {
	m = IPPoolMetadata{CIDR: IPNet{Prefix: p.CIDR}}
	s = IPPoolSpec{NATOutgoing: p.Masquerade, Disabled: p.Disabled}
	if p.IPIPDevice != "" || p.IPIPMode != "" {
		s.IPIP = &IPIPConfiguration{Enabled: p.IPIPDevice != "", Mode: Mode(p.IPIPMode)}
	}
	if p.BlockSize != 0 {
		lost = append(lost, "block size")
	}
	if p.NodeSelector != "" && p.NodeSelector != "all()" {
		lost = append(lost, "node selector")
	}
	if p.VXLANMode != "" {
		lost = append(lost, "VXLAN mode")
	}
	if p.DisableBGPExport {
		lost = append(lost, "disableBGPExport")
	}
	if p.Manual {
		lost = append(lost, "assignment mode manual")
	}
	if !p.Deleting.IsZero() {
		lost = append(lost, "that it is being deleted")
	}
	return m, s, lost
}
