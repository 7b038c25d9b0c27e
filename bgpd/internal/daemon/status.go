package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/bgpd/internal/config"
	"calico.internal/bgpd/internal/gobgp"
	"calico.internal/bgpd/internal/statusapi"
	"calico.internal/libcalico/version"
)

const established = "established"

var _ statusapi.Source = (*core)(nil)

// Status implements [statusapi.Source].
func (c *core) Status(ctx context.Context) (out statusapi.Status, err error) {
	err = c.call(ctx, func(context.Context) {
		out = statusapi.Status{
			Node:       c.cfg.Node,
			Version:    version.String(),
			Started:    c.started,
			ASNumber:   c.doc.ASNumber,
			RouterID:   c.doc.RouterID,
			ConfigHash: c.doc.Hash,
			InSync:     c.inSync && c.pipeline.open && c.pipeline.applied,
			Revision:   c.revision(),
			Connected:  c.etcdConnected(),
		}
		if c.docErr != nil {
			out.ConfigError = c.docErr.Error()
		}
		out.Problems, out.Notes = c.problems(), c.engine.Notes()
	})
	return out, err
}

// problems says what this host should do and does not.
func (c *core) problems() []string {
	var out []string
	for _, why := range []string{c.held(), c.refused()} {
		if why != "" {
			out = append(out, why)
		}
	}
	out = append(out, c.fromMemory()...)
	if errors.Is(c.docErr, errNoAddress) {
		out = append(out, c.docErr.Error())
	}
	out = append(out, c.lacking()...)
	for _, a := range c.missing {
		out = append(out, fmt.Sprintf("this host does not have %s, the address of this node; give it to an interface, or correct the node's address (calicoctl node run --%s=…)", a, gobgp.FlagOf(a)))
	}
	for _, err := range c.deaf {
		if !gobgp.AddressMissing(err) {
			out = append(out, err.Error())
		}
	}
	return append(out, c.engine.Problems()...)
}

// Peers implements [statusapi.Source].
func (c *core) Peers(ctx context.Context) (out []statusapi.Peer, err error) {
	err = c.call(ctx, func(context.Context) {
		for _, p := range c.doc.Peers {
			if c.doc.Mesh || p.Type != config.PeerMesh {
				out = append(out, c.peerStatus(p))
			}
		}
	})
	return out, err
}

func (c *core) peerStatus(p config.Peer) statusapi.Peer {
	out := statusapi.Peer{Address: p.Address, Type: p.Type, ASNumber: p.ASNumber, State: "idle", Since: c.docAt}
	if c.speaker == nil {
		return out
	}
	s := c.speaker.Session(p.Address)
	out.State = s.State
	if !s.Since.IsZero() {
		out.Since = s.Since
	}
	out.Received = c.engine.Received(p.Address)
	if s.State == established {
		out.Advertised = c.advertisedTo(p.Address)
		return out
	}
	out.Info = c.peerInfo(p, s)
	return out
}

// peerInfo says why a session is not up.
func (c *core) peerInfo(p config.Peer, s gobgp.Session) string {
	info := s.Reason
	if err := c.pipeline.peers.Explain(p.Address).Err; err != nil {
		info = err.Error()
	}
	if info == "" {
		info = "connecting"
		if want, ok := c.pipeline.peers.Desired(p.Address); ok && want.Passive {
			info = "waiting for the peer to connect"
		}
	}
	if held := c.engine.Held(p.Address); held > 0 {
		info += fmt.Sprintf(" (%d routes kept for the restart time)", held)
	}
	return info
}

// advertisedTo counts this host's own prefixes of the session's family.
func (c *core) advertisedTo(peer netip.Addr) int {
	n := 0
	for p := range c.pipeline.wanted {
		if p.Addr().Is4() == peer.Is4() && c.pipeline.adverts.InForce(p) {
			n++
		}
	}
	return n
}

// Routes implements [statusapi.Source].
func (c *core) Routes(ctx context.Context) (out []statusapi.Route, err error) {
	err = c.call(ctx, func(context.Context) {
		if c.pipeline.routes == nil {
			return
		}
		for _, r := range c.engine.Routes() {
			out = append(out, c.routeStatus(r))
		}
	})
	return out, err
}

func (c *core) routeStatus(r calc.RouteInfo) statusapi.Route {
	out := statusapi.Route{Prefix: r.Prefix, NextHops: addrsOf(r.Route, r.NextHops), Device: linksOf(r.Route), Why: r.Why}
	out.Advertised = r.Advertised && c.pipeline.adverts.InForce(r.Prefix) && c.speaker.Running(r.Prefix.Addr().Is4())
	if !r.Wanted {
		return out
	}
	if r.Route.Type == calc.Blackhole {
		out.NextHops = nil
	}
	state := c.pipeline.routes.Explain(r.Prefix)
	out.InKernel = state.InForce
	if state.Err != nil {
		out.Why = state.Err.Error()
	} else if !state.InForce {
		out.Why = "not written yet"
	}
	return out
}

// reloadTimeout bounds how long a reload may take.
const reloadTimeout = 10 * time.Second

// Reload implements [statusapi.Source].
func (c *core) Reload(ctx context.Context) (hash string, err error) {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	var loadErr error
	if err := c.callAndApply(ctx, func(context.Context) { loadErr = c.load() }); err != nil {
		return "", err
	}
	if loadErr != nil {
		return "", &statusapi.InvalidError{Err: loadErr}
	}
	err = c.call(ctx, func(context.Context) {
		hash = c.doc.Hash
		if c.docErr != nil {
			err = &statusapi.InvalidError{Err: c.docErr}
		}
	})
	return hash, err
}
