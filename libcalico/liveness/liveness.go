// Package liveness shows the others that a program on this node lives: by a key that
// vanishes when the program does.
package liveness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"calico.internal/libcalico/etcdstore"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
)

const (
	// TTL is how long the key outlives a program that was killed.
	TTL = 30 * time.Second

	// poll is how often readiness is looked at while there is none, and how soon a lost key
	// is tried again; readyPoll is how often it is looked at when there is. Each look wakes
	// an idle program.
	poll      = time.Second
	readyPoll = 3 * time.Second

	// renewEvery is how often the lease is renewed, a look more or less. Whoever wants to know
	// whether a program lives waits for that ([Renewed]).
	renewEvery = TTL/5 - poll

	// renewTimeout bounds one try to renew the lease; readiness waits for it.
	renewTimeout = 3 * time.Second
)

// Program is a program that shows that it lives.
type Program struct {
	// Node is the name of its node, and Name its own, such as felix.
	Node, Name string
	// Host is where it runs; zero when that is not known.
	Host model.Identity
	// Ready says whether it does its work; that it does is stored within a second, that it
	// does no more within three.
	Ready func() bool
	// Ours says whether the store is that of this host's cluster, for a program that does not
	// write to another's, whose nodes may have the same names, nor to an empty one, of which
	// Ours may not know yet. Nil: it writes to any.
	Ours func() bool
	// Log is told when another host has the node's name; nil is nobody.
	Log *slog.Logger
}

// Run keeps the program's liveness key until ctx ends, and then removes it. While etcd is
// away it tries on, and while another host has the node's name, which shows by its key, it
// waits. The error is that of a key that cannot be.
func Run(ctx context.Context, c *etcdstore.Client, p Program) error {
	r := &reporter{
		client: c, ready: p.Ready, ours: p.Ours, log: p.Log,
		key:   model.LivenessKey{Node: p.Node, Program: p.Name},
		value: model.Liveness{Version: c.Version(), Started: time.Now().UTC().Truncate(time.Second), Host: p.Host},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.ours == nil {
		r.ours = func() bool { return true }
	} else {
		setUp, err := etcdstore.ExistsWrite(model.ReadyKey{})
		if err != nil {
			return err
		}
		r.conditions = append(r.conditions, setUp)
	}
	if err := model.Validate(r.key, &r.value); err != nil {
		return fmt.Errorf("liveness of %s: %w", p.Name, err)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for ctx.Err() == nil {
		if r.ours() && r.free(ctx) {
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
	log         *slog.Logger
	conditions  []etcdstore.Write
	key         model.LivenessKey
	value       model.Liveness
	// revision is the key's, as it was last seen or written; 0 when it is not there.
	revision int64
	// taken says that another host's key was found, and that this was said.
	taken bool
}

// free says whether the key may be written: nobody has it, or this host itself, or the node is
// this host's by the word of its start-up.
func (r *reporter) free(ctx context.Context) bool {
	e, err := r.client.Get(ctx, r.key)
	if err != nil && !errors.Is(err, etcdstore.ErrNotFound) && !errors.Is(err, etcdstore.ErrUnreadable) {
		return false
	}
	r.revision = e.Revision
	by, ok := e.Value.(*model.Liveness)
	if !ok || !by.Host.Other(r.value.Host) || r.appointed(ctx) {
		r.taken = false
		return true
	}
	if !r.taken {
		r.log.Error("another host has this node's name: give one of them another, and start it again",
			logattr.Node, r.key.Node, "its_id", by.Host.ID, "its_boot", by.Host.Boot, "since", by.Started)
	}
	r.taken = true
	return false
}

// appointed says whether the node is this host's.
func (r *reporter) appointed(ctx context.Context) bool {
	e, err := r.client.Get(ctx, model.NodeKey{Name: r.key.Node})
	node, ok := e.Value.(*model.Node)
	return err == nil && ok && node.Host.Same(r.value.Host)
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
		if time.Since(renewed) < renewEvery {
			continue
		}
		switch err := r.renew(ctx, lease); {
		case err == nil && !r.still(ctx):
			return
		case err == nil:
			renewed = time.Now()
		case errors.Is(err, rpctypes.ErrLeaseNotFound), time.Since(renewed) > TTL:
			return
		}
	}
}

// still says whether the key is there as it was written, as far as etcd tells: it may have been
// deleted or written over while the lease lives.
func (r *reporter) still(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	e, err := r.client.Get(ctx, r.key)
	return e.Revision == r.revision || err != nil && !errors.Is(err, etcdstore.ErrNotFound) && !errors.Is(err, etcdstore.ErrUnreadable)
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

// write writes the key, unless somebody else has written it meanwhile.
func (r *reporter) write(ctx context.Context, lease clientv3.LeaseID) error {
	w, err := etcdstore.CreateWrite(r.key, &r.value)
	if r.revision != 0 {
		w, err = etcdstore.UpdateWrite(r.key, &r.value, r.revision)
	}
	if err != nil {
		return err
	}
	revision, err := r.client.Commit(ctx, append(slices.Clone(r.conditions), w.WithLease(lease))...)
	if err == nil {
		r.revision = revision
	}
	return err
}

// revoke removes the key at once, so that the end of a program shows at once; when
// etcd is away the lease runs out by itself.
func (r *reporter) revoke(ctx context.Context, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(ctx, poll)
	defer cancel()
	_, _ = r.client.Raw().Revoke(ctx, lease)
}
