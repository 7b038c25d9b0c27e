package model

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"calico.internal/libcalico/selector"
)

// FieldError is one fault of a resource.
type FieldError struct {
	// Field is where the value stands in a manifest: "spec.ingress[0].source.ports",
	// "metadata.name".
	Field string
	// Value is the bad value as text.
	Value string
	// Reason says what is wrong with it.
	Reason string
	// Err is the cause, if there is one, such as a selector's syntax error.
	Err error
}

// Error is "field = 'value' (reason)", as calicoctl has always put it.
func (e *FieldError) Error() string {
	value := e.Value
	if len(value) > 200 {
		value = value[:200] + "…"
	}
	return fmt.Sprintf("%s = '%s' (%s)", e.Field, strings.Trim(strconv.Quote(value), `"`), e.Reason)
}

// Unwrap is the cause.
func (e *FieldError) Unwrap() error { return e.Err }

// Validate checks a resource and returns every fault found, joined
// ([errors.Join]); each is a [*FieldError].
func Validate(k Key, r Resource) error {
	l := layoutOf(k)
	if l == nil {
		return &FieldError{Field: "kind", Value: fmt.Sprint(k), Reason: "unknown kind of key"}
	}
	var f faults
	l.check(&f, k, r)
	return errors.Join(f.list...)
}

// Faults lists the field errors inside an error, such as what [Validate] returned and
// others have wrapped.
func Faults(err error) []*FieldError {
	if f, ok := err.(*FieldError); ok { //nolint:errorlint // walks the tree itself, to find all of them
		return []*FieldError{f}
	}
	switch e := any(err).(type) {
	case interface{ Unwrap() []error }:
		var list []*FieldError
		for _, part := range e.Unwrap() {
			list = append(list, Faults(part)...)
		}
		return list
	case interface{ Unwrap() error }:
		return Faults(e.Unwrap())
	default:
		return nil
	}
}

// faults collects what is wrong with a resource.
type faults struct {
	list []error
}

func (f *faults) add(field string, value any, reason string) {
	f.list = append(f.list, &FieldError{Field: field, Value: fmt.Sprint(value), Reason: reason})
}

// unless adds a fault when ok is false.
func (f *faults) unless(ok bool, field string, value any, reason string) {
	if !ok {
		f.add(field, value, reason)
	}
}

func (f *faults) name(field, name string) {
	f.unless(isName(name), field, name, nameRule)
}

// path checks a name that may hold slashes.
func (f *faults) path(field, name string) {
	f.unless(isPathName(name), field, name, pathNameRule)
}

func (f *faults) selector(field, s string) {
	if _, err := selector.Parse(s); err != nil {
		f.list = append(f.list, &FieldError{Field: field, Value: s, Reason: err.Error(), Err: err})
	}
}

// labels checks labels of an object. Their number is limited so that one object
// cannot take an agent's memory and time.
func (f *faults) labels(labels map[string]string) {
	const field = "metadata.labels"
	if len(labels) > maxLabels {
		f.add(field, len(labels), "more than "+strconv.Itoa(maxLabels)+" labels")
		return
	}
	for _, name := range sortedKeys(labels) {
		f.unless(isLabelName(name), field, name, labelNameRule)
		f.unless(isLabelValue(labels[name]), field+"["+name+"]", labels[name], labelValueRule)
	}
}

func (f *faults) meta(m Meta) {
	f.labels(m.V3Labels)
	size := 0
	for _, name := range sortedKeys(m.Annotations) {
		f.unless(isAnnotationName(name), "metadata.annotations", name, annotationNameRule)
		size += len(name) + len(m.Annotations[name])
	}
	f.unless(size <= maxAnnotations, "metadata.annotations", size, "more than 256 KiB of annotations")
	f.unless(m.V3Name == "" || isName(m.V3Name), "metadata.name", m.V3Name, nameRule)
}

// cidr checks a prefix of a list; host bits are allowed.
func (f *faults) cidr(field string, p netip.Prefix) bool {
	ok := p.IsValid() && !p.Addr().Is4In6()
	f.unless(ok, field, p, "not an IPv4 or IPv6 CIDR")
	return ok
}

// addr checks an address of the given family (4, 6, or 0 for either).
func (f *faults) addr(field string, a netip.Addr, family int) bool {
	switch {
	case !a.IsValid() || a.Zone() != "" || a.Is4In6():
		f.add(field, a, "not an IPv4 or IPv6 address")
	case family != 0 && family != familyNumber(a):
		f.add(field, a, "not an IPv"+strconv.Itoa(family)+" address")
	case a.IsUnspecified() || a.IsMulticast():
		f.add(field, a, "not the address of one host")
	default:
		return true
	}
	return false
}

func familyNumber(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

func indexed(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }
