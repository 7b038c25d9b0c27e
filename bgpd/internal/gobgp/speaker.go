package gobgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/logattr"
	"calico.internal/libcalico/model"
	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

// Options are what a speaker needs.
type Options struct {
	Log *slog.Logger
	// Socket is the path of the unix socket on which GoBGP's own API is served, for the
	// gobgp command; empty means nowhere.
	Socket string
	// Restarting says that the kernel still forwards as an earlier process left it, which
	// outside peers are told (RFC 4724 section 4.1), so that they keep our routes. Peers in
	// the mesh hold them anyway.
	Restarting bool
	// Notify is called after each event; it must not block.
	Notify func()
}

// Global is who the speaker is.
type Global struct {
	ASNumber model.ASNumber
	RouterID netip.Addr
	Listen   []netip.Addr
	Port     uint16
}

func (g Global) equal(o Global) bool {
	return g.ASNumber == o.ASNumber && g.RouterID == o.RouterID && g.Port == o.Port && slices.Equal(g.Listen, o.Listen)
}

// Speaker is a BGP speaker. While it does not run, its targets take everything and do
// nothing.
type Speaker struct {
	opts   Options
	quiet  *quiet
	server *server.BgpServer
	queue  queue
	// started is when the process did, as far as peers are concerned.
	started time.Time
	// retry is told each peer that must be added again.
	retry chan retry

	// manage serialises what changes GoBGP's peers.
	manage sync.Mutex
	global *Global // nil while nothing runs
	peers  map[netip.Addr]calc.Peer
	paths  map[netip.Prefix]calc.Advert
	// restart tells peers of ours, one by one.
	restart restart
	// secretsPossible says why the kernel cannot have passwords.
	secretsPossible func() error
	openPatience    time.Duration
	// reflects is what GoBGP's policy allows besides our own paths.
	reflects reflection

	// mu guards what GoBGP's own goroutines change.
	mu       sync.Mutex
	sessions map[netip.Addr]*session
	// openings counts the connections that were made with any peer: a session that is made
	// anew does not take up the numbers of the one before.
	openings int
	ownAS    model.ASNumber
}

// New makes a speaker that does nothing until Start.
func New(ctx context.Context, opts Options) (*Speaker, error) {
	s := &Speaker{
		opts:     opts,
		queue:    queue{notify: opts.Notify},
		started:  time.Now(),
		retry:    make(chan retry, 64),
		peers:    map[netip.Addr]calc.Peer{},
		paths:    map[netip.Prefix]calc.Advert{},
		sessions: map[netip.Addr]*session{},

		secretsPossible: secretsPossible,
		openPatience:    openPatience,
	}
	s.quiet = &quiet{log: opts.Log, reason: s.onReason}
	serverOpts := []server.ServerOption{server.LoggerOption(s.quiet)}
	if opts.Socket != "" {
		if err := clearSocket(opts.Socket); err != nil {
			return nil, err
		}
		serverOpts = append(serverOpts, server.GrpcListenAddress("unix://"+opts.Socket))
	}
	s.server = server.NewBgpServer(serverOpts...)
	go s.server.Serve()
	if opts.Socket != "" {
		if err := protectSocket(ctx, opts.Socket); err != nil {
			return nil, err
		}
	}
	if err := s.watch(ctx); err != nil {
		return nil, err
	}
	go s.readd(ctx)
	return s, nil
}

// clearSocket removes what a dead process left.
func clearSocket(path string) error {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return fmt.Errorf("socket %s is in use by another bgpd; stop that one first, or use another --run-dir", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	return nil
}

// protectSocket closes GoBGP's API to all but its owner. GoBGP makes the socket in a
// goroutine of its own and tells nobody.
func protectSocket(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := os.Chmod(path, 0o600)
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("socket %s: GoBGP did not serve it", path)
		}
	}
}

// AddressMissing reports whether the port cannot be opened because the host lacks the
// address.
func AddressMissing(err error) bool {
	var listen *ListenError
	return errors.As(err, &listen) && errors.Is(listen.Err, syscall.EADDRNOTAVAIL)
}

// ListenError says why BGP's port cannot be opened, and what to do.
type ListenError struct {
	Address netip.AddrPort
	Err     error
}

// Error is the sentence.
func (e *ListenError) Error() string {
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return fmt.Sprintf("listen on %s: the port is in use by another program; stop that one (another bgpd, or BIRD?) or choose another listen_port", e.Address)
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("listen on %s: this host does not have the address; give it to an interface, or correct the node's address (calicoctl node run --%s=…)", e.Address, FlagOf(e.Address.Addr()))
	case errors.Is(e.Err, syscall.EACCES):
		return fmt.Sprintf("listen on %s: not permitted; run as root or with the capability NET_BIND_SERVICE", e.Address)
	}
	return fmt.Sprintf("listen on %s: %v", e.Address, e.Err)
}

// FlagOf is the flag of "calicoctl node run" that sets an address of a family.
func FlagOf(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

// Unwrap gives the cause.
func (e *ListenError) Unwrap() error { return e.Err }

// Probe tells whether g's addresses can be listened on, as far as the running server
// does not do so already.
func (s *Speaker) Probe(g Global) error {
	s.manage.Lock()
	defer s.manage.Unlock()
	for _, a := range g.Listen {
		if s.global != nil && s.global.Port == g.Port && slices.Contains(s.global.Listen, a) {
			continue
		}
		ap := netip.AddrPortFrom(a, g.Port)
		l, err := net.Listen("tcp", ap.String())
		if err != nil {
			return &ListenError{Address: ap, Err: err}
		}
		_ = l.Close()
	}
	return nil
}

// Start makes the speaker who g says. If it is somebody else already, all sessions end
// and must be made again: the targets' tables then need a Resync, which restarted asks
// for.
func (s *Speaker) Start(ctx context.Context, g Global) (restarted bool, err error) {
	if s.running(g) {
		return false, nil
	}
	if err := s.Probe(g); err != nil {
		return false, err
	}
	s.Stop(ctx)
	if len(g.Listen) == 0 {
		return true, nil
	}
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: globalToAPI(g)}); err != nil {
		_ = s.server.StopBgp(ctx, &api.StopBgpRequest{}) // closes the listeners that it has
		return true, &ListenError{Address: netip.AddrPortFrom(g.Listen[0], g.Port), Err: err}
	}
	if err := s.startPolicy(ctx); err != nil {
		_ = s.server.StopBgp(ctx, &api.StopBgpRequest{})
		return true, err
	}
	s.global = &g
	s.mu.Lock()
	s.ownAS = g.ASNumber
	s.mu.Unlock()
	s.opts.Log.Info("BGP started", "as", uint32(g.ASNumber), "router_id", g.RouterID, logattr.Addr, g.Listen)
	return true, nil
}

func (s *Speaker) running(g Global) bool {
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.global == nil {
		return len(g.Listen) == 0
	}
	return s.global.equal(g)
}

// Running reports whether there is a server that peers and paths can be given to.
func (s *Speaker) Running() bool {
	s.manage.Lock()
	defer s.manage.Unlock()
	return s.global != nil
}

func globalToAPI(g Global) *api.Global {
	out := &api.Global{Asn: uint32(g.ASNumber), RouterId: g.RouterID.String(), ListenPort: int32(g.Port)}
	for _, a := range g.Listen {
		out.ListenAddresses = append(out.ListenAddresses, a.String())
	}
	return out
}

// Stop ends all sessions with a notification, at which peers drop our routes. A program
// that only ends must not call it: it just exits, and peers keep them for the restart
// time.
func (s *Speaker) Stop(ctx context.Context) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.global == nil {
		return
	}
	_ = s.server.StopBgp(ctx, &api.StopBgpRequest{})
	s.global = nil
	for a := range s.peers {
		s.forget(a)
		s.queue.put(Event{Kind: PeerDown, Peer: a})
	}
	clear(s.peers)
	clear(s.paths)
	s.restart = restart{}
}

// Close is Stop for a speaker that is not used again: tests end with it.
func (s *Speaker) Close(ctx context.Context) {
	s.Stop(ctx)
	s.server.Stop()
}

// Events takes what happened since it was last called.
func (s *Speaker) Events() []Event { return s.queue.take() }
