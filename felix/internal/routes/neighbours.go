package routes

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"calico.internal/libcalico/reconcile"
)

// Neighbours is the target for permanent neighbour entries on workload interfaces.
type Neighbours struct{ kernel *Kernel }

// Neighbours is the target for neighbour entries.
func (k *Kernel) Neighbours() *Neighbours { return &Neighbours{k} }

// List reads the permanent entries on workload interfaces.
func (t *Neighbours) List(context.Context) (map[NeighKey]MAC, error) {
	out := map[NeighKey]MAC{}
	for _, family := range t.kernel.families() {
		list, err := again(func() ([]netlink.Neigh, error) { return t.kernel.handle.NeighList(0, family) })
		if err != nil {
			return nil, fmt.Errorf("list neighbour entries: %w", err)
		}
		for _, n := range list {
			link, ok := t.kernel.cfg.Interfaces.ByIndex(n.LinkIndex)
			if !ok || !t.kernel.ours(link.Name) || n.State&netlink.NUD_PERMANENT == 0 || n.Flags&netlink.NTF_PROXY != 0 {
				continue
			}
			addr, ok := netip.AddrFromSlice(n.IP)
			mac, okMAC := MACOf(n.HardwareAddr)
			if ok && okMAC && !addr.IsMulticast() {
				out[NeighKey{Interface: link.Name, Addr: addr.Unmap()}] = mac
			}
		}
	}
	return out, nil
}

// Apply writes and deletes entries.
func (t *Neighbours) Apply(_ context.Context, c reconcile.Changes[NeighKey, MAC]) error {
	var faults reconcile.KeyErrors[NeighKey]
	for _, s := range c.Set {
		if err := t.set(s.Key, s.Value); err != nil {
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

func (t *Neighbours) set(key NeighKey, mac MAC) error {
	index, err := t.kernel.index(key.Interface)
	if err != nil {
		return err
	}
	return t.kernel.handle.NeighSet(&netlink.Neigh{
		LinkIndex:    index,
		Family:       familyOf(key.Addr),
		State:        netlink.NUD_PERMANENT,
		IP:           key.Addr.AsSlice(),
		HardwareAddr: mac[:],
	})
}

func (t *Neighbours) remove(key NeighKey) error {
	link, ok := t.kernel.cfg.Interfaces.ByName(key.Interface)
	if !ok {
		return nil
	}
	err := t.kernel.handle.NeighDel(&netlink.Neigh{LinkIndex: link.Index, Family: familyOf(key.Addr), IP: key.Addr.AsSlice()})
	if gone(err) {
		return nil
	}
	return err
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
