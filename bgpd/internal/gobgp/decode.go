package gobgp

import (
	"bytes"
	"fmt"
	"net/netip"

	"calico.internal/bgpd/internal/calc"
	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/types/known/anypb"
)

// defaultLocalPref is what a path without LOCAL_PREF counts as (RFC 4277 section 12).
const defaultLocalPref = 100

// asSet is the segment type AS_SET of RFC 4271; any number of systems in it counts as
// one. Segments of confederations do not count (RFC 5065).
const (
	asSet      = api.AsSegment_AS_SET
	asSequence = api.AsSegment_AS_SEQUENCE
)

// decoder turns GoBGP's paths into ours. Paths of one UPDATE carry equal attributes, so
// that it decodes those once.
type decoder struct {
	attrs []*anypb.Any
	path  calc.Path
}

// prefixOf reads the prefix of a path; ok is false for what is no unicast prefix, such
// as an End-of-RIB marker.
func prefixOf(p *api.Path) (netip.Prefix, bool) {
	var nlri api.IPAddressPrefix
	if p.GetNlri() == nil || p.GetNlri().UnmarshalTo(&nlri) != nil {
		return netip.Prefix{}, false
	}
	addr, err := netip.ParseAddr(nlri.GetPrefix())
	if err != nil {
		return netip.Prefix{}, false
	}
	prefix, err := addr.Unmap().Prefix(int(nlri.GetPrefixLen()))
	return prefix, err == nil
}

// decode reads what a path says about its prefix.
func (d *decoder) decode(p *api.Path) (calc.Path, error) {
	if d.attrs != nil && sameAttrs(d.attrs, p.GetPattrs()) {
		return d.path, nil
	}
	path := calc.Path{LocalPref: defaultLocalPref}
	for _, a := range p.GetPattrs() {
		if err := decodeAttr(&path, a); err != nil {
			return calc.Path{}, err
		}
	}
	if !path.NextHop.IsValid() {
		return calc.Path{}, fmt.Errorf("no next hop")
	}
	d.attrs, d.path = p.GetPattrs(), path
	return path, nil
}

func sameAttrs(a, b []*anypb.Any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].GetTypeUrl() != b[i].GetTypeUrl() || !bytes.Equal(a[i].GetValue(), b[i].GetValue()) {
			return false
		}
	}
	return true
}

// decodeAttr takes over what one path attribute says; those that decide nothing here are
// skipped.
func decodeAttr(path *calc.Path, raw *anypb.Any) error {
	m, err := raw.UnmarshalNew()
	if err != nil {
		return fmt.Errorf("attribute %s: %w", raw.GetTypeUrl(), err)
	}
	switch a := m.(type) {
	case *api.NextHopAttribute:
		path.NextHop, err = nextHop(a.GetNextHop())
	case *api.MpReachNLRIAttribute:
		path.NextHop, err = nextHop(firstOf(a.GetNextHops()))
	case *api.OriginAttribute:
		path.Origin = uint8(a.GetOrigin())
	case *api.AsPathAttribute:
		path.ASPathLen, path.NeighborAS = asPath(a.GetSegments())
	case *api.LocalPrefAttribute:
		path.LocalPref = a.GetLocalPref()
	case *api.MultiExitDiscAttribute:
		path.MED = a.GetMed()
	case *api.ClusterListAttribute:
		path.ClusterLen = len(a.GetIds())
	}
	return err
}

// firstOf is the global address of an IPv6 next hop; a link-local one may follow it.
func firstOf(hops []string) string {
	if len(hops) == 0 {
		return ""
	}
	return hops[0]
}

func nextHop(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("next hop %q: %w", s, err)
	}
	return a.Unmap().WithZone(""), nil
}

func asPath(segments []*api.AsSegment) (length int, neighbor uint32) {
	for _, s := range segments {
		switch s.GetType() {
		case asSequence:
			length += len(s.GetNumbers())
		case asSet:
			length++
		default:
			continue
		}
		if neighbor == 0 && len(s.GetNumbers()) > 0 {
			neighbor = s.GetNumbers()[0]
		}
	}
	return length, neighbor
}
