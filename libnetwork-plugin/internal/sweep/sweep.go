// Package sweep finds and removes what calls that never came have left behind:
// endpoints, addresses and interfaces that no container uses.
//
// The engine forgets a container whose stop the plugin did not hear of, and a plugin
// that dies between two calls forgets what it has begun. So now and then everything is
// compared: the store, the kernel, and the engine, without which nothing is removed. A
// thing goes only if two looks, some time apart, found that nobody needs it, and never
// if a container holds the far end of its pair. Nothing of this happens in Docker's
// calls.
package sweep

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"calico.internal/libcalico/ipam"
	"calico.internal/libcalico/logattr"
	"calico.internal/libnetwork-plugin/internal/address"
	"calico.internal/libnetwork-plugin/internal/dockerapi"
	"calico.internal/libnetwork-plugin/internal/veth"
)

// The times of a sweep: how far its two looks are apart (longer than the engine's
// patience with a plugin that is being restarted), and how often it happens.
const (
	Grace = 30 * time.Second
	Every = time.Hour
)

// The times of giving empty blocks of addresses back: how often they are looked for, and
// how long one must have been empty.
const (
	spareEvery = 10 * time.Minute
	spareGrace = 15 * time.Minute
)

// lookLimit bounds one look.
const lookLimit = 30 * time.Second

// Engine lists the engine's containers.
type Engine interface {
	Containers(ctx context.Context) ([]dockerapi.Container, error)
}

// Links lists and removes pairs of interfaces.
type Links interface {
	List() (map[string]veth.State, error)
	RemoveIdle(host string) error
}

// Sweeper sweeps one node.
type Sweeper struct {
	book   *address.Book
	links  Links
	engine Engine
	log    *slog.Logger
	grace  time.Duration
	every  time.Duration
	kick   chan struct{}
}

// New returns a sweeper. grace is the time between two looks, every that between two
// sweeps.
func New(book *address.Book, links Links, engine Engine, grace, every time.Duration, log *slog.Logger) *Sweeper {
	return &Sweeper{
		book: book, links: links, engine: engine, log: log, grace: grace, every: every, kick: make(chan struct{}, 1),
	}
}

// Kick asks for a sweep soon, as when the engine has come back.
func (s *Sweeper) Kick() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Run sweeps when it is kicked and now and then, until ctx ends.
func (s *Sweeper) Run(ctx context.Context) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	spares := time.NewTicker(spareEvery)
	defer spares.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-spares.C:
			s.releaseSpares(ctx)
			continue
		case <-tick.C:
		case <-s.kick:
		}
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("sweep is put off", logattr.Err, err)
		}
	}
}

// releaseSpares gives back the blocks of addresses that this node does not need.
func (s *Sweeper) releaseSpares(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	released, err := s.book.ReleaseSpares(ctx, spareGrace)
	for _, block := range released {
		s.log.Info("gave empty block back", logattr.Block, block)
	}
	if err != nil {
		s.log.Warn("empty blocks are not given back", logattr.Err, err)
	}
}

// Sweep looks twice and removes what both looks found.
func (s *Sweeper) Sweep(ctx context.Context) error {
	first, err := s.look(ctx)
	if err != nil || len(first) == 0 {
		return err
	}
	wait := time.NewTimer(s.grace)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
	}
	second, err := s.look(ctx)
	if err != nil {
		return err
	}
	for _, f := range Both(first, second) {
		if err := s.remove(ctx, f); err != nil {
			s.log.Warn("left over and cannot be removed", "what", f.String(), logattr.Err, err)
			continue
		}
		s.log.Info("removed what no container uses", "what", f.String())
	}
	return nil
}

// look compares everything once. The engine is asked last: an endpoint that was in the
// store before is in the engine by then.
func (s *Sweeper) look(ctx context.Context) (map[Finding]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	w := World{Endpoints: map[string]veth.State{}, Addresses: map[netip.Addr]Holder{}, Busy: s.book.Busy, Asked: s.book.Asked}
	var err error
	if w.Pairs, err = s.links.List(); err != nil {
		return nil, err
	}
	endpoints, err := s.book.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	for id := range endpoints {
		w.Endpoints[id] = w.Pairs[veth.HostName(id)]
	}
	holdings, err := s.book.Holdings(ctx)
	if err != nil {
		return nil, err
	}
	for addr, owner := range holdings {
		w.Addresses[addr] = Holder{Handle: owner.Handle, Endpoint: owner.Attrs[ipam.AttrEndpoint]}
	}
	if w.Engine, err = s.engineView(ctx); err != nil {
		return nil, err
	}
	return Stale(w), nil
}

// engineView is what the engine's containers use.
func (s *Sweeper) engineView(ctx context.Context) (View, error) {
	containers, err := s.engine.Containers(ctx)
	if err != nil {
		return View{}, fmt.Errorf("list containers: %w", err)
	}
	e := View{Endpoints: map[string]bool{}, Addresses: map[netip.Addr]bool{}}
	for _, c := range containers {
		for _, n := range c.NetworkSettings.Networks {
			if n.EndpointID != "" {
				e.Endpoints[n.EndpointID] = true
			}
			for _, text := range []string{n.IPAddress, n.GlobalIPv6Address} {
				if a, err := netip.ParseAddr(text); err == nil {
					e.Addresses[a] = true
				}
			}
		}
	}
	return e, nil
}

// remove removes one finding.
func (s *Sweeper) remove(ctx context.Context, f Finding) error {
	switch {
	case f.Endpoint != "":
		if s.book.Busy(f.Endpoint) {
			return nil
		}
		return s.book.Bury(ctx, f.Endpoint)
	case f.Pair != "":
		return s.links.RemoveIdle(f.Pair)
	}
	return s.book.Reclaim(ctx, f.Address, f.Handle)
}
