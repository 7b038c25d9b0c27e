package ipam

import (
	"encoding/binary"
	"iter"
	"maps"
	"slices"
)

// packedOwner is an [Owner] in little room: an inventory holds one for each address in use
// of the whole cluster, and a map takes five times as much.
type packedOwner struct {
	handle string
	// attrs holds, for each attribute, a byte that says which it is (an index into
	// attrNames, or otherName and the name itself), and its value. A text is its length and
	// one, and its bytes; a zero stands for the handle.
	attrs string
}

// attrNames are the attributes that have a number.
var attrNames = [...]string{AttrContainer, AttrEndpoint, AttrNetwork, AttrNode, AttrTimestamp, AttrType}

const otherName = 0xff

func pack(handle string, attrs map[string]string) packedOwner {
	var out []byte
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		if i := slices.Index(attrNames[:], name); i >= 0 {
			out = append(out, byte(i))
		} else {
			out = appendText(append(out, otherName), name)
		}
		if attrs[name] == handle {
			out = append(out, 0)
		} else {
			out = appendText(out, attrs[name])
		}
	}
	return packedOwner{handle, string(out)}
}

func appendText(out []byte, text string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(text))+1), text...)
}

// owner is what was packed.
func (p packedOwner) owner() Owner {
	o := Owner{Handle: p.handle}
	if p.attrs != "" {
		o.Attrs = maps.Collect(p.all())
	}
	return o
}

// attr is one attribute; it is empty when there is none.
func (p packedOwner) attr(name string) string {
	for n, value := range p.all() {
		if n == name {
			return value
		}
	}
	return ""
}

// all are the attributes, in the order of their names.
func (p packedOwner) all() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for rest := p.attrs; rest != ""; {
			var name, value string
			code := rest[0]
			if rest = rest[1:]; code == otherName {
				name, rest = p.text(rest)
			} else {
				name = attrNames[code]
			}
			value, rest = p.text(rest)
			if !yield(name, value) {
				return
			}
		}
	}
}

// text takes one text off.
func (p packedOwner) text(from string) (text, rest string) {
	n, used := binary.Uvarint([]byte(from[:min(len(from), binary.MaxVarintLen64)]))
	if from = from[used:]; n == 0 {
		return p.handle, from
	}
	return from[:n-1], from[n-1:]
}
