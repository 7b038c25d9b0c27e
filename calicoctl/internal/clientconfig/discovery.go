package clientconfig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"calico.internal/libcalico/etcdstore"
)

// lookup is that of [net.Resolver].
type lookup func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)

// Resolve is the etcd configuration with its endpoints looked up where only a domain
// with SRV records is given.
func (c Config) Resolve(ctx context.Context) (etcdstore.Config, error) {
	return c.resolve(ctx, net.DefaultResolver.LookupSRV)
}

// resolve uses the records for TLS where there are any, as most zones that have them have
// the others too. Whoever keeps a name server from answering does not make it do without.
func (c Config) resolve(ctx context.Context, find lookup) (etcdstore.Config, error) {
	if c.DiscoverySRV == "" {
		return c.Etcd, nil
	}
	for _, service := range []struct{ name, scheme string }{{"etcd-client-ssl", "https"}, {"etcd-client", "http"}} {
		_, records, err := find(ctx, service.name, "tcp", c.DiscoverySRV)
		if none, ok := errors.AsType[*net.DNSError](err); ok && none.IsNotFound {
			continue
		}
		if err != nil {
			return etcdstore.Config{}, fmt.Errorf("find etcd by the SRV records of %s: %w", c.DiscoverySRV, err)
		}
		etcd := c.Etcd
		etcd.Endpoints = nil
		for _, r := range records {
			host := net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
			etcd.Endpoints = append(etcd.Endpoints, service.scheme+"://"+host)
		}
		if len(records) > 0 {
			return etcd, nil
		}
	}
	return etcdstore.Config{}, fmt.Errorf("find etcd: %s has no SRV records _etcd-client-ssl._tcp or _etcd-client._tcp", c.DiscoverySRV)
}
