package gobgp

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/logattr"
	api "github.com/osrg/gobgp/v3/api"
)

// openPatience is how long a session may take from the connection to established. GoBGP
// waits 4 minutes for the peer's first word, and refuses its other connections meanwhile: a
// host that vanished after it connected could not come back for so long.
const openPatience = 10 * time.Second

// retryGap is the least time between two sessions that failed before they were
// established. GoBGP's own pause is 5 s, in which it refuses connections as well.
const retryGap = time.Second

// session is what is known of the session with one peer.
type session struct {
	name  string
	state api.PeerState_SessionState
	// since is when the session entered or left established.
	since time.Time
	// reason says why the session fell or does not come up.
	reason  string
	added   time.Time
	pending bool // a retry is on its way
	// opening is the number of the latest connection, so that one that hangs is known.
	opening int
	// everUp says that the session was established since our start.
	everUp bool
}

// retry asks to add a peer again or, if it is told of our restart, to go on with others.
type retry struct {
	peer netip.Addr
	told told
	// opening is the connection that should have become a session by now; 0 is none.
	opening int
}

// Session is the state of a session, for people.
type Session struct {
	// State is BGP's state in lower case, such as "established" (RFC 4271 section 8.2.2).
	State string
	Since time.Time
	// Reason says why the session is not up, as far as that is known.
	Reason string
}

// Session tells the state of the session with a peer.
func (s *Speaker) Session(peer netip.Addr) Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	ses := s.sessions[peer]
	if ses == nil {
		return Session{State: stateName(api.PeerState_IDLE)}
	}
	out := Session{State: stateName(ses.state), Since: ses.since}
	if ses.state != api.PeerState_ESTABLISHED {
		out.Reason = ses.reason
	}
	return out
}

func stateName(st api.PeerState_SessionState) string {
	if st == api.PeerState_UNKNOWN {
		st = api.PeerState_IDLE
	}
	return strings.ToLower(st.String())
}

// remember notes that a peer was added.
func (s *Speaker) remember(a netip.Addr, name string) {
	s.quiet.diagnose()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	ses := s.sessions[a]
	if ses == nil {
		ses = &session{since: now}
		s.sessions[a] = ses
	}
	if ses.state == api.PeerState_ESTABLISHED {
		ses.since, ses.reason = now, "changed by this side's configuration"
	}
	ses.name, ses.added, ses.state = name, now, api.PeerState_IDLE
}

// forget drops the state of a session that we end ourselves, and tells whether it was up.
func (s *Speaker) forget(a netip.Addr) (wasUp bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wasUp = s.sessions[a] != nil && s.sessions[a].state == api.PeerState_ESTABLISHED
	delete(s.sessions, a)
	return wasUp
}

// onReason keeps why a session is down. It is called by GoBGP's own goroutines.
func (s *Speaker) onReason(a netip.Addr, text string, vague bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ses := s.sessions[a]; ses != nil && (!vague || ses.reason == "") {
		ses.reason = text
	}
}

// watch has GoBGP tell of sessions and paths. One watcher for all, so that they come in
// their order.
func (s *Speaker) watch(ctx context.Context) error {
	var d decoder
	return s.server.WatchEvent(ctx, &api.WatchEventRequest{
		Peer: &api.WatchEventRequest_Peer{},
		Table: &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{
			{Type: api.WatchEventRequest_Table_Filter_ADJIN},
			{Type: api.WatchEventRequest_Table_Filter_EOR},
		}},
	}, func(r *api.WatchEventResponse) {
		if p := r.GetPeer(); p.GetType() == api.WatchEventResponse_PeerEvent_STATE {
			s.onState(ctx, p.GetPeer())
		}
		if t := r.GetTable(); t != nil {
			s.onPaths(ctx, &d, t.GetPaths())
		}
	})
}

// onPaths hands on what one peer's UPDATE says.
func (s *Speaker) onPaths(ctx context.Context, d *decoder, paths []*api.Path) {
	if len(paths) == 0 {
		return
	}
	peer, err := netip.ParseAddr(paths[0].GetNeighborIp())
	if err != nil {
		return
	}
	s.mu.Lock()
	ownAS := uint32(s.ownAS)
	s.mu.Unlock()
	e := Event{Kind: Paths, Peer: peer, Paths: make([]PathEvent, 0, len(paths))}
	for _, p := range paths {
		if p.GetNlri() == nil {
			s.queue.put(Event{Kind: EndOfRIB, Peer: peer})
			s.tell(ctx, peer, inSync)
			return
		}
		if pe, ok := s.pathEvent(d, p); ok {
			if !pe.Withdraw && p.GetSourceAsn() != ownAS {
				pe.Path.External = true
				pe.Path.LocalPref = defaultLocalPref // theirs says nothing to us (RFC 4271 section 5.1.5)
			}
			e.Paths = append(e.Paths, pe)
		}
	}
	s.queue.put(e)
}

func (s *Speaker) pathEvent(d *decoder, p *api.Path) (PathEvent, bool) {
	prefix, ok := prefixOf(p)
	if !ok {
		return PathEvent{}, false
	}
	if p.GetIsWithdraw() {
		return PathEvent{Prefix: prefix, Withdraw: true}, true
	}
	path, err := d.decode(p)
	// A link-local next hop says nothing without its link.
	if err != nil || path.NextHop.Is4() != prefix.Addr().Is4() || path.NextHop.Is6() && path.NextHop.IsLinkLocalUnicast() {
		s.opts.Log.Warn("path not usable", logattr.Peer, p.GetNeighborIp(), logattr.Prefix, prefix, logattr.NextHop, path.NextHop, logattr.Err, err)
		return PathEvent{Prefix: prefix, Withdraw: true}, true
	}
	return PathEvent{Prefix: prefix, Path: path}, true
}

// onState follows a session's state. GoBGP tells of the idle state also when a peer is
// added, so only a session that had come further has fallen.
func (s *Speaker) onState(ctx context.Context, p *api.Peer) {
	peer, err := netip.ParseAddr(p.GetState().GetNeighborAddress())
	if err != nil {
		return
	}
	state := p.GetState().GetSessionState()
	s.mu.Lock()
	ses := s.sessions[peer]
	if ses == nil {
		s.mu.Unlock()
		return
	}
	before := ses.state
	ses.state = state
	wasUp, isUp := before == api.PeerState_ESTABLISHED, state == api.PeerState_ESTABLISHED
	ses.everUp = ses.everUp || isUp
	if wasUp != isUp {
		ses.since = time.Now()
	}
	if state == api.PeerState_OPENSENT {
		s.openings++
		ses.opening = s.openings
		s.ask(ctx, retry{peer: peer, opening: ses.opening}, s.openPatience)
	}
	name, reason := ses.name, ses.reason
	s.mu.Unlock()

	switch {
	case isUp && !wasUp:
		s.opts.Log.Info("peer up", logattr.Peer, name)
		s.queue.put(Event{Kind: PeerUp, Peer: peer})
		s.tell(ctx, peer, reached)
	case wasUp && !isUp:
		s.quiet.diagnose()
		s.opts.Log.Info("peer down", logattr.Peer, name, "reason", reason)
		s.queue.put(Event{Kind: PeerDown, Peer: peer, Notified: strings.HasPrefix(reason, notified)})
	}
	if state == api.PeerState_IDLE && before > api.PeerState_ACTIVE {
		s.retryLater(ctx, peer, wasUp)
	}
}

// retryLater has a peer added again: at once if it was up, else after a pause.
func (s *Speaker) retryLater(ctx context.Context, peer netip.Addr, atOnce bool) {
	wait := time.Duration(0)
	if !atOnce {
		s.mu.Lock()
		if ses := s.sessions[peer]; ses != nil {
			wait = max(0, retryGap-time.Since(ses.added))
		}
		s.mu.Unlock()
	}
	s.retryIn(ctx, peer, wait)
}

func (s *Speaker) retryIn(ctx context.Context, peer netip.Addr, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ses := s.sessions[peer]; ses != nil && !ses.pending {
		ses.pending = true
		s.ask(ctx, retry{peer: peer}, wait)
	}
}

func (s *Speaker) ask(ctx context.Context, r retry, wait time.Duration) {
	time.AfterFunc(wait, func() {
		select {
		case s.retry <- r:
		case <-ctx.Done():
		}
	})
}

// orRetry tries a peer again later that GoBGP did not take: nobody else will, since for
// the targets' table the peer is there.
func (s *Speaker) orRetry(ctx context.Context, p calc.Peer, err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	ses := s.sessions[p.Address]
	if ses == nil {
		ses = &session{name: p.Name, since: time.Now()}
		s.sessions[p.Address] = ses
	}
	news := ses.reason != err.Error()
	ses.state, ses.reason = api.PeerState_IDLE, err.Error()
	s.mu.Unlock()
	if news {
		s.opts.Log.Warn("peer not added; it will be tried again", logattr.Peer, p.Name, logattr.Err, err)
	}
	s.retryIn(ctx, p.Address, retryGap)
}

// readd removes and adds the peers whose sessions fell.
func (s *Speaker) readd(ctx context.Context) {
	for {
		select {
		case r := <-s.retry:
			if r.told != notTold {
				s.goOn(ctx, r)
			} else {
				s.again(ctx, r)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (s *Speaker) again(ctx context.Context, r retry) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if p, ok := s.peers[r.peer]; s.due(r) && ok && s.global != nil {
		s.orRetry(ctx, p, s.replace(ctx, p, p))
	}
}

// due reports whether the session is still as it was when somebody asked to make it again.
func (s *Speaker) due(r retry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ses := s.sessions[r.peer]
	if ses == nil {
		return false
	}
	if r.opening == 0 {
		ses.pending = false
		return ses.state == api.PeerState_IDLE
	}
	hangs := r.opening == ses.opening && (ses.state == api.PeerState_OPENSENT || ses.state == api.PeerState_OPENCONFIRM)
	if hangs {
		ses.reason = "the peer connected and then said nothing"
	}
	return hangs
}
