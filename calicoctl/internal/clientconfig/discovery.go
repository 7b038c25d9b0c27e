package clientconfig

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"calico.internal/libcalico/etcdstore"
)

// Resolve is the etcd configuration with its endpoints looked up where only a domain
// with SRV records is given.
func (c Config) Resolve(ctx context.Context) (etcdstore.Config, error) {
	if c.DiscoverySRV == "" {
		return c.Etcd, nil
	}
	var endpoints []string
	var first error
	for _, service := range []struct{ name, scheme string }{{"etcd-client-ssl", "https"}, {"etcd-client", "http"}} {
		_, records, err := net.DefaultResolver.LookupSRV(ctx, service.name, "tcp", c.DiscoverySRV)
		if err != nil && first == nil {
			first = err
		}
		for _, r := range records {
			host := net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
			endpoints = append(endpoints, service.scheme+"://"+host)
		}
	}
	if len(endpoints) == 0 {
		return etcdstore.Config{}, fmt.Errorf("find etcd by the SRV records of %s: %w", c.DiscoverySRV, first)
	}
	etcd := c.Etcd
	etcd.Endpoints = endpoints
	return etcd, nil
}
