package gobgp

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/bgpd/internal/config"
	api "github.com/osrg/gobgp/v3/api"
)

// After a restart, outside peers are told so in the OPEN message (the R bit of RFC 4724),
// and keep our routes. GoBGP, however, takes its restart for over, for all peers, as soon
// as those that it has reached so far are in sync, and tells the later ones nothing. So
// outside peers are added one by one, each after the one before is in sync, and those that
// could not be reached are added again whenever another one is in sync.

// restartPatience is how long a peer is waited for before the next one is added.
const restartPatience = 3 * time.Second

// told says how far a peer is with our restart.
type told uint8

const (
	notTold told = iota
	// reached: the session is up.
	reached
	// inSync: the peer has sent End-of-RIB.
	inSync
	// late: it was waited for long enough.
	late
)

// restart is the adding of peers one by one. It is guarded by Speaker.manage.
type restart struct {
	current netip.Addr
	waiting []netip.Addr
}

// restarting reports whether a peer is to be told that we restarted: an outside one that
// has not been up since, as long as it can be expected to have kept our routes.
func (s *Speaker) restarting(p calc.Peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ses := s.sessions[p.Address]
	return s.opts.Restarting && p.Type != config.PeerMesh && (ses == nil || !ses.everUp) && time.Since(s.started) < p.Timers.Restart
}

// tell has somebody who may change GoBGP's peers go on with the others.
func (s *Speaker) tell(ctx context.Context, peer netip.Addr, t told) {
	if s.opts.Restarting {
		s.ask(ctx, retry{peer: peer, told: t}, 0)
	}
}

// mustWait puts a peer behind the one that is being told.
func (s *Speaker) mustWait(ctx context.Context, p calc.Peer) bool {
	r := &s.restart
	if r.current.IsValid() && r.current != p.Address {
		if !slices.Contains(r.waiting, p.Address) {
			r.waiting = append(r.waiting, p.Address)
		}
		return true
	}
	r.current = p.Address
	s.ask(ctx, retry{peer: p.Address, told: late}, restartPatience)
	return false
}

// goOn adds the next peer once one is told, and again those that may now be told nothing.
func (s *Speaker) goOn(ctx context.Context, r retry) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if p, ok := s.peers[r.peer]; !ok || p.Type == config.PeerMesh || s.global == nil {
		return
	}
	if r.told != late {
		s.tellAgain(ctx, r.peer)
	}
	if r.peer == s.restart.current && r.told != reached {
		s.addNext(ctx)
	}
}

func (s *Speaker) tellAgain(ctx context.Context, but netip.Addr) {
	for a, p := range s.peers {
		if a == but || slices.Contains(s.restart.waiting, a) || !s.restarting(p) {
			continue
		}
		s.mu.Lock()
		trying := s.sessions[a] != nil && s.sessions[a].state <= api.PeerState_ACTIVE
		s.mu.Unlock()
		if trying {
			s.orRetry(ctx, p, s.replace(ctx, p, p))
		}
	}
}

// addNext ends the turn of the current peer.
func (s *Speaker) addNext(ctx context.Context) {
	r := &s.restart
	r.current = netip.Addr{}
	for len(r.waiting) > 0 && !r.current.IsValid() {
		p, ok := s.peers[r.waiting[0]]
		r.waiting = r.waiting[1:]
		if ok {
			s.orRetry(ctx, p, s.addPeer(ctx, p))
		}
	}
}

// leave takes a peer that is removed out of the row.
func (s *Speaker) leave(ctx context.Context, a netip.Addr) {
	r := &s.restart
	r.waiting = slices.DeleteFunc(r.waiting, func(w netip.Addr) bool { return w == a })
	if r.current == a {
		s.addNext(ctx)
	}
}
