// Package liveness shows the others that a program on this node lives: by a key that
// vanishes when the program does.
package liveness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/model"
	"calico.internal/libcalico/version"
)

const (
	// TTL is how long the key outlives a program that was killed.
	TTL = 30 * time.Second

	// poll is how often readiness is looked at while there is none, and how soon a lost key
	// is tried again; readyPoll is how often it is looked at when there is. Each look wakes
	// an idle program.
	poll      = time.Second
	readyPoll = 3 * time.Second

	// renewTimeout bounds one try to renew the lease; readiness waits for it.
	renewTimeout = 3 * time.Second
)

// Run keeps the program's liveness key until ctx ends, and then removes it. While etcd
// is away it tries on. ready says whether the program does its work; that it does is
// stored within a second, that it does no more within three. The error is that of a key
// that cannot be.
func Run(ctx context.Context, c *etcdstore.Client, node, program string, ready func() bool) error {
	return run(ctx, c, node, program, ready, func() bool { return true })
}

// RunIn is [Run] for a program that does not write to a store that is another cluster's,
// whose nodes may have the same names: ours says whether it is not. Nor does it to an empty
// one, of which ours may not know yet.
func RunIn(ctx context.Context, c *etcdstore.Client, node, program string, ready, ours func() bool) error {
	setUp, err := etcdstore.ExistsWrite(model.ReadyKey{})
	if err != nil {
		return err
	}
	return run(ctx, c, node, program, ready, ours, setUp)
}

func run(ctx context.Context, c *etcdstore.Client, node, program string, ready, ours func() bool, conditions ...etcdstore.Write) error {
	r := &reporter{
		client: c, ready: ready, ours: ours, conditions: conditions,
		key:   model.LivenessKey{Node: node, Program: program},
		value: model.Liveness{Version: version.Version, Started: time.Now().UTC().Truncate(time.Second)},
	}
	if err := model.Validate(r.key, &r.value); err != nil {
		return fmt.Errorf("liveness of %s: %w", program, err)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for ctx.Err() == nil {
		if ours() {
			r.hold(ctx, tick)
		}
		tick.Reset(poll)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return nil
}

type reporter struct {
	client      *etcdstore.Client
	ready, ours func() bool
	conditions  []etcdstore.Write
	key         model.LivenessKey
	value       model.Liveness
}

// hold has a lease and the key on it until either is lost, the store is another one, or
// ctx ends.
func (r *reporter) hold(ctx context.Context, tick *time.Ticker) {
	lease, err := r.grant(ctx)
	if err != nil {
		return
	}
	defer r.revoke(context.WithoutCancel(ctx), lease)
	written, renewed := false, time.Now()
	for {
		if ready := r.ready(); !written || ready != r.value.Ready {
			r.value.Ready = ready
			if written = r.write(ctx, lease) == nil; !written {
				return
			}
			tick.Reset(pollOf(ready))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !r.ours() {
			return
		}
		if time.Since(renewed) < TTL/3 {
			continue
		}
		switch err := r.renew(ctx, lease); {
		case err == nil:
			renewed = time.Now()
		case errors.Is(err, rpctypes.ErrLeaseNotFound), time.Since(renewed) > TTL:
			return
		}
	}
}

func pollOf(ready bool) time.Duration {
	if ready {
		return readyPoll
	}
	return poll
}

// renew prolongs the lease once. The client's own KeepAlive wakes the program four times
// a second for as long as it lives.
func (r *reporter) renew(ctx context.Context, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	_, err := r.client.Raw().KeepAliveOnce(ctx, lease)
	return err
}

func (r *reporter) grant(ctx context.Context) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, TTL/3)
	defer cancel()
	return r.client.Lease(ctx, TTL)
}

func (r *reporter) write(ctx context.Context, lease clientv3.LeaseID) error {
	w, err := etcdstore.PutWrite(r.key, &r.value)
	if err != nil {
		return err
	}
	_, err = r.client.Commit(ctx, append(slices.Clone(r.conditions), w.WithLease(lease))...)
	return err
}

// revoke removes the key at once, so that the end of a program shows at once; when
// etcd is away the lease runs out by itself.
func (r *reporter) revoke(ctx context.Context, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(ctx, poll)
	defer cancel()
	_, _ = r.client.Raw().Revoke(ctx, lease)
}
