package selector

import (
	"slices"
	"strings"
)

// node is one operator of a selector, with its operands.
type node interface {
	match(Labels) bool
	// appendTo appends the canonical text.
	appendTo([]byte) []byte
	// visit calls f for the node and all below it.
	visit(f func(node))
	// restrict says what labels must be like for the node to be true (or false, when
	// negated), as far as that can be said label by label.
	restrict(negated bool) Restrictions
	// depth is the number of logical operators on the longest way down.
	depth() int
}

// leaf has what nodes without operands share.
type leaf struct{}

func (leaf) depth() int { return 0 }

type (
	all    struct{ leaf }
	global struct{ leaf }

	// label is the label that a comparison looks at.
	label string

	has        struct{ label }
	equal      struct{ comparison }
	notEqual   struct{ comparison }
	contains   struct{ comparison }
	startsWith struct{ comparison }
	endsWith   struct{ comparison }
	in         struct{ membership }
	notIn      struct{ membership }

	comparison struct {
		label
		value string
	}
	membership struct {
		label
		values []string // sorted, each once
	}

	not struct{ operand node }
	and struct{ operands []node }
	or  struct{ operands []node }
)

func (label) depth() int          { return 0 }
func (l label) labelName() string { return string(l) }
func (global) labelName() string  { return NamespaceLabel }

func (all) match(Labels) bool { return true }

func (global) match(labels Labels) bool {
	_, ok := labels.Get(NamespaceLabel)
	return !ok
}

func (n has) match(labels Labels) bool {
	_, ok := labels.Get(string(n.label))
	return ok
}

func (n equal) match(labels Labels) bool {
	v, ok := labels.Get(string(n.label))
	return ok && v == n.value
}

func (n notEqual) match(labels Labels) bool {
	v, ok := labels.Get(string(n.label))
	return !ok || v != n.value
}

func (n contains) match(labels Labels) bool {
	v, ok := labels.Get(string(n.label))
	return ok && strings.Contains(v, n.value)
}

func (n startsWith) match(labels Labels) bool {
	v, ok := labels.Get(string(n.label))
	return ok && strings.HasPrefix(v, n.value)
}

func (n endsWith) match(labels Labels) bool {
	v, ok := labels.Get(string(n.label))
	return ok && strings.HasSuffix(v, n.value)
}

func (n in) match(labels Labels) bool {
	v, ok := labels.Get(string(n.label))
	return ok && n.holds(v)
}

func (n notIn) match(labels Labels) bool {
	v, ok := labels.Get(string(n.label))
	return !ok || !n.holds(v)
}

func (m membership) holds(value string) bool {
	_, found := slices.BinarySearch(m.values, value)
	return found
}

func (n not) match(labels Labels) bool { return !n.operand.match(labels) }

func (n and) match(labels Labels) bool {
	for _, o := range n.operands {
		if !o.match(labels) {
			return false
		}
	}
	return true
}

func (n or) match(labels Labels) bool {
	for _, o := range n.operands {
		if o.match(labels) {
			return true
		}
	}
	return false
}

func (n all) visit(f func(node))        { f(n) }
func (n global) visit(f func(node))     { f(n) }
func (n has) visit(f func(node))        { f(n) }
func (n equal) visit(f func(node))      { f(n) }
func (n notEqual) visit(f func(node))   { f(n) }
func (n contains) visit(f func(node))   { f(n) }
func (n startsWith) visit(f func(node)) { f(n) }
func (n endsWith) visit(f func(node))   { f(n) }
func (n in) visit(f func(node))         { f(n) }
func (n notIn) visit(f func(node))      { f(n) }

func (n not) visit(f func(node)) {
	f(n)
	n.operand.visit(f)
}

func (n and) visit(f func(node)) {
	f(n)
	visitAll(n.operands, f)
}

func (n or) visit(f func(node)) {
	f(n)
	visitAll(n.operands, f)
}

func visitAll(nodes []node, f func(node)) {
	for _, o := range nodes {
		o.visit(f)
	}
}

func (n not) depth() int { return n.operand.depth() + 1 }
func (n and) depth() int { return deepest(n.operands) + 1 }
func (n or) depth() int  { return deepest(n.operands) + 1 }

func deepest(nodes []node) int {
	d := 0
	for _, o := range nodes {
		d = max(d, o.depth())
	}
	return d
}
