package etcdstore

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/model"
)

// Lease takes a lease for keys that are to vanish when they are not kept alive.
func (c *Client) Lease(ctx context.Context, ttl time.Duration) (lease clientv3.LeaseID, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) error {
		granted, err := c.etcd.Grant(ctx, max(1, int64(ttl/time.Second)))
		if err == nil {
			lease = granted.ID
		}
		return err
	})
	return lease, err
}

// Leased is a stored resource and the lease that it goes with; 0 when it has none.
type Leased struct {
	Entry
	Lease clientv3.LeaseID
	// Err says why the value cannot be decoded; there is no value then.
	Err error
}

// LeasedUnder reads the resources of one path under a prefix, also those whose value cannot be
// used, and tells the revision at which. It is for few.
func (c *Client) LeasedUnder(ctx context.Context, prefix string) (out []Leased, revision int64, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) error {
		resp, err := c.etcd.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		out, revision = nil, resp.Header.Revision
		for _, kv := range resp.Kvs {
			k, ok := model.ParsePath(string(kv.Key))
			if !ok {
				continue
			}
			v, err := model.Decode(k, map[string][]byte{string(kv.Key): kv.Value})
			if err != nil {
				v = nil
			}
			out = append(out, Leased{Entry: Entry{Key: k, Value: v, Revision: kv.ModRevision}, Lease: clientv3.LeaseID(kv.Lease), Err: err})
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
	}
	return out, revision, nil
}

// LeaseState is how a lease stands.
type LeaseState struct {
	// Left is how long it lasts unless it is renewed, in whole seconds; 0 when it is gone.
	Left time.Duration
	// Granted is how long it lasts from a renewal on.
	Granted time.Duration
	// Term is that of etcd's leader: a new leader gives all leases their time anew.
	Term uint64
}

// LeaseState asks how a lease stands.
func (c *Client) LeaseState(ctx context.Context, lease clientv3.LeaseID) (s LeaseState, err error) {
	err = c.do(ctx, 0, func(ctx context.Context) error {
		resp, err := c.etcd.TimeToLive(ctx, lease)
		if err != nil {
			return err
		}
		s = LeaseState{
			Left:    max(0, time.Duration(resp.TTL)) * time.Second,
			Granted: time.Duration(resp.GrantedTTL) * time.Second,
			Term:    resp.RaftTerm,
		}
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("lease %x: %w", int64(lease), err)
	}
	return s, nil
}
