package model

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Prefixes of the key tree, for lists and watches.
const (
	Root         = "/calico/"
	PrefixV1     = "/calico/v1/"
	PrefixBGP    = "/calico/bgp/v1/"
	PrefixIPAM   = "/calico/ipam/v2/"
	PrefixDocker = "/calico/docker/v1/"
	PrefixStatus = "/calico/status/v1/"
	PrefixFelix  = "/calico/felix/v1/"
)

// Paths lists the etcd paths that hold the resource of a key, in a fixed order. A
// path of an optional part is listed too.
func Paths(k Key) []string {
	l := layoutOf(k)
	if l == nil {
		return nil
	}
	return l.paths(k)
}

// ListPrefixes lists the shortest etcd prefixes under which all resources of a kind
// stand (other kinds may stand there too; ParsePath tells them apart).
func ListPrefixes(kind Kind) []string { return ScopedPrefixes(kind, Scope{}) }

// ParsePath says which resource an etcd path holds, or a part of which. ok is false
// for a path that is not of this tree; [PathFault] tells why when it looks like one.
func ParsePath(path string) (k Key, ok bool) {
	k, _, ok = parsePath(path)
	return k, ok
}

// PathFault says what is wrong with a path that has the shape of a resource's but
// identifiers that cannot be read, such as a pool's path without an address. It is
// nil for a good path and for one that has nothing to do with this tree.
func PathFault(path string) error {
	_, kind, ok := parsePath(path)
	if ok || kind == "" {
		return nil
	}
	return fmt.Errorf("%s: not the path of any %s", strconv.Quote(path), kind)
}

// parsePath finds the first shape that the path has. kind is set when there is one,
// also if its identifiers cannot be read.
func parsePath(path string) (k Key, kind Kind, ok bool) {
	if !strings.HasPrefix(path, Root) {
		return nil, "", false
	}
	var room [maxSegments]string // lists parse a hundred thousand paths
	segments := room[:0]
	for s := range strings.SplitSeq(path, "/") {
		if len(segments) == maxSegments {
			return nil, "", false
		}
		segments = append(segments, s)
	}
	for _, s := range shapesBySize[len(segments)] {
		if !s.pattern.match(segments) {
			continue
		}
		ids, good := s.pattern.identifiers(segments)
		if good {
			k, ok = s.key(ids)
		}
		return k, s.kind, ok
	}
	return nil, "", false
}

// maxSegments is more than any path of this tree has.
const maxSegments = 16

// pattern is a path, split at its slashes, with a hole in place of each identifier.
type pattern []segment

// segment is a part of a pattern: a text, or a hole. A hole whose text is not empty is one
// that a [Scope] knows by that name.
type segment struct {
	text string
	hole bool
}

// newPattern reads a path with "{}" or "{name}" in place of each identifier.
func newPattern(s string) pattern {
	var p pattern
	for text := range strings.SplitSeq(s, "/") {
		name, hole := strings.CutPrefix(text, "{")
		if hole {
			text = strings.TrimSuffix(name, "}")
		}
		p = append(p, segment{text, hole})
	}
	return p
}

// fill puts the identifiers into the holes.
func (p pattern) fill(ids []string) string {
	size := len(p)
	for _, s := range p {
		size += len(s.text)
	}
	for _, id := range ids {
		size += len(id)
	}
	var b strings.Builder
	b.Grow(size)
	next := 0
	for i, s := range p {
		if i > 0 {
			b.WriteByte('/')
		}
		text := s.text
		if s.hole {
			text = escape(ids[next])
			next++
		}
		b.WriteString(text)
	}
	return b.String()
}

// match says whether a path of as many segments has this form.
func (p pattern) match(segments []string) bool {
	for i, s := range p {
		if s.hole && segments[i] == "" || !s.hole && s.text != segments[i] {
			return false
		}
	}
	return true
}

// identifiers gives what stands in the holes; ok is false when one is not spelt as it must be.
func (p pattern) identifiers(segments []string) (ids []string, ok bool) {
	ids = make([]string, 0, len(p))
	for i, s := range p {
		if !s.hole {
			continue
		}
		id, good := unescape(segments[i])
		if !good {
			return nil, false
		}
		ids = append(ids, id)
	}
	return ids, true
}

// escape makes a name one path segment. Only what would break the path is changed,
// as v2.6 did.
func escape(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "%", "%25"), "/", "%2F")
}

// unescape is the inverse of escape; it takes no other spelling, so that a resource
// has one path only.
func unescape(segment string) (name string, ok bool) {
	if !strings.Contains(segment, "%") {
		return segment, true
	}
	name = strings.ReplaceAll(strings.ReplaceAll(segment, "%2F", "/"), "%25", "%")
	return name, escape(name) == segment
}

// cidrSegment is a prefix as a path segment: "10.65.0.0-16".
func cidrSegment(p netip.Prefix) string {
	return p.Addr().String() + "-" + strconv.Itoa(p.Bits())
}

// parseCIDRSegment is the inverse of cidrSegment. Bits below the prefix length are
// kept, so that the resource can be named and refused.
func parseCIDRSegment(s string, ipv6 bool) (netip.Prefix, bool) {
	address, length, found := strings.Cut(s, "-")
	a, good := parseAddrSegment(address, ipv6)
	bits, err := strconv.Atoi(length)
	if !found || !good || err != nil {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(a, bits)
	return p, p.IsValid() && cidrSegment(p) == s
}

// parseAddrSegment reads an address of the given family in its one canonical
// spelling.
func parseAddrSegment(s string, ipv6 bool) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.Is6() != ipv6 || a.String() != s {
		return netip.Addr{}, false
	}
	return a, true
}
