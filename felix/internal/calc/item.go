package calc

import (
	"iter"
	"net/netip"
	"slices"

	"calico.internal/felix/internal/desired"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/selector"
)

// item is something with labels that selectors choose: an endpoint or a network set.
type item struct {
	key     model.Key
	res     model.Resource
	parents []*parent
	matched []*subscription
}

// Get returns the value of a label: the item's own, else the first profile's that has
// it, else empty for a profile's tag. A name that is Calico's own is nobody's to give.
func (it *item) Get(name string) (string, bool) {
	if selector.Reserved(name) {
		return "", false
	}
	if v, ok := labelsOf(it.res)[name]; ok {
		return v, true
	}
	for _, p := range it.parents {
		if v, ok := p.labels[name]; ok {
			return v, true
		}
	}
	for _, p := range it.parents {
		if _, ok := p.tags[name]; ok {
			return "", true
		}
	}
	return "", false
}

// labelsOf returns a resource's own labels.
func labelsOf(r model.Resource) map[string]string {
	switch r := r.(type) {
	case *model.WorkloadEndpoint:
		return r.Labels
	case *model.HostEndpoint:
		return r.Labels
	case *model.NetworkSet:
		return r.Labels
	}
	return nil
}

// profilesOf returns the profiles that a resource names.
func profilesOf(r model.Resource) []string {
	switch r := r.(type) {
	case *model.WorkloadEndpoint:
		return r.Profiles
	case *model.HostEndpoint:
		return r.Profiles
	}
	return nil
}

// netsOf yields the networks of a resource, masked.
func netsOf(r model.Resource) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		switch r := r.(type) {
		case *model.WorkloadEndpoint:
			_ = yieldNets(r.IPv4Nets, yield) && yieldNets(r.IPv6Nets, yield)
		case *model.HostEndpoint:
			_ = yieldAddrs(r.ExpectedIPv4Addrs, yield) && yieldAddrs(r.ExpectedIPv6Addrs, yield)
		case *model.NetworkSet:
			yieldNets(r.Nets, yield)
		}
	}
}

// routedNets yields the networks that lead to an endpoint: its own and its floating
// addresses. Only its own make it a member of sets, since no packet has a floating
// address when policy sees it.
func routedNets(r model.Resource) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for n := range netsOf(r) {
			if !yield(n) {
				return
			}
		}
		if w, ok := r.(*model.WorkloadEndpoint); ok {
			var external []netip.Addr
			for _, n := range slices.Concat(w.IPv4NAT, w.IPv6NAT) {
				external = append(external, n.External)
			}
			yieldAddrs(external, yield)
		}
	}
}

func yieldNets(nets []netip.Prefix, yield func(netip.Prefix) bool) bool {
	for _, n := range nets {
		if n.IsValid() && !yield(n.Masked()) {
			return false
		}
	}
	return true
}

func yieldAddrs(addrs []netip.Addr, yield func(netip.Prefix) bool) bool {
	for _, a := range addrs {
		if a.IsValid() && !yield(netip.PrefixFrom(a, a.BitLen())) {
			return false
		}
	}
	return true
}

// portsOf returns the named ports of a resource.
func portsOf(r model.Resource) []model.EndpointPort {
	switch r := r.(type) {
	case *model.WorkloadEndpoint:
		return r.Ports
	case *model.HostEndpoint:
		return r.Ports
	}
	return nil
}

// namedPort identifies a port by name, as rules do.
type namedPort struct {
	name     string
	protocol desired.Protocol
}

// namedPortsOf yields the members that a resource gives to a set of a named port.
func namedPortsOf(r model.Resource) iter.Seq2[namedPort, desired.Member] {
	return func(yield func(namedPort, desired.Member) bool) {
		for _, p := range portsOf(r) {
			proto, err := desired.ParseProtocol(p.Protocol)
			if err != nil || proto == 0 {
				continue
			}
			for n := range netsOf(r) {
				m := desired.Member{Net: n, Protocol: proto, Port: p.Port}
				if !yield(namedPort{p.Name, proto}, m) {
					return
				}
			}
		}
	}
}

// parent is a profile as the source of labels and tags. It exists as long as an item
// names it or the store holds it.
type parent struct {
	name   string
	labels map[string]string
	tags   map[string]struct{}
	items  map[*item]struct{}
	stored bool
}

// pairs yields the labels of the parent, and its tags as labels with empty value.
func (p *parent) pairs() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for l, v := range p.labels {
			if !yield(l, v) {
				return
			}
		}
		for t := range p.tags {
			if !yield(t, "") {
				return
			}
		}
	}
}
