package gobgp

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/reconcile"
	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/types/known/anypb"
)

// Paths is the target for what this host advertises. Paths that an operator adds with
// the gobgp command are not its business.
func (s *Speaker) Paths() reconcile.Target[netip.Prefix, calc.Advert] { return pathTarget{s} }

type pathTarget struct{ s *Speaker }

// List asks GoBGP which of our paths it still has.
func (t pathTarget) List(ctx context.Context) (map[netip.Prefix]calc.Advert, error) {
	s := t.s
	s.manage.Lock()
	defer s.manage.Unlock()
	out := map[netip.Prefix]calc.Advert{}
	if s.global == nil {
		return out, nil
	}
	for _, family := range []*api.Family{familyOf(netip.IPv4Unspecified()), familyOf(netip.IPv6Unspecified())} {
		req := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: family}
		for p := range s.paths {
			if (family.GetAfi() == api.Family_AFI_IP) == p.Addr().Is4() {
				req.Prefixes = append(req.Prefixes, &api.TableLookupPrefix{Prefix: p.String()})
			}
		}
		if len(req.GetPrefixes()) == 0 {
			continue
		}
		if err := s.server.ListPath(ctx, req, func(d *api.Destination) { s.listed(d, out) }); err != nil {
			return nil, fmt.Errorf("ask GoBGP for its paths: %w", err)
		}
	}
	return out, nil
}

func (s *Speaker) listed(d *api.Destination, out map[netip.Prefix]calc.Advert) {
	for _, path := range d.GetPaths() {
		p, ok := prefixOf(path)
		if a, ours := s.paths[p]; ok && ours && isLocal(path) {
			out[p] = a
		}
	}
}

// isLocal reports whether a path comes from no peer.
func isLocal(p *api.Path) bool {
	_, err := netip.ParseAddr(p.GetNeighborIp())
	return err != nil
}

// Apply adds and withdraws paths.
func (t pathTarget) Apply(ctx context.Context, c reconcile.Changes[netip.Prefix, calc.Advert]) error {
	s := t.s
	s.manage.Lock()
	defer s.manage.Unlock()
	if err := ctx.Err(); err != nil || s.global == nil {
		return err
	}
	var failed reconcile.KeyErrors[netip.Prefix]
	for _, p := range c.Delete {
		failed.Add(p, s.deletePath(ctx, p))
	}
	next := maps.Clone(s.paths)
	for _, item := range c.Set {
		next[item.Key] = item.Value
	}
	if err := s.updatePolicy(ctx, s.peers, next); err != nil {
		return err
	}
	for _, item := range c.Set {
		failed.Add(item.Key, s.addPath(ctx, item.Key, item.Value))
	}
	return failed.Err()
}

func (s *Speaker) addPath(ctx context.Context, p netip.Prefix, a calc.Advert) error {
	path, err := pathToAPI(p)
	if err != nil {
		return err
	}
	if _, err := s.server.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: path}); err != nil {
		return fmt.Errorf("advertise %s: %w", p, err)
	}
	s.paths[p] = a
	return nil
}

func (s *Speaker) deletePath(ctx context.Context, p netip.Prefix) error {
	path, err := pathToAPI(p)
	if err != nil {
		return err
	}
	if err := s.server.DeletePath(ctx, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Family: path.GetFamily(), Path: path}); err != nil {
		return fmt.Errorf("withdraw %s: %w", p, err)
	}
	delete(s.paths, p)
	return nil
}

// pathToAPI makes a path whose next hop is unspecified: GoBGP then puts each session's
// own address in its place.
func pathToAPI(p netip.Prefix) (*api.Path, error) {
	nlri, err := anypb.New(&api.IPAddressPrefix{Prefix: p.Addr().String(), PrefixLen: uint32(p.Bits())})
	if err != nil {
		return nil, fmt.Errorf("path %s: %w", p, err)
	}
	origin, err := anypb.New(&api.OriginAttribute{})
	if err != nil {
		return nil, fmt.Errorf("path %s: %w", p, err)
	}
	family := familyOf(p.Addr())
	var next *anypb.Any
	if p.Addr().Is4() {
		next, err = anypb.New(&api.NextHopAttribute{NextHop: netip.IPv4Unspecified().String()})
	} else {
		next, err = anypb.New(&api.MpReachNLRIAttribute{
			Family:   family,
			NextHops: []string{netip.IPv6Unspecified().String()},
			Nlris:    []*anypb.Any{nlri},
		})
	}
	if err != nil {
		return nil, fmt.Errorf("path %s: %w", p, err)
	}
	return &api.Path{Family: family, Nlri: nlri, Pattrs: []*anypb.Any{origin, next}}, nil
}
