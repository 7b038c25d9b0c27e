package ipam

import (
	"context"
	"net/netip"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
)

// storedPools are the pools as etcd has them.
type storedPools struct{ store *etcdstore.Client }

// StoredPools returns the pools that etcd has.
func StoredPools(store *etcdstore.Client) Pools { return storedPools{store} }

// Enabled lists the pools from which addresses can be given out.
func (p storedPools) Enabled(ctx context.Context) ([]netip.Prefix, error) {
	entries, _, _, err := p.store.List(ctx, model.KindIPPool, nil)
	if err != nil {
		return nil, err
	}
	var enabled []netip.Prefix
	for _, e := range entries {
		if pool := e.Value.(*model.IPPool); pool.IPAM && !pool.Closed() {
			enabled = append(enabled, pool.CIDR)
		}
	}
	return enabled, nil
}
