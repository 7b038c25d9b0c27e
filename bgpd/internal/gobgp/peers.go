package gobgp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/reconcile"
	api "github.com/osrg/gobgp/v3/api"
	"golang.org/x/sys/unix"
)

const (
	// deferralTime is how long after our restart routes are kept back from a peer that
	// does not finish its own (RFC 4724 section 4.1); GoBGP's default is 6 minutes.
	deferralTime = 5
	// multihopTTL lets peers of another AS be routers away, as BIRD's "multihop" does.
	multihopTTL = 64
)

// Peers is the target for the sessions.
func (s *Speaker) Peers() reconcile.Target[netip.Addr, calc.Peer] { return peerTarget{s} }

type peerTarget struct{ s *Speaker }

// List asks GoBGP which peers it has; one that it has from elsewhere is listed with no
// value, so that the table removes it.
func (t peerTarget) List(ctx context.Context) (map[netip.Addr]calc.Peer, error) {
	s := t.s
	s.manage.Lock()
	defer s.manage.Unlock()
	out := map[netip.Addr]calc.Peer{}
	if s.global == nil {
		return out, nil
	}
	err := s.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		if a, err := netip.ParseAddr(p.GetConf().GetNeighborAddress()); err == nil {
			out[a] = s.peers[a]
		}
	})
	if err != nil {
		return nil, fmt.Errorf("ask GoBGP for its peers: %w", err)
	}
	for _, a := range s.restart.waiting {
		out[a] = s.peers[a]
	}
	return out, nil
}

// Apply adds, changes and removes peers one by one; the sessions of others go on.
func (t peerTarget) Apply(ctx context.Context, c reconcile.Changes[netip.Addr, calc.Peer]) error {
	s := t.s
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := ctx.Err(); err != nil || s.global == nil {
		return err
	}
	var failed reconcile.KeyErrors[netip.Addr]
	for _, a := range c.Delete {
		failed.Add(a, s.deletePeer(ctx, a))
	}
	next := maps.Clone(s.peers)
	for _, item := range c.Set {
		next[item.Key] = item.Value
	}
	if err := s.updatePolicy(ctx, next, s.paths); err != nil {
		return err
	}
	for _, item := range c.Set {
		failed.Add(item.Key, s.setPeer(ctx, item.Value))
	}
	return failed.Err()
}

func (s *Speaker) setPeer(ctx context.Context, p calc.Peer) error {
	if p.Password != "" {
		if err := s.secretsPossible(); err != nil {
			return errors.Join(err, s.deletePeer(ctx, p.Address))
		}
	}
	old, had := s.peers[p.Address]
	exists := s.exists(ctx, p.Address)
	switch {
	case had && exists && old.SameSession(p):
		s.peers[p.Address] = p
		return nil
	case exists:
		if had {
			s.queue.put(Event{Kind: PeerDown, Peer: p.Address})
		}
		return s.forgetOn(s.replace(ctx, old, p), p.Address)
	}
	return s.forgetOn(s.addPeer(ctx, p), p.Address)
}

// forgetOn drops the state of a session that could not be had.
func (s *Speaker) forgetOn(err error, a netip.Addr) error {
	if err != nil {
		s.forget(a)
	}
	return err
}

// secretsPossible asks the kernel for TCP MD5 signatures. GoBGP would talk without them
// to a peer that dials.
var secretsPossible = sync.OnceValue(func() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("ask for TCP MD5 signatures: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	sig := unix.TCPMD5Sig{Keylen: 1}
	sig.Addr.Family = unix.AF_INET
	copy(sig.Addr.Data[2:], []byte{127, 0, 0, 1})
	switch err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig); {
	case errors.Is(err, unix.ENOPROTOOPT):
		return errors.New("this kernel has no TCP MD5 signatures (CONFIG_TCP_MD5SIG), which the peer's password needs; use another kernel, or remove the password on both sides")
	case err != nil:
		return fmt.Errorf("ask for TCP MD5 signatures: %w", err)
	}
	return nil
})

func (s *Speaker) exists(ctx context.Context, a netip.Addr) bool {
	found := false
	err := s.server.ListPeer(ctx, &api.ListPeerRequest{Address: a.String()}, func(*api.Peer) { found = true })
	return err == nil && found
}

func (s *Speaker) addPeer(ctx context.Context, p calc.Peer) error {
	restarting := s.restarting(p)
	s.remember(p.Address, p.Name)
	if restarting && s.mustWait(ctx, p) {
		s.peers[p.Address] = p
		return nil
	}
	if err := s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: peerToAPI(p, restarting)}); err != nil {
		return fmt.Errorf("add peer %s: %w", p.Name, err)
	}
	s.peers[p.Address] = p
	return nil
}

// replace puts one peer in the place of another with the same address, if there is one.
func (s *Speaker) replace(ctx context.Context, old, p calc.Peer) error {
	if !s.exists(ctx, p.Address) {
		return s.addPeer(ctx, p)
	}
	if err := s.removePeer(ctx, p.Address, old.Password != "" && p.Password == ""); err != nil {
		return err
	}
	return s.addPeer(ctx, p)
}

func (s *Speaker) deletePeer(ctx context.Context, a netip.Addr) error {
	if s.exists(ctx, a) {
		if err := s.removePeer(ctx, a, s.peers[a].Password != ""); err != nil {
			return err
		}
	}
	delete(s.peers, a)
	if s.forget(a) {
		s.queue.put(Event{Kind: PeerDown, Peer: a})
	}
	s.leave(ctx, a)
	return nil
}

// removePeer removes a peer. GoBGP's DeletePeer leaves a secret on the listener, where
// it would refuse the peer when that comes back without one; an update to no secret
// takes it off.
func (s *Speaker) removePeer(ctx context.Context, a netip.Addr, clearSecret bool) error {
	if clearSecret {
		bare := &api.Peer{Conf: &api.PeerConf{NeighborAddress: a.String(), PeerAsn: 1, AdminDown: true}}
		if _, err := s.server.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: bare}); err != nil {
			return fmt.Errorf("remove the secret of peer %s: %w", a, err)
		}
	}
	if err := s.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: a.String()}); err != nil {
		return fmt.Errorf("remove peer %s: %w", a, err)
	}
	return nil
}

func peerToAPI(p calc.Peer, restarting bool) *api.Peer {
	seconds := func(d interface{ Seconds() float64 }) uint64 { return uint64(d.Seconds()) }
	out := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Address.String(),
			PeerAsn:         uint32(p.ASNumber),
			AuthPassword:    string(p.Password),
			Description:     p.Name,
		},
		Transport: &api.Transport{
			LocalAddress: p.LocalAddress.String(),
			RemotePort:   uint32(p.Port),
			PassiveMode:  p.Passive,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry:           seconds(p.Timers.ConnectRetry),
			HoldTime:               seconds(p.Timers.Hold),
			KeepaliveInterval:      max(1, seconds(p.Timers.Hold)/3),
			IdleHoldTimeAfterReset: 1,
		}},
		EbgpMultihop: &api.EbgpMultihop{Enabled: true, MultihopTtl: multihopTTL},
		GracefulRestart: &api.GracefulRestart{
			Enabled:         true,
			RestartTime:     uint32(seconds(p.Timers.Restart)),
			DeferralTime:    deferralTime,
			LocalRestarting: restarting,
		},
		AfiSafis: []*api.AfiSafi{{
			Config:            &api.AfiSafiConfig{Family: familyOf(p.Address), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		}},
	}
	if p.ReflectorClient {
		out.RouteReflector = &api.RouteReflector{RouteReflectorClient: true}
		if p.ClusterID.IsValid() {
			out.RouteReflector.RouteReflectorClusterId = p.ClusterID.String()
		}
	}
	return out
}

// familyOf is the one family of a session: that of its addresses.
func familyOf(a netip.Addr) *api.Family {
	f := &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}
	if a.Is6() {
		f.Afi = api.Family_AFI_IP6
	}
	return f
}
