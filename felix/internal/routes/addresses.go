package routes

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"calico.internal/libcalico/reconcile"
)

// Addresses is the target for the addresses that containers have as gateway, which felix
// keeps on the loopback interface with scope link. With them the kernel has a route to
// the gateway over another interface than the container's, and so answers ARP for it
// also on a host without a default route; with scope link it never takes one as source.
type Addresses struct {
	kernel *Kernel
	within netip.Prefix
}

// Addresses is the target for the addresses within a range on interfaces named in its
// keys; those in the range are felix's.
func (k *Kernel) Addresses(within netip.Prefix) *Addresses { return &Addresses{k, within} }

// Loopback is the name of the interface that holds gateway addresses.
const Loopback = "lo"

// List reads the addresses within the range on the loopback interface.
func (t *Addresses) List(context.Context) (map[AddrKey]struct{}, error) {
	list, err := again(func() ([]netlink.Addr, error) { return t.kernel.handle.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := map[AddrKey]struct{}{}
	for _, a := range list {
		prefix := prefixOf(a.IPNet, netlink.FAMILY_V4)
		link, ok := t.kernel.cfg.Interfaces.ByIndex(a.LinkIndex)
		if ok && link.Name == Loopback && t.within.Contains(prefix.Addr()) && a.Scope == unix.RT_SCOPE_LINK {
			out[AddrKey{link.Name, prefix}] = struct{}{}
		}
	}
	return out, nil
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
// use it as source, is made anew.
func (t *Addresses) set(key AddrKey) error {
	index, err := t.kernel.index(key.Interface)
	if err != nil {
		return err
	}
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index, Name: key.Interface}}
	addr := &netlink.Addr{IPNet: ipNet(key.Prefix), Scope: unix.RT_SCOPE_LINK}
	err = t.kernel.handle.AddrAdd(link, addr)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := t.kernel.handle.AddrDel(link, &netlink.Addr{IPNet: ipNet(key.Prefix)}); err != nil && !gone(err) {
		return err
	}
	return t.kernel.handle.AddrAdd(link, addr)
}

func (t *Addresses) remove(key AddrKey) error {
	link, ok := t.kernel.cfg.Interfaces.ByName(key.Interface)
	if !ok {
		return nil
	}
	err := t.kernel.handle.AddrDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: link.Index}},
		&netlink.Addr{IPNet: ipNet(key.Prefix)})
	if gone(err) {
		return nil
	}
	return err
}
