package kernel

import (
	"errors"
	"net/netip"
	"slices"

	"calico.internal/bgpd/internal/calc"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rtmFibMatch asks for the matching route itself rather than for the result of the
// lookup (RTM_F_FIB_MATCH).
const rtmFibMatch = 0x2000

// Resolve asks the kernel for the way to a next hop: the next hop itself where it is on
// a link, else the routers before it. Only routes of others count: a next hop behind a
// route that we learned could be behind itself.
func (f *FIB) Resolve(next netip.Addr) calc.Resolution {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := f.lookup(next)
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EACCES):
		return calc.Resolution{Why: "this host has no route to it"}
	case err != nil:
		return calc.Resolution{Why: err.Error()}
	case e.kind == unix.RTN_LOCAL:
		return calc.Resolution{Why: "it is an address of this host"}
	case e.kind != unix.RTN_UNICAST || len(e.hops) == 0:
		return calc.Resolution{Why: "this host has no route to it"}
	case e.protocol == f.opts.Protocol:
		return calc.Resolution{Why: "only a learned route leads to it"}
	}
	hops := slices.Clone(e.hops)
	for i := range hops {
		if !hops[i].Gateway.IsValid() {
			hops[i].Gateway = next
		}
	}
	slices.SortFunc(hops, calc.CompareHops)
	return calc.Resolution{Hops: hops}
}

// IsLocal reports whether this host has an address.
func (f *FIB) IsLocal(a netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := f.lookup(a)
	return err == nil && e.kind == unix.RTN_LOCAL
}

func (f *FIB) lookup(a netip.Addr) (entry, error) {
	m := f.header(netip.PrefixFrom(a, a.BitLen()))
	m.RtMsg = unix.RtMsg{Family: m.Family, Dst_len: m.Dst_len, Flags: rtmFibMatch}
	payload := append(m.Serialize(), nl.NewRtAttr(unix.RTA_DST, a.AsSlice()).Serialize()...)
	answer, err := f.sock.ask(unix.RTM_GETROUTE, payload)
	if err != nil {
		return entry{}, err
	}
	return decode(answer)
}
