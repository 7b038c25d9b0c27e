package selector

import (
	"maps"
	"slices"
)

// Restriction is what a selector demands of one label of every object that it
// selects. An index of objects or selectors by label uses it to try few candidates.
type Restriction struct {
	// Present says that the object must have the label.
	Present bool
	// Absent says that the object must not have the label. Absent and Present together
	// mean that the selector selects nothing.
	Absent bool
	// Values lists the values of which the label must have one, sorted. nil sets no
	// limit; an empty list that is not nil means that the selector selects nothing.
	Values []string
}

// Restrictions holds a [Restriction] by label name.
type Restrictions map[string]Restriction

// Restrictions says what the selector demands of single labels. It never demands
// too much: an object that breaks a restriction is not selected, but one that keeps
// them all need not be.
func (s *Selector) Restrictions() Restrictions { return s.root.restrict(false) }

func present(l label) Restrictions {
	return Restrictions{string(l): {Present: true}}
}

func absent(l label) Restrictions {
	return Restrictions{string(l): {Absent: true}}
}

func oneOf(l label, values ...string) Restrictions {
	return Restrictions{string(l): {Present: true, Values: append([]string{}, values...)}}
}

func (all) restrict(bool) Restrictions { return nil }

func (global) restrict(negated bool) Restrictions {
	if negated {
		return present(NamespaceLabel)
	}
	return absent(NamespaceLabel)
}

func (n has) restrict(negated bool) Restrictions {
	if negated {
		return absent(n.label)
	}
	return present(n.label)
}

func (n equal) restrict(negated bool) Restrictions {
	if negated {
		return nil
	}
	return oneOf(n.label, n.value)
}

func (n notEqual) restrict(negated bool) Restrictions {
	if negated {
		return oneOf(n.label, n.value)
	}
	return nil
}

func (n in) restrict(negated bool) Restrictions {
	if negated {
		return nil
	}
	return oneOf(n.label, n.values...)
}

func (n notIn) restrict(negated bool) Restrictions {
	if negated {
		return oneOf(n.label, n.values...)
	}
	return nil
}

func (n contains) restrict(negated bool) Restrictions   { return n.presentUnless(negated) }
func (n startsWith) restrict(negated bool) Restrictions { return n.presentUnless(negated) }
func (n endsWith) restrict(negated bool) Restrictions   { return n.presentUnless(negated) }

func (c comparison) presentUnless(negated bool) Restrictions {
	if negated {
		return nil
	}
	return present(c.label)
}

func (n not) restrict(negated bool) Restrictions { return n.operand.restrict(!negated) }

// restrict of a negated "and" is that of an "or" of negated operands.
func (n and) restrict(negated bool) Restrictions {
	if negated {
		return eitherOf(n.operands, true)
	}
	return allOf(n.operands, false)
}

func (n or) restrict(negated bool) Restrictions {
	if negated {
		return allOf(n.operands, true)
	}
	return eitherOf(n.operands, false)
}

// allOf holds what any operand demands.
func allOf(operands []node, negated bool) Restrictions {
	out := Restrictions{}
	for _, o := range operands {
		for name, r := range o.restrict(negated) {
			if have, ok := out[name]; ok {
				r = have.both(r)
			}
			out[name] = r
		}
	}
	return out
}

// eitherOf holds what every operand demands.
func eitherOf(operands []node, negated bool) Restrictions {
	out := maps.Clone(operands[0].restrict(negated))
	for _, o := range operands[1:] {
		rs := o.restrict(negated)
		for name, have := range out {
			r, ok := rs[name]
			if ok {
				r, ok = have.either(r)
			}
			if ok {
				out[name] = r
			} else {
				delete(out, name)
			}
		}
	}
	return out
}

// both demands a and b.
func (r Restriction) both(b Restriction) Restriction {
	out := Restriction{Present: r.Present || b.Present, Absent: r.Absent || b.Absent}
	switch {
	case r.Values == nil:
		out.Values = b.Values
	case b.Values == nil:
		out.Values = r.Values
	default:
		out.Values = []string{}
		for _, v := range r.Values {
			if _, found := slices.BinarySearch(b.Values, v); found {
				out.Values = append(out.Values, v)
			}
		}
	}
	return out
}

// either demands what a and b agree on; ok is false when that is nothing.
func (r Restriction) either(b Restriction) (out Restriction, ok bool) {
	out = Restriction{Present: r.Present && b.Present, Absent: r.Absent && b.Absent}
	if r.Values != nil && b.Values != nil {
		out.Values = slices.Concat(r.Values, b.Values)
		slices.Sort(out.Values)
		out.Values = slices.Compact(out.Values)
		if out.Values == nil {
			out.Values = []string{}
		}
	}
	return out, out.Present || out.Absent
}
