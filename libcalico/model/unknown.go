package model

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Unknown is the members of a JSON object that this program has no field for, because a
// newer one wrote them. Every struct that is stored has one: what is read, changed and
// written again keeps them, and what copies the struct takes them along. It is their JSON
// text without the braces, sorted by name: so equal members are equal, a struct stays
// comparable, and where there is nothing unknown it costs nothing but its place.
//
// Two values that differ only in it are different, also for who watches: a program that
// compares before it writes must write such a change, and one that acts on the rest finds
// that there is nothing to do.
type Unknown string

// member is one member of a JSON object.
type member struct {
	name string
	text []byte // name, colon and value
}

// form is what there is to know of the JSON of a type: the members of an object, or the
// items of a list. Nil stands for a value that is read as a whole.
type form struct {
	items   *form
	members map[string]part
	// unknown is where the struct has its [Unknown].
	unknown []int
}

// part is a member of an object by the field that holds it.
type part struct {
	index []int
	form  *form
}

var (
	forms = sync.Map{} // reflect.Type: *form

	unknownType     = reflect.TypeFor[Unknown]()
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	ruleList        = reflect.TypeFor[[]Rule]()
)

func formOf(t reflect.Type) *form {
	if f, ok := forms.Load(t); ok {
		return f.(*form)
	}
	f := newForm(t, map[reflect.Type]*form{})
	forms.Store(t, f)
	return f
}

// newForm makes the form of a type; made is what it has begun of others, which may have the
// type in them again.
func newForm(t reflect.Type, made map[reflect.Type]*form) *form {
	if p := reflect.PointerTo(t); p.Implements(unmarshaler) || p.Implements(textUnmarshaler) {
		return nil // what is within is its own affair
	}
	switch t.Kind() {
	case reflect.Pointer:
		return newForm(t.Elem(), made)
	case reflect.Slice:
		if items := newForm(t.Elem(), made); items != nil {
			return &form{items: items}
		}
	case reflect.Struct:
		return newObject(t, made)
	default:
	}
	return nil
}

func newObject(t reflect.Type, made map[reflect.Type]*form) *form {
	if f, begun := made[t]; begun {
		return f
	}
	field, ok := t.FieldByName(unknownType.Name())
	if !ok || field.Type != unknownType {
		return nil
	}
	f := &form{members: map[string]part{}, unknown: field.Index}
	made[t] = f
	for _, field := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && name != "-" {
			f.members[name] = part{field.Index, newForm(field.Type, made)}
		}
	}
	return f
}

// named finds a member as encoding/json does: by its name, else by one that differs only
// in case.
func (f *form) named(raw []byte) (part, bool) {
	if p, ok := f.members[string(raw)]; ok {
		return p, true
	}
	name := unquote(raw)
	for known, p := range f.members {
		if strings.EqualFold(known, name) {
			return p, true
		}
	}
	return part{}, false
}

// unquote reads a string without its quotes.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	var s string
	_ = json.Unmarshal(slices.Concat([]byte{'"'}, raw, []byte{'"'}), &s) // it has been read before
	return s
}

// unmarshal is json.Unmarshal that keeps what is unknown.
func unmarshal(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	into := reflect.ValueOf(v).Elem()
	f := formOf(into.Type())
	if look := (scanner{data: data}); !look.allKnown(f) {
		keep := scanner{data: data}
		keep.collect(f, into)
	}
	return nil
}

// withUnknown puts what is unknown of v, a struct, into its JSON.
func withUnknown(data []byte, v reflect.Value) []byte {
	f := formOf(v.Type())
	if !f.holdsUnknown(v) {
		return data
	}
	s := scanner{data: data}
	s.insert(f, v)
	return append(s.out, data[s.copied:]...)
}

// holdsUnknown says whether there is anything to put in.
func (f *form) holdsUnknown(v reflect.Value) bool {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch {
	case f == nil, !v.IsValid():
		return false
	case f.items != nil:
		for i := range v.Len() {
			if f.items.holdsUnknown(v.Index(i)) {
				return true
			}
		}
		return false
	case v.FieldByIndex(f.unknown).Len() > 0:
		return true
	}
	for _, p := range f.members {
		if p.form != nil && p.form.holdsUnknown(v.FieldByIndex(p.index)) {
			return true
		}
	}
	return false
}

// scanner goes over JSON that is known to be well formed.
type scanner struct {
	data []byte
	at   int
	// out is data up to copied, with what insert has put in.
	out    []byte
	copied int
}

// allKnown says whether every member of the value is one of the form's.
func (s *scanner) allKnown(f *form) bool {
	s.space()
	switch {
	case f == nil:
		s.skip()
	case f.items != nil && s.data[s.at] == '[':
		for s.at++; s.more(); {
			if !s.allKnown(f.items) {
				return false
			}
		}
	case f.members != nil && s.data[s.at] == '{':
		for s.at++; s.more(); {
			p, ok := f.named(s.name())
			if !ok || !s.allKnown(p.form) {
				return false
			}
		}
	default: // null
		s.skip()
	}
	return true
}

// collect stores in v, which has been read from the value, the members that the form
// does not have.
func (s *scanner) collect(f *form, v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	s.space()
	switch {
	case f == nil, !v.IsValid(): // nil: the value stands there twice, and null was read last
		s.skip()
	case f.items != nil && s.data[s.at] == '[':
		s.at++
		for i := 0; s.more(); i++ {
			if i < v.Len() { // else the list stands there twice, and the other one was read last
				s.collect(f.items, v.Index(i))
			} else {
				s.skip()
			}
		}
	case f.members != nil && s.data[s.at] == '{':
		var unknown []member
		for s.at++; s.more(); {
			start := s.at
			name := s.name()
			if p, ok := f.named(name); ok {
				s.collect(p.form, v.FieldByIndex(p.index))
				continue
			}
			s.skip()
			unknown = append(unknown, member{unquote(name), s.data[start:s.at]})
		}
		field := v.FieldByIndex(f.unknown)
		field.SetString(join(field.String(), unknown))
	default:
		s.skip()
	}
}

// join adds members to those that an [Unknown] has; of several with a name the last stays,
// as with known ones.
func join(have string, members []member) string {
	if len(members) == 0 {
		return have
	}
	if have != "" {
		s := scanner{data: []byte("{" + have + "}"), at: 1}
		var before []member
		for s.more() {
			start := s.at
			name := s.name()
			s.skip()
			before = append(before, member{unquote(name), s.data[start:s.at]})
		}
		members = append(before, members...)
	}
	slices.SortStableFunc(members, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	var texts [][]byte
	for i, m := range members {
		if i+1 == len(members) || members[i+1].name != m.name {
			texts = append(texts, m.text)
		}
	}
	var object bytes.Buffer // without the spaces
	_ = json.Compact(&object, slices.Concat([]byte{'{'}, bytes.Join(texts, []byte{','}), []byte{'}'}))
	return string(object.Bytes()[1 : object.Len()-1])
}

// insert copies the value, whose content is v's, and adds to every object what is unknown.
func (s *scanner) insert(f *form, v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	s.space()
	switch {
	case f == nil:
		s.skip()
	case f.items != nil && s.data[s.at] == '[':
		s.at++
		for i := 0; s.more(); i++ {
			s.insert(f.items, v.Index(i))
		}
	case f.members != nil && s.data[s.at] == '{':
		s.at++
		empty := true
		for s.more() {
			empty = false
			p, _ := f.named(s.name())
			s.insert(p.form, v.FieldByIndex(p.index))
		}
		if unknown := v.FieldByIndex(f.unknown).String(); unknown != "" {
			brace := s.at - 1
			s.out = append(s.out, s.data[s.copied:brace]...)
			s.copied = brace
			if !empty {
				s.out = append(s.out, ',')
			}
			s.out = append(s.out, unknown...)
		}
	default:
		s.skip()
	}
}

func (s *scanner) space() {
	for s.at < len(s.data) && (s.data[s.at] == ' ' || s.data[s.at] == '\n' || s.data[s.at] == '\t' || s.data[s.at] == '\r') {
		s.at++
	}
}

// more goes to the next member or item, or behind the bracket that closes them.
func (s *scanner) more() bool {
	s.space()
	switch s.data[s.at] {
	case ']', '}':
		s.at++
		return false
	case ',':
		s.at++
		s.space()
	}
	return true
}

// name reads a member's name, as it stands between its quotes, and goes to its value.
func (s *scanner) name() []byte {
	start := s.at + 1
	s.skip()
	name := s.data[start : s.at-1]
	s.space()
	s.at++ // the colon
	return name
}

// skip goes behind a value.
func (s *scanner) skip() {
	s.space()
	for depth := 0; s.at < len(s.data); {
		switch s.data[s.at] {
		case '"':
			s.text()
		case '[', '{':
			depth++
			s.at++
			continue
		case ']', '}':
			depth--
			s.at++
		case ',', ':', ' ', '\n', '\t', '\r':
			s.at++
			continue
		default:
			s.word()
		}
		if depth == 0 {
			return
		}
	}
}

// text goes behind a string.
func (s *scanner) text() {
	s.at++
	for start := s.at; ; {
		quote := s.at + bytes.IndexByte(s.data[s.at:], '"')
		slashes := 0
		for quote-slashes > start && s.data[quote-slashes-1] == '\\' {
			slashes++
		}
		if s.at = quote + 1; slashes%2 == 0 {
			return
		}
	}
}

// word goes behind a number, true, false or null.
func (s *scanner) word() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ',', ']', '}', ' ', '\n', '\t', '\r':
			return
		}
		s.at++
	}
}

// KeepUnknown gives next, which has been made anew in place of old, what is unknown of old:
// of the whole, and of each item of its lists that is otherwise the same, wherever it stands
// now, or that was changed in its place in a list as long as before. Rules are left to who
// makes them: what is unknown of one can turn what it does about, so it takes more to know
// which is which.
func KeepUnknown(old, next Resource) {
	from, to := reflect.ValueOf(old), reflect.ValueOf(next)
	if from.Kind() == reflect.Pointer && from.Type() == to.Type() && from.Elem().Kind() == reflect.Struct {
		keepUnknown(from.Elem(), to.Elem())
	}
}

func keepUnknown(old, next reflect.Value) {
	for info, from := range old.Fields() {
		to := next.FieldByIndex(info.Index)
		switch {
		case info.Type == unknownType:
			if to.Len() == 0 {
				to.Set(from)
			}
		case !info.IsExported() || info.Type == ruleList:
		case info.Type.Kind() == reflect.Struct:
			keepUnknown(from, to)
		case info.Type.Kind() == reflect.Slice && info.Type.Elem().Kind() == reflect.Struct:
			if field, ok := info.Type.Elem().FieldByName(unknownType.Name()); ok && field.Type == unknownType {
				keepOfItems(from, to, field.Index)
			}
		}
	}
}

// keepOfItems does so for lists of structs whose [Unknown] is at index.
func keepOfItems(old, next reflect.Value, index []int) {
	was, is := bare(old, index), bare(next, index)
	from := sameItems(was, is)
	if len(was) == len(is) {
		for i := range was {
			// A copy of another item is not this one, changed.
			if _, stayed := from[i]; !stayed && !holds(was, is[i]) {
				from[i] = i
			}
		}
	}
	for i, j := range from {
		if unknown := old.Index(i).FieldByIndex(index); unknown.Len() > 0 {
			next.Index(j).FieldByIndex(index).Set(unknown)
		}
	}
}

// bare is the items of a list without what is unknown of them.
func bare(list reflect.Value, index []int) []any {
	out := make([]any, list.Len())
	for i := range out {
		c := reflect.New(list.Type().Elem()).Elem()
		c.Set(list.Index(i))
		c.FieldByIndex(index).SetZero()
		out[i] = c.Interface()
	}
	return out
}

// sameItems finds for the old items where those that are the same stand now: in their
// place, else at the first that no other is.
func sameItems(old, next []any) map[int]int {
	at, taken := map[int]int{}, map[int]bool{}
	for i := range min(len(old), len(next)) {
		if reflect.DeepEqual(old[i], next[i]) {
			at[i], taken[i] = i, true
		}
	}
	for i := range old {
		if _, ok := at[i]; ok {
			continue
		}
		for j := range next {
			if !taken[j] && reflect.DeepEqual(old[i], next[j]) {
				at[i], taken[j] = j, true
				break
			}
		}
	}
	return at
}

func holds(list []any, item any) bool {
	return slices.ContainsFunc(list, func(it any) bool { return reflect.DeepEqual(it, item) })
}
