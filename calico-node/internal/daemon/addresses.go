package daemon

import (
	"context"
	"net/netip"

	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/nodestart"
)

// followAddresses looks now and then whether the host still has the addresses of its node, and
// writes others to etcd, which its programs follow.
func (d *daemon) followAddresses(ctx context.Context) {
	for ctx.Err() == nil {
		last := d.who().Outcome
		if last.PollInterval <= 0 {
			return
		}
		pauseFor(ctx, last.PollInterval)
		now, changed, err := nodestart.Look(ctx, d.start, last)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			d.log.Warn("the addresses of this node are not followed", logattr.Err, err)
			continue
		case changed:
			d.log.Info("the addresses of this node have changed", logattr.Addr, addresses(now))
		}
		d.mu.Lock()
		d.startup.Outcome = now
		d.mu.Unlock()
	}
}

// who is this host, as far as is known.
func (d *daemon) who() who {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.startup.who
}

// addresses are a node's, each with the length of its network.
func addresses(o nodestart.Outcome) (out []string) {
	for _, a := range []struct {
		addr netip.Addr
		in   netip.Prefix
	}{{o.IPv4, o.IPv4Net}, {o.IPv6, o.IPv6Net}} {
		switch {
		case !a.addr.IsValid():
		case a.in.IsValid():
			out = append(out, netip.PrefixFrom(a.addr, a.in.Bits()).String())
		default:
			out = append(out, a.addr.String())
		}
	}
	return out
}
