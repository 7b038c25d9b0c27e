package gobgp

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/reconcile"
)

// Families is a speaker for each address family. Each has its own GoBGP, because that
// ends all sessions when one of its addresses changes, and serves its own socket.
type Families struct{ v4, v6 *Speaker }

// NewFamilies makes speakers that do nothing until Start. IPv6's serves socket6.
func NewFamilies(ctx context.Context, opts Options, socket6 string) (*Families, error) {
	v4, err := New(ctx, opts)
	if err != nil {
		return nil, err
	}
	opts.Socket = socket6
	v6, err := New(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &Families{v4: v4, v6: v6}, nil
}

func (f *Families) of(a netip.Addr) *Speaker {
	if a.Is4() {
		return f.v4
	}
	return f.v6
}

// ofFamily is g with the addresses of one family.
func (g Global) ofFamily(v4 bool) Global {
	g.Listen = slices.DeleteFunc(slices.Clone(g.Listen), func(a netip.Addr) bool { return a.Is4() != v4 })
	return g
}

// Start makes the speakers who g says, each as far as it can: what failed is tried again
// by another Start. Sessions of a speaker that need no change go on; restarted says that
// one began anew, so that the targets' tables need a Resync.
func (f *Families) Start(ctx context.Context, g Global) (restarted bool, failed []error) {
	for _, s := range []*Speaker{f.v4, f.v6} {
		again, err := s.Start(ctx, g.ofFamily(s == f.v4))
		restarted = restarted || again
		if err != nil {
			failed = append(failed, err)
		}
	}
	return restarted, failed
}

// Refuse says why g must not be put in force: a speaker that runs would have to leave its
// address, and could not have the new one.
func (f *Families) Refuse(g Global) error {
	var errs []error
	for _, s := range []*Speaker{f.v4, f.v6} {
		if s.Running() {
			errs = append(errs, s.Probe(g.ofFamily(s == f.v4)))
		}
	}
	return errors.Join(errs...)
}

// Running reports whether sessions of a family can be had.
func (f *Families) Running(v4 bool) bool {
	if v4 {
		return f.v4.Running()
	}
	return f.v6.Running()
}

// Alive reports whether any sessions can be had.
func (f *Families) Alive() bool { return f.v4.Running() || f.v6.Running() }

// Session tells the state of the session with a peer.
func (f *Families) Session(peer netip.Addr) Session { return f.of(peer).Session(peer) }

// Events takes what happened since it was last called.
func (f *Families) Events() []Event { return append(f.v4.Events(), f.v6.Events()...) }

// Peers is the target for the sessions.
func (f *Families) Peers() reconcile.Target[netip.Addr, calc.Peer] {
	return split[netip.Addr, calc.Peer]{f.v4.Peers(), f.v6.Peers(), netip.Addr.Is4}
}

// Paths is the target for what this host advertises.
func (f *Families) Paths() reconcile.Target[netip.Prefix, calc.Advert] {
	return split[netip.Prefix, calc.Advert]{f.v4.Paths(), f.v6.Paths(), func(p netip.Prefix) bool { return p.Addr().Is4() }}
}

// split is a target whose objects are those of two others.
type split[K comparable, V any] struct {
	v4, v6 reconcile.Target[K, V]
	is4    func(K) bool
}

// List joins both lists.
func (t split[K, V]) List(ctx context.Context) (map[K]V, error) {
	out, err := t.v4.List(ctx)
	if err != nil {
		return nil, err
	}
	more, err := t.v6.List(ctx)
	maps.Copy(out, more)
	return out, err
}

// Apply gives each its part.
func (t split[K, V]) Apply(ctx context.Context, c reconcile.Changes[K, V]) error {
	var c4, c6 reconcile.Changes[K, V]
	part := func(k K) *reconcile.Changes[K, V] {
		if t.is4(k) {
			return &c4
		}
		return &c6
	}
	for _, item := range c.Set {
		p := part(item.Key)
		p.Set = append(p.Set, item)
	}
	for _, k := range c.Delete {
		p := part(k)
		p.Delete = append(p.Delete, k)
	}
	return errors.Join(t.v4.Apply(ctx, c4), t.v6.Apply(ctx, c6))
}
