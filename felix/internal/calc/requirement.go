package calc

import (
	"cmp"
	"slices"
	"strings"

	"calico.internal/libcalico/selector"
)

// requirement is a condition that every item that a selector matches fulfils: it has the
// label, with one of the values unless anyValue is set.
type requirement struct {
	label    string
	values   []string
	anyValue bool
}

// analyse finds the labels that a selector looks at, and the requirement by which it is
// best found: one with few values before one with any value; nil if it has none.
func analyse(sel *selector.Selector) (names map[string]struct{}, need *requirement) {
	names = map[string]struct{}{}
	for _, n := range sel.LabelNames() {
		names[n] = struct{}{}
	}
	var needs []requirement
	for label, r := range sel.Restrictions() {
		if r.Present {
			needs = append(needs, requirement{label: label, values: r.Values, anyValue: r.Values == nil})
		}
	}
	if len(needs) == 0 {
		return names, nil
	}
	best := slices.MinFunc(needs, func(a, b requirement) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), strings.Compare(a.label, b.label))
	})
	return names, &best
}

// rank is the number of values to look at.
func (r requirement) rank() int {
	if r.anyValue {
		return 1 << 30
	}
	return len(r.values)
}

// each calls value with each value that the label may have, or name when it is any.
func (r *requirement) each(value func(label, value string), name func(label string)) {
	if r.anyValue {
		name(r.label)
		return
	}
	for _, v := range r.values {
		value(r.label, v)
	}
}
