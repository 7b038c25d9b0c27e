package ipam

import (
	"bytes"
	"net/netip"
	"strconv"

	"calico.internal/libcalico/model"
)

// usageOf tells how a block is used, from its decoded value; nil is a damaged one.
func usageOf(cidr netip.Prefix, b *model.Block) BlockUsage {
	u := BlockUsage{CIDR: cidr, Size: blockSize(cidr), Damaged: b == nil}
	if b == nil {
		return u
	}
	u.Node = nodeOf(b)
	for ordinal := range b.Allocations {
		attrs, taken := attributesOf(b, ordinal)
		if !taken {
			continue
		}
		u.InUse++
		if node := attrs.Secondary[AttrNode]; node != "" && node != u.Node {
			u.Borrowed++
		}
	}
	return u
}

// summarize is usageOf for a stored value. Values in the form in which all programs
// write them are counted without being decoded, which is many times faster; any other
// is decoded.
func summarize(cidr netip.Prefix, path string, value []byte) BlockUsage {
	if bytes.IndexByte(value, '\\') < 0 {
		if u, ok := scanBlock(cidr, value); ok {
			return u
		}
	}
	b, _ := decode(model.BlockKey{CIDR: cidr}, path, value).(*model.Block)
	return usageOf(cidr, b)
}

// blockScan is what is collected of a block's value on the way through it.
type blockScan struct {
	scanner
	affinity []byte
	allocs   []int // by ordinal: index of the attributes, or -1
	nodes    [][]byte
	free     int
}

// scanBlock counts a value. ok is false when anything about it is unusual.
func scanBlock(cidr netip.Prefix, value []byte) (u BlockUsage, ok bool) {
	u = BlockUsage{CIDR: cidr, Size: blockSize(cidr)}
	s := &blockScan{scanner: scanner{rest: value}, allocs: make([]int, 0, u.Size), nodes: make([][]byte, 0, u.Size)}
	s.object(s.field)
	affinity, isNode := bytes.CutPrefix(s.affinity, []byte(affinityPrefix))
	if s.bad || len(s.rest) > 0 || len(s.allocs) != u.Size || s.affinity != nil && !isNode {
		return u, false
	}
	for _, i := range s.allocs {
		if i < 0 {
			continue
		}
		if i >= len(s.nodes) {
			return u, false
		}
		u.InUse++
		if node := s.nodes[i]; len(node) > 0 && !bytes.Equal(node, affinity) {
			u.Borrowed++
		}
	}
	u.Node = string(affinity)
	return u, u.InUse+s.free == u.Size
}

func (s *blockScan) field(name []byte) {
	switch string(name) {
	case "affinity":
		s.affinity = s.textOrNull()
	case "allocations":
		s.array(func() { s.allocs = append(s.allocs, s.index()) })
	case "unallocated":
		s.array(func() {
			s.free++
			s.skip()
		})
	case "attributes":
		s.array(s.attributes)
	default:
		s.skip()
	}
}

func (s *blockScan) attributes() {
	s.nodes = append(s.nodes, nil)
	s.object(func(name []byte) {
		if string(name) != "secondary" || s.null() {
			s.skip()
			return
		}
		s.object(func(name []byte) {
			if string(name) == AttrNode {
				s.nodes[len(s.nodes)-1] = s.textOrNull()
			} else {
				s.skip()
			}
		})
	})
}

// scanner goes through JSON without white space and without escapes. bad is set by
// whatever it does not expect, and then it stops.
type scanner struct {
	rest  []byte
	bad   bool
	depth int
}

// maxScanDepth is far more than a block has.
const maxScanDepth = 16

func (s *scanner) next() byte {
	if s.bad || len(s.rest) == 0 {
		s.bad = true
		return 0
	}
	return s.rest[0]
}

func (s *scanner) take(c byte) bool {
	if s.bad || len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) must(c byte) { s.bad = !s.take(c) || s.bad }

// object calls f with each name; f has to move past the value.
func (s *scanner) object(f func(name []byte)) {
	s.must('{')
	for first := true; !s.bad && !s.take('}'); first = false {
		if !first {
			s.must(',')
		}
		name := s.text()
		s.must(':')
		f(name)
	}
}

// array calls f at each item; f has to move past it.
func (s *scanner) array(f func()) {
	if s.null() {
		s.skip()
		return
	}
	s.must('[')
	for first := true; !s.bad && !s.take(']'); first = false {
		if !first {
			s.must(',')
		}
		f()
	}
}

func (s *scanner) text() []byte {
	s.must('"')
	end := bytes.IndexByte(s.rest, '"')
	if s.bad || end < 0 {
		s.bad = true
		return nil
	}
	text := s.rest[:end]
	s.rest = s.rest[end+1:]
	return text
}

// null says that null comes next.
func (s *scanner) null() bool { return bytes.HasPrefix(s.rest, []byte("null")) }

func (s *scanner) textOrNull() []byte {
	if s.null() {
		s.skip()
		return nil
	}
	return s.text()
}

// index reads a number that is not negative, or null as -1.
func (s *scanner) index() int {
	if s.null() {
		s.skip()
		return -1
	}
	n, err := strconv.Atoi(string(s.word()))
	s.bad = s.bad || err != nil || n < 0
	return n
}

// word moves past a number, true, false or null.
func (s *scanner) word() []byte {
	end := bytes.IndexAny(s.rest, ",]}")
	if s.bad || end <= 0 {
		s.bad = true
		return nil
	}
	w := s.rest[:end]
	s.rest = s.rest[end:]
	return w
}

// skip moves past any value.
func (s *scanner) skip() {
	s.depth++
	defer func() { s.depth-- }()
	s.bad = s.bad || s.depth > maxScanDepth
	switch s.next() {
	case '{':
		s.object(func([]byte) { s.skip() })
	case '[':
		s.array(s.skip)
	case '"':
		s.text()
	default:
		s.word()
	}
}
