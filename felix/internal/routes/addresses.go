package routes

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"calico.internal/libcalico/reconcile"
)

// Addresses is the target for the addresses that containers have as gateway.
//
// Those of IPv4 felix keeps on the loopback interface with scope link. With them the kernel
// has a route to the gateway over another interface than the container's, and so answers
// ARP for it also on a host without a default route; with scope link it never takes one as
// source.
//
// Those of IPv6 are link-local addresses of the container's interface, where the kernel
// answers for them.
type Addresses struct {
	kernel *Kernel
	ranges AddressRanges
}

// AddressRanges says which addresses are felix's.
type AddressRanges struct {
	// IPv4 holds those on the loopback interface, all of which are felix's, IPv6 those on
	// workload interfaces, of which Wanted ones are: who makes an interface gives it an
	// address before felix knows its workload.
	IPv4, IPv6 netip.Prefix
	Wanted     func(AddrKey) bool
}

// Addresses is the target for addresses within ranges on the interfaces that its keys name.
// A key holds a single address; the network's length is the target's to choose.
func (k *Kernel) Addresses(r AddressRanges) *Addresses { return &Addresses{k, r} }

// Loopback is the name of the interface that holds gateway addresses.
const Loopback = "lo"

// gatewayBits is the length of the network of link-local addresses.
const gatewayBits = 64

// List reads the addresses that are felix's. One that the kernel does not answer for, since
// its check for duplicates is under way or failed, does not count.
func (t *Addresses) List(context.Context) (map[AddrKey]struct{}, error) {
	out := map[AddrKey]struct{}{}
	for _, family := range t.kernel.families() {
		list, err := again(func() ([]netlink.Addr, error) { return t.kernel.handle.AddrList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range list {
			link, ok := t.kernel.cfg.Interfaces.ByIndex(a.LinkIndex)
			if key := keyOf(link.Name, a, family); ok && t.ours(key, a) {
				out[key] = struct{}{}
			}
		}
	}
	return out, nil
}

func keyOf(iface string, a netlink.Addr, family int) AddrKey {
	addr := prefixOf(a.IPNet, family).Addr()
	return AddrKey{iface, netip.PrefixFrom(addr, addr.BitLen())}
}

func (t *Addresses) ours(key AddrKey, a netlink.Addr) bool {
	addr := key.Prefix.Addr()
	if addr.Is4() {
		bits, _ := a.Mask.Size()
		return key.Interface == Loopback && t.ranges.IPv4.Contains(addr) && a.Scope == unix.RT_SCOPE_LINK && bits == addr.BitLen()
	}
	return t.kernel.ours(key.Interface) && t.ranges.IPv6.Contains(addr) && answers(a) && t.ranges.Wanted != nil && t.ranges.Wanted(key)
}

// answers reports whether the kernel answers for an IPv6 address, now or, when it has just
// been added without a check, in a moment.
func answers(a netlink.Addr) bool {
	checked := a.Flags&unix.IFA_F_TENTATIVE == 0 || a.Flags&unix.IFA_F_NODAD != 0
	return checked && a.Flags&unix.IFA_F_DADFAILED == 0
}

// Apply adds and deletes addresses.
func (t *Addresses) Apply(_ context.Context, c reconcile.Changes[AddrKey, struct{}]) error {
	var faults reconcile.KeyErrors[AddrKey]
	for _, s := range c.Set {
		if err := t.set(s.Key); err != nil {
			faults.Add(s.Key, err)
		}
	}
	for _, key := range c.Delete {
		if err := t.remove(key); err != nil {
			faults.Add(key, fmt.Errorf("delete: %w", err))
		}
	}
	return faults.Err()
}

// set adds an address. One that is there with another scope, under which the host could
// use it as source, or that the kernel does not answer for, is made anew; one that is right
// is left alone, because its deletion would be taken for damage, and repaired by another.
func (t *Addresses) set(key AddrKey) error {
	index, err := t.kernel.index(key.Interface)
	if err != nil {
		return err
	}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index, Name: key.Interface}}
	addr := &netlink.Addr{IPNet: ipNet(key.Prefix), Scope: unix.RT_SCOPE_LINK}
	if key.Prefix.Addr().Is6() {
		addr.IPNet = ipNet(netip.PrefixFrom(key.Prefix.Addr(), gatewayBits))
		addr.Flags = unix.IFA_F_NODAD // the container is the only other one on the link
	}
	err = t.kernel.handle.AddrAdd(link, addr)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if right, err := t.has(link, key); err != nil || right {
		return err
	}
	if err := t.delete(link, key); err != nil {
		return err
	}
	return t.kernel.handle.AddrAdd(link, addr)
}

// has reports whether an interface has an address as felix wants it.
func (t *Addresses) has(link netlink.Link, key AddrKey) (bool, error) {
	family := familyOf(key.Prefix.Addr())
	list, err := again(func() ([]netlink.Addr, error) { return t.kernel.handle.AddrList(link, family) })
	return slices.ContainsFunc(list, func(a netlink.Addr) bool {
		return keyOf(key.Interface, a, family) == key && t.ours(key, a)
	}), err
}

func (t *Addresses) remove(key AddrKey) error {
	link, ok := t.kernel.cfg.Interfaces.ByName(key.Interface)
	if !ok {
		return nil
	}
	return t.delete(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: link.Index, Name: link.Name}}, key)
}

// delete removes an address from an interface, whatever its network's length.
func (t *Addresses) delete(link netlink.Link, key AddrKey) error {
	family := familyOf(key.Prefix.Addr())
	list, err := again(func() ([]netlink.Addr, error) { return t.kernel.handle.AddrList(link, family) })
	if err != nil {
		return err
	}
	for _, a := range list {
		if keyOf(key.Interface, a, family) != key {
			continue
		}
		if err := t.kernel.handle.AddrDel(link, &a); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}
