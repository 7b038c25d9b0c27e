package daemon

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"calico.internal/libcalico/logattr"
)

const (
	// lookupAudit is how often the names of etcd's endpoints are asked for again, and
	// lookupRetry how often while one has no answer.
	lookupAudit = 5 * time.Minute
	lookupRetry = 10 * time.Second
)

// endpointsOf reads the hosts of etcd's URLs: addresses, and names to ask for.
func endpointsOf(urls []string) (addrs []netip.Addr, names []string) {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" {
			continue // the client has refused it already
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil {
			addrs = append(addrs, a.Unmap().WithZone(""))
		} else {
			names = append(names, u.Hostname())
		}
	}
	return addrs, names
}

// followEtcd tells the engine where etcd is, so that no route of ours cuts this host off
// from it. A name that is not answered keeps its last addresses.
func (c *core) followEtcd(ctx context.Context) error {
	fixed, names := endpointsOf(c.cfg.Etcd.Endpoints)
	found := map[string][]netip.Addr{}
	for {
		wait := lookupAudit
		addrs := slices.Clone(fixed)
		for _, name := range names {
			answer, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
			if err == nil {
				found[name] = answer
			} else if len(found[name]) == 0 {
				wait = lookupRetry
				c.cfg.Log.Debug("etcd's name is not answered", logattr.Endpoint, name, logattr.Err, err)
			}
			for _, a := range found[name] {
				addrs = append(addrs, a.Unmap().WithZone(""))
			}
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		addrs = slices.Compact(addrs)
		if err := c.call(ctx, func(context.Context) { c.engine.SetEtcd(addrs) }); err != nil || len(names) == 0 {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}
