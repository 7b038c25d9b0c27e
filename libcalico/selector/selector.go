// Package selector parses and evaluates the label selectors of policies, rules and
// pools, such as
//
//	role == "web" && !has(debug) || env in {"lab", "test"}
//
// It is pure: no I/O, no clock, no log.
//
// Two selectors that differ only in spacing, quotes, redundant parentheses or the
// order inside a set have one canonical text ([Selector.String]) and one [Selector.ID],
// so that whoever builds something for a selector builds it once.
package selector

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
)

// NamespaceLabel is the label that global() looks for: an object that has it belongs
// to a namespace, and global() does not select it.
const NamespaceLabel = "projectcalico.org/namespace"

// NameLabel is the label that stands for an object's own name.
const NameLabel = "projectcalico.org/name"

// Reserved reports whether a label's name is one of those that Calico gives by itself: what
// an object's own labels have under such a name says nothing. Whoever may label a container
// could else take it out of what global() selects. Other names that begin so are labels
// like all.
func Reserved(name string) bool { return name == NamespaceLabel || name == NameLabel }

// Labels gives the labels of an object, its inherited ones included.
type Labels interface {
	// Get returns the value of a label; ok is false when the object has no such label.
	Get(name string) (value string, ok bool)
}

// Map is [Labels] from a plain map.
type Map map[string]string

// Get returns the value of a label.
func (m Map) Get(name string) (value string, ok bool) {
	value, ok = m[name]
	return value, ok
}

// Selector is a parsed selector. It does not change and may be used by several
// goroutines.
type Selector struct {
	root node
	text string
	id   string
}

// Parse reads a selector; the empty one selects everything. The error is a
// [*SyntaxError].
func Parse(s string) (*Selector, error) {
	p := parser{input: s}
	root, err := p.parse()
	if err != nil {
		return nil, err
	}
	return newSelector(root), nil
}

func newSelector(root node) *Selector {
	text := string(root.appendTo(nil))
	sum := sha256.Sum224([]byte(text))
	return &Selector{
		root: root,
		text: text,
		id:   "s:" + base64.RawURLEncoding.EncodeToString(sum[:]),
	}
}

// String is the canonical text: parsing it gives an equal selector.
func (s *Selector) String() string { return s.text }

// ID is short, of fixed length and the same for all selectors with one canonical
// text.
func (s *Selector) ID() string { return s.id }

// Match says whether an object with these labels is selected. A missing label makes
// "==", "in", "contains", "starts with" and "ends with" false, and "!=" and "not in"
// true.
func (s *Selector) Match(labels Labels) bool { return s.root.match(labels) }

// LabelNames lists the labels that the selector looks at, sorted, each once.
func (s *Selector) LabelNames() []string {
	names := map[string]bool{}
	s.root.visit(func(n node) {
		if l, ok := n.(interface{ labelName() string }); ok {
			names[l.labelName()] = true
		}
	})
	return slices.Sorted(maps.Keys(names))
}

// V1 says whether the v1 manifest dialect knows every operator that the selector
// uses: it has no "contains", "starts with", "ends with" and "global()".
func (s *Selector) V1() bool {
	v1 := true
	s.root.visit(func(n node) {
		switch n.(type) {
		case contains, startsWith, endsWith, global:
			v1 = false
		}
	})
	return v1
}
