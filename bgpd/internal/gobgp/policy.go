package gobgp

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"calico.internal/bgpd/internal/calc"
	"calico.internal/libcalico/model"
	api "github.com/osrg/gobgp/v3/api"
)

// By itself GoBGP passes on whatever it hears: one outside router's routes to the other,
// and to every node. So it keeps nothing of what peers say unless this host reflects
// routes, and sends nothing but this host's own: package calc hears peers before this
// policy and decides about the kernel by itself. What GoBGP does not keep cannot compete
// with our own paths either, whatever its LOCAL_PREF.

// The names of our policies and sets in GoBGP.
const (
	importPolicy = "import"
	exportPolicy = "export"
	ownSet       = "own"
	reflectSet   = "reflect"
	// globalPolicy is GoBGP's name for what holds for all peers.
	globalPolicy = "global"
)

// reflection is what a route reflector (RFC 4456) takes and passes on; without peers
// this host is none.
type reflection struct {
	// peers are those of this host's AS: GoBGP knows the clients among them, and passes
	// on what comes from a client to all of them and the rest to clients.
	peers []netip.Addr
	// own are the prefixes that nobody else may advertise here.
	own []netip.Prefix
}

func (r reflection) equal(o reflection) bool {
	return slices.Equal(r.peers, o.peers) && slices.Equal(r.own, o.own)
}

// reflectionOf finds what these peers, and our paths, make of us.
func reflectionOf(as model.ASNumber, peers map[netip.Addr]calc.Peer, paths map[netip.Prefix]calc.Advert) reflection {
	var out reflection
	reflector := false
	for a, p := range peers {
		reflector = reflector || p.ReflectorClient
		if p.ASNumber == as {
			out.peers = append(out.peers, a)
		}
	}
	if !reflector || len(out.peers) == 0 {
		return reflection{}
	}
	slices.SortFunc(out.peers, netip.Addr.Compare)
	out.own = slices.SortedFunc(maps.Keys(paths), netip.Prefix.Compare)
	return out
}

// startPolicy puts the policy of a host without peers in force. GoBGP forgets policies
// whenever it starts.
func (s *Speaker) startPolicy(ctx context.Context) error {
	s.reflects = reflection{}
	if err := s.writePolicy(ctx, s.reflects); err != nil {
		return err
	}
	for direction, name := range map[api.PolicyDirection]string{api.PolicyDirection_IMPORT: importPolicy, api.PolicyDirection_EXPORT: exportPolicy} {
		req := &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name:          globalPolicy,
			Direction:     direction,
			Policies:      []*api.Policy{{Name: name}},
			DefaultAction: api.RouteAction_REJECT,
		}}
		if err := s.server.SetPolicyAssignment(ctx, req); err != nil {
			return fmt.Errorf("assign policy %s: %w", name, err)
		}
	}
	return nil
}

// updatePolicy follows a change of the peers or of our paths. What clients said before
// is judged anew.
func (s *Speaker) updatePolicy(ctx context.Context, peers map[netip.Addr]calc.Peer, paths map[netip.Prefix]calc.Advert) error {
	if s.global == nil {
		return nil
	}
	next := reflectionOf(s.global.ASNumber, peers, paths)
	if next.equal(s.reflects) {
		return nil
	}
	if err := s.writePolicy(ctx, next); err != nil {
		return err
	}
	s.reflects = next
	if err := s.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: "all", Soft: true, Direction: api.ResetPeerRequest_IN}); err != nil {
		return fmt.Errorf("judge routes anew: %w", err)
	}
	return nil
}

func (s *Speaker) writePolicy(ctx context.Context, r reflection) error {
	if err := s.server.SetPolicies(ctx, policiesOf(r)); err != nil {
		return fmt.Errorf("set policies: %w", err)
	}
	return nil
}

// policiesOf renders both policies; what none of their statements matches is rejected.
func policiesOf(r reflection) *api.SetPoliciesRequest {
	local := statement(api.RouteAction_ACCEPT, &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL})
	in, out := []*api.Statement{local}, []*api.Statement{local}
	req := &api.SetPoliciesRequest{}
	if len(r.peers) > 0 {
		// A set without members would match everything.
		for _, set := range ownSets(r.own) {
			req.DefinedSets = append(req.DefinedSets, set)
			in = append(in, statement(api.RouteAction_REJECT, &api.Conditions{PrefixSet: &api.MatchSet{Name: set.GetName()}}))
		}
		set := &api.DefinedSet{DefinedType: api.DefinedType_NEIGHBOR, Name: reflectSet}
		for _, a := range r.peers {
			set.List = append(set.List, netip.PrefixFrom(a, a.BitLen()).String())
		}
		req.DefinedSets = append(req.DefinedSets, set)
		reflected := statement(api.RouteAction_ACCEPT, &api.Conditions{
			RouteType:   api.Conditions_ROUTE_TYPE_INTERNAL,
			NeighborSet: &api.MatchSet{Name: reflectSet},
		})
		in, out = append(in, reflected), append(out, reflected)
	}
	req.Policies = []*api.Policy{{Name: importPolicy, Statements: named(importPolicy, in)}, {Name: exportPolicy, Statements: named(exportPolicy, out)}}
	return req
}

func statement(action api.RouteAction, when *api.Conditions) *api.Statement {
	return &api.Statement{Conditions: when, Actions: &api.Actions{RouteAction: action}}
}

// named copies statements under names of their policy, because GoBGP's are global.
func named(policy string, statements []*api.Statement) []*api.Statement {
	out := make([]*api.Statement, len(statements))
	for i, s := range statements {
		out[i] = &api.Statement{Name: fmt.Sprintf("%s-%d", policy, i), Conditions: s.GetConditions(), Actions: s.GetActions()}
	}
	return out
}

// ownSets holds our prefixes and their parts, a set for each family. A single address
// inside an own block may be another host's, which borrowed it.
func ownSets(own []netip.Prefix) []*api.DefinedSet {
	var out []*api.DefinedSet
	for _, v6 := range []bool{false, true} {
		set := &api.DefinedSet{DefinedType: api.DefinedType_PREFIX, Name: fmt.Sprintf("%s-v6=%t", ownSet, v6)}
		for _, p := range own {
			if p.Addr().Is6() != v6 {
				continue
			}
			longest := max(p.Bits(), p.Addr().BitLen()-1)
			set.Prefixes = append(set.Prefixes, &api.Prefix{
				IpPrefix: p.String(), MaskLengthMin: uint32(p.Bits()), MaskLengthMax: uint32(longest),
			})
		}
		if len(set.GetPrefixes()) > 0 {
			out = append(out, set)
		}
	}
	return out
}
