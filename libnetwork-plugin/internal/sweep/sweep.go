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
	"errors"
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

// The times after which a sweep that failed is tried again, from first to last.
const firstRetry, lastRetry = 5 * time.Second, time.Minute

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
	// doubt is set by a look that left something alone because Docker may be dealing
	// with it.
	doubt bool
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

// Run sweeps when it is kicked and now and then, until ctx ends. A sweep that fails is
// tried again soon, and one that had to leave something alone is followed by another when
// it can be judged.
func (s *Sweeper) Run(ctx context.Context) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	spares := time.NewTicker(spareEvery)
	defer spares.Stop()
	again := time.NewTimer(s.every)
	defer again.Stop()
	for pause := firstRetry; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-spares.C:
			s.releaseSpares(ctx)
			continue
		case <-tick.C:
		case <-s.kick:
		case <-again.C:
		}
		s.doubt = false
		switch err := s.Sweep(ctx); {
		case ctx.Err() != nil:
		case err != nil:
			s.log.Warn("sweep is not done", logattr.Err, err, "retry_in", pause.String())
			again.Reset(pause)
			pause = min(2*pause, lastRetry)
			continue
		case s.doubt:
			again.Reset(address.Settle + time.Second)
		}
		pause = firstRetry
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

// Sweep looks twice and removes what both looks found. Nothing is removed while another host
// has the node's name, too: what this host does not know may be in use there.
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
	var errs []error
	for _, f := range Both(first, second) {
		switch removed, err := s.remove(ctx, f); {
		case err != nil:
			errs = append(errs, fmt.Errorf("remove %s: %w", f, err))
		case removed:
			s.log.Info("removed what no container uses", "what", f.String())
		}
	}
	return errors.Join(errs...)
}

// look compares everything once. The engine is asked last: an endpoint that was in the
// store before is in the engine by then.
func (s *Sweeper) look(ctx context.Context) (map[Finding]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	if err := s.book.Sole(ctx); err != nil {
		return nil, err
	}
	w := World{Endpoints: map[string]veth.State{}, Addresses: map[netip.Addr]Holder{}}
	// Both are asked only of what is otherwise found to be nobody's.
	w.Busy = func(id string) bool { return s.doubtful(s.book.Busy(id)) }
	w.Asked = func(a netip.Addr) bool { return s.doubtful(s.book.Asked(a)) }
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

// doubtful notes that something is left alone for now.
func (s *Sweeper) doubtful(yes bool) bool {
	s.doubt = s.doubt || yes
	return yes
}

// engineView is what the engine's containers use.
func (s *Sweeper) engineView(ctx context.Context) (View, error) {
	containers, err := s.engine.Containers(ctx)
	if err != nil {
		return View{}, fmt.Errorf("list containers: %w", err)
	}
	e := View{Endpoints: map[string]bool{}, Addresses: map[netip.Addr]bool{}}
	for _, c := range containers {
		// The engine takes its networks from a container that ends, but not from one that ended by
		// a power cut. One that is about to start has this state too: Docker is at work on it then.
		if c.State == "exited" || c.State == "dead" {
			continue
		}
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

// remove removes one finding, unless Docker has come to deal with it.
func (s *Sweeper) remove(ctx context.Context, f Finding) (removed bool, err error) {
	switch {
	case f.Endpoint != "" && s.doubtful(s.book.Busy(f.Endpoint)):
		return false, nil
	case f.Endpoint != "":
		err = s.book.Bury(ctx, f.Endpoint)
	case f.Pair != "":
		err = s.links.RemoveIdle(f.Pair)
	default:
		err = s.book.Reclaim(ctx, f.Address, f.Handle)
	}
	return err == nil, err
}
