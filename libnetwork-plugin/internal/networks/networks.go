// Package networks says what hosts know of Docker's networks, and what a host does so that
// a network that was made on one is there on all, and one that was removed on none (pure).
//
// An engine without a cluster store knows its own networks only, by an id of its own. What
// they have in common is the name, and the record of the name in etcd: what the network is,
// which hosts have it under which id, and whether a user has removed it. A host makes the
// networks that it lacks; such a copy has a label with the UID of the record, which tells it
// from a network that a user made here, and from the copy of an earlier network of the name.
//
// A record outlives its network until all hosts have removed theirs: a host that was away
// must not bring back what was removed meanwhile. And what a host has without a record was
// made while etcd could not be asked, or etcd has lost it: it is written (back), never
// removed.
package networks

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"calico.internal/libcalico/model"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
)

// CopyLabel marks a network that this program made after one of another host; its value is
// the UID of the record.
const CopyLabel = "org.projectcalico.docker.copy-of"

// maxMapped bounds the readable part of a mapped name.
const maxMapped = 100

// Key is the name by which a network has its record and its profile: Docker's, or, of one
// that cannot be the name of a profile, its characters that can and a hash.
func Key(name string) string {
	if model.Validate(model.DockerNetworkKey{Name: name}, &model.DockerNetwork{}) == nil {
		return name
	}
	readable := strings.Map(func(r rune) rune {
		if strings.ContainsRune("_.-", r) || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
	hash := sha256.Sum256([]byte(name))
	return readable[:min(len(readable), maxMapped)] + "-" + hex.EncodeToString(hash[:4])
}

// Name is Docker's name of the network of a record.
func Name(key string, r *model.DockerNetwork) string {
	if r.Name != "" {
		return r.Name
	}
	return key
}

// Record is what is stored of a network that a node's engine shows. It has no UID.
func Record(n dockerapi.Network, node string) *model.DockerNetwork {
	r := &model.DockerNetwork{
		IDs:        map[string]string{node: n.ID},
		Options:    n.Options,
		Labels:     maps.Clone(n.Labels),
		Internal:   n.Internal,
		Attachable: n.Attachable,
		IPv6:       n.EnableIPv6,
		NoIPv4:     n.EnableIPv4 != nil && !*n.EnableIPv4,
		IPAM:       ipamOf(n.IPAM),
		Scope:      n.Scope,
	}
	delete(r.Labels, CopyLabel)
	if Key(n.Name) != n.Name {
		r.Name = n.Name
	}
	for _, c := range n.IPAM.Config {
		switch {
		case strings.Contains(c.Subnet, ":") && r.IPv6Pool == "":
			r.IPv6Pool = c.Subnet
		case !strings.Contains(c.Subnet, ":") && r.IPv4Pool == "":
			r.IPv4Pool = c.Subnet
		}
	}
	return r
}

// ipamOf leaves out what the IPAM driver chose, as far as that can be told: the gateway,
// which is always its own, and the subnet of all addresses, which means any pool.
func ipamOf(from dockerapi.IPAM) *model.DockerIPAM {
	to := &model.DockerIPAM{Driver: from.Driver}
	if len(from.Options) > 0 {
		to.Options = from.Options
	}
	for _, c := range from.Config {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil && p.Bits() == 0 {
			continue
		}
		s := model.DockerSubnet{Subnet: c.Subnet, Range: c.IPRange}
		if len(c.AuxiliaryAddresses) > 0 {
			s.Reserved = c.AuxiliaryAddresses
		}
		to.Subnets = append(to.Subnets, s)
	}
	return to
}

// Copy is the network to be made after a record.
func Copy(key string, r *model.DockerNetwork, driver string) dockerapi.NewNetwork {
	n := dockerapi.NewNetwork{
		Name:           Name(key, r),
		CheckDuplicate: true,
		Driver:         driver,
		Internal:       r.Internal,
		Attachable:     r.Attachable,
		EnableIPv6:     r.IPv6,
		Options:        r.Options,
		Labels:         maps.Clone(r.Labels),
	}
	if r.NoIPv4 {
		n.EnableIPv4 = new(bool)
	}
	if n.Labels == nil {
		n.Labels = make(map[string]string)
	}
	n.Labels[CopyLabel] = r.UID
	if r.IPAM != nil {
		n.IPAM = dockerapi.IPAM{Driver: r.IPAM.Driver, Options: r.IPAM.Options}
		for _, s := range r.IPAM.Subnets {
			n.IPAM.Config = append(n.IPAM.Config,
				dockerapi.Subnet{Subnet: s.Subnet, IPRange: s.Range, AuxiliaryAddresses: s.Reserved})
		}
	}
	return n
}

// Differences says in words in what two networks of one name differ for their containers;
// it is empty if they do not. Labels mean nothing to them.
func Differences(a, b *model.DockerNetwork) string {
	var list []string
	differ := func(what string, yes bool) {
		if yes {
			list = append(list, what)
		}
	}
	differ("name", a.Name != b.Name)
	differ("options", !maps.Equal(a.Options, b.Options))
	differ("internal", a.Internal != b.Internal)
	differ("attachable", a.Attachable != b.Attachable)
	differ("IPv4", a.NoIPv4 != b.NoIPv4)
	differ("IPv6", a.IPv6 != b.IPv6)
	if a.IPAM != nil && b.IPAM != nil { // else an older program wrote the record
		differ("IPAM driver", a.IPAM.Driver != b.IPAM.Driver)
		differ("IPAM options", !maps.Equal(a.IPAM.Options, b.IPAM.Options))
		differ("subnets", !reflect.DeepEqual(sorted(a.IPAM.Subnets), sorted(b.IPAM.Subnets)))
	}
	return strings.Join(list, ", ")
}

// sorted orders subnets and leaves out what a newer program says of them.
func sorted(subnets []model.DockerSubnet) []model.DockerSubnet {
	var out []model.DockerSubnet
	for _, s := range subnets {
		out = append(out, model.DockerSubnet{Subnet: s.Subnet, Range: s.Range, Reserved: s.Reserved})
	}
	slices.SortFunc(out, func(a, b model.DockerSubnet) int { return strings.Compare(a.Subnet, b.Subnet) })
	return out
}
