package nodestart

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"calico.internal/libcalico/liveness"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/nodestart/address"
)

// family is what is asked of one family of addresses, and what is stored.
type family struct {
	number   int
	variable string
	// asked is "" for the stored address, if it is still here, autodetect, noAddress, or an
	// address.
	asked  string
	method address.Method
	stored netip.Addr
}

// families says what is asked of both, for a node as it is stored. A host must have an address:
// IPv4 is looked for unless it is not wanted, and IPv6 if IPv4 is not.
func families(s settings, stored4, stored6 netip.Addr) (v4, v6 family) {
	v4 = family{4, "IP", s.ip4, s.method4, stored4}
	v6 = family{6, "IP6", s.ip6, s.method6, stored6}
	if v4.asked == "" && !stored4.IsValid() {
		v4.asked = autodetect
	}
	if v4.asked == noAddress && v6.asked == "" && !stored6.IsValid() {
		v6.asked = autodetect
	}
	return v4, v6
}

// wanted says whether the host is to have an address of the family.
func (f family) wanted() bool { return f.asked != noAddress && (f.asked != "" || f.stored.IsValid()) }

// given says whether somebody has said which address it is.
func (f family) given() bool { return f.asked != "" && f.asked != autodetect && f.asked != noAddress }

// errUndetected says that no address of a family was found.
var errUndetected = errors.New("no address was found")

// addresses decides about the node's addresses.
func (p *plan) addresses(ctx context.Context, s settings, interfaces []address.Interface) error {
	if s.backend == backendNone {
		return nil
	}
	v4, v6 := families(s, p.node.IPv4, p.node.IPv6)
	a4, err := p.choose(ctx, v4, interfaces)
	if errors.Is(err, errUndetected) && v6.wanted() && len(address.Candidates(interfaces, 4)) == 0 {
		p.say("No IPv4 address on this host: it is a node of IPv6 alone")
		a4, err = netip.Prefix{}, nil
	}
	if err != nil {
		return err
	}
	a6, err := p.choose(ctx, v6, interfaces)
	if err != nil {
		return err
	}
	if !a4.IsValid() && !a6.IsValid() {
		return errors.New("IP=none and IP6=none leave this node without an address: set one of them to autodetect or an address, " +
			"or CALICO_NETWORKING_BACKEND=none if other hosts are not to reach its containers")
	}
	p.changes(s, v4, a4)
	p.changes(s, v6, a6)
	p.node.IPv4, p.node.IPv4Net = split(a4, p.node.IPv4, p.node.IPv4Net)
	p.node.IPv6, p.node.IPv6Net = split(a6, p.node.IPv6, p.node.IPv6Net)
	return nil
}

// split is a new address and its network. An address that is stored already keeps the network
// that is stored with it if the host does not tell it.
func split(is netip.Prefix, stored netip.Addr, network netip.Prefix) (netip.Addr, netip.Prefix) {
	if !is.IsValid() {
		return netip.Addr{}, netip.Prefix{}
	}
	if is.Addr() == stored && is.IsSingleIP() && network.IsValid() {
		return stored, network
	}
	return is.Addr(), is.Masked()
}

// changes says that an address is another one now.
func (p *plan) changes(s settings, f family, is netip.Prefix) {
	if is.Addr() == f.stored {
		return
	}
	if f.stored.IsValid() && is.IsValid() {
		p.warn("the IPv%d address of this node changes from %s to %s", f.number, f.stored, is.Addr())
	}
	if is.IsValid() && s.checkConflicts {
		p.say("Node IPv%d changed, will check for conflicts", f.number)
	}
}

// choose is the host's address of a family with its subnet, invalid when it is to have none. An
// address that stays, and is not on an interface, comes without its subnet.
func (p *plan) choose(ctx context.Context, f family, interfaces []address.Interface) (netip.Prefix, error) {
	switch f.asked {
	case noAddress:
		if f.stored.IsValid() {
			p.say("IPv%d address %s is removed from this node (%s=none)", f.number, f.stored, f.variable)
		}
		return netip.Prefix{}, nil
	case "":
		return p.again(ctx, f, interfaces)
	case autodetect:
		return p.detect(ctx, f, interfaces)
	}
	given, withSubnet, err := parseAddress(f.asked)
	if err != nil {
		return given, err
	}
	p.say("Using IPv%d address from environment: %s=%s", f.number, f.variable, f.asked)
	found, err := address.Find(interfaces, given.Addr())
	if err != nil {
		p.warn("Unable to confirm IPv%d address %s is assigned to this host", f.number, given.Addr())
		return given, nil
	}
	p.say("IPv%d address %s discovered on interface %s", f.number, given.Addr(), found.Interface)
	if withSubnet {
		return given, nil
	}
	return found.Prefix, nil
}

// again keeps what is stored if the host still has it.
func (p *plan) again(ctx context.Context, f family, interfaces []address.Interface) (netip.Prefix, error) {
	if !f.stored.IsValid() {
		return netip.Prefix{}, nil
	}
	found, err := address.Find(interfaces, f.stored)
	if err != nil {
		p.warn("the stored IPv%d address %s of this node is not on this host: it is detected again", f.number, f.stored)
		return p.detect(ctx, f, interfaces)
	}
	p.say("IPv%d address %s discovered on interface %s", f.number, f.stored, found.Interface)
	return netip.PrefixFrom(f.stored, f.stored.BitLen()), nil
}

func (p *plan) detect(ctx context.Context, f family, interfaces []address.Interface) (netip.Prefix, error) {
	found, err := f.method.Choose(ctx, interfaces, f.number)
	switch {
	case err == nil:
		p.say("Using autodetected IPv%d address on interface %s: %s (method %s)", f.number, found.Interface, found.Prefix, found.Method)
		p.beside(f, found, interfaces)
		return found.Prefix, nil
	case f.stored.IsValid():
		p.warn("Autodetection of IPv%d address failed, keeping existing value: %s (%v)", f.number, f.stored, err)
		return netip.PrefixFrom(f.stored, f.stored.BitLen()), nil
	}
	return netip.Prefix{}, fmt.Errorf("%w: Couldn't autodetect an IPv%d address. "+
		"If auto-detecting, choose a different autodetection method. Otherwise provide an explicit address: %w", errUndetected, f.number, err)
}

// beside names the addresses that could have been chosen as well.
func (p *plan) beside(f family, chosen address.Candidate, interfaces []address.Interface) {
	var names []string
	for _, c := range address.Candidates(interfaces, f.number) {
		if c.Prefix != chosen.Prefix {
			names = append(names, c.String())
		}
	}
	if len(names) > 0 {
		p.say("Other IPv%d addresses of this host: %s; %s=ADDRESS or %s_AUTODETECTION_METHOD chooses one of them", f.number, few(names), f.variable, f.variable)
	}
}

// rival is another node that is stored with an address of this one.
type rival struct {
	name   string
	family int
	addr   netip.Addr
}

// rivals lists them by name.
func (p *plan) rivals(s settings, c cluster) []rival {
	if !s.checkConflicts || s.backend == backendNone {
		return nil
	}
	var out []rival
	for name, other := range c.nodes {
		switch {
		case name == p.name:
		case p.node.IPv4.IsValid() && other.IPv4 == p.node.IPv4:
			out = append(out, rival{name, 4, other.IPv4})
		case p.node.IPv6.IsValid() && other.IPv6 == p.node.IPv6:
			out = append(out, rival{name, 6, other.IPv6})
		}
	}
	slices.SortFunc(out, func(a, b rival) int { return strings.Compare(a.name, b.name) })
	return out
}

// conflict refuses an address that another node has. A node of which no program lives has
// nothing, whatever is stored of it. living are the programs of the rivals that do; those of
// this very host, as it was called before, are not among them.
func (p *plan) conflict(rivals []rival, living map[string][]liveness.Alive) error {
	for _, r := range rivals {
		cure := fmt.Sprintf("Give this host another address, or delete that node if it is gone (calicoctl delete node %s)", r.name)
		switch alive := living[r.name]; {
		case strings.EqualFold(r.name, p.name):
			cure = fmt.Sprintf("Its name differs from %s by case only: if it is this host, set NODENAME=%s (calicoctl node run --name=%s). %s", p.name, r.name, r.name, cure)
		case len(alive) > 0:
			cure = fmt.Sprintf("It lives (%s). %s", liveness.Names(alive), cure)
		default:
			p.warn("node '%s' is stored with the IPv%d address %s too, and none of its programs lives: it is out of date; delete it if it is gone (calicoctl delete node %s)", r.name, r.family, r.addr, r.name)
			continue
		}
		return fmt.Errorf("Calico node '%s' is already using the IPv%d address %s. %s", //nolint:staticcheck // ST1005: the original's message
			r.name, r.family, r.addr, cure)
	}
	return nil
}

// without is the stored node without those of its addresses that this host does not have, or
// nil if it has all. A host that is refused the address that it has gives up what it has not,
// so that of two hosts whose addresses were swapped one can go first.
func (p *plan) without(interfaces []address.Interface) *model.Node {
	if p.before == nil {
		return nil
	}
	gone := func(a netip.Addr) bool {
		_, err := address.Find(interfaces, a)
		return a.IsValid() && err != nil
	}
	kept := *p.before
	if gone(kept.IPv4) {
		kept.IPv4, kept.IPv4Net = netip.Addr{}, netip.Prefix{}
	}
	if gone(kept.IPv6) {
		kept.IPv6, kept.IPv6Net = netip.Addr{}, netip.Prefix{}
	}
	if kept.IPv4 == p.before.IPv4 && kept.IPv6 == p.before.IPv6 {
		return nil
	}
	return &kept
}
