package etcdstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"calico.internal/libcalico/model"
)

// Place is where in etcd something stands: see [In], [At] and [Under].
type Place struct{ ranges ranges }

// In is where the resources of a kind in a scope stand; nowhere when the kind is unknown.
func In(kind model.Kind, scope model.Scope) Place { return Place{rangesOf(kind, scope)} }

// At is where the resources with some keys stand, and nothing else does.
func At(keys ...model.Key) Place {
	var rs ranges
	for _, k := range keys {
		for _, path := range model.Paths(k) {
			rs = append(rs, exactly(path))
		}
	}
	return Place{rs}
}

// Under is where what has one of some prefixes stands.
func Under(prefixes ...string) Place { return Place{newRanges(prefixes)} }

// linger is how long a watch of places waits for the rest of a transaction, of which each
// range brings its part.
const linger = 20 * time.Millisecond

// WatchPlaces is [Client.Watch] of some places, of which etcd sends what changes there and
// nothing else: for a user who asks for one node among a hundred thousand endpoints. Its
// price is that a transaction that changes several places may be seen in parts, if seldom:
// each place has a watch of its own, and etcd orders only what comes of one. What is decided
// by several resources together needs Watch.
func (c *Client) WatchPlaces(ctx context.Context, places []Place, opts WatchOptions) <-chan Batch {
	var rs ranges
	for _, p := range places {
		if len(p.ranges) == 0 {
			return watchNothing(ctx)
		}
		rs = append(rs, p.ranges...)
	}
	if len(rs) == 0 {
		return watchNothing(ctx)
	}
	w := &watcher{client: c, ranges: together(rs), apart: true, opts: opts.withDefaults(), pending: newPending()}
	if len(w.ranges) > 1 || w.ranges[0].beside {
		w.pending.linger = linger
	}
	return start(ctx, w)
}

// together leaves out of some ranges what others have too. They come in order.
func together(rs ranges) ranges {
	whole := disjoint(slices.DeleteFunc(slices.Clone(rs), func(r keyRange) bool { return r.beside }))
	all := slices.Clone(whole)
	for _, r := range rs {
		inside := func(w keyRange) bool { return w.from <= r.from && r.to <= w.to }
		if r.beside && !slices.Contains(all, r) && !slices.ContainsFunc(whole, inside) {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, byFrom)
	return all
}

// followed is a range that has a watch of its own, and the revision up to which its changes
// are known.
type followed struct {
	keyRange

	revision int64
}

func (f followed) request() *etcdserverpb.WatchRequest {
	return &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{
			Key:            []byte(f.from),
			RangeEnd:       []byte(f.to),
			StartRevision:  f.revision + 1,
			ProgressNotify: true,
			Fragment:       true,
		},
	}}
}

// toFollow is the ranges to ask etcd for: one that covers all, or all apart, with the gaps
// between the known nodes' workload endpoints where these do not matter.
func (w *watcher) toFollow() []followed {
	if !w.apart {
		return []followed{{keyRange: w.ranges.span()}}
	}
	var narrow ranges
	for _, r := range w.ranges {
		if r.beside {
			narrow = append(narrow, gapsIn(r, w.nodes)...)
		} else {
			narrow = append(narrow, r)
		}
	}
	narrow = disjoint(narrow)
	out := make([]followed, len(narrow))
	for i, r := range narrow {
		out[i].keyRange = r
	}
	return out
}

// errDivided says that other ranges are to be watched from now on.
var errDivided = errors.New("a watched range has been divided")

// divide makes gaps for the workload endpoints of nodes that were not known, and of which
// some turned up.
func (w *watcher) divide(events []*mvccpb.Event) error {
	known := len(w.nodes)
	for _, e := range events {
		if node, ok := w.besideNode(string(e.Kv.Key)); ok {
			w.nodes[node] = true
		}
	}
	if len(w.nodes) == known {
		return nil
	}
	before := w.followed
	w.followed = w.toFollow()
	for i := range w.followed { // each is a part of one that there was
		f := &w.followed[i]
		whole := slices.IndexFunc(before, func(b followed) bool { return b.from <= f.from && f.to <= b.to })
		f.revision = before[whole].revision
	}
	return errDivided
}

// besideNode is the node about whose workload endpoints a path is, which nobody has asked
// for.
func (w *watcher) besideNode(path string) (node string, ok bool) {
	if !w.apart || w.ranges.hold(path) {
		return "", false
	}
	for _, r := range w.ranges {
		if r.beside && r.from <= path && path < r.to {
			node, _, ok = strings.Cut(strings.TrimPrefix(path, r.from), "/")
			return node, ok
		}
	}
	return "", false
}

// created are the watches of a stream, in the order in which they were asked for, which is
// that in which etcd makes them.
type created struct {
	waiting []followed
	ids     map[int64]*followed
}

// note takes in that a watch was made, and says whether all are.
func (c *created) note(m *etcdserverpb.WatchResponse) bool {
	if m.Created && len(c.waiting) > 0 {
		c.ids[m.WatchId] = &c.waiting[0]
		c.waiting = c.waiting[1:]
	}
	return len(c.waiting) == 0
}
